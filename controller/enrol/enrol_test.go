package enrol

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

func TestPersonJoins(t *testing.T) {
	w := newWorld(t)
	changed := 0
	s := w.service(func(o *Options) { o.Changed = func() { changed++ } })
	m := w.machine("laptop")
	b := m.join(s, "corp", m.token(w.person("ann", "ops")), func(r *protocol.EnrolRequest) {
		r.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}
	})
	if b.Node != "laptop" || b.Identity.Username != "ann@corp.example" || b.PublicKey != m.public() || b.IdentityKey != m.identity() {
		t.Errorf("binding of somebody else: %+v", b)
	}
	if b.Rule.Name != "staff" || b.Rule.File != "zones/prod.yaml" || b.Rule.Line != 8 || b.Commit != w.pub.Load().Commit {
		t.Errorf("rule %+v at %s", b.Rule, b.Commit)
	}
	if b.Expires-b.Issued != 24*3600 || len(b.Labels) != 1 || b.Labels[0].Value != "laptop" || len(b.Routes) != 1 {
		t.Errorf("what the rule gives: %+v", b)
	}
	if len(b.Addresses) != 2 || !b.Addresses[0].Is4() || !b.Addresses[1].Is6() {
		t.Errorf("want an address of each family: %v", b.Addresses)
	}
	if changed != 1 {
		t.Errorf("changed was told %d times", changed)
	}
	list, version := s.Snapshot()
	if len(list) != 1 || list[0].Binding.Node != "laptop" {
		t.Fatalf("snapshot: %v", list)
	}
	if _, again := s.Snapshot(); again != version {
		t.Error("the version changed without a change")
	}
	admitted := identity.NewAdmitter().Admit(w.pub.Load().Repo, list, w.now())
	if len(admitted.Rejected) != 0 {
		t.Errorf("the compile would leave it out: %+v", admitted.Rejected)
	}
	w.recheck(s, "laptop")
	// A lost response, and a controller that starts again.
	proof, r := m.request(s, "corp", m.token(w.person("ann", "ops")))
	if _, err := s.Enrol(t.Context(), netip.MustParseAddr("203.0.113.7"), proof, r); err != nil {
		t.Fatal(err)
	}
	if list, _ := w.service().Snapshot(); len(list) != 1 {
		t.Errorf("after a restart: %v", list)
	}
}

func TestSameRequestGivesTheSameAnswer(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	token := m.token(w.person("ann", "ops"))
	first, err := m.enrol(s, "corp", token)
	if err != nil {
		t.Fatal(err)
	}
	w.pass(2 * time.Hour) // the token has expired
	for name, s := range map[string]*Service{"same": s, "restarted": w.service()} {
		again, err := m.enrol(s, "corp", token)
		if err != nil || string(again.Binding) != string(first.Binding) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m, other := w.machine("laptop"), w.machine("other")
	route := func(p string) func(*protocol.EnrolRequest) {
		return func(r *protocol.EnrolRequest) { r.Routes = []netip.Prefix{netip.MustParsePrefix(p)} }
	}
	for _, c := range []struct {
		name, issuer, token string
		change              func(*protocol.EnrolRequest)
		code                string
		words               []string
	}{
		{name: "stolen token with other keys", issuer: "corp", token: other.token(w.person("ann", "ops")), code: protocol.CodeToken, words: []string{"nonce", "corp"}},
		{name: "token that commits to nothing", issuer: "corp", token: w.tokens.Issue(w.person("ann", "ops")), code: protocol.CodeToken, words: []string{"commits to no keys"}},
		{name: "another audience", issuer: "corp", token: m.token(with(w.person("ann", "ops"), "aud", "wiki")), code: protocol.CodeToken, words: []string{"aud"}},
		{name: "another issuer", issuer: "corp", token: m.token(w.job("acme/app", 1)), code: protocol.CodeToken, words: []string{"iss"}},
		{name: "expired", issuer: "corp", token: m.token(with(w.person("ann", "ops"), "exp", w.now().Add(-time.Minute).Unix())), code: protocol.CodeToken, words: []string{"exp", "clock"}},
		{name: "five minutes ahead", issuer: "corp", token: m.token(with(w.person("ann", "ops"), "iat", w.now().Add(5*time.Minute).Unix())), code: protocol.CodeToken, words: []string{"5m0s apart"}},
		{name: "unknown issuer", issuer: "nobody", token: m.token(w.person("ann", "ops")), code: protocol.CodeEnrolRefused, words: []string{"nobody"}},
		{name: "no rule", issuer: "corp", token: m.token(w.person("ann", "sales")), code: protocol.CodeEnrolRefused, words: []string{"sales"}},
		{name: "look-alike", issuer: "ci", token: m.token(w.job("acme-evil/app", 1)), code: protocol.CodeEnrolRefused, words: []string{"acme-evil/app"}},
		{name: "look-alike below", issuer: "ci", token: m.token(w.job("acme/app/evil", 1)), code: protocol.CodeEnrolRefused},
		{name: "route", issuer: "corp", token: m.token(w.person("ann", "ops")), change: route("10.9.0.0/16"), code: protocol.CodeEnrolRefused, words: []string{"10.9.0.0/16", "staff", "192.168.0.0/16", "zones/prod.yaml:8"}},
		{name: "wider route", issuer: "corp", token: m.token(w.person("ann", "ops")), change: route("192.0.0.0/8"), code: protocol.CodeEnrolRefused},
		{name: "route without any", issuer: "ci", token: m.token(w.job("acme/app", 1)), change: route("192.168.1.0/24"), code: protocol.CodeEnrolRefused, words: []string{"jobs", "none"}},
		{name: "relay", issuer: "corp", token: m.token(w.person("ann", "ops")), change: func(r *protocol.EnrolRequest) { r.Relay = true }, code: protocol.CodeEnrolRefused, words: []string{"relay", "staff"}},
		{name: "address outside", issuer: "corp", token: m.token(w.person("ann", "ops")), change: func(r *protocol.EnrolRequest) {
			r.Address = []netip.Addr{netip.MustParseAddr("10.1.1.1")}
		}, code: protocol.CodeEnrolRefused, words: []string{"10.1.1.1", "10.1.0.0/24"}},
		{name: "name in git", issuer: "corp", token: m.token(w.person("ann", "ops")), change: func(r *protocol.EnrolRequest) { r.Node = "static" }, code: protocol.CodeNameTaken, words: []string{"static", "taken"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change == nil {
				c.change = func(*protocol.EnrolRequest) {}
			}
			_, err := m.enrol(s, c.issuer, c.token, c.change)
			refusedWith(t, err, c.code, c.words...)
		})
	}
	if list, _ := s.Snapshot(); len(list) != 0 {
		t.Errorf("refusals left bindings: %v", list)
	}
	left := 0
	for _, b := range []interface {
		Each(ctx context.Context, prefix string, f func(string, []byte) error) error
	}{s.opts.Buckets.Addresses, s.opts.Buckets.Tokens} {
		if err := b.Each(t.Context(), "", func(string, []byte) error { left++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if left != 0 {
		t.Errorf("refusals left %d claims", left)
	}
}

func TestStrangersLearnOfNoZone(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	answer := func(zone string) string {
		_, err := m.enrol(s, "corp", m.token(w.person("eve", "sales")), func(r *protocol.EnrolRequest) { r.Zone = zone })
		var p *protocol.Problem
		if !errors.As(err, &p) {
			t.Fatal(err)
		}
		return p.Code + " " + p.Detail
	}
	there, not := answer("prod"), answer("nope")
	if strings.ReplaceAll(there, "prod", "") != strings.ReplaceAll(not, "nope", "") {
		t.Errorf("a stranger can tell zones apart:\n%s\n%s", there, not)
	}
}

func TestMacMustFit(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	proof, r := m.request(s, "corp", m.token(w.person("ann", "ops")))
	r.Mac[0] ^= 1
	_, err := s.Enrol(t.Context(), netip.MustParseAddr("203.0.113.7"), proof, r)
	refusedWith(t, err, protocol.CodeProof, "WireGuard")
}

func TestTokenIsGoodForOneNode(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	a, b := w.machine("a"), w.machine("b")
	token := w.tokens.Issue(w.job("acme/app", 1)) // commits to nothing, which this issuer may
	a.join(s, "ci", token)
	_, err := b.enrol(s, "ci", token)
	refusedWith(t, err, protocol.CodeReplay)
	_, err = b.enrol(w.service(), "ci", token) // a restart or another replica
	refusedWith(t, err, protocol.CodeReplay)
	_, err = w.machine("c").enrol(s, "ci", token)
	refusedWith(t, err, protocol.CodeReplay)
	w.recheck(s, "a")
}

func TestNamesBelongToWhoHasThem(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	first := m.join(s, "corp", m.token(w.person("ann", "ops")))
	thief := w.machine("laptop#thief")
	_, err := thief.enrol(s, "corp", thief.token(w.person("bob", "ops")))
	refusedWith(t, err, protocol.CodeNameTaken, "laptop")
	// The same person, the same name, a new installation.
	gone := s.Connected("prod", "laptop")
	next := w.machine("laptop#new")
	_, err = next.enrol(s, "corp", next.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeNameTaken, "connected")
	gone()
	again := next.join(s, "corp", next.token(w.person("ann", "ops")))
	if again.PublicKey != next.public() || !slices.Equal(again.Addresses, first.Addresses) {
		t.Errorf("the new installation got %v, the old one had %v", again.Addresses, first.Addresses)
	}
	w.recheck(s, "laptop")
	// The old keys are nobody's.
	_, err = m.enrol(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken)
	// After its end the name is free.
	w.pass(25 * time.Hour)
	thief.join(s, "corp", thief.token(w.person("bob", "ops")))
}

func TestKeysAppearOnce(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	_, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")), func(r *protocol.EnrolRequest) { r.Node = "second" })
	refusedWith(t, err, protocol.CodeNameTaken, "laptop")
	w.static.name = "copy"
	_, err = w.static.enrol(s, "corp", w.static.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeNameTaken, "static")
}

func TestRoutesBelongToWhoCarriesThem(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	route := func(r *protocol.EnrolRequest) { r.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")} }
	a, b := w.machine("a"), w.machine("b")
	a.join(s, "corp", a.token(w.person("ann", "ops")), route)
	_, err := b.enrol(s, "corp", b.token(w.person("bob", "ops")), route)
	refusedWith(t, err, protocol.CodeNameTaken, "192.168.7.0/24", "taken")
	a.join(s, "corp", a.token(w.person("ann", "ops"))) // it asks for none any more
	b.join(s, "corp", b.token(w.person("bob", "ops")), route)
}

func TestMaximumOfNodes(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	for _, name := range []string{"a", "b", "c"} {
		m := w.machine(name)
		m.join(s, "corp", m.token(w.person("ann", "ops")))
	}
	m := w.machine("d")
	token := m.token(w.person("ann", "ops"))
	_, err := m.enrol(s, "corp", token)
	refusedWith(t, err, protocol.CodeExhausted, "a, b, c", "staff", "3")
	a := w.machine("a")
	path := protocol.LeavePath("acme", "prod", "a")
	leave := a.proof(path, nil)
	if err := s.Leave(t.Context(), "prod", "a", leave, w.verify(path)); err != nil {
		t.Fatal(err)
	}
	m.join(s, "corp", token) // what was refused has not spent the token
	refusedWith(t, s.Leave(t.Context(), "prod", "a", leave, w.verify(path)), protocol.CodeProof)
}

// What an identity may have is counted by rule, by the rules of now, and as the compile counts.
func TestMaximumIsPerRule(t *testing.T) {
	w := newWorld(t)
	rules := func(staff, board string) {
		w.publish("", "", spec.File{Path: "zones/desk.yaml", Data: fmt.Appendf(nil, `apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: desk}
spec:
  ranges: [10.2.0.0/24]
  dynamic: [10.2.0.0/25]
  members:
    - {name: staff, issuer: corp, groups: [%s], maxNodes: 2}
    - {name: board, issuer: corp, groups: [%s], maxNodes: 1}
`, staff, board)})
	}
	s := w.service()
	as := func(group, name string) error {
		m := w.machine(name)
		_, err := m.enrol(s, "corp", m.token(w.person("ann", group)), func(r *protocol.EnrolRequest) { r.Zone = "desk" })
		return err
	}
	joins := func(group, name string) {
		t.Helper()
		if err := as(group, name); err != nil {
			t.Fatalf("%s as one of %s: %v", name, group, err)
		}
	}
	rules("ops", "board")
	joins("ops", "a")
	joins("ops", "b")
	refusedWith(t, as("ops", "c"), protocol.CodeExhausted, "a, b", "staff", "2")
	joins("board", "c") // two by another rule are not in its way
	refusedWith(t, as("board", "d"), protocol.CodeExhausted, "holds 1 nodes", "of c", "board")
	list, _ := s.Snapshot()
	if left := identity.NewAdmitter().Admit(w.pub.Load().Repo, list, w.now()).Rejected; len(left) != 0 {
		t.Errorf("the compile leaves out %+v", left)
	}
	rules("board", "ops") // c is staff now, a and b are on the board, which is one too many
	joins("board", "d")
	refusedWith(t, as("board", "e"), protocol.CodeExhausted, "c, d", "staff")
	refusedWith(t, as("ops", "e"), protocol.CodeExhausted, "a, b", "board")
}

func TestRevokedMayNotEnrol(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	b := m.join(s, "corp", m.token(w.person("ann", "ops")))
	digest := must(b.Digest())(t)
	w.publish("  revoked: [{binding: "+digest.String()+", reason: stolen}]", "")
	w.pass(time.Minute)
	for name, token := range map[string]string{"fresh": m.token(w.person("ann", "ops")), "unbound": w.tokens.Issue(w.person("ann", "ops"))} {
		if _, err := m.enrol(s, "corp", token); err == nil {
			t.Errorf("%s: a revoked binding was renewed", name)
		}
	}
	next := w.machine("laptop#next")
	path := protocol.RotatePath("acme", "prod", "laptop")
	if _, err := w.rotate(s, m, next, path); err == nil {
		t.Error("a revoked node rotated its keys")
	}
	next.join(s, "corp", next.token(w.person("ann", "ops"))) // new keys for the same person are another matter
	w.publish("  revoked: [{issuer: corp, user: ann@corp.example, reason: has left}]", "")
	third := w.machine("third")
	_, err := third.enrol(s, "corp", third.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeEnrolRefused, "has left", "network.yaml")
}

func TestProviderDown(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	token := m.token(w.person("ann", "ops"))
	w.tokens.Break(issuerURL, errors.New("connection refused"))
	_, err := m.enrol(s, "corp", token)
	refusedWith(t, err, protocol.CodeUnavailable, "corp", "cannot be asked now")
	if strings.Contains(err.Error(), "connection refused") {
		t.Errorf("what the controller reaches is told: %v", err)
	}
	job := w.machine("job")
	job.join(s, "ci", w.tokens.Issue(w.job("acme/app", 1))) // costs nobody else anything
	w.tokens.Break(issuerURL, nil)
	m.join(s, "corp", token)
}

func TestUnknownFieldsAreRefused(t *testing.T) {
	w := newWorld(t)
	m := w.machine("laptop")
	_, r := m.request(w.service(), "corp", "a.b.c")
	data := must(protocol.Encode(r))(t)
	data = append(data[:len(data)-1], `,"labels":{"role":"admin"}}`...)
	if _, err := protocol.DecodeEnrol(data, "acme", "prod"); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("a node asked for labels: %v", err)
	}
}

func TestNoTrustedKey(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Keys[0] = testKey("another") })
	m := w.machine("laptop")
	_, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeNotReady, "trust root")
	w2 := newWorld(t)
	s = w2.service()
	m = w2.machine("laptop")
	m.join(s, "corp", m.token(w2.person("ann", "ops")))
	root := w2.root.Clone()
	root.Enrolment.Keys = []string{}
	root.Enrolment.Threshold = 0
	w2.root = must(root.Canonical())(t)
	w2.publish("", "")
	if list, _ := s.Snapshot(); len(list) != 0 {
		t.Error("a binding of a key that the trust root no longer lists counts")
	}
}

func TestInfo(t *testing.T) {
	w := newWorld(t)
	info := must(w.service().Info())(t)
	if info.Network != "acme" || len(info.Issuers) != 2 || !info.Issuers[0].Bound || info.Issuers[1].Bound || info.Challenge == (peermap.Key{}) {
		t.Errorf("%+v", info)
	}
	if info.Issuers[0].Audience != "apex-cli" || info.Issuers[1].Audience != spec.DefaultIssuerAudience {
		t.Errorf("audiences: %+v", info.Issuers)
	}
	if info.Issuers[0].ClientSecret != "public" || info.Issuers[1].ClientSecret != "" {
		t.Errorf("client secrets: %+v", info.Issuers)
	}
}

func TestSpentTokenBringsNothingBack(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	a := w.machine("a")
	token := a.token(w.person("ann", "ops"))
	a.join(s, "corp", token)
	a.join(s, "corp", token) // the answer was lost
	path := protocol.LeavePath("acme", "prod", "a")
	if err := s.Leave(t.Context(), "prod", "a", a.proof(path, nil), w.verify(path)); err != nil {
		t.Fatal(err)
	}
	_, err := a.enrol(s, "corp", token)
	refusedWith(t, err, protocol.CodeReplay, "gone")
	a.join(s, "corp", a.token(w.person("ann", "ops")))

	next := w.machine("a#2")
	_, err = w.rotate(s, a, next, protocol.RotatePath("acme", "prod", "a"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.enrol(w.service(), "corp", token)
	refusedWith(t, err, protocol.CodeReplay)
}

func TestAnotherClientChoosesNoKeys(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("a")
	_, err := m.enrol(s, "corp", m.token(with(w.person("ann", "ops"), "azp", "wiki")))
	refusedWith(t, err, protocol.CodeToken, "azp", "apex-cli")
	m.join(s, "corp", m.token(with(w.person("ann", "ops"), "azp", "apex-cli")))
	w.recheck(s, "a")
}
