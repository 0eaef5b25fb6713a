package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// trial is what the host loop remembers of the newest generation while the host refuses it. Who is to blame decides
// what becomes of a generation:
//
//	          another view is trusted: tried at once, whatever was before
//	             │
//	             ▼            applied, probe held
//	┌───────▶ trying ─────────────────────────────────▶ applied (count 0)
//	│            │  │
//	│ next       │  └── the probe failed ─────────────▶ quarantined: on disk, until another view (RolledBack)
//	│            ▼
//	└──────── refused: rolled back, count+1 (ApplyFailed)
//
// A failed probe is a verdict on the generation: the same bytes would cut the host off again. An error of the host is
// not: buffers, descriptors and memory run out and come back, and another program's hand in the middle of a change goes
// away. Nothing tells that a shortage is over, so there is nothing to wait for but time, and no number of failures
// proves that it will last: a generation condemned after the tenth would leave the host behind when the shortage ends
// after the eleventh. So it is tried for ever. Every attempt ends in the confirmed state, which meanwhile keeps its own
// endpoints and ends (see attend); what an attempt may cost (a session that its half-done change touched) the pause
// bounds: it doubles from Times.HostMin to Times.HostMax. The count is not kept over a restart, which is a reason to
// try at once.
//
// The zero value, but for pause, has nothing pending. It belongs to the host loop.
type trial struct {
	view  peermap.Digest // what was refused
	count int            // how often in a row; 0: nothing is pending
	next  time.Time      // not before
	cause string         // what the last attempt met
	pause *backoff
}

// refused counts an attempt that the host did not let through.
func (t *trial) refused(view peermap.Digest, cause string, now time.Time) {
	if view != t.view {
		t.forget()
	}
	t.view, t.cause = view, cause
	t.count++
	t.next = now.Add(t.pause.next())
}

// pending says whether this view was refused and will be tried again.
func (t *trial) pending(view peermap.Digest) bool { return t.count > 0 && t.view == view }

// mayTry says whether a view's time has come.
func (t *trial) mayTry(view peermap.Digest, now time.Time) bool {
	return !t.pending(view) || !now.Before(t.next)
}

// tell is the message of what is pending. The time is absolute: who reads a condition does not know when it was
// written.
func (t *trial) tell() string {
	return fmt.Sprintf("attempt %d, the next at %s: %s", t.count, t.next.UTC().Format(time.RFC3339), t.cause)
}

func (t *trial) forget() {
	t.view, t.count, t.next, t.cause = peermap.Digest{}, 0, time.Time{}, ""
	t.pause.reset()
}

// recoverHost ends a change that could not be taken back. Until it succeeds the host lies between two states.
func (z *zone) recoverHost(ctx context.Context) error {
	if _, err := z.engine.Recover(ctx); err != nil {
		return fmt.Errorf("%w: %w", reconciler.ErrUnfinished, err)
	}
	if z.trial.count == 0 {
		z.clear(status.ApplyFailed)
		return nil
	}
	z.set(status.ApplyFailed, "HostRefused", z.trial.tell()+" (taken back since)")
	return nil
}

// try changes to a new generation and says whether the host is in it now, and when something in it runs out. A refusal
// is noted and told here, for the host is as before; an error means that it is not.
func (z *zone) try(ctx context.Context, t follow.Trusted) (next time.Time, changed bool, err error) {
	started := z.now()
	next, err = z.change(ctx, t)
	if err == nil {
		z.trial.forget()
		z.log.Info("generation applied", "epoch", t.State.Epoch(), "serial", t.State.Serial(), "took", z.now().Sub(started))
		return next, true, nil
	}
	if ctx.Err() != nil {
		return time.Time{}, false, err
	}
	condemned := errors.Is(err, errQuarantined)
	if condemned {
		z.trial.forget()
	} else {
		z.trial.refused(t.View, explain(err), z.now())
	}
	switch {
	case isUnfinished(err):
		return time.Time{}, false, err
	case condemned:
		z.clear(status.ApplyFailed) // of earlier attempts
	case conditionOf(err) == status.ApplyFailed:
		z.set(status.ApplyFailed, applyReason(err), z.trial.tell())
	default:
		z.hostFailed(err)
	}
	return time.Time{}, false, nil
}
