package controller

import "time"

// batchWindow is how long changes of bindings are gathered unless the configuration says otherwise.
const batchWindow = 250 * time.Millisecond

// witnessTime is how long a generation that waits for witnesses is left alone when only bindings have changed or ended:
// were it replaced each time, a steady stream would never let a witness finish. Agents end what has ended by themselves.
const witnessTime = 15 * time.Second

// batch decides when changes of bindings are published: the first at once, what follows within a window together.
//
//	        change                        due                     done
//	quiet ───────────▶ waiting for due() ─────▶ being published ───────▶ quiet for the window
//
// A change that comes while one is being published waits for the next turn. It is a value over instants; the loop holds
// the clock.
type batch struct {
	window  time.Duration
	waiting bool
	// last is when something was published last, cost how long that took: no more than half the time goes into it.
	last time.Time
	cost time.Duration
}

// change notes that the bindings are not those that were published.
func (b *batch) change() { b.waiting = true }

// floor is until when a generation that waits for witnesses is left alone.
func (b *batch) floor() time.Time { return b.last.Add(witnessTime) }

// due is when the waiting changes are to be published; false if none wait. pending says that what was published last
// still waits for witnesses.
func (b *batch) due(pending bool) (time.Time, bool) {
	if !b.waiting {
		return time.Time{}, false
	}
	due := b.last.Add(max(b.window, b.cost))
	if floor := b.floor(); pending && due.Before(floor) {
		due = floor
	}
	return due, true
}

// done notes a publication that began and ended at these instants.
func (b *batch) done(began, ended time.Time) {
	b.waiting, b.last, b.cost = false, ended, ended.Sub(began)
}

// failed notes one that did not succeed: it is tried again after a pause.
func (b *batch) failed(now time.Time) { b.waiting, b.last, b.cost = true, now, overdue }
