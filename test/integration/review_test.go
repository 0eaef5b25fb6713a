//go:build linux

package integration

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
)

// TestReview has hosts wait for a maintainer, who lets one in and keeps the other out with the command line.
func TestReview(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	e.office("{name: boards, issuer: corp, match: {sub: ada}, approval: review}")
	e.allow(toServer("any: true", "icmp"))
	board, stranger := e.joiner("board", nil), e.joiner("stranger", nil)
	e.begin()
	maintainer, err := e.NewAdmin(e.ctx)
	e.must(err)
	ids := map[string]string{}
	for _, n := range []*fleet.Node{board, stranger} {
		e.must(e.withToken(n, e.mint(issuer, n, "ada")))
		s, err := n.AwaitStage(e.ctx, "office", control.Waiting)
		e.must(err)
		if s.WaitingID == "" || s.Binding != nil {
			t.Errorf("%s waits as %+v", n.Spec.Name, s)
		}
		ids[n.Spec.Name] = s.WaitingID
		e.still(n.Host, serverAddr, icmp(), false)
	}
	list := e.listed(maintainer)
	if len(list.Bindings) != 0 || len(list.Waiting) != len(ids) {
		t.Errorf("before the word: %+v", list)
	}
	for _, w := range list.Waiting {
		if w.ID != ids[w.Node] || w.Zone != "office" || w.Issuer != "corp" || w.Subject != "ada" || w.Rule != "boards" || w.Since.IsZero() {
			t.Errorf("%s is listed as %+v", w.Node, w)
		}
	}
	_, err = e.AskController(e.ctx, maintainer.Host, "enrol", "approve", "board")
	e.must(err)
	_, err = e.AskController(e.ctx, maintainer.Host, "enrol", "deny", "stranger")
	e.must(err)
	address := e.bound(board)
	e.reaches(board.Host, serverAddr, icmp(), true)
	e.failing(stranger, "denied")
	e.still(stranger.Host, serverAddr, icmp(), false)
	list = e.listed(maintainer)
	if len(list.Waiting) != 0 || len(list.Bindings) != 1 {
		t.Fatalf("after it: %+v", list)
	}
	if b := list.Bindings[0].Binding; b.Node != "board" || b.Identity.Subject != "ada" || b.Rule.Name != "boards" || !b.Approved || !slices.Contains(b.Addresses, address) {
		t.Errorf("board is listed as %+v", b)
	}
}

// enrolments is what `apex enrol list -o json` prints.
type enrolments struct {
	Bindings []struct{ Binding binding.Binding }
	Waiting  []protocol.Waiting
}

// listed asks the controller who has joined and who waits.
func (e *enrolment) listed(by *fleet.Admin) (list enrolments) {
	e.t.Helper()
	out, err := e.AskController(e.ctx, by.Host, "enrol", "list", "-o", "json")
	e.must(err)
	e.must(json.Unmarshal([]byte(out), &list))
	return list
}
