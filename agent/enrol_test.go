package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/enrol"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/login"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

const testToken = "eyJhbGciOiJub25lIn0.c2VjcmV0LXRva2Vu.c2ln"

// joining is a world in which node a is not in git: b and c are published, and a is to join.
func joining(t *testing.T, join JoinConfig) *world {
	w := newWorld(t)
	w.edit = func(o *Options) { o.Config.Zones[0].Join = &join }
	w.publish(func(z *agenttest.Zone) { z.Nodes = w.nodes[1:] })
	return w
}

// tokenFile is a source that always has a token.
func (w *world) tokenFile() JoinConfig {
	path := filepath.Join(w.dir, "token")
	w.write(path, testToken)
	return JoinConfig{TokenFile: path}
}

func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func tokenWorld(t *testing.T) *world {
	w := joining(t, JoinConfig{})
	join := w.tokenFile()
	w.edit = func(o *Options) { o.Config.Zones[0].Join = &join }
	return w
}

func (w *world) member() enrol.Snapshot { return w.agent.zones[0].member.Snapshot() }

func (w *world) awaitStage(want control.Stage) enrol.Snapshot {
	w.t.Helper()
	var got enrol.Snapshot
	agenttest.Await(w.t, "stage "+string(want), func() bool { got = w.member(); return got.Stage == want })
	return got
}

// admit publishes the zone with a as it was bound.
func (w *world) admit() *agenttest.Generation {
	w.t.Helper()
	b, ok := w.controller.Enrolment.Binding("a")
	if !ok {
		w.t.Fatal("nobody is bound")
	}
	return w.publish(func(z *agenttest.Zone) { z.Nodes = append([]agenttest.Node{agenttest.Enrolled(b)}, w.nodes[1:]...) })
}

func (w *world) joined() {
	w.t.Helper()
	w.start()
	w.awaitStage(control.Bound)
	w.awaitApplied(w.admit().Zone.Serial)
	w.awaitCondition(status.Ready, true, "Applied")
}

func (w *world) control() *control.Client { return control.NewClient(filepath.Join(w.dir, "sock")) }

func (w *world) awaitSocket() {
	w.t.Helper()
	agenttest.Await(w.t, "the socket answers", func() bool { _, err := w.control().Enrolment(context.Background(), ""); return err == nil })
}

func TestJoinWithAToken(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.joined()
	req := w.controller.Enrolment.Requests()[0]
	if req.Token != testToken || req.Issuer != "corp" {
		t.Errorf("asked with %+v", req)
	}
	z := w.zoneStatus()
	if z.Enrolment == nil || z.Enrolment.Identity != "corp: ada (subject-1)" || z.Enrolment.Rule != "staff (zones/prod.yaml:7)" {
		t.Errorf("status says %+v", z.Enrolment)
	}
	// A restart without a network goes on where it was, without asking.
	w.halt()
	w.controller.Stop()
	before, asked := w.snapshot(), w.controller.Requests("enrol")
	w.start()
	w.awaitStage(control.Bound)
	w.awaitCondition(status.Unreachable, true, "")
	if w.snapshot() != before || w.controller.Requests("enrol") != asked {
		t.Error("a restart without a network changed something")
	}
}

// TestABindingThatIsNotOurs: a controller, or whoever sits in its place, answers with another binding than was asked for.
func TestABindingThatIsNotOurs(t *testing.T) {
	t.Parallel()
	other := agenttest.Ed25519(t, "a stolen service key")
	for name, row := range map[string]struct {
		script agenttest.Script
		says   string
	}{
		"another WireGuard key": {agenttest.Script{Edit: func(b *binding.Binding) { b.PublicKey[0] ^= 1 }}, "another WireGuard key"},
		"another identity key":  {agenttest.Script{Edit: func(b *binding.Binding) { b.IdentityKey[0] ^= 1 }}, "another identity key"},
		"another node":          {agenttest.Script{Edit: func(b *binding.Binding) { b.Node = "db-1" }}, "node db-1"},
		"another zone":          {agenttest.Script{Edit: func(b *binding.Binding) { b.Zone = "office" }}, "zone office"},
		"another network":       {agenttest.Script{Edit: func(b *binding.Binding) { b.Network = "evil" }}, "network evil"},
		"over already":          {agenttest.Script{Edit: func(b *binding.Binding) { b.Issued, b.Expires = 1, 2 }}, "ran out"},
		"signed by another key": {agenttest.Script{Signer: &other}, "no enrolment key"},
		"signed by the manifest's key": {agenttest.Script{Signer: func() *signer.PrivateKey {
			k := agenttest.Ed25519(t, testNetwork+" manifest")
			return &k
		}()}, "no enrolment key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := tokenWorld(t)
			w.controller.Enrolment.Play(func(s *agenttest.Script) { *s = row.script })
			before := w.snapshot()
			w.start()
			got := w.awaitCondition(status.EnrolmentFailing, true, enrol.ReasonBinding)
			if !strings.Contains(got.Message, row.says) {
				t.Errorf("the message does not say %q: %s", row.says, got.Message)
			}
			if w.member().Binding != nil || w.snapshot() != before {
				t.Error("the binding counts")
			}
			w.controller.Enrolment.Play(func(s *agenttest.Script) { *s = agenttest.Script{} })
			w.awaitStage(control.Bound)
			w.awaitCondition(status.EnrolmentFailing, false, "")
		})
	}
}

func TestTheControllersWordsReachThePerson(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		problem *protocol.Problem
		reason  string
	}{
		"no rule":       {protocol.NewProblem(403, protocol.CodeEnrolRefused, "claim repository_id is 7, rule ci wants 42"), enrol.ReasonRefused},
		"token":         {protocol.NewProblem(401, protocol.CodeToken, "claim aud is web, the issuer wants apex"), enrol.ReasonToken},
		"provider down": {protocol.NewProblem(503, protocol.CodeUnavailable, "issuer corp does not answer"), enrol.ReasonProvider},
		"too many":      {&protocol.Problem{Status: 429, Code: protocol.CodeTooMany, Detail: "at most 5 a minute", RetryAfter: 1}, enrol.ReasonLimited},
		"name taken":    {protocol.NewProblem(409, protocol.CodeNameTaken, "node a stands in git"), enrol.ReasonRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := tokenWorld(t)
			w.controller.Enrolment.Play(func(s *agenttest.Script) {
				s.Refuse = func(protocol.EnrolRequest) *protocol.Problem { return row.problem }
			})
			w.start()
			got := w.awaitCondition(status.EnrolmentFailing, true, row.reason)
			if !strings.Contains(got.Message, row.problem.Detail) || strings.Contains(got.Message, testToken) {
				t.Errorf("the message is %q", got.Message)
			}
			w.awaitCondition(status.Ready, false, status.EnrolmentFailing)
			w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Refuse = nil })
			w.awaitStage(control.Bound)
		})
	}
}

func TestClocksApart(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.ClockShift = 5 * time.Minute })
	w.start()
	got := w.awaitCondition(status.EnrolmentFailing, true, "")
	w.awaitSocket()
	var problem *protocol.Problem
	if _, err := w.control().Join(t.Context(), control.Join{}); !errors.As(err, &problem) || !strings.Contains(problem.Detail, "set the clock") {
		t.Errorf("a person is not told: %v", err)
	}
	if !strings.Contains(got.Message, "behind the controller's") {
		t.Errorf("the message is %q", got.Message)
	}
}

func TestReview(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Review = true })
	w.start()
	w.awaitStage(control.Waiting)
	got := w.awaitCondition(status.AwaitingApproval, true, "")
	if !strings.Contains(got.Message, "apex enrol approve "+w.member().WaitingID) {
		t.Errorf("the message is %q", got.Message)
	}
	w.halt() // a restart goes on waiting, with the same token
	w.write(filepath.Join(w.dir, "token"), "x.other.y")
	w.start()
	w.awaitStage(control.Waiting)
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Review = false })
	w.awaitStage(control.Bound)
	for _, req := range w.controller.Enrolment.Requests() {
		if req.Token != testToken {
			t.Errorf("asked with another token while the request waited")
		}
	}
	w.awaitCondition(status.AwaitingApproval, false, "")
	if raw, err := os.ReadFile(filepath.Join(w.dir, "state/networks", testNetwork, testZone, "credential.json")); err == nil {
		t.Errorf("the token is kept after its use: %d bytes", len(raw))
	}
}

// TestOnlyTheControllerEndsAWait: a person's request waits on, whatever a proxy says meanwhile; a maintainer's refusal ends it.
func TestOnlyTheControllerEndsAWait(t *testing.T) {
	t.Parallel()
	for name, denied := range map[string]bool{"approved": false, "denied": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := joining(t, JoinConfig{})
			w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Review = true })
			w.start()
			w.awaitSocket()
			if got, err := w.control().Join(t.Context(), control.Join{Issuer: "corp", IDToken: testToken}); err != nil || got.Stage != control.Waiting {
				t.Fatalf("got %+v, %v", got, err)
			}
			var pages atomic.Int64
			proxy := func(rw http.ResponseWriter, r *http.Request) bool {
				n := pages.Add(1)
				if n <= 6 {
					http.Error(rw, "default backend", []int{404, 403, 401}[n%3])
				}
				return n <= 6
			}
			w.controller.Override("enrolment", proxy)
			w.controller.Override("enrol", proxy)
			agenttest.Await(t, "the proxy's pages are over", func() bool { return pages.Load() > 6 })
			w.controller.Enrolment.Play(func(s *agenttest.Script) {
				s.Review = false
				if denied {
					s.Refuse = func(protocol.EnrolRequest) *protocol.Problem {
						return protocol.NewProblem(http.StatusForbidden, protocol.CodeEnrolRefused, "a maintainer has denied it")
					}
				}
			})
			if !denied {
				w.awaitStage(control.Bound)
				return
			}
			w.awaitStage(control.Unbound)
			if got, err := w.control().Enrolment(t.Context(), ""); err != nil || !got.Refused || !strings.Contains(got.Message, "has denied it") {
				t.Errorf("it says %+v, %v", got, err)
			}
		})
	}
}

// TestRenewal: at two thirds of its life a binding is renewed; what is in the way changes nothing on the host, and is
// told; what runs out runs out, and comes back.
func TestRenewal(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.joined()
	first := w.member().Binding
	w.clock.Advance(45 * time.Minute)
	agenttest.Await(t, "renewed", func() bool { return w.member().Binding.Expires > first.Expires })
	w.awaitApplied(w.admit().Zone.Serial)

	down := protocol.NewProblem(503, protocol.CodeUnavailable, "issuer corp does not answer")
	w.controller.Enrolment.Play(func(s *agenttest.Script) {
		s.Refuse = func(protocol.EnrolRequest) *protocol.Problem { return down }
	})
	before := w.snapshot()
	w.clock.Advance(45 * time.Minute)
	w.awaitCondition(status.EnrolmentFailing, true, enrol.ReasonProvider)
	got := w.awaitCondition(status.EnrolmentExpiring, true, "")
	if !strings.Contains(got.Message, "does not answer") {
		t.Errorf("the message is %q", got.Message)
	}
	w.clock.Advance(time.Hour)
	w.awaitCondition(status.EnrolmentExpired, true, "")
	w.awaitCondition(status.EnrolmentExpiring, false, "")
	w.awaitCondition(status.Ready, false, status.EnrolmentExpired)
	if withoutIndex(w.snapshot()) != withoutIndex(before) {
		t.Error("the host changed")
	}
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Refuse = nil })
	w.awaitStage(control.Bound)
	w.admit()
	w.awaitCondition(status.Ready, true, "")
}

// TestARenewedTokenFileEndsTheWait: the refused token is not asked with for long once a new one is there.
func TestARenewedTokenFileEndsTheWait(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	fresh := "x.fresh.y"
	inner := w.edit
	w.edit = func(o *Options) { inner(o); o.Times.EnrolMin, o.Times.EnrolMax = time.Hour, time.Hour }
	w.controller.Enrolment.Play(func(s *agenttest.Script) {
		s.Refuse = func(req protocol.EnrolRequest) *protocol.Problem {
			if req.Token == fresh {
				return nil
			}
			return protocol.NewProblem(401, protocol.CodeToken, "the token is too old")
		}
	})
	w.start()
	w.awaitCondition(status.EnrolmentFailing, true, enrol.ReasonToken)
	// As Kubernetes does it: another file takes the place of the first.
	next := filepath.Join(w.dir, "token.next")
	w.write(next, fresh)
	if err := os.Rename(next, filepath.Join(w.dir, "token")); err != nil {
		t.Fatal(err)
	}
	w.awaitStage(control.Bound)
}

// TestATokenThatIsNotRenewed: a binding of an hour asks for the next after forty minutes, when the token file of a pod still holds
// the token of the first. The agent waits for the next one quietly, asks seldom, and complains when the end is near.
func TestATokenThatIsNotRenewed(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	inner := w.edit
	w.edit = func(o *Options) { inner(o); o.Times.EnrolMax = 2 * time.Minute }
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Once = true })
	w.joined()
	first := w.member().Binding
	w.clock.Advance(45 * time.Minute)
	agenttest.Await(t, "asked for the next", func() bool { return w.controller.Requests("enrol") == 2 })
	agenttest.Await(t, "waits", func() bool { return w.member().Next.After(w.clock.Now()) })
	if got := w.member(); got.Stage != control.Renewing || got.Reason != "" {
		t.Errorf("it is %s: %s", got.Stage, got.Message)
	}
	w.clock.Advance(3 * time.Minute) // four fifths
	agenttest.Await(t, "asked again", func() bool { return w.controller.Requests("enrol") == 3 })
	w.write(filepath.Join(w.dir, "token"), "x.fresh.y")
	agenttest.Await(t, "renewed", func() bool { return w.member().Binding.Expires > first.Expires })
	if n := w.controller.Requests("enrol"); n != 4 {
		t.Errorf("%d requests for two bindings", n)
	}

	w.clock.Advance(56 * time.Minute)
	w.awaitCondition(status.EnrolmentExpiring, true, "")
	w.awaitCondition(status.EnrolmentFailing, true, enrol.ReasonTokenUsed)
}

// TestAnswersDoNotSetThePace: a controller that answers every request with another binding, whose times say that the next is due
// or that it is over already, is asked no faster than one that does not answer.
func TestAnswersDoNotSetThePace(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(b *binding.Binding, n int64){
		"due":  func(b *binding.Binding, n int64) { b.Issued, b.Expires = b.Issued-3000, b.Expires-n },
		"over": func(b *binding.Binding, n int64) { b.Issued, b.Expires = b.Issued-n, b.Issued+1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := tokenWorld(t)
			inner := w.edit
			w.edit = func(o *Options) { inner(o); o.Times.EnrolMin, o.Times.EnrolMax = time.Hour, time.Hour }
			var n atomic.Int64
			w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Edit = func(b *binding.Binding) { edit(b, n.Add(1)) } })
			w.start()
			for asked := int64(1); asked <= 3; asked++ {
				agenttest.Await(t, "asked, and waits", func() bool {
					// Half a pause and more, also where the binding has run out before it could be looked at.
					return w.controller.Requests("enrol") >= asked && w.member().Next.Sub(w.clock.Now()) > 25*time.Minute
				})
				if got := w.controller.Requests("enrol"); got != asked {
					t.Fatalf("%d requests in %d pauses", got, asked-1)
				}
				w.clock.Advance(time.Hour + time.Minute)
			}
		})
	}
}

func TestAPersonJoins(t *testing.T) {
	t.Parallel()
	w := joining(t, JoinConfig{})
	w.start()
	w.awaitCondition(status.EnrolmentNeeded, true, "NoIdentity")
	client := w.control()
	w.awaitSocket()
	info, err := client.Enrolment(t.Context(), "")
	if err != nil || info.Info == nil || info.Info.Issuers[0].Name != "corp" || info.Node != "a" {
		t.Fatalf("got %+v, %v", info, err)
	}
	wireguard, identity := w.nodes[0].PublicKey, peermap.Key(w.nodes[0].Identity.Raw())
	if info.Commitment != protocol.Commitment(testNetwork, wireguard, identity) {
		t.Error("the commitment is for other keys")
	}
	w.controller.Enrolment.Play(func(s *agenttest.Script) {
		s.Refuse = func(protocol.EnrolRequest) *protocol.Problem {
			return protocol.NewProblem(403, protocol.CodeEnrolRefused, "rule staff wants group ops")
		}
	})
	_, err = client.Join(t.Context(), control.Join{Issuer: "corp", IDToken: testToken, Routes: nil})
	var problem *protocol.Problem
	if !errors.As(err, &problem) || problem.Detail != "rule staff wants group ops" || problem.Code != protocol.CodeEnrolRefused {
		t.Fatalf("the controller's words are lost: %v", err)
	}
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Refuse = nil })
	got, err := client.Join(t.Context(), control.Join{Issuer: "corp", IDToken: testToken})
	if err != nil || got.Stage != control.Bound || got.Automatic {
		t.Fatalf("got %+v, %v", got, err)
	}
	w.awaitApplied(w.admit().Zone.Serial)
	w.awaitCondition(status.EnrolmentNeeded, false, "")
	w.clock.Advance(41 * time.Minute) // the last third
	w.awaitCondition(status.EnrolmentExpiring, true, "")
	w.clock.Advance(time.Hour)
	w.awaitCondition(status.EnrolmentNeeded, true, "")
}

// TestAPersonJoinsWhileTheControllerRestarts: the socket says that asking again will do.
func TestAPersonJoinsWhileTheControllerRestarts(t *testing.T) {
	t.Parallel()
	w := joining(t, JoinConfig{})
	w.start()
	w.awaitSocket()
	var down atomic.Bool
	down.Store(true)
	w.controller.Override("enrolment", func(rw http.ResponseWriter, r *http.Request) bool {
		if down.Load() {
			protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "no head yet").Write(rw)
		}
		return down.Load()
	})
	if got, err := w.control().Enrolment(t.Context(), ""); err != nil || got.Info != nil || !got.InfoLater {
		t.Errorf("got %+v, %v", got, err)
	}
	join := control.Join{Issuer: "corp", IDToken: testToken}
	if _, err := w.control().Join(t.Context(), join); !protocol.IsLater(err) {
		t.Errorf("not ready: %v", err)
	}
	w.controller.Stop()
	if _, err := w.control().Join(t.Context(), join); !protocol.IsLater(err) {
		t.Errorf("gone: %v", err)
	}
	w.controller.Start()
	down.Store(false)
	agenttest.Await(t, "joined", func() bool { _, err := w.control().Join(t.Context(), join); return err == nil })
}

// TestRefreshToken: what a person leaves behind renews the binding, replaces itself, and ends with a clear word.
func TestRefreshToken(t *testing.T) {
	t.Parallel()
	var round atomic.Int64
	var ended atomic.Bool
	idp := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		want := "refresh-" + string(rune('0'+round.Load()))
		if ended.Load() || r.FormValue("refresh_token") != want || r.FormValue("client_id") != "apex-cli" {
			rw.WriteHeader(http.StatusBadRequest)
			rw.Write([]byte(`{"error":"invalid_grant","error_description":"session ended"}`))
			return
		}
		next := string(rune('0' + round.Add(1)))
		rw.Write([]byte(`{"id_token":"x.round-` + next + `.y","refresh_token":"refresh-` + next + `","token_type":"Bearer"}`))
	}))
	defer idp.Close()
	w := joining(t, JoinConfig{})
	w.start()
	w.awaitSocket()
	join := control.Join{IDToken: testToken, RefreshToken: "refresh-0", TokenEndpoint: idp.URL, ClientID: "apex-cli"}
	bad := join
	bad.TokenEndpoint = "http://id.example/token"
	if _, err := w.control().Join(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("a refresh token for plain http: %v", err)
	}
	got, err := w.control().Join(t.Context(), join)
	if err != nil || !got.Automatic {
		t.Fatalf("got %+v, %v", got, err)
	}
	path := filepath.Join(w.dir, "state/networks", testNetwork, testZone, "credential.json")
	for i := range 2 {
		before := w.member().Binding.Expires
		w.clock.Advance(45 * time.Minute)
		agenttest.Await(t, "renewed", func() bool { return w.member().Binding.Expires > before })
		if i == 0 {
			w.halt() // the new refresh token survives a restart
			w.start()
			w.awaitStage(control.Bound)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the refresh token: %v, %v", info, err)
	}
	if r := w.controller.Enrolment.Requests(); r[len(r)-1].Token != "x.round-2.y" {
		t.Error("renewed with another token")
	}
	ended.Store(true)
	w.clock.Advance(45 * time.Minute)
	failing := w.awaitCondition(status.EnrolmentFailing, true, enrol.ReasonSignIn)
	if !strings.Contains(failing.Message, "session ended") || strings.Contains(failing.Message, "refresh-2") {
		t.Errorf("the message is %q", failing.Message)
	}
	w.awaitCondition(status.EnrolmentExpiring, true, "")
	if _, err := os.Stat(path); err == nil {
		t.Error("a refresh token that is worth nothing is kept")
	}
}

// TestClientSecret: at a provider that wants a secret of installed apps too, a person signs in, joins with what came of it,
// and the agent renews.
func TestClientSecret(t *testing.T) {
	t.Parallel()
	const secret = "known-to-all"
	issuer := idp.RunIssuer(t, idp.IssuerOptions{ClientSecret: secret})
	w := joining(t, JoinConfig{})
	w.controller.Enrolment.Play(func(s *agenttest.Script) {
		s.Issuers = []protocol.IssuerInfo{{
			Name: "corp", URL: issuer.Issuer(), Audience: "apex-cli", ClientID: "apex-cli", ClientSecret: secret, Scopes: []string{}, Bound: true,
		}}
	})
	w.start()
	w.awaitSocket()
	asked, err := w.control().Enrolment(t.Context(), "")
	if err != nil || asked.Info == nil {
		t.Fatalf("got %+v, %v", asked, err)
	}
	flow := login.Flow{Issuer: asked.Info.Issuers[0], Commitment: asked.Commitment, Client: oidcclient.New(nil, "")}
	session, err := flow.Browser(t.Context(), func(page string) error {
		resp, err := http.Get(page)
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.control().Join(t.Context(), control.Join{
		Issuer: session.Issuer, IDToken: session.IDToken, RefreshToken: session.RefreshToken,
		TokenEndpoint: session.TokenEndpoint, ClientID: session.ClientID, ClientSecret: session.ClientSecret,
	})
	if err != nil || !got.Automatic {
		t.Fatalf("got %+v, %v", got, err)
	}
	w.halt() // the secret survives a restart
	w.start()
	w.awaitStage(control.Bound)
	before := w.member().Binding.Expires
	w.clock.Advance(45 * time.Minute)
	agenttest.Await(t, "renewed", func() bool { return w.member().Binding.Expires > before })
	renewed := 0
	for _, r := range issuer.Requests(idp.Tokens) {
		if r.Form.Get("grant_type") == "refresh_token" && r.Form.Get("client_secret") == secret {
			renewed++
		}
	}
	if renewed == 0 {
		t.Error("the agent did not renew with the client's secret")
	}
}

// TestANewHostIsToldEverythingAtOnce: the trust roots, then the watch, and nothing else. (The probe of the first change asks
// for a timestamp.)
func TestANewHostIsToldEverythingAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	for resource, want := range map[string]int64{"root": 2, "watch": 1, "manifest": 0, "view": 0, "artefact": 0} {
		if got := w.controller.Requests(resource); got != want {
			t.Errorf("%d requests of %s, want %d", got, resource, want)
		}
	}
}

// TestAProxyThatKeepsTheWatchBack: a new host gets its first generation step by step.
func TestAProxyThatKeepsTheWatchBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.edit = func(o *Options) { o.Times.Grace = time.Second }
	w.controller.Override("watch", func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("Content-Type", protocol.TypeEvents)
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
}
