package enrol

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
)

// reviewed publishes a network whose corp binds tokens to no keys, and whose staff and guests both wait for a review.
func (w *world) reviewed(zone string) {
	w.t.Helper()
	w.publish("", zone)
	repo := w.pub.Load().Repo
	repo.Network.Value.Spec.Issuers[0].TokenBinding = spec.TokenBindingOptional
	repo.Zone("prod").Value.Spec.Members[0].Approval = spec.ApprovalReview
}

func carrying(r *protocol.EnrolRequest) {
	r.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}
}

// Mallory waits as herself, and puts Bob's token and routes of his in the place of hers once somebody has read the list.
func TestApprovalIsOfWhatTheMaintainerSaw(t *testing.T) {
	w := newWorld(t)
	w.reviewed("")
	s := w.service()
	m := w.machine("guestbox")
	if _, err := m.enrol(s, "corp", m.token(w.person("mallory", "guests"))); err != nil {
		t.Fatal(err)
	}
	seen := s.List().Waiting[0]
	stolen := w.tokens.Issue(w.person("bob", "ops"))
	_, err := m.enrol(s, "corp", stolen, carrying)
	refusedWith(t, err, protocol.CodeNameTaken, "another identity", "make new keys")
	if got := s.List().Waiting; len(got) != 1 || got[0].Subject != "mallory" {
		t.Fatalf("the request that waits was overwritten: %+v", got)
	}
	// A store that is slow to tell replicas of each other may keep it all the same: the word is for Mallory's request.
	other := w.service()
	other.waiting.remove("prod", seen.ID)
	if _, err := m.enrol(other, "corp", stolen, carrying); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, w.decide(other, seen, true), protocol.CodeConflict, "list` again")
	if list, _ := other.Snapshot(); len(list) != 0 {
		t.Fatalf("it let in %+v", list[0].Binding.Identity)
	}
	bobs := other.List().Waiting[0]
	if bobs.Subject != "bob" || bobs.Rule != "staff" || len(bobs.Routes) != 1 {
		t.Fatalf("the maintainer sees %+v", bobs)
	}
	if err := w.decide(other, bobs, true); err != nil {
		t.Fatal(err)
	}
	w.recheck(other, "guestbox")
}

// What git approves is of one identity, rule and set of routes as well.
func TestApprovalInGitIsOfOneIdentity(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guestbox")
	w.reviewed(w.approved(m, "mallory", "guests"))
	m.join(s, "corp", m.token(w.person("mallory", "guests")))
	path := protocol.LeavePath("acme", "prod", "guestbox")
	if err := s.Leave(t.Context(), "prod", "guestbox", m.proof(path, nil), w.verify(path)); err != nil {
		t.Fatal(err)
	}
	r, err := m.enrol(s, "corp", w.tokens.Issue(w.person("bob", "ops")))
	if err != nil || r.Waiting == "" {
		t.Fatalf("the approval of Mallory let Bob in: %v", err)
	}
}

// Who was let in waits again with more than that.
func TestMoreThanWasApprovedWaitsAgain(t *testing.T) {
	w := newWorld(t)
	w.reviewed("")
	s := w.service()
	m := w.machine("laptop")
	if _, err := m.enrol(s, "corp", m.token(w.person("ann", "ops"))); err != nil {
		t.Fatal(err)
	}
	if err := w.decide(s, s.List().Waiting[0], true); err != nil {
		t.Fatal(err)
	}
	r, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")), carrying)
	if err != nil || r.Waiting == "" {
		t.Fatalf("routes that nobody approved: %v", err)
	}
	if list, _ := s.Snapshot(); len(list) != 1 || len(list[0].Binding.Routes) != 0 {
		t.Fatal("it lost what it had, or has more")
	}
	waits := s.List().Waiting[0]
	if err := w.decide(s, waits, true); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.Snapshot(); len(list[0].Binding.Routes) != 1 {
		t.Fatal("what was approved is not given")
	}
	w.recheck(s, "laptop")
	// The rule gets another name: an approval is for the rule by its name, and the list says which it is now.
	w.pass(20 * time.Hour)
	w.pub.Load().Repo.Zone("prod").Value.Spec.Members[0].Name = "crew"
	if r, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")), carrying); err != nil || r.Waiting == "" {
		t.Fatalf("an approval for another rule counts: %v", err)
	}
	w.pub.Load().Repo.Zone("prod").Value.Spec.Members[0].Name = "team"
	if got := s.List().Waiting[0]; got.Rule != "team" || !slices.Equal(got.Routes, waits.Routes) {
		t.Fatalf("the maintainer sees %+v", got)
	}
	if err := w.decide(s, s.List().Waiting[0], true); err != nil {
		t.Fatal(err)
	}
	w.recheck(s, "laptop")
}

// A stolen controller has a real approval, and puts another identity, rule or routes into the binding.
func TestRecheckHoldsTheApprovalAgainstTheBinding(t *testing.T) {
	w := newWorld(t)
	w.reviewed("")
	s := w.service()
	m := w.machine("guestbox")
	if _, err := m.enrol(s, "corp", m.token(w.person("mallory", "guests"))); err != nil {
		t.Fatal(err)
	}
	if err := w.decide(s, s.List().Waiting[0], true); err != nil {
		t.Fatal(err)
	}
	honest := must(openLink(w.record(s, "guestbox")))(t)
	forge := func(sub, group string, change ...func(*protocol.EnrolRequest)) protocol.BindingRecord {
		raw := w.tokens.Issue(w.person(sub, group))
		proof, r := m.request(s, "corp", raw, change...)
		r.Token = ""
		e := honest.evidence
		e.Token, e.Verified, e.Request, e.Proof = raw, w.now().Unix(), must(protocol.Encode(r))(t), proof.Compact()
		b := honest.binding
		b.Identity.Subject, b.Identity.Username, b.Identity.Groups = sub, sub+"@corp.example", []string{group}
		b.Routes, b.Issued = binding.SortRoutes(r.Routes), w.now().Unix()
		if group == "ops" {
			b.Rule.Name = "staff"
		}
		_, record, err := s.sign(w.pub.Load(), b, e)
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	for name, record := range map[string]protocol.BindingRecord{
		"another identity": forge("bob", "guests"),
		"another rule":     forge("mallory", "ops"),
		"routes":           forge("mallory", "ops", carrying),
	} {
		if _, err := w.judge().Recheck(t.Context(), record); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := w.judge().Recheck(t.Context(), forge("mallory", "guests")); err != nil {
		t.Errorf("the honest one: %v", err)
	}
}
