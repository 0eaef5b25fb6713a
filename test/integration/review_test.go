//go:build linux

package integration

import (
	"testing"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/spec"
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
	for _, n := range []*fleet.Node{board, stranger} {
		e.must(e.withToken(n, e.mint(issuer, n, "ada")))
		s, err := n.AwaitStage(e.ctx, "office", control.Waiting)
		e.must(err)
		if s.WaitingID == "" || s.Binding != nil {
			t.Errorf("%s waits as %+v", n.Spec.Name, s)
		}
		e.still(n.Host, serverAddr, icmp(), false)
	}
	out, err := e.AskController(e.ctx, maintainer.Host, "enrol", "list")
	e.must(err)
	t.Logf("apex enrol list:\n%s", out)
	_, err = e.AskController(e.ctx, maintainer.Host, "enrol", "approve", "board")
	e.must(err)
	_, err = e.AskController(e.ctx, maintainer.Host, "enrol", "deny", "stranger")
	e.must(err)
	e.bound(board)
	e.reaches(board.Host, serverAddr, icmp(), true)
	e.failing(stranger, "denied")
	e.still(stranger.Host, serverAddr, icmp(), false)
	out, err = e.AskController(e.ctx, maintainer.Host, "enrol", "list")
	e.must(err)
	t.Logf("apex enrol list:\n%s", out)
}
