package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// pace is the deadline of an exchange: grace plus the time that the bytes read so far may take at the least rate. It
// cancels the exchange's context when that is over.
type pace struct {
	cancel context.CancelCauseFunc
	ctx    context.Context
	grace  time.Duration
	rate   int

	mu    sync.Mutex
	timer *time.Timer
	began time.Time
	read  int64
}

// newPace starts the clock. stop must be called.
func newPace(parent context.Context, grace time.Duration, rate int) (context.Context, *pace) {
	ctx, cancel := context.WithCancelCause(parent)
	p := &pace{cancel: cancel, ctx: ctx, grace: grace, rate: rate, began: time.Now()}
	p.timer = time.AfterFunc(grace, p.check)
	return ctx, p
}

// check runs when the deadline as of the last check is over: bytes that came since then have moved it.
func (p *pace) check() {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := time.Until(p.deadline())
	if left > 0 {
		p.timer.Reset(left)
		return
	}
	p.cancel(fmt.Errorf("%w: %d bytes in %s", ErrSlow, p.read, time.Since(p.began).Round(time.Millisecond)))
}

func (p *pace) deadline() time.Time {
	earned := time.Duration(p.read) * time.Second / time.Duration(p.rate)
	return p.began.Add(p.grace + earned)
}

// again begins a new exchange on the same stream, with a grace of its own.
func (p *pace) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.began, p.read = time.Now(), 0
	p.timer.Reset(p.grace)
}

func (p *pace) count(n int) {
	p.mu.Lock()
	p.read += int64(n)
	p.mu.Unlock()
}

// stop ends the exchange.
func (p *pace) stop() {
	p.timer.Stop()
	p.cancel(nil)
}

// explain gives the reason for a failure: ErrSlow if this clock ended the exchange, the caller's own cancellation as it
// is, otherwise the error under kind.
func (p *pace) explain(kind, err error) error {
	cause := context.Cause(p.ctx)
	switch {
	case errors.Is(cause, ErrSlow):
		return cause
	case cause != nil:
		return cause
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// reader counts what is read from r.
func (p *pace) reader(r io.Reader) io.Reader { return paced{p, r} }

type paced struct {
	p *pace
	r io.Reader
}

func (r paced) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.count(n)
	return n, err
}

func bodyReader(body []byte) io.Reader {
	if body == nil {
		return nil
	}
	return bytes.NewReader(body)
}
