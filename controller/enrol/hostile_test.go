package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
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

// Each limit refuses by itself, in words of its own, and says when to come back; whom it is not about it leaves alone.
func TestFloodsAreLimited(t *testing.T) {
	here, there := netip.MustParseAddr("2001:db8:1::7"), netip.MustParseAddr("2001:db8:2::7")
	person := func(w *world, name string) (*machine, string) {
		m := w.machine(name)
		return m, m.token(w.person(name, "ops"))
	}
	for name, c := range map[string]struct {
		limits Limits
		// flood is one of many requests, other one that the flood is no reason to refuse.
		flood, other func(w *world, s *Service, n int) error
		says         string
	}{
		"address": {
			limits: Limits{PerAddress: 3, PerSubject: -1, PerIssuer: -1},
			flood: func(w *world, s *Service, n int) error {
				m, token := person(w, fmt.Sprint("laptop", n))
				return m.enrolFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%d", n)), s, "corp", token) // a host has all of its network
			},
			other: func(w *world, s *Service, n int) error {
				m, token := person(w, fmt.Sprint("other", n))
				return m.enrolFrom(there, s, "corp", token)
			},
			says: "from this address",
		},
		"subject": {
			limits: Limits{PerAddress: -1, PerSubject: 3, PerIssuer: -1},
			flood: func(w *world, s *Service, n int) error { // with new keys: a renewal is charged to its node
				m := w.machine(fmt.Sprint("laptop#", n))
				return m.enrolFrom(here, s, "corp", m.token(w.person("ann", "ops")))
			},
			other: func(w *world, s *Service, n int) error {
				m, token := person(w, fmt.Sprint("other", n))
				return m.enrolFrom(here, s, "corp", token)
			},
			says: "by this identity",
		},
		"issuer": {
			limits: Limits{PerAddress: -1, PerSubject: -1, PerIssuer: 3},
			flood: func(w *world, s *Service, n int) error {
				m, token := person(w, fmt.Sprint("laptop", n))
				return m.enrolFrom(here, s, "corp", token)
			},
			other: func(w *world, s *Service, n int) error {
				return w.machine(fmt.Sprint("job", n)).enrolFrom(here, s, "ci", w.tokens.Issue(w.job("acme/app", n)))
			},
			says: "with tokens of issuer corp",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.service(func(o *Options) { o.Limits = c.limits })
			for n := range 3 {
				if err := c.flood(w, s, n); err != nil {
					t.Fatalf("request %d: %v", n, err)
				}
			}
			err := c.flood(w, s, 3)
			refusedWith(t, err, protocol.CodeTooMany, c.says)
			var p *protocol.Problem
			if errors.As(err, &p); p.Status != http.StatusTooManyRequests || p.RetryAfter != 20 {
				t.Errorf("status %d, again in %d s; three a minute are one in 20 s", p.Status, p.RetryAfter)
			}
			if err := c.other(w, s, 0); err != nil {
				t.Errorf("somebody else: %v", err)
			}
			w.pass(20 * time.Second)
			if err := c.flood(w, s, 4); err != nil {
				t.Errorf("after the time that was told: %v", err)
			}
		})
	}
}

// Requests with tokens that nobody made use up no identity's share and no issuer's.
func TestForgedTokensUseUpNoShare(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits = Limits{PerIssuer: 1, PerSubject: 1} })
	m := w.machine("laptop")
	for range 6 {
		_, err := m.enrol(s, "corp", m.token(with(w.person("ann", "ops"), "aud", "junk")))
		refusedWith(t, err, protocol.CodeToken)
	}
	m.join(s, "corp", m.token(w.person("ann", "ops")))
}

// Renewals by a bound key get through a rush with the same issuer.
func TestRushEndsNoMembership(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits = Limits{PerIssuer: 2} })
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("eve", "ops")))
	var err error
	for i := range 2 {
		other := w.machine(fmt.Sprint("other", i))
		_, err = other.enrol(s, "corp", other.token(w.person(fmt.Sprint("bob", i), "ops")))
	}
	refusedWith(t, err, protocol.CodeTooMany, "corp")
	m.join(s, "corp", m.token(w.person("eve", "ops")))
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
