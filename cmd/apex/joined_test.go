package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/login"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/jwk"
	"github.com/apex-network/apex/spec/peermap"
)

// fakeAgent answers on a socket as an agent does, from a list of stages.
type fakeAgent struct {
	mu     sync.Mutex
	now    control.Enrolment
	next   []control.Enrolment // after each question
	joined []control.Join
	turns  []control.Rotation
	refuse error
	left   int
	busy   int // how often it says first that its controller is not ready
}

func (a *fakeAgent) ready() error {
	if a.busy == 0 {
		return nil
	}
	a.busy--
	return fmt.Errorf("enrolment from c: %w", protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "no head yet"))
}

func (a *fakeAgent) Enrolment(context.Context, string) (control.Enrolment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now
	if len(a.next) > 0 {
		a.now, a.next = a.next[0], a.next[1:]
	}
	return now, nil
}

func (a *fakeAgent) Join(_ context.Context, j control.Join) (control.Enrolment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.joined = append(a.joined, j)
	if err := a.ready(); err != nil {
		return control.Enrolment{}, err
	}
	if len(a.next) > 0 && a.refuse == nil {
		a.now, a.next = a.next[0], a.next[1:]
	}
	return a.now, a.refuse
}

func (a *fakeAgent) Leave(context.Context, string) (control.Enrolment, error) {
	a.left++
	return a.now, a.refuse
}

func (a *fakeAgent) Rotate(ctx context.Context, zone string) (control.Rotation, error) {
	a.mu.Lock()
	err := a.ready()
	a.mu.Unlock()
	if err != nil {
		return control.Rotation{}, err
	}
	return a.Rotation(ctx, zone)
}

func (a *fakeAgent) Rotation(context.Context, string) (control.Rotation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.turns[0]
	if len(a.turns) > 1 {
		a.turns = a.turns[1:]
	}
	return now, nil
}

// serve gives the socket on which the agent listens.
func (a *fakeAgent) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := status.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		mux := http.NewServeMux()
		control.Handle(mux, a)
		if err := status.Serve(ctx, listener, mux, slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("socket: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return path
}

func enrolment(issuer string) control.Enrolment {
	public, identity := peermap.Key{1: 1}, peermap.Key{1: 2}
	return control.Enrolment{Network: "acme", Zone: "office", Node: "laptop", PublicKey: public, IdentityKey: identity,
		Commitment: protocol.Commitment("acme", public, identity), Stage: control.Unbound,
		Info: &protocol.EnrolmentInfo{Network: "acme", Issuers: []protocol.IssuerInfo{{Name: "corp", URL: issuer, Audience: "apex",
			ClientID: "apex", Scopes: []string{"profile", "offline_access"}, Bound: true}}}}
}

func staged(e control.Enrolment, stage control.Stage, edit ...func(*control.Enrolment)) control.Enrolment {
	e.Stage = stage
	for _, f := range edit {
		f(&e)
	}
	return e
}

// run runs a command line as main does and gives what it printed and its exit code.
func run(t *testing.T, stdin string, args ...string) (out, talk string, code cli.Code) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	s := cli.Streams{In: strings.NewReader(stdin), Out: &stdout, Err: &stderr}
	code = cli.Run("apex", s, func(ctx context.Context) error {
		root := newRoot(s)
		root.SetArgs(args)
		return root.ExecuteContext(ctx)
	})
	return stdout.String(), stderr.String(), code
}

// TestJoin joins by every way that needs no browser, with every way that an agent may answer.
func TestJoin(t *testing.T) {
	issuer := idp.RunIssuer(t, idp.IssuerOptions{DeviceNonce: true})
	e := enrolment(issuer.Issuer())
	bound := staged(e, control.Bound, func(e *control.Enrolment) {
		e.Automatic = true
		e.Binding = &control.Binding{Issuer: "corp", Subject: "1", Username: "alice", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")},
			Rule: "staff (network.yaml:9)", Expires: time.Unix(1e9, 0)}
	})
	waiting := staged(e, control.Waiting, func(e *control.Enrolment) { e.WaitingID = "3f9c" })
	enrolling := staged(e, control.Enrolling)
	token := issuer.Mint(issuer.Claims("apex", "job", time.Now()))
	t.Setenv("TOKEN", token)
	for _, v := range issuer.GitHubEnv(idp.GitHubJob{}.Claims(issuer.Issuer(), "", time.Now())) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	cases := map[string]struct {
		next   []control.Enrolment
		now    *control.Enrolment
		refuse error
		args   []string
		code   cli.Code
		out    string
		talk   string
		joins  int
		own    bool // the agent has tokens
	}{
		"its own source after a leave": {now: ptr(staged(e, control.Unbound, func(e *control.Enrolment) { e.Automatic = true })), next: []control.Enrolment{bound},
			args: []string{"--issuer", "corp"}, out: "10.0.0.9", joins: 1, own: true},
		"a person, although it has a source": {now: ptr(staged(e, control.Unbound, func(e *control.Enrolment) { e.Automatic = true })), next: []control.Enrolment{bound},
			args: []string{"--device"}, out: "10.0.0.9", joins: 1},
		"device":              {next: []control.Enrolment{enrolling, bound}, args: []string{"--device"}, out: "10.0.0.9", talk: "type in this code", joins: 1},
		"token of a variable": {next: []control.Enrolment{bound}, args: []string{"--token-env", "TOKEN"}, out: "corp:alice", joins: 1},
		"GitHub":              {next: []control.Enrolment{bound}, args: []string{"--github"}, out: "staff (network.yaml:9)", joins: 1},
		"json":                {next: []control.Enrolment{bound}, args: []string{"--token-env", "TOKEN", "-o", "json"}, out: `"stage": "bound"`, joins: 1},
		"review":              {next: []control.Enrolment{waiting}, args: []string{"--token-env", "TOKEN"}, out: "3f9c", talk: "apex enrol approve 3f9c", joins: 1},
		"review, waited for":  {next: []control.Enrolment{waiting, waiting, bound}, args: []string{"--token-env", "TOKEN", "--wait"}, out: "10.0.0.9", joins: 1},
		"review, denied": {next: []control.Enrolment{waiting, staged(e, control.Unbound, func(e *control.Enrolment) { e.Message, e.Refused = "a maintainer has denied it", true })},
			args: []string{"--token-env", "TOKEN", "--wait"}, code: cli.Trust, talk: "has denied it", joins: 1},
		"a member no more": {now: ptr(staged(bound, control.Bound, func(e *control.Enrolment) { e.Lost, e.Automatic = true, false })), next: []control.Enrolment{bound},
			args: []string{"--device"}, out: "10.0.0.9", joins: 1},
		"a member no more, waits": {now: ptr(staged(bound, control.Bound, func(e *control.Enrolment) { e.Lost, e.WaitingID = true, "3f9c" })),
			out: "3f9c", talk: "apex enrol approve 3f9c"},
		"waits already":          {now: &waiting, out: "3f9c", talk: "apex enrol approve 3f9c"},
		"waits, again":           {now: &waiting, next: []control.Enrolment{bound}, args: []string{"--again", "--token-env", "TOKEN"}, out: "10.0.0.9", joins: 1},
		"member already":         {now: &bound, out: "10.0.0.9", talk: "--again"},
		"member, again":          {now: &bound, args: []string{"--again", "--device"}, out: "10.0.0.9", joins: 1},
		"refused":                {refuse: &protocol.Problem{Status: 403, Code: protocol.CodeEnrolRefused, Detail: "no rule admits alice"}, args: []string{"--token-env", "TOKEN"}, code: cli.Trust, talk: "no rule admits alice", joins: 1},
		"failed":                 {next: []control.Enrolment{enrolling, staged(e, control.Unbound, func(e *control.Enrolment) { e.Message = "it went wrong" })}, args: []string{"--token-env", "TOKEN"}, code: cli.Failed, talk: "it went wrong", joins: 1},
		"no way to sign in":      {code: cli.Invalid, talk: "neither a browser nor a terminal"},
		"two ways":               {args: []string{"--device", "--paste"}, code: cli.Invalid, talk: "choose one"},
		"token and a way":        {args: []string{"--device", "--token-env", "TOKEN"}, code: cli.Invalid, talk: "choose one"},
		"another issuer":         {args: []string{"--device", "--issuer", "nobody"}, code: cli.Invalid, talk: "corp"},
		"a route with host bits": {args: []string{"--route", "10.1.2.3/16", "--token-env", "TOKEN"}, code: cli.Invalid, talk: "host bits"},
		"a format of nonsense":   {args: []string{"-o", "xml", "--token-env", "TOKEN"}, code: cli.Invalid, talk: "table, json or yaml"},
		"a route of nonsense":    {args: []string{"--route", "x"}, code: cli.Invalid, talk: "prefix"},
		"controller gone": {now: ptr(staged(e, control.Unbound, func(e *control.Enrolment) { e.Info, e.InfoError = nil, "no route" })), args: []string{"--device"},
			code: cli.Failed, talk: "no route"},
	}
	for _, name := range []string{"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} {
		t.Setenv(name, "")
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := &fakeAgent{now: e, refuse: c.refuse}
			if c.now != nil {
				a.now = *c.now
			}
			if len(c.next) > 0 {
				// The first question is how things stand; only then does the agent act.
				a.next = append([]control.Enrolment{a.now}, c.next...)
			}
			out, talk, code := run(t, "", append([]string{"join", "--zone", "office", "--socket", a.serve(t)}, c.args...)...)
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(talk, c.talk) {
				t.Errorf("exit code %d\n%s\n%s", code, out, talk)
			}
			if strings.Contains(out+talk, "eyJ") {
				t.Errorf("a token was printed:\n%s\n%s", out, talk)
			}
			if len(a.joined) != c.joins {
				t.Fatalf("%d joins were asked for", len(a.joined))
			}
			for _, j := range a.joined {
				if j.Issuer != "corp" || j.Zone != "office" || (j.IDToken == "") != c.own {
					t.Errorf("asked for issuer %q, zone %q", j.Issuer, j.Zone)
				}
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// TestNothingForeignMovesTheCursor: a controller that lies cannot have the terminal show another provider than the one it names.
func TestNothingForeignMovesTheCursor(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*protocol.IssuerInfo, string){
		"name":   func(i *protocol.IssuerInfo, s string) { i.Name += s },
		"url":    func(i *protocol.IssuerInfo, s string) { i.URL += s },
		"client": func(i *protocol.IssuerInfo, s string) { i.ClientID += s },
		"scope":  func(i *protocol.IssuerInfo, s string) { i.Scopes = []string{s} },
	} {
		for _, escape := range []string{"\x1b[1A\x1b[2K\r", "\u009b2K", "\u202e", "\n"} {
			e := enrolment("https://evil.example")
			edit(&e.Info.Issuers[0], escape+"Issuer corp is https://login.example.com")
			_, talk, code := run(t, "", "join", "--socket", (&fakeAgent{now: e}).serve(t), "--device")
			if code != cli.Trust || strings.Contains(talk, escape+"Issuer") {
				t.Errorf("%s %q: exit code %d: %q", name, escape, code, talk)
			}
		}
	}
	a := &fakeAgent{now: enrolment(""), refuse: protocol.NewProblem(http.StatusForbidden, protocol.CodeEnrolRefused, "no\x1b[2Krule\nat all")}
	if _, talk, _ := run(t, "", "leave", "--socket", a.serve(t)); !strings.Contains(talk, "no?[2Krule\nat all") {
		t.Errorf("it says %q", talk)
	}
}

// TestLoginElsewhere signs in on one machine for the host of another.
func TestLoginElsewhere(t *testing.T) {
	// The provider wants the secret that is none, which the network's document tells everybody.
	issuer := idp.RunIssuer(t, idp.IssuerOptions{DeviceNonce: true, ClientSecret: "known-to-all"})
	e := enrolment(issuer.Issuer())
	e.Info.Issuers[0].ClientSecret = "known-to-all"
	a := &fakeAgent{now: e}
	socket := a.serve(t)
	request, _, code := run(t, "", "join", "--zone", "office", "--socket", socket, "--request")
	if code != cli.OK || strings.Contains(request, "challenge") {
		t.Fatalf("exit code %d: %s", code, request)
	}
	file := filepath.Join(t.TempDir(), "login")
	_, talk, code := run(t, request, "login", "--request", "-", "--device", "--out", file)
	if code != cli.OK || !strings.Contains(talk, `node "laptop" of zone "office" in network "acme"`) || strings.Contains(talk, "eyJ") {
		t.Fatalf("exit code %d: %s", code, talk)
	}
	if _, talk, code := run(t, request, "login", "--request", "-", "--device", "--out", file); code != cli.Invalid {
		t.Errorf("a file was to be overwritten: exit code %d: %s", code, talk)
	}
	a.mu.Lock()
	a.next = []control.Enrolment{e, staged(e, control.Bound)}
	a.mu.Unlock()
	if out, talk, code := run(t, "", "join", "--zone", "office", "--socket", socket, "--login", file); code != cli.OK {
		t.Fatalf("exit code %d: %s\n%s", code, out, talk)
	}
	if j := a.joined[0]; j.RefreshToken == "" || j.TokenEndpoint == "" || j.ClientID != "apex" || j.ClientSecret != "known-to-all" {
		t.Error("the host cannot renew by itself")
	}
	for _, bad := range []string{
		strings.Replace(request, `"network": "acme"`, `"network": "evil"`, 1),
		strings.Replace(request, `"commitment": "`, `"commitment": "x`, 1), "{}", "nonsense",
	} {
		if _, _, code := run(t, bad, "login", "--request", "-", "--device", "--out", "-"); code != cli.Invalid {
			t.Errorf("exit code %d for %s", code, bad)
		}
	}
	if _, talk, code := run(t, "{}", "join", "--zone", "office", "--socket", socket, "--login", "-"); code != cli.Invalid {
		t.Errorf("exit code %d: %s", code, talk)
	}
	if _, talk, code := run(t, "", "join", "--socket", socket+"x"); code != cli.Failed || !strings.Contains(talk, "apex-agent") {
		t.Errorf("no agent: exit code %d: %s", code, talk)
	}
}

func TestRotateHere(t *testing.T) {
	going := control.Rotation{Zones: []string{"office"}, PublicKey: peermap.Key{5: 1}, IdentityKey: peermap.Key{5: 2}, Message: "on the way"}
	done, static := going, going
	done.Done = true
	static.Static = []string{"office"}
	a := &fakeAgent{now: enrolment(""), turns: []control.Rotation{going, going, done}}
	if out, talk, code := run(t, "", "node", "rotate", "--socket", a.serve(t)); code != cli.OK || out != "" || !strings.Contains(talk, "on the way\nnew keys are in force") {
		t.Errorf("exit code %d: %s\n%s", code, out, talk)
	}
	a.turns = []control.Rotation{static}
	out, _, code := run(t, "", "node", "rotate", "--socket", a.serve(t))
	node, err := readDraft("stdout", []byte(out))
	if code != cli.OK || err != nil || node.Metadata.Name != "laptop" || node.Spec.PublicKey[5] != 1 || node.Spec.IdentityKey[5] != 2 {
		t.Errorf("exit code %d, %v: %s", code, err, out)
	}
}

func TestLeave(t *testing.T) {
	a := &fakeAgent{now: enrolment("")}
	if _, talk, code := run(t, "", "leave", "-o", "xml", "--socket", a.serve(t)); code != cli.Invalid || a.left > 0 {
		t.Errorf("a format of nonsense: exit code %d: %s", code, talk)
	}
	if _, talk, code := run(t, "", "leave", "--socket", a.serve(t)); code != cli.OK || !strings.Contains(talk, "laptop has left zone office") {
		t.Errorf("exit code %d: %s", code, talk)
	}
}

func TestWay(t *testing.T) {
	none := func(string) string { return "" }
	desktop := func(name string) string { return map[string]string{"DISPLAY": ":0"}[name] }
	for _, c := range []struct {
		flags              signInFlags
		env                login.Environ
		interactive, bound bool
		want               way
		fails              bool
	}{
		{env: desktop, bound: true, want: byBrowser},
		{env: none, bound: false, want: byDevice},
		{env: none, bound: true, interactive: true, want: byPaste},
		{env: none, bound: true, fails: true},
		{flags: signInFlags{device: true}, env: desktop, bound: true, want: byDevice},
		{flags: signInFlags{device: true, browser: true}, env: desktop, fails: true},
	} {
		got, err := c.flags.way("linux", c.env, c.interactive, c.bound)
		if (err != nil) != c.fails || err == nil && got != c.want {
			t.Errorf("%+v: %v, %v", c.flags, got, err)
		}
	}
}

// TestIssuerKeys prints keys that the trust root takes, one per line.
func TestIssuerKeys(t *testing.T) {
	issuer := idp.RunIssuer(t, idp.IssuerOptions{})
	if err := issuer.AddKey("ES256"); err != nil {
		t.Fatal(err)
	}
	out, talk, code := run(t, "", "trust", "issuer-keys", issuer.Issuer())
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != cli.OK || len(lines) != 2 {
		t.Fatalf("exit code %d: %s\n%s", code, out, talk)
	}
	for _, line := range lines {
		if _, err := jwk.Parse([]byte(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	if _, _, code := run(t, "", "trust", "issuer-keys", issuer.Issuer()+"/nowhere"); code != cli.Failed {
		t.Errorf("exit code %d", code)
	}
}
