//go:build linux

package lab

import (
	"context"
	"fmt"
	"time"
)

// awaitLimit bounds Await when the context has no deadline of its own.
const awaitLimit = time.Minute

// Await polls cond until it returns nil. It waits 2 ms after the first try and at most 50 ms after later ones. When ctx
// ends, or after a minute if ctx has no deadline, the error names what was awaited and wraps both the context's error
// and the last one of cond.
func Await(ctx context.Context, what string, cond func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, awaitLimit)
		defer cancel()
	}
	started := time.Now()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w after %s: %w", what, ctx.Err(), time.Since(started).Round(time.Millisecond), err)
		}
	}
}
