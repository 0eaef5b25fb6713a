package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
)

// readyPoll is how often a controller that is not ready is asked again.
const readyPoll = 2 * time.Second

// readyEnrolment asks the agent how a zone stands, and waits until the controller can say how to join it unless enough says that this
// is not needed.
func readyEnrolment(
	ctx context.Context, s cli.Streams, agent *control.Client, zone string, timeout time.Duration, enough func(control.Enrolment) bool,
) (control.Enrolment, error) {
	return whenReady(ctx, s, timeout,
		func(ctx context.Context) (control.Enrolment, error) { return agent.Enrolment(ctx, zone) },
		func(e control.Enrolment, _ error) error {
			if !e.InfoLater || enough(e) {
				return nil
			}
			return errors.New(e.InfoError)
		})
}

// whenReady asks the agent until its controller is ready, which after a start has to judge the head first. notReady says why an
// answer is not the last word; nil if it is. What is asked here may be asked again: a token that was not taken stays good, so that
// nobody signs in twice because a controller restarts.
func whenReady[T any](
	ctx context.Context, s cli.Streams, timeout time.Duration, ask func(context.Context) (T, error), notReady func(T, error) error,
) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for said := false; ; said = true {
		got, err := ask(ctx)
		why := notReady(got, err)
		switch {
		case err == nil && why == nil:
			return got, nil
		case why == nil:
			return got, timedOut(ctx, agentError(err))
		}
		if !said {
			fmt.Fprintf(s.Err, "The controller is not ready: waiting for it (%v).\n", why)
		}
		select {
		case <-ctx.Done():
			return got, timedOut(ctx, fmt.Errorf("the controller was not ready in time: %w", why))
		case <-time.After(readyPoll):
		}
	}
}

// notReady is for answers whose error says it all.
func notReady[T any](_ T, err error) error {
	if protocol.IsLater(err) {
		return err
	}
	return nil
}
