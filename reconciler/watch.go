package reconciler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// pending is what events left to look at. A link event means the device must be read again as well.
type pending struct{ all, link, other bool }

func (p pending) any() bool { return p.all || p.link || p.other }

// eventState collects events between passes. It has a lock of its own because events arrive during an operation.
type eventState struct {
	mu      sync.Mutex
	watch   bool // a subscription stands
	pending pending
	wake    chan struct{} // nil unless Watch runs
}

func (s *eventState) put(p pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending.all = s.pending.all || p.all
	s.pending.link = s.pending.link || p.link
	s.pending.other = s.pending.other || p.other
	if s.pending.any() && s.wake != nil {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *eventState) take() pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pending
	s.pending = pending{}
	return p
}

func (s *eventState) setWatched(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = on
}

func (s *eventState) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watch
}

// quiet: somebody watches, and nothing has happened since the last pass.
func (s *eventState) quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watch && !s.pending.any()
}

// Repair compares the host with the last confirmed state, reading everything, and puts right what others changed. The
// Report has Drift set if something was found. Beyond the rate limit it changes nothing but the firewall and sets
// Deferred. Without a confirmed state it does nothing.
func (e *Engine) Repair(ctx context.Context) (Report, error) {
	e.mu.Lock()
	defer e.publish()
	e.events.take()
	return e.repair(ctx, pending{all: true})
}

func (e *Engine) repair(ctx context.Context, p pending) (Report, error) {
	if !e.ready {
		return Report{}, fmt.Errorf("repair: %w", ErrUnfinished)
	}
	if e.confirmed == nil {
		return Report{}, nil
	}
	started := e.now()
	r := Report{ID: e.confirmed.ID}
	err := e.repairPass(ctx, p, &r)
	r.Duration = e.now().Sub(started)
	if err != nil {
		e.events.put(p)
		return r, fmt.Errorf("repair: %w", err)
	}
	return r, nil
}

func (e *Engine) repairPass(ctx context.Context, p pending, r *Report) error {
	if p.all {
		e.table = knownTable{}
	}
	w, err := e.plan(ctx, e.confirmed, e.confirmed, trust{firewall: true, wireguard: !p.all && !p.link})
	if err != nil {
		return e.guard(ctx, w, r, err)
	}
	r.Conflicts = w.conflicts
	e.deferred = false
	if w.isZero() {
		e.observed(w)
		return nil
	}
	r.Drift = true
	if !e.limit.allow(e.now()) {
		r.Deferred, e.deferred = true, true
		e.stats.RepairsDeferred++
		return e.applyFirewall(ctx, w, r)
	}
	if err := e.execute(ctx, w, r); err != nil {
		return err
	}
	e.stats.Repairs++
	e.stats.DriftedObjects += uint64(r.Total)
	e.log.Info("drift repaired", "changes", r.Total)
	return e.verify(ctx, w, r)
}

// guard puts back the rules of what is in force when something else of the host could not be read: whatever that is, it must
// not keep the interface open. cause is the error of the plan.
func (e *Engine) guard(ctx context.Context, w *work, r *Report, cause error) error {
	if w == nil || w.firewall.isZero() {
		return cause
	}
	r.Drift = true
	return errors.Join(cause, e.applyFirewall(ctx, w, r))
}

// settleTime lets a burst of events become one pass; retryTime paces renewed subscriptions and deferred repairs.
const (
	settleTime = 50 * time.Millisecond
	retryTime  = time.Second
)

// Watch repairs on every relevant event and on a slow full pass, until ctx ends; it then returns nil. report is called
// from Watch's goroutine with every Report that found drift or other conflicts than before, with every error, and with the first
// Report that finds the host as it should be after an error or a deferred repair. An Engine is watched by at most one Watch.
func (e *Engine) Watch(ctx context.Context, report func(Report, error)) error {
	wake := make(chan struct{}, 1)
	e.events.mu.Lock()
	if e.events.wake != nil {
		e.events.mu.Unlock()
		return fmt.Errorf("watch: this engine is watched already")
	}
	e.events.wake = wake
	e.events.mu.Unlock()
	defer func() {
		e.events.mu.Lock()
		e.events.wake, e.events.watch = nil, false
		e.events.mu.Unlock()
	}()
	var sub sync.WaitGroup
	sub.Go(func() { e.subscribe(ctx) })
	defer sub.Wait()
	e.watchLoop(ctx, wake, report)
	return nil
}

func (e *Engine) watchLoop(ctx context.Context, wake <-chan struct{}, report func(Report, error)) {
	full := time.NewTimer(jitter(e.opt.FullPass))
	defer full.Stop()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	defer retry.Stop()
	unsettled := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			if !sleep(ctx, settleTime) {
				return
			}
		case <-retry.C:
			e.events.put(pending{all: true})
		case <-full.C:
			full.Reset(jitter(e.opt.FullPass))
			e.events.put(pending{all: true})
		}
		if unsettled = e.watchPass(ctx, unsettled, report); unsettled {
			retry.Reset(retryTime)
		}
	}
}

// watchPass looks at what is pending. It says whether something was left that is told of and wants another look; before is what
// the last pass said.
func (e *Engine) watchPass(ctx context.Context, before bool, report func(Report, error)) (unsettled bool) {
	p := e.events.take()
	if !p.any() {
		return before
	}
	e.mu.Lock()
	if !e.ready || e.confirmed == nil {
		e.mu.Unlock()
		return before
	}
	conflicts, deferred := e.conflicts, e.deferred
	r, err := e.repair(ctx, p)
	e.publish()
	if ctx.Err() != nil {
		return false
	}
	told := r.Deferred && deferred && r.Total == 0
	unsettled = err != nil || r.Deferred
	if err != nil || (r.Drift && !told) || (before && !unsettled) || !slices.Equal(conflicts, r.Conflicts) {
		report(r, err)
	}
	return unsettled
}

// subscribe keeps a subscription standing; whenever one begins, events may have been missed.
func (e *Engine) subscribe(ctx context.Context) {
	for {
		err := e.opt.Backends.Events.Subscribe(ctx, func() {
			e.events.put(pending{all: true})
			e.events.setWatched(true)
		}, e.notify)
		e.events.setWatched(false)
		if ctx.Err() != nil {
			return
		}
		e.log.Warn("the subscription to host events broke; subscribing again", "error", err)
		if !sleep(ctx, retryTime) {
			return
		}
	}
}

// notify takes an event and keeps it if it can concern us. A look that was not needed is cheap; one that was missed
// waits for the full pass.
func (e *Engine) notify(ev Event) {
	switch ev.Subsystem {
	case SubsystemLink:
		if ev.Link == e.opt.Interface {
			e.events.put(pending{link: true})
		}
	case SubsystemAddress, SubsystemRoute:
		if (ev.Index != 0 && int64(ev.Index) == e.ifindex.Load()) || e.concerns(ev.Prefix) {
			e.events.put(pending{other: true})
		}
	default:
		e.events.put(pending{other: true})
	}
}

// concerns reports whether a foreign object with this prefix could clash with ours.
func (e *Engine) concerns(p netip.Prefix) bool {
	interest := e.interest.Load()
	if interest == nil {
		return false
	}
	_, ok := (*interest)[p]
	return ok
}

func jitter(d time.Duration) time.Duration {
	return d - d/20 + time.Duration(rand.Int64N(int64(d/10)+1))
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
