package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff gives growing pauses with full jitter, so that many agents which lost one controller do not come back in step.
type backoff struct {
	least, most, current time.Duration
	hurried              bool
}

func newBackoff(least, most time.Duration) *backoff { return &backoff{least: least, most: most} }

// next is the pause to make now: between half and all of a bound that doubles each time.
func (b *backoff) next() time.Duration {
	least := b.least
	if b.hurried {
		least /= 10
	}
	b.current = min(max(2*b.current, least), b.most)
	return b.current/2 + rand.N(b.current/2+1)
}

func (b *backoff) reset() { b.current, b.hurried = 0, false }

// hurry begins anew with pauses of a tenth: what is waited for is on its way.
func (b *backoff) hurry() { b.current, b.hurried = 0, true }

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
