package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

const (
	ciIssuer = "https://ci.example"
	commitA  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB  = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// appliers counts what reaches the loop.
type appliers struct {
	control
	mu      sync.Mutex
	commits []string
}

func (a *appliers) Apply(_ context.Context, commit string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.commits = append(a.commits, commit)
	return nil
}

func (a *appliers) applied() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.commits)
}

// ci is a fixture whose trust root lets one CI job apply.
type ci struct {
	*fixture
	idp    *tokens.Memory
	loop   *appliers
	now    time.Time
	issued int
	clock  *sync.Mutex
}

func newCI(t *testing.T) *ci {
	t.Helper()
	f := newFixture(t)
	c := &ci{fixture: f, loop: &appliers{}, now: time.Now(), clock: &sync.Mutex{}}
	c.idp = &tokens.Memory{}
	c.setRoot(t, signer.ApplierIdentity{
		Name: "merge", Issuer: ciIssuer, CommitClaim: "sha",
		Match: []signer.ClaimRule{{Claim: "repository_id", Pattern: "42"}, {Claim: "ref", Pattern: "refs/heads/main"}},
	})
	memory := store.NewMemory(time.Now)
	bucket := func(name string) store.Bucket {
		b, err := memory.Bucket(t.Context(), store.BucketConfig{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	err := f.server.Set(t.Context(), serve.Network{
		Name: "acme", Publisher: f.publisher, Control: c.loop, Roots: func(uint64) ([]byte, bool) { return nil, false },
		Nonces: bucket("nonces"), Status: bucket("status"), Tokens: bucket("tokens"), Verifier: c.idp, Apply: true, Done: f.done,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// setRoot publishes under a root with these applier identities.
func (c *ci) setRoot(t *testing.T, identities ...signer.ApplierIdentity) {
	t.Helper()
	root := c.root.Clone()
	root.ApplierIdentities = identities
	var err error
	if c.root, err = root.Canonical(); err != nil {
		t.Fatal(err)
	}
	c.publish(c.nodes(1, 1))
}

// claims are those of a token that may apply commit A.
func (c *ci) claims(change map[string]any) map[string]any {
	c.issued++
	out := map[string]any{
		"iss": ciIssuer, "sub": "repo:acme/net", "aud": "apex", "repository_id": "42", "ref": "refs/heads/main", "sha": commitA,
		"iat": c.now.Unix(), "exp": c.now.Add(5 * time.Minute).Unix(), "jti": fmt.Sprint(c.issued),
	}
	for k, v := range change {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

func (c *ci) client(token string) *client.Client {
	base := &url.URL{Scheme: "http", Host: c.addr}
	return client.New(client.Options{URL: base, Network: "acme", HTTP: http.DefaultClient,
		Token: func(context.Context) (string, error) { return token, nil }})
}

func problemCode(err error) string {
	var p *protocol.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return fmt.Sprint(err)
}

func TestApplyByIdentity(t *testing.T) {
	c := newCI(t)
	one := c.client(c.idp.Issue(c.claims(nil)))
	if _, err := one.Fleet(t.Context()); !errors.Is(err, client.ErrNoTicket) {
		t.Errorf("status before an apply: %v", err)
	}
	result, err := one.Apply(t.Context(), commitA)
	if err != nil || result.Commit != commitA || len(result.Zones) != 1 || result.Ticket == "" || c.loop.applied() != 1 {
		t.Fatalf("%+v, %v", result, err)
	}
	for range 3 {
		if fleet, err := one.Fleet(t.Context()); err != nil || fleet.Network != "acme" {
			t.Errorf("following the rollout: %+v, %v", fleet, err)
		}
	}
	if _, err := one.Apply(t.Context(), commitA); problemCode(err) != protocol.CodeReplay || c.loop.applied() != 1 {
		t.Errorf("the same token again: %v", err)
	}
	// The ticket ends with the applier's right.
	c.setRoot(t, signer.ApplierIdentity{
		Name: "other", Issuer: ciIssuer, CommitClaim: "sha", Match: []signer.ClaimRule{{Claim: "repository_id", Pattern: "43"}},
	})
	if _, err := one.Fleet(t.Context()); problemCode(err) != protocol.CodeSignature {
		t.Errorf("ticket of an applier who is none any more: %v", err)
	}
}

func TestApplyByIdentityRefuses(t *testing.T) {
	c := newCI(t)
	for _, x := range []struct {
		name   string
		change map[string]any
		code   string
		says   string
	}{
		{"another commit", map[string]any{"sha": commitB}, protocol.CodeToken, "claim sha is"},
		{"no commit", map[string]any{"sha": nil}, protocol.CodeToken, "no single claim sha"},
		{"several commits", map[string]any{"sha": []string{commitA, commitB}}, protocol.CodeToken, "no single claim sha"},
		{"another repository", map[string]any{"repository_id": "421"}, protocol.CodeToken, "applier merge: claim repository_id"},
		{"a pull request", map[string]any{"ref": "refs/pull/1/merge"}, protocol.CodeToken, "claim ref"},
		{"another audience", map[string]any{"aud": "sts.example"}, protocol.CodeToken, "claim aud"},
		{"another issuer", map[string]any{"iss": "https://evil.example"}, protocol.CodeToken, "claim iss"},
		{"expired", map[string]any{"iat": c.now.Unix() - 600, "exp": c.now.Unix() - 300}, protocol.CodeToken, "claim exp"},
		{"a clock five minutes ahead", map[string]any{"iat": c.now.Unix() + 300, "exp": c.now.Unix() + 600}, protocol.CodeToken, "apart"},
	} {
		raw := c.idp.Issue(c.claims(x.change))
		_, err := c.client(raw).Apply(t.Context(), commitA)
		if problemCode(err) != x.code || err == nil || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v", x.name, err)
		}
		if err != nil && strings.Contains(err.Error(), strings.Split(raw, ".")[1]) {
			t.Errorf("%s: the answer shows the token", x.name)
		}
	}
	stranger := (&tokens.Memory{}).Issue(c.claims(nil))
	if _, err := c.client(stranger).Apply(t.Context(), commitA); problemCode(err) != protocol.CodeToken {
		t.Errorf("signed by nobody: %v", err)
	}
	c.idp.Break(ciIssuer, errors.New("no route to host"))
	good := c.idp.Issue(c.claims(nil))
	if _, err := c.client(good).Apply(t.Context(), commitA); problemCode(err) != protocol.CodeUnavailable ||
		!strings.Contains(err.Error(), ciIssuer) || strings.Contains(err.Error(), "no route to host") {
		t.Errorf("a dead issuer: %v", err)
	}
	c.idp.Break(ciIssuer, nil)
	if c.loop.applied() != 0 {
		t.Fatalf("%d applies", c.loop.applied())
	}
	// What was refused for a reason that goes away has not used the token up.
	if _, err := c.client(good).Apply(t.Context(), commitA); err != nil {
		t.Error(err)
	}
}

// TestApplyOnce shows a token to one controller from many sides at once.
func TestApplyOnce(t *testing.T) {
	c := newCI(t)
	raw := c.idp.Issue(c.claims(nil))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { _, _ = c.client(raw).Apply(t.Context(), commitA) })
	}
	wg.Wait()
	if c.loop.applied() != 1 {
		t.Errorf("one token applied %d times", c.loop.applied())
	}
}

func TestTickets(t *testing.T) {
	c := newCI(t)
	ask := func(authorization ...string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.addr+protocol.FleetPath("acme"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range authorization {
			req.Header.Add("Authorization", a)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	result, err := c.client(c.idp.Issue(c.claims(nil))).Apply(t.Context(), commitA)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask("Bearer " + result.Ticket); got != http.StatusOK {
		t.Errorf("a ticket: %d", got)
	}
	for name, header := range map[string][]string{
		"none": nil, "empty": {"Bearer "}, "made up": {"Bearer AAAAAAAAAAAAAAAAAAAAAA"}, "another scheme": {"Basic " + result.Ticket},
		"two": {"Bearer " + result.Ticket, "Bearer " + result.Ticket}, "with more": {"Bearer " + result.Ticket + "x"},
		"a path": {"Bearer ../" + result.Ticket},
	} {
		if got := ask(header...); got != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, got)
		}
	}
	for _, body := range []string{`{}`, `{"payload":"e30="}`, `{"payload":"e30=","signature":"x","token":"y"}`} {
		resp, err := http.Post("http://"+c.addr+protocol.ApplyPath("acme"), protocol.TypeJSON, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d", body, resp.StatusCode)
		}
	}
}

// hanging is a provider that does not answer.
type hanging struct{ asked chan struct{} }

func (h hanging) Verify(ctx context.Context, _ tokens.Issuer, _ string) (*tokens.Verified, error) {
	h.asked <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestHangingIssuerOfAppliersHoldsUpNoAgent: anybody can send tokens that name an applier's issuer, which nobody has verified
// yet.
func TestHangingIssuerOfAppliersHoldsUpNoAgent(t *testing.T) {
	c := newCI(t)
	const requests = 2
	s, err := serve.New(serve.Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler), Metrics: serve.NewMetrics(prometheus.NewRegistry()), Requests: requests})
	if err != nil {
		t.Fatal(err)
	}
	memory := store.NewMemory(time.Now)
	nonces, err1 := memory.Bucket(t.Context(), serve.NonceBucket())
	status, err2 := memory.Bucket(t.Context(), serve.StatusBucket())
	used, err3 := memory.Bucket(t.Context(), store.BucketConfig{Name: "tokens"})
	idp := hanging{make(chan struct{})}
	err4 := s.Set(t.Context(), serve.Network{Name: "acme", Publisher: c.publisher, Control: c.loop, Nonces: nonces, Status: status,
		Tokens: used, Verifier: idp, Apply: true})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range requests {
		junk := (&tokens.Memory{}).Issue(c.claims(nil))
		stranger := client.New(client.Options{URL: base, Network: "acme", HTTP: http.DefaultClient,
			Token: func(context.Context) (string, error) { return junk, nil }})
		go func() { _, _ = stranger.Apply(ctx, commitA) }()
		<-idp.asked
	}
	c.server = s
	if status := c.get(name(0), protocol.TimestampPath("acme", "prod"), nil); status != http.StatusOK {
		t.Errorf("an agent is answered %d", status)
	}
}
