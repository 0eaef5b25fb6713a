package enrol

import (
	"context"
	"errors"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
)

// TestNothingIsAcknowledgedBeforeItIsOnDisk: with a disk that fails, everything that a host or a maintainer is told of as done is
// refused; asked again once the disk is well, the answer is what was written.
func TestNothingIsAcknowledgedBeforeItIsOnDisk(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("input/output error")
	var disk error
	flushes := 0
	s := w.service(func(o *Options) {
		o.Flush = func(context.Context) error { flushes++; return disk }
	})
	laptop, next, guest := w.machine("laptop"), w.machine("laptop#2"), w.machine("guest")
	laptopToken, guestToken := laptop.token(w.person("ann", "ops")), guest.token(w.person("gus", "guests"))
	path := protocol.RotatePath("acme", "prod", "laptop")
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"enrol", func() error { _, err := laptop.enrol(s, "corp", laptopToken); return err }},
		{"wait", func() error { _, err := guest.enrol(s, "corp", guestToken); return err }},
		{"approve", func() error {
			// An approval counts once: what waits is fetched by the first, and bound by it.
			if list := s.List(); len(list.Waiting) == 1 {
				return w.decide(s, list.Waiting[0], true)
			}
			_, err := guest.enrol(s, "corp", guestToken)
			return err
		}},
		{"rotate", func() error { _, err := w.rotate(s, laptop, next, path); return err }},
	} {
		disk, flushes = broken, 0
		if err := step.do(); !errors.Is(err, broken) || flushes != 1 {
			t.Errorf("%s on a broken disk: %v after %d flushes", step.what, err, flushes)
		}
		disk, flushes = nil, 0
		if err := step.do(); err != nil || flushes != 1 {
			t.Errorf("%s again: %v after %d flushes", step.what, err, flushes)
		}
	}
	if b := w.record(s, "laptop"); len(s.List().Bindings) != 2 || b.Envelope == nil {
		t.Errorf("bindings: %+v", s.List().Bindings)
	}
	flushes = 0
	leave := protocol.LeavePath("acme", "prod", "laptop")
	if err := s.Leave(w.ctx(), "prod", "laptop", next.proof(leave, nil), w.verify(leave)); err != nil || flushes != 1 {
		t.Errorf("leave: %v after %d flushes", err, flushes)
	}
	flushes = 0
	if _, err := next.enrol(s, "corp", "no token"); err == nil || flushes != 0 {
		t.Errorf("a refusal: %v after %d flushes", err, flushes)
	}
}
