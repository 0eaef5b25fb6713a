package enrol

import (
	"context"
	"errors"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
)

// TestNothingIsAcknowledgedBeforeItIsOnDisk: with a disk that fails, nothing that a host or a maintainer asks for is answered as done,
// nor as done before; asked again once the disk is well, what was written is answered.
func TestNothingIsAcknowledgedBeforeItIsOnDisk(t *testing.T) {
	w := newWorld(t)
	var disk error
	flushes := 0
	s := w.service(func(o *Options) {
		o.Flush = func(context.Context) error { flushes++; return disk }
	})
	laptop, next, guest := w.machine("laptop"), w.machine("laptop#2"), w.machine("guest")
	laptopToken, guestToken := laptop.token(w.person("ann", "ops")), guest.token(w.person("gus", "guests"))
	rotate, leave := protocol.RotatePath("acme", "prod", "laptop"), protocol.LeavePath("acme", "prod", "laptop")
	var waiting protocol.Waiting
	for _, step := range []struct {
		what  string
		do    func() error
		again string // the code of the answer once the disk is well; empty: done
	}{
		{"enrol", func() error { _, err := laptop.enrol(s, "corp", laptopToken); return err }, ""},
		{"wait", func() error {
			_, err := guest.enrol(s, "corp", guestToken)
			waiting = s.List().Waiting[0]
			return err
		}, ""},
		{"approve", func() error { return w.decide(s, waiting, true) }, protocol.CodeNotFound},
		{"rotate", func() error { _, err := w.rotate(s, laptop, next, rotate); return err }, ""},
		{"leave", func() error {
			return s.Leave(w.ctx(), "prod", "laptop", next.proof(leave, nil), w.verify(leave))
		}, protocol.CodeProof},
	} {
		disk = errors.New("input/output error")
		for range 2 {
			flushes = 0
			err := step.do()
			refusedWith(t, err, protocol.CodeNotReady, "disk")
			if flushes != 1 {
				t.Errorf("%s on a broken disk: %d flushes", step.what, flushes)
			}
		}
		disk, flushes = nil, 0
		err := step.do()
		if step.again != "" {
			refusedWith(t, err, step.again)
		} else if err != nil {
			t.Errorf("%s again: %v", step.what, err)
		}
		if flushes != 1 {
			t.Errorf("%s again: %d flushes", step.what, flushes)
		}
	}
	if list := s.List(); len(list.Bindings) != 1 || w.record(s, "guest").Envelope == nil {
		t.Errorf("%d bindings", len(list.Bindings))
	}
	flushes = 0
	if _, err := next.enrol(s, "corp", "no token"); err == nil || flushes != 0 {
		t.Errorf("a refusal while none is owed: %v after %d flushes", err, flushes)
	}
}
