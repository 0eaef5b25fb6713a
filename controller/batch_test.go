package controller

import (
	"testing"
	"time"
)

func TestBatch(t *testing.T) {
	at := func(ms int) time.Time { return time.Unix(1_800_000_000, 0).Add(time.Duration(ms) * time.Millisecond) }
	b := batch{window: 250 * time.Millisecond}
	expect := func(what string, pending bool, want int) {
		t.Helper()
		if due, ok := b.due(pending); !ok || due.After(at(want)) || want > 0 && !due.Equal(at(want)) {
			t.Errorf("%s: due at %s (%t), want %s", what, due, ok, at(want))
		}
	}
	if _, ok := b.due(false); ok {
		t.Error("nothing waits, and something is due")
	}
	b.change()
	expect("the first change", false, 0)
	b.done(at(0), at(10))
	b.change()
	b.change()
	expect("changes after a publication", false, 260)
	expect("while witnesses have the floor", true, 15_010)
	b.done(at(260), at(1260))
	b.change()
	expect("where publishing takes long", false, 2260)
	b.failed(at(2300))
	expect("after a failure", false, 3300)
	b.done(at(3300), at(3310))
	if _, ok := b.due(true); ok {
		t.Error("everything is published, and something is due")
	}
}

// A burst, whatever its shape, makes at most one publication per window, and no change waits longer than a window and the
// publication before it.
func TestBatchBoundsPublicationsAndWaits(t *testing.T) {
	const window, cost = 250, 40
	start := time.Unix(1_800_000_000, 0)
	b := batch{window: window * time.Millisecond}
	published, oldest := 0, -1
	for ms := range 5000 {
		now := start.Add(time.Duration(ms) * time.Millisecond)
		if ms%5 == 0 {
			b.change()
			if oldest < 0 {
				oldest = ms
			}
		}
		if due, ok := b.due(false); ok && !now.Before(due) {
			if wait := ms - oldest; wait > window+cost {
				t.Fatalf("a change waited %d ms", wait)
			}
			b.done(now, now.Add(cost*time.Millisecond))
			published, oldest = published+1, -1
		}
	}
	if published > 5000/window+1 {
		t.Fatalf("%d publications in 5 s", published)
	}
}
