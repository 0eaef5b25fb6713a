package enrol

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
)

// Bindings that ended are kept for their nodes to come back, not at the cost of those that want to join.
func TestEndedBindingsUseUpNoAddresses(t *testing.T) {
	w := newWorld(t)
	w.publish("", "", spec.File{Path: "zones/tiny.yaml", Data: []byte(`apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: tiny}
spec:
  ranges: [10.2.0.0/24]
  dynamic: [10.2.0.4/31]
  members: [{name: staff, issuer: corp, groups: [ops], ttl: 1h}]
`)})
	s := w.service()
	tiny := func(r *protocol.EnrolRequest) { r.Zone = "tiny" }
	w.machine("a").join(s, "corp", w.machine("a").token(w.person("ann", "ops")), tiny)
	b := w.machine("b").join(s, "corp", w.machine("b").token(w.person("bob", "ops")), tiny)
	c := w.machine("c")
	_, err := c.enrol(s, "corp", c.token(w.person("cid", "ops")), tiny)
	refusedWith(t, err, protocol.CodeExhausted)
	w.pass(30 * time.Minute)
	w.machine("b").join(s, "corp", w.machine("b").token(w.person("bob", "ops")), tiny)
	w.pass(45 * time.Minute)
	got := c.join(s, "corp", c.token(w.person("cid", "ops")), tiny)
	if slices.Equal(got.Addresses, b.Addresses) {
		t.Fatalf("%v is held by a member", got.Addresses)
	}
	d := w.machine("d")
	_, err = d.enrol(s, "corp", d.token(w.person("dan", "ops")), tiny)
	refusedWith(t, err, protocol.CodeExhausted)
}

// Who is denied keeps nobody else from waiting, and a zone's crowd no other zone's.
func TestDeniedKeepNobodyFromWaiting(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits.Waiting = 2 })
	for i := range 2 {
		m := w.machine(fmt.Sprint("guest", i))
		if r, err := m.enrol(s, "corp", m.token(w.person(m.name, "guests"))); err != nil || r.Waiting == "" {
			t.Fatal(r, err)
		}
	}
	m := w.machine("late")
	_, err := m.enrol(s, "corp", m.token(w.person("late", "guests")))
	refusedWith(t, err, protocol.CodeTooMany)
	if err := w.decide(s, s.List().Waiting[0], false); err != nil {
		t.Fatal(err)
	}
	if r, err := m.enrol(s, "corp", m.token(w.person("late", "guests"))); err != nil || r.Waiting == "" {
		t.Fatal(r, err)
	}
}

// Whoever can write to the store does not get a maintainer's word for somebody else than it was given for.
func TestRequestsThatWaitAreSealed(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guest")
	r, err := m.enrol(s, "corp", m.token(w.person("mallory", "guests")))
	if err != nil {
		t.Fatal(err)
	}
	shown := s.List().Waiting
	at := s.waitingKey("prod", r.Waiting)
	data := must(s.opts.Buckets.Waiting.Get(t.Context(), at))(t)
	forged := []byte(strings.ReplaceAll(string(data), "mallory", "eva-adm"))
	if err := s.opts.Buckets.Waiting.Put(t.Context(), at, forged); err != nil {
		t.Fatal(err)
	}
	if err := w.decide(s, shown[0], true); err == nil || !strings.Contains(err.Error(), "not sealed") {
		t.Fatalf("a forged request was approved: %v", err)
	}
	if list := w.service().List(); len(list.Waiting) != 0 || len(list.Bindings) != 0 {
		t.Fatalf("%+v", list)
	}
}

// A stolen machine that is revoked until now does not come back with its keys and a fresh token for them.
func TestRevokedMachineDoesNotComeBackWithItsKeys(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	w.pass(time.Minute)
	w.publish(`  revoked: [{zone: prod, node: laptop, before: "`+w.now().Format(time.RFC3339)+`"}]`, "")
	w.pass(time.Minute)
	path := protocol.LeavePath("acme", "prod", "laptop")
	refusedWith(t, s.Leave(t.Context(), "prod", "laptop", m.proof(path, nil), w.verify(path)), protocol.CodeProof)
	_, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeEnrolRefused, "make new keys")
	next := w.machine("laptop#next")
	next.join(s, "corp", next.token(w.person("ann", "ops")))
}

// Two jobs that ask for one name do not take it from each other by way of another replica.
func TestNameIsHeldThroughAnotherReplica(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("job")
	m.join(s, "ci", m.token(w.job("acme/x", 1)))
	other := w.service(func(o *Options) { o.Replica, o.Leads = "two", func() bool { return false } })
	gone := other.Connected("prod", "job")
	if err := other.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := w.machine("job#next")
	_, err := next.enrol(s, "ci", next.token(w.job("acme/x", 2)))
	refusedWith(t, err, protocol.CodeNameTaken, "connected")
	gone()
	if err := other.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	next.join(s, "ci", next.token(w.job("acme/x", 3)))
}

// Whoever has a good token of a public issuer, and no place here, uses up nobody's share.
func TestStrangersUseUpNoIssuer(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits = Limits{PerIssuer: 2} })
	for i := range 6 {
		m := w.machine(fmt.Sprint("stranger", i))
		_, err := m.enrol(s, "ci", m.token(w.job("mallory/app", i)))
		refusedWith(t, err, protocol.CodeEnrolRefused)
	}
	m := w.machine("job")
	m.join(s, "ci", m.token(w.job("acme/app", 1)))
}

// Whoever a rule admits learns that a name or a route is taken, not by whom, until when, or whether git or a person has it.
func TestConflictsNameNobody(t *testing.T) {
	w := newWorld(t)
	logged := &bytes.Buffer{}
	s := w.service(func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(logged, nil)) })
	route := func(r *protocol.EnrolRequest) { r.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")} }
	m := w.machine("gateway")
	m.join(s, "corp", m.token(w.person("ann", "ops")), route)
	probe := func(name string, change ...func(*protocol.EnrolRequest)) string {
		t.Helper()
		p := w.machine(name + "#probe")
		_, err := p.enrol(s, "corp", p.token(w.person("mallory", "ops")), change...)
		refusedWith(t, err, protocol.CodeNameTaken, "taken")
		for _, secret := range []string{"ann", "gateway", "git", "2026", "another identity"} {
			if secret != name && strings.Contains(err.Error(), secret) {
				t.Errorf("%q says %q", err, secret)
			}
		}
		return strings.ReplaceAll(err.Error(), name, "NAME")
	}
	if person, git := probe("gateway"), probe("static"); person != git {
		t.Errorf("a name that a person has: %q; one that stands in git: %q", person, git)
	}
	probe("other", route)
	for _, holder := range []string{"corp:ann", "holder=git", "node gateway"} {
		if !strings.Contains(logged.String(), holder) {
			t.Errorf("the log does not say %q:\n%s", holder, logged)
		}
	}
}

// A token that was seen on its way, shown with other keys, counts against nobody but who shows it.
func TestSeenTokensChargeTheirOwnersNothing(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits = Limits{PerSubject: 3} })
	m, thief := w.machine("laptop"), w.machine("thief")
	seen := m.token(w.person("ann", "ops"))
	for range 6 {
		_, err := thief.enrol(s, "corp", seen)
		refusedWith(t, err, protocol.CodeToken, "bound")
	}
	m.join(s, "corp", seen)
}

// Strangers behind the address that members come from too, or under a name that members share, keep none from renewing: whoever
// proves the key of a binding answers for its node alone.
func TestFloodsEndNoMembership(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits = Limits{PerAddress: 10, PerSubject: 3} })
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	flood := func(by *machine, code string, issue func() string) {
		t.Helper()
		var err error
		for range 12 {
			_, err = by.enrol(s, "corp", issue())
		}
		refusedWith(t, err, code)
	}
	stranger := w.machine("stranger")
	flood(stranger, protocol.CodeTooMany, func() string { return stranger.token(w.person("mallory", "nobody")) })
	route := func(r *protocol.EnrolRequest) { r.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")} }
	for range 2 { // a change of what is asked for is a new binding each time
		m.join(s, "corp", m.token(w.person("ann", "ops")), route)
		m.join(s, "corp", m.token(w.person("ann", "ops")))
	}
	next := w.machine("laptop#next")
	if _, err := w.rotate(s, m, next, protocol.RotatePath("acme", "prod", "laptop")); err != nil {
		t.Fatal(err)
	}
	// The old key proves nothing any more, and nobody's request costs another node its renewals.
	_, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeTooMany, "address")
	for range perNode {
		_, err = next.enrol(s, "corp", next.token(w.person("ann", "ops")))
	}
	refusedWith(t, err, protocol.CodeTooMany, "node")
	w.pass(time.Minute)
	next.join(s, "corp", next.token(w.person("ann", "ops")))
}
