package enrol

import (
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
)

// ruled puts rules of corp that match on a claim in front of the zone's.
func (w *world) ruled(rules ...spec.MemberRule) {
	w.t.Helper()
	w.publish("", "")
	z := &w.pub.Load().Repo.Zone("prod").Value
	z.Spec.Members = append(rules, z.Spec.Members...)
}

func contractors() spec.MemberRule {
	return spec.MemberRule{Name: "contractors", Issuer: "corp", Match: map[string]string{"employment": "contractor"}, Approval: spec.ApprovalReview}
}

// A stolen controller leaves out the claim by which a rule with a review admits the token, so that a later one would.
func TestClaimsCannotBeLeftOut(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	w.ruled(contractors())
	m, next := w.machine("laptop"), w.machine("laptop#next")
	raw := m.token(with(w.person("con", "ops"), "employment", "contractor"))
	if r, err := m.enrol(s, "corp", raw); err != nil || r.Waiting == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	proof, r := m.request(s, "corp", raw)
	r.Token = ""
	e := protocol.Evidence{Token: raw, Key: []byte("{}"), Verified: w.now().Unix(), Request: must(protocol.Encode(r))(t), Proof: proof.Compact(), Previous: [][]byte{}}
	// An honest binding of somebody else lends its form.
	form := w.machine("form")
	b := form.join(s, "corp", form.token(w.person("ann", "ops")))
	b.Node, b.PublicKey, b.IdentityKey, b.Issued = "laptop", m.public(), m.identity(), w.now().Unix()
	b.Identity = binding.Identity{Issuer: "corp", URL: issuerURL, Subject: "con", Username: "con@corp.example",
		Groups: []string{"ops"}, Claims: []binding.Claim{}}
	for _, commit := range []string{b.Commit, "0000000000000000000000000000000000000001"} { // when nobody asked for the claim
		b.Commit = commit
		_, record, err := s.sign(w.pub.Load(), b, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.judge().Recheck(t.Context(), record); err == nil {
			t.Error("accepted")
		}
		rotated := b
		rotated.PublicKey, rotated.IdentityKey = next.public(), next.identity()
		_, record, err = s.sign(w.pub.Load(), rotated, w.rotation(m, next, must(openLink(record))(t)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.judge().Recheck(t.Context(), record); err == nil {
			t.Error("accepted behind a rotation")
		}
	}
}

// Rules come and go between a binding's issue and a witness's look at it.
func TestRulesThatChangedTakeNoHonestMember(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	employee := func() map[string]any { return with(w.person("ann", "ops"), "employment", "employee") }
	m, next := w.machine("laptop"), w.machine("laptop#next")
	m.join(s, "corp", m.token(employee()))
	w.ruled(contractors()) // its token has the claim that nobody looked at, with another value
	w.recheck(s, "laptop")
	w.bound(w.rotate(s, m, next, protocol.RotatePath("acme", "prod", "laptop")))
	w.recheck(s, "laptop")
	w.pass(16 * time.Hour)
	next.join(s, "corp", next.token(employee()))
	w.publish("", "") // and keeps it when nobody looks any more
	w.recheck(s, "laptop")
	// A renewal leans on an enrolment from before the rules that would admit that one otherwise.
	other := w.machine("other")
	other.join(s, "corp", other.token(with(w.person("bob", "ops"), "employment", "contractor")))
	rule := contractors()
	rule.Approval = ""
	w.ruled(rule)
	w.pass(16 * time.Hour)
	if b := other.join(s, "corp", w.tokens.Issue(with(w.person("bob", "ops"), "employment", "contractor"))); b.Rule.Name != "contractors" {
		t.Errorf("rule %s", b.Rule.Name)
	}
	w.recheck(s, "other")
}

// Who waits is judged by the rules of the commit that lets them in, with the claims that these look at.
func TestRulesThatChangedWhileSomebodyWaited(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guest")
	if _, err := m.enrol(s, "corp", m.token(with(w.person("con", "guests"), "employment", "contractor"))); err != nil {
		t.Fatal(err)
	}
	seen := s.List().Waiting[0]
	w.ruled(contractors())
	refusedWith(t, w.decide(s, seen, true), protocol.CodeConflict)
	if seen = s.List().Waiting[0]; seen.Rule != "contractors" {
		t.Fatalf("the maintainer sees rule %s", seen.Rule)
	}
	if err := w.decide(s, seen, true); err != nil {
		t.Fatal(err)
	}
	w.recheck(s, "guest")
}
