package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestUntil: a check that could not run in its time has one attempt left, and what fails for good fails in time.
func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		stalled := true
		err := until(tries, t.Context(), 5*time.Second, func(ctx context.Context) error {
			if stalled {
				stalled = false
				time.Sleep(time.Minute)
			}
			return ctx.Err()
		})
		if err != nil {
			t.Errorf("a machine that stood still counts as cut off: %v", err)
		}
		// What is looked at in an instant, such as a session, gets the time too in which it can come back.
		awake := time.Time{}
		tries, cancel = context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		err = until(tries, t.Context(), 5*time.Second, func(context.Context) error {
			if awake.IsZero() {
				time.Sleep(time.Minute)
				awake = time.Now()
			}
			if time.Since(awake) < time.Second {
				return errors.New("no session yet")
			}
			return nil
		})
		if err != nil {
			t.Errorf("a session that comes back a second after the machine does: %v", err)
		}

		started := time.Now()
		tries, cancel = context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		silent := errors.New("no answer")
		err = until(tries, t.Context(), 5*time.Second, func(ctx context.Context) error { <-ctx.Done(); return silent })
		if took := time.Since(started); !errors.Is(err, silent) || took != 20*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
