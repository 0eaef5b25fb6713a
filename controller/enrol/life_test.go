package enrol

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

func TestRenewalNeedsNoCommitmentButTheKey(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	first := m.join(s, "corp", m.token(w.person("ann", "ops")))
	early := m.join(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	if early.Issued != first.Issued {
		t.Error("an early renewal that says nothing new made a new binding")
	}
	for range 5 { // the chain does not grow
		w.pass(16 * time.Hour)
		next := m.join(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
		if next.Issued != w.now().Unix() || !slices.Equal(next.Addresses, first.Addresses) {
			t.Fatalf("renewal: %+v", next)
		}
		w.recheck(s, "laptop")
		l := must(openLink(w.record(s, "laptop")))(t)
		if len(l.evidence.Previous) != 1 {
			t.Fatalf("leans on %d links, want the enrolment alone", len(l.evidence.Previous))
		}
	}
	// A stolen unbound token is worth nothing with other keys, and another person's nothing with these.
	thief := w.machine("laptop#thief")
	_, err := thief.enrol(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken)
	_, err = m.enrol(s, "corp", w.tokens.Issue(w.person("bob", "ops")))
	refusedWith(t, err, protocol.CodeToken)
	_, err = m.enrol(s, "corp", thief.token(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken, "never had")
	// With a bound one the chain begins anew; after the end an unbound one renews nothing.
	w.pass(16 * time.Hour)
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	if l := must(openLink(w.record(s, "laptop")))(t); len(l.evidence.Previous) != 0 {
		t.Error("a bound renewal leans on something")
	}
	w.pass(25 * time.Hour)
	_, err = m.enrol(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken)
}

func TestRenewalFollowsTheIdentity(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	moved := m.join(s, "corp", m.token(with(w.person("ann", "ops"), "groups", []string{"ops", "oncall"})))
	if !slices.Contains(moved.Identity.Groups, "oncall") {
		t.Error("a new group waits for the next renewal that is due")
	}
	_, err := m.enrol(s, "corp", m.token(w.person("ann", "sales")))
	refusedWith(t, err, protocol.CodeEnrolRefused, "staff", "any more")
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	old, next, third := w.machine("laptop"), w.machine("laptop#2"), w.machine("laptop#3")
	first := old.join(s, "corp", old.token(w.person("ann", "ops")))
	path := protocol.RotatePath("acme", "prod", "laptop")
	w.pass(time.Hour)
	b := w.bound(w.rotate(s, old, next, path))
	if b.PublicKey != next.public() || b.Expires != first.Expires || !slices.Equal(b.Addresses, first.Addresses) {
		t.Fatalf("rotated to %+v", b)
	}
	w.recheck(s, "laptop")
	if again := w.bound(w.rotate(s, old, next, path)); again.Issued != b.Issued {
		t.Error("a repeated rotation made another binding")
	}
	if s.bindings.get(nodeKey{"prod", "laptop"}).Binding.IdentityKey != next.identity() {
		t.Error("the old key still speaks for the node")
	}
	_, err := w.rotate(s, old, third, path)
	refusedWith(t, err, protocol.CodeProof)
	_, err = old.enrol(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken)
	// A refreshed token keeps the nonce of its first day, which commits to the old keys.
	w.pass(20 * time.Hour)
	renewed := next.join(s, "corp", old.token(w.person("ann", "ops")))
	if renewed.PublicKey != next.public() {
		t.Error("renewal with the first nonce")
	}
	w.recheck(s, "laptop")
	w.bound(w.rotate(s, next, third, path))
	w.recheck(s, "laptop")
	w.pass(16 * time.Hour)
	third.join(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	w.recheck(s, "laptop")
}

func TestRotationNeedsAllProofs(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	old, next, other := w.machine("laptop"), w.machine("laptop#2"), w.machine("other")
	old.join(s, "corp", old.token(w.person("ann", "ops")))
	other.join(s, "corp", other.token(w.person("bob", "ops")))
	path := protocol.RotatePath("acme", "prod", "laptop")
	_, err := w.rotate(s, old, next, path, func(r *protocol.RotateRequest) { r.Proof = old.proof(path, nil).Compact() })
	refusedWith(t, err, protocol.CodeProof, "new identity key")
	_, err = w.rotate(s, old, next, path, func(r *protocol.RotateRequest) { r.PublicKey = other.public() })
	refusedWith(t, err, protocol.CodeProof, "WireGuard")
	stranger := w.machine("laptop#9")
	_, err = w.rotate(s, stranger, next, path)
	refusedWith(t, err, protocol.CodeProof)
	twin := *other
	twin.name = "laptop"
	_, err = w.rotate(s, old, &twin, path)
	refusedWith(t, err, protocol.CodeNameTaken, "other")
}

func (w *world) decide(s *Service, wait protocol.Waiting, approve bool) error {
	w.t.Helper()
	payload := must(protocol.NewDecision("acme", wait, approve, w.now()))(w.t)
	sig := must(signer.SSHSign(w.maintain, protocol.EnrolNamespace, payload))(w.t)
	return s.Decide(w.ctx(), protocol.SignedRequest{Payload: payload, Signature: string(sig)})
}

// approved gives the lines of a Zone document that approve a machine of a person of corp, and no routes.
func (w *world) approved(m *machine, sub, rule string) string {
	return fmt.Sprintf("  approved: [{node: %s, publicKey: %s, identityKey: %s, issuer: corp, subject: %s, rule: %s}]\n",
		m.name, spec.Key(m.public()), spec.Key(m.identity()), sub, rule)
}

func TestReview(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guest")
	token := m.token(w.person("gus", "guests"))
	for range 2 {
		r, err := m.enrol(s, "corp", token)
		if err != nil || r.Binding != nil || r.Waiting == "" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	list := s.List()
	if len(list.Waiting) != 1 || list.Waiting[0].Username != "gus@corp.example" || len(list.Bindings) != 0 {
		t.Fatalf("%+v", list)
	}
	w.pass(2 * time.Hour) // longer than the token lives
	s = w.service()       // another controller
	if err := w.decide(s, list.Waiting[0], false); err != nil {
		t.Fatal(err)
	}
	_, err := m.enrol(s, "corp", token)
	refusedWith(t, err, protocol.CodeEnrolRefused, "denied")
	if err := w.decide(s, list.Waiting[0], true); err != nil {
		t.Fatal(err)
	}
	b := w.bound(m.enrol(s, "corp", token))
	if !b.Approved || b.Rule.Name != "guests" {
		t.Errorf("%+v", b)
	}
	w.recheck(s, "guest")
	if len(s.List().Waiting) != 0 {
		t.Error("it still waits")
	}
	// The approval carries renewals and rotations of the node.
	w.pass(16 * time.Hour)
	m.join(s, "corp", w.tokens.Issue(w.person("gus", "guests")))
	w.recheck(s, "guest")
	next := w.machine("guest#2")
	w.bound(w.rotate(s, m, next, protocol.RotatePath("acme", "prod", "guest")))
	w.recheck(s, "guest")
	w.pass(16 * time.Hour)
	next.join(s, "corp", next.token(w.person("gus", "guests")))
	w.recheck(s, "guest")
	// Once the maintainer may no longer change the zone, the next renewal waits.
	w.root = w.newRoot("elsewhere/**")
	w.publish("", "")
	w.pass(16 * time.Hour)
	if r, err := next.enrol(s, "corp", w.tokens.Issue(w.person("gus", "guests"))); err != nil || r.Binding != nil {
		t.Errorf("a departed maintainer's word counts: %v", err)
	}
}

func TestReviewByWhoMayNot(t *testing.T) {
	w := newWorld(t)
	w.root = w.newRoot("zones/other.yaml")
	w.publish("", "")
	s := w.service()
	m := w.machine("guest")
	if _, err := m.enrol(s, "corp", m.token(w.person("gus", "guests"))); err != nil {
		t.Fatal(err)
	}
	there := w.decide(s, s.List().Waiting[0], true)
	refusedWith(t, there, protocol.CodeSignature)
	not := w.decide(s, protocol.Waiting{Zone: "nope", Node: "x", PublicKey: peermap.Key{1}, IdentityKey: peermap.Key{2}}, true)
	if there.Error() != not.Error() {
		t.Errorf("a maintainer of one zone can tell others apart:\n%v\n%v", there, not)
	}
}

func TestReviewInGit(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guest")
	token := m.token(w.person("gus", "guests"))
	if _, err := m.enrol(s, "corp", token); err != nil {
		t.Fatal(err)
	}
	w.publish("", w.approved(m, "gus", "guests"))
	if err := s.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.Snapshot(); len(list) != 1 || !list[0].Binding.Approved {
		t.Fatal("a commit that approves it lets it in")
	}
	w.recheck(s, "guest")
	w.bound(m.enrol(s, "corp", token))
}

func TestWaitingListIsBounded(t *testing.T) {
	w := newWorld(t)
	s := w.service(func(o *Options) { o.Limits = Limits{Waiting: 3, WaitingPerSubject: 2} })
	wait := func(name, who string) error {
		m := w.machine(name)
		_, err := m.enrol(s, "corp", m.token(w.person(who, "guests")))
		return err
	}
	for _, name := range []string{"a", "b"} {
		if err := wait(name, "gus"); err != nil {
			t.Fatal(err)
		}
	}
	refusedWith(t, wait("c", "gus"), protocol.CodeTooMany)
	if err := wait("d", "eve"); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, wait("e", "joe"), protocol.CodeTooMany)
	if err := wait("a", "gus"); err != nil { // who waits may ask again
		t.Error(err)
	}
	w.pass(waitingLife + time.Hour)
	if err := s.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := wait("e", "joe"); err != nil {
		t.Errorf("places of a week ago are taken: %v", err)
	}
}

func TestEphemeralLeavesWhenItDisconnects(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("job")
	m.join(s, "ci", w.tokens.Issue(w.job("acme/app", 1)))
	has := func(want bool) {
		t.Helper()
		if err := s.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if list, _ := s.Snapshot(); (len(list) == 1) != want {
			t.Fatalf("%d nodes at %s", len(list), w.now())
		}
	}
	has(true)
	w.pass(time.Minute) // it waits for its first generation
	has(true)
	gone := s.Connected("prod", "job")
	w.pass(time.Minute)
	has(true)
	gone()
	has(true) // the grace begins
	w.pass(20 * time.Second)
	back := s.Connected("prod", "job")
	has(true)
	w.pass(time.Minute)
	has(true)
	back()
	has(true)
	// Watching another replica is being here; so is a restart.
	other := w.service(func(o *Options) { o.Replica, o.Leads = "two", func() bool { return false } })
	away := other.Connected("prod", "job")
	if err := other.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute)
	has(true)
	away()
	if err := other.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	has(true)
	w.pass(31 * time.Second)
	has(false)
	if n := count(t, s.opts.Buckets.Addresses); n != 0 {
		t.Errorf("%d addresses are still claimed", n)
	}
}

func TestExpiredBindingsAreForgottenAfterAWhile(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	first := m.join(s, "corp", m.token(w.person("ann", "ops")))
	w.pass(3 * 24 * time.Hour)
	if err := s.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := m.join(s, "corp", m.token(w.person("ann", "ops")))
	if !slices.Equal(back.Addresses, first.Addresses) {
		t.Error("who comes back within days finds the address again")
	}
	w.pass(9 * 24 * time.Hour)
	if err := s.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.Snapshot(); len(list) != 0 || count(t, s.opts.Buckets.Addresses) != 0 {
		t.Error("an old binding is kept for ever")
	}
	again := m.join(s, "corp", m.token(w.person("ann", "ops")))
	if !slices.Equal(again.Addresses, first.Addresses) {
		t.Error("the identity key leads to the same address")
	}
}

// Attacks of a stolen controller: it has the enrolment key and all that it saw.
func TestRecheckRefusesWhatAControllerInvents(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	evil := w.machine("evil")
	sign := func(b binding.Binding, e protocol.Evidence) protocol.BindingRecord {
		_, r, err := s.sign(w.pub.Load(), b, e)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	good := must(openLink(w.record(s, "laptop")))(t)
	for name, change := range map[string]func(b *binding.Binding, e *protocol.Evidence){
		"its own keys": func(b *binding.Binding, _ *protocol.Evidence) {
			b.PublicKey, b.IdentityKey = evil.public(), evil.identity()
		},
		"another name":   func(b *binding.Binding, _ *protocol.Evidence) { b.Node = "evil" },
		"another person": func(b *binding.Binding, _ *protocol.Evidence) { b.Identity.Subject = "root" },
		"another group":  func(b *binding.Binding, _ *protocol.Evidence) { b.Identity.Groups = []string{"guests", "ops"} },
		"relay":          func(b *binding.Binding, _ *protocol.Evidence) { b.Relay = true },
		"a year later": func(b *binding.Binding, _ *protocol.Evidence) {
			b.Issued += 365 * 86400
			b.Expires += 365 * 86400
		},
		"a token used again": func(b *binding.Binding, e *protocol.Evidence) {
			b.Issued += 7200
			b.Expires += 7200
			e.Verified += 7200
		},
		"approved by nobody": func(b *binding.Binding, _ *protocol.Evidence) { b.Approved = true },
		"no evidence":        func(_ *binding.Binding, e *protocol.Evidence) { *e = protocol.Evidence{Previous: [][]byte{}} },
		"its own request, an honest token": func(b *binding.Binding, e *protocol.Evidence) {
			b.Node, b.PublicKey, b.IdentityKey = "evil", evil.public(), evil.identity()
			proof, r := evil.request(s, "corp", e.Token)
			r.Token = ""
			e.Request, e.Proof = must(protocol.Encode(r))(t), proof.Compact()
		},
		"its own token": func(b *binding.Binding, e *protocol.Evidence) {
			proof, r := m.request(s, "corp", "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJ4In0.eA")
			e.Token, r.Token = r.Token, ""
			e.Request, e.Proof = must(protocol.Encode(r))(t), proof.Compact()
		},
	} {
		b, e := good.binding, good.evidence
		b.Identity.Groups = slices.Clone(b.Identity.Groups)
		change(&b, &e)
		if _, err := w.judge().Recheck(t.Context(), sign(b, e)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// A binding by a key that is not for bindings.
	other := w.service(func(o *Options) { o.Keys = []signer.PrivateKey{testKey("manifest")} })
	root := w.root.Clone()
	root.Enrolment.Keys = []string{"manifest"}
	pub := *w.pub.Load()
	pub.Root = root
	if _, r, err := other.sign(&pub, good.binding, good.evidence); err == nil {
		if _, err := w.judge().Recheck(t.Context(), r); err == nil {
			t.Error("a binding signed by the manifest key counts")
		}
	}
	if _, err := w.judge().Recheck(t.Context(), sign(good.binding, good.evidence)); err != nil {
		t.Errorf("the honest one: %v", err)
	}
}

func TestRecheckOfRenewals(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m, evil := w.machine("laptop"), w.machine("laptop#evil")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	first := must(openLink(w.record(s, "laptop")))(t)
	w.pass(16 * time.Hour)
	m.join(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	renewed := must(openLink(w.record(s, "laptop")))(t)
	judge := w.judge()
	try := func(name string, b binding.Binding, e protocol.Evidence) {
		t.Helper()
		_, r, err := s.sign(w.pub.Load(), b, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := judge.Recheck(t.Context(), r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	e := renewed.evidence
	e.Previous = [][]byte{}
	try("an unbound token that leans on nothing", renewed.binding, e)
	// The controller takes an unbound token that passes through it for keys of its own.
	b := renewed.binding
	b.PublicKey, b.IdentityKey = evil.public(), evil.identity()
	proof, r := evil.request(s, "corp", renewed.evidence.Token)
	r.Token = ""
	e = renewed.evidence
	e.Request, e.Proof = must(protocol.Encode(r))(t), proof.Compact()
	try("keys of its own in a renewal", b, e)
	// It rotates to keys of its own without the old key.
	rot := protocol.RotateRequest{PublicKey: evil.public(), IdentityKey: evil.identity(), Mac: make([]byte, 32)}
	path := protocol.RotatePath("acme", "prod", "laptop")
	rot.Proof = evil.proof(path, nil).Compact()
	body := must(protocol.Encode(rot))(t)
	b = first.binding
	b.PublicKey, b.IdentityKey, b.Issued = evil.public(), evil.identity(), w.now().Unix()
	e = must(leaning(protocol.Evidence{Verified: w.now().Unix(), Request: body, Proof: evil.proof(path, body).Compact()}, []link{first}))(t)
	try("a rotation without the old key", b, e)
	e.Proof = m.proof(path, body).Compact()
	b.Expires += 86400
	try("a rotation that lives longer", b, e)
	// What was judged before carries on when the issuer has dropped its keys.
	judge.Verifier = nil
	judge.Judged = func(peermap.Digest) bool { return true }
	if _, err := judge.Recheck(t.Context(), renewed.record); err != nil {
		t.Error(err)
	}
}

// A request that the controller takes and no witness would accept would keep the zone from being published.
func TestWhatNoWitnessAcceptsIsNotStored(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	from := netip.MustParseAddr("203.0.113.7")
	_, r := m.request(s, "corp", m.token(w.person("ann", "ops")))
	body := must(protocol.Encode(r))(t)
	path := protocol.EnrolPath("acme", "prod")
	other := *m
	other.name = "other"
	for name, proof := range map[string]*protocol.Token{
		"another path":        m.proof("/v1/networks/acme/zones/%70rod/enrol", body),
		"another body":        m.proof(path, append(body, ' ')),
		"another node":        other.proof(path, body),
		"another key":         w.machine("laptop#x").proof(path, body),
		"an enrolment as own": m.proof(protocol.LeavePath("acme", "prod", "laptop"), body),
	} {
		if _, err := s.Enrol(t.Context(), from, proof, r); err == nil {
			t.Errorf("%s: stored", name)
		}
	}
	if list, _ := s.Snapshot(); len(list) != 0 || count(t, s.opts.Buckets.Addresses) != 0 || count(t, s.opts.Buckets.Tokens) != 0 {
		t.Error("something is left of them")
	}
	w.bound(s.Enrol(t.Context(), from, m.proof(path, body), r)) // and the token is still good
}

// A week may pass until a maintainer decides; then the rule may have lost its review, and the token is old.
func TestDecisionForARuleWithoutReview(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guest")
	token := m.token(w.person("gus", "guests"))
	if _, err := m.enrol(s, "corp", token); err != nil {
		t.Fatal(err)
	}
	waiting := s.List().Waiting[0]
	repo := *w.pub.Load()
	repo.Repo.Zone("prod").Value.Spec.Members[2].Approval = spec.ApprovalAuto
	w.pub.Store(&repo)
	w.pass(2 * time.Hour)
	refusedWith(t, w.decide(s, waiting, true), protocol.CodeToken, "new one")
	w.bound(m.enrol(s, "corp", m.token(w.person("gus", "guests"))))
}
