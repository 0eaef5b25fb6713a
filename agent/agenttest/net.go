package agenttest

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/loopback"
)

// listen takes a loopback address of its own, so that whoever listens there may stop and come back.
func listen(t testing.TB) net.Listener {
	t.Helper()
	at, err := loopback.Address()
	check(t, err)
	l, err := net.Listen("tcp", at.String())
	check(t, err)
	return l
}

// replay is a request body that was read before.
type replay struct {
	body   []byte
	reader *bytes.Reader
}

func (r *replay) Read(b []byte) (int, error) {
	if r.reader == nil {
		r.reader = bytes.NewReader(r.body)
	}
	return r.reader.Read(b)
}

func (r *replay) Close() error { return nil }

// Clock is the real clock, shifted by what Advance adds up to. Ages pass at will; timers stay real.
type Clock struct{ shift atomic.Int64 }

// Now is the shifted time.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.shift.Load())) }

// Advance shifts the clock, backwards too.
func (c *Clock) Advance(d time.Duration) { c.shift.Add(int64(d)) }

// Await waits until the condition holds and ends the test if it does not within a minute, which is only for what hangs.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("did not come to pass within a minute: %s", what)
		}
		time.Sleep(2 * time.Millisecond) // the condition is polled: nothing is assumed to be true after a pause
	}
}
