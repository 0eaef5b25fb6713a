package agent

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
)

func TestLeaveAndComeBack(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	empty := w.snapshot()
	w.joined()
	got, err := w.control().Leave(t.Context(), testZone)
	if err != nil || got.Stage != control.Unbound {
		t.Fatalf("got %+v, %v", got, err)
	}
	agenttest.Await(t, "the host is as it was", func() bool { return w.snapshot() == empty })
	w.awaitCondition(status.EnrolmentNeeded, true, "Left")
	if left := w.controller.Enrolment.Left(); len(left) != 1 {
		t.Errorf("said goodbye: %v", left)
	}
	w.halt() // it stays out, although a token is at hand
	asked := w.controller.Requests("enrol")
	w.start()
	w.awaitCondition(status.EnrolmentNeeded, true, "Left")
	if w.controller.Requests("enrol") != asked || w.snapshot() != empty {
		t.Error("the host joined again by itself")
	}
	agenttest.Await(t, "joined again", func() bool { _, err := w.control().Join(t.Context(), control.Join{}); return err == nil })
	w.awaitApplied(w.admit().Zone.Serial)
	w.awaitCondition(status.Ready, true, "")
}

// TestNobodyElseTakesTheLeave: what a proxy says, or a controller whose clock is another, does not mean that the binding is gone.
func TestNobodyElseTakesTheLeave(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.joined()
	refused := func(what, says string) {
		t.Helper()
		_, err := w.control().Leave(t.Context(), "")
		if err == nil || !strings.Contains(err.Error(), "was not told") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
		if _, bound := w.controller.Enrolment.Binding("a"); !bound || w.member().Left || w.member().Binding == nil {
			t.Fatalf("%s: the host takes itself for gone", what)
		}
	}
	var page atomic.Int64
	w.controller.Override("leave", func(rw http.ResponseWriter, r *http.Request) bool {
		if page.Load() > 0 {
			http.Error(rw, "no such backend", int(page.Load()))
		}
		return page.Load() > 0
	})
	for _, code := range []int64{401, 403, 404} {
		page.Store(code)
		refused("a proxy", "")
	}
	page.Store(0)
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.ClockShift = 5 * time.Minute })
	refused("clocks apart", "set the clock")
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.ClockShift, s.Lose = 0, true })
	if _, err := w.control().Rotate(t.Context(), ""); err == nil {
		t.Fatal("the answer was not lost")
	}
	// The controller knows the next keys by now, and this host does not know that.
	if got, err := w.control().Leave(t.Context(), ""); err != nil || got.Stage != control.Unbound {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, bound := w.controller.Enrolment.Binding("a"); bound {
		t.Error("the controller was not told")
	}
}

func TestEphemeralNodesSayGoodbye(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Ephemeral = true })
	w.joined()
	w.halt()
	if left := w.controller.Enrolment.Left(); len(left) != 1 || left[0] != "a" {
		t.Errorf("said goodbye: %v", left)
	}
	w.start() // and the next run joins anew
	w.awaitStage(control.Bound)
}

// forget is what a controller that was restored from an old backup has done with the node. It is down while that happens, so
// that nothing is under way that it would still have answered.
func (w *world) forget() {
	w.t.Helper()
	w.controller.Stop()
	w.controller.Enrolment.Drop("a")
	w.publish(func(z *agenttest.Zone) { z.Nodes = w.nodes[1:] })
	w.clock.Advance(5 * time.Minute)
	w.controller.Start()
}

// TestALostBindingIsAskedForAgain: a controller that was restored from an old backup does not know the node any more.
func TestALostBindingIsAskedForAgain(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.joined()
	asked := len(w.controller.Enrolment.Requests())
	w.forget()
	agenttest.Await(t, "asked again", func() bool { return len(w.controller.Enrolment.Requests()) > asked })
	agenttest.Await(t, "bound again", func() bool { _, ok := w.controller.Enrolment.Binding("a"); return ok })
	w.awaitApplied(w.admit().Zone.Serial)
}

// TestALostBindingOfAPerson: only a person can go on, so the host says so, and does not take itself for a member.
func TestALostBindingOfAPerson(t *testing.T) {
	t.Parallel()
	w := joining(t, JoinConfig{})
	w.start()
	w.awaitSocket()
	join := control.Join{Issuer: "corp", IDToken: testToken}
	if _, err := w.control().Join(t.Context(), join); err != nil {
		t.Fatal(err)
	}
	w.awaitApplied(w.admit().Zone.Serial)
	w.forget()
	w.awaitCondition(status.EnrolmentNeeded, true, "Lost")
	if got, err := w.control().Enrolment(t.Context(), ""); err != nil || !got.Lost {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := w.control().Join(t.Context(), join); err != nil || got.Lost {
		t.Errorf("got %+v, %v", got, err)
	}
	w.awaitApplied(w.admit().Zone.Serial)
	w.awaitCondition(status.EnrolmentNeeded, false, "")
}

func TestARemovedNodeIsNotReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.awaitCondition(status.Ready, true, "")
	before := w.snapshot()
	w.publish(func(z *agenttest.Zone) { z.Nodes = w.nodes[1:] })
	w.controller.Stop()
	w.controller.Start()
	w.awaitCondition(status.NotMember, true, "")
	w.awaitCondition(status.Ready, false, status.NotMember)
	if w.snapshot() != before {
		t.Error("the host changed")
	}
	for _, c := range w.zoneStatus().Conditions {
		if strings.HasPrefix(c.Type, "Enrolment") && c.Status {
			t.Errorf("a node from git is told of enrolment: %+v", c)
		}
	}
}

// TestFromAnIdentityToGit: a host that a person joined gets a Node document; when its binding has run out it goes on as a
// node from git, and nothing is left to complain of.
func TestFromAnIdentityToGit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(func(z *agenttest.Zone) { z.Nodes = w.nodes[1:] })
	w.start()
	w.awaitCondition(status.NotMember, true, "")
	w.awaitSocket()
	if _, err := w.control().Join(t.Context(), control.Join{IDToken: testToken}); err != nil {
		t.Fatal(err)
	}
	w.awaitApplied(w.admit().Zone.Serial)
	w.publish(func(z *agenttest.Zone) { z.Nodes = w.nodes[1:] }) // as a controller does when a binding has run out
	w.awaitCondition(status.NotMember, true, "")
	w.clock.Advance(2 * time.Hour)
	w.awaitCondition(status.EnrolmentExpired, true, "")
	w.awaitCondition(status.Ready, false, status.EnrolmentExpired)
	w.publish(nil) // a stands in git now
	w.controller.Stop()
	w.controller.Start()
	w.awaitApplied(w.serial)
	w.awaitCondition(status.EnrolmentExpired, false, "")
	w.awaitCondition(status.EnrolmentNeeded, false, "")
	w.awaitCondition(status.Ready, true, "")
	if z := w.zoneStatus(); z.Enrolment != nil {
		t.Errorf("status still says %+v", z.Enrolment)
	}
}
