// Package cluster lets several controllers over one store act as one: it decides which of them leads a network at a time,
// and carries requests that only the leader can answer to it.
//
// It promises that a replica which cannot renew its lease stops leading before another may begin, as long as clocks run at
// about the same rate; and that every leadership has a higher term than the one before, so that a store which compares and
// sets can refuse a leader that has been asleep. It does not promise that nobody believes to lead when they do not: only
// the store knows.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
)

// Times of a lease. A leader renews every RenewInterval and steps down StepDownAfter the last renewal was sent; a follower
// takes over when it has seen no renewal for TTL. What lies between is for clocks that run apart and processes that are
// slow to notice.
const (
	RenewInterval = time.Second
	StepDownAfter = 3 * time.Second
	TTL           = 4 * time.Second
)

// LeaseBucket keeps one record per network: who leads it.
func LeaseBucket() store.BucketConfig {
	return store.BucketConfig{Name: "leases", Description: "which replica leads each network", MaxValueBytes: 4 << 10}
}

// ErrLost says that the lease is not held (any more).
var ErrLost = errors.New("lease is lost")

// record is what the bucket holds.
type record struct {
	// Holder is the process that leads, "" if nobody does; Replica its name for people.
	Holder  string `json:"holder"`
	Replica string `json:"replica"`
	Term    uint64 `json:"term"`
	// Beat counts renewals, so that every one is a change that followers see.
	Beat uint64 `json:"beat"`
}

// Replica is one controller process.
type Replica struct {
	// Name is for people; ID is new with every start, so that a process never takes itself for the one before it.
	Name, ID string
}

// NewReplica names this process.
func NewReplica(name string) (Replica, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return Replica{}, fmt.Errorf("replica ID: %w", err)
	}
	return Replica{Name: name, ID: hex.EncodeToString(id[:])}, nil
}

// Lease competes for the leadership of one network.
//
//	             nobody holds it, or no renewal seen for TTL:
//	             compare and set, term + 1
//	following ──────────────────────────────────────────────▶ leading ◀─┐ renewed:
//	  ▲  ▲  ▲                                                  │  │  │ ──┘ compare and set
//	  │  │  └── Run's context ends: record says nobody ────────┘  │  │
//	  │  └───── a renewal finds another's record ─────────────────┘  │
//	  └──────── StepDownAfter since the last renewal was sent ───────┘
//
// Time is judged by each replica's own monotonic clock alone: a follower counts from when it saw a renewal, which is after
// the leader sent it. The clocks of the store's servers play no part, and a bucket with a TTL is not needed.
type Lease struct {
	network string
	me      Replica
	bucket  store.Bucket
	log     *slog.Logger
	times   Times

	renewing sync.Mutex // held during a renewal
	look     chan struct{}

	mu   sync.Mutex
	seen sight // newest known record
	held *hold // nil: not leading; replaced, never changed
}

// Times replace the constants above in tests. Zero fields keep them.
type Times struct {
	Renew, StepDown, TTL time.Duration
	// Now gives the time; it must carry a monotonic reading.
	Now func() time.Time
}

// sight is a record as this replica knows it.
type sight struct {
	record
	revision uint64 // 0: there is none
	at       time.Time
	ready    bool // whether anything is known at all
}

// hold is a leadership of this replica.
type hold struct {
	record   record
	revision uint64
	sent     time.Time // when the last renewal that succeeded was sent
}

// NewLease prepares to compete for network over the bucket of LeaseBucket.
func NewLease(network string, me Replica, bucket store.Bucket, log *slog.Logger, times Times) *Lease {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&times.Renew, RenewInterval)
	set(&times.StepDown, StepDownAfter)
	set(&times.TTL, TTL)
	if times.Now == nil {
		times.Now = time.Now
	}
	return &Lease{network: network, me: me, bucket: bucket, log: log, times: times, look: make(chan struct{}, 1)}
}

func (l *Lease) key() string { return l.network + ".leader" }

// Leader says who leads, as far as this replica knows; false if nobody does.
func (l *Lease) Leader() (Replica, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Replica{Name: l.seen.Replica, ID: l.seen.Holder}, l.seen.Holder != ""
}

// Leads says whether this replica leads: it may have been deposed a moment ago, but not for longer than a renewal takes.
func (l *Lease) Leads() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held != nil && l.elapsed(l.held.sent) < l.times.StepDown
}

// elapsed is the time since then by the clock that has advanced more: the monotonic one stands still while a machine
// is suspended.
func (l *Lease) elapsed(then time.Time) time.Duration {
	now := l.times.Now()
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

// Run competes until ctx ends. While this replica leads, it runs lead, whose context ends with the leadership; it competes
// again only after lead has returned.
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context, term uint64)) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { l.watch(ctx) })
	problem := "" // logged last
	for {
		wait := l.untilFree()
		if wait <= 0 {
			h, err := l.take(ctx)
			switch {
			case err == nil:
				l.hold(ctx, h, lead)
				problem = ""
			case errors.Is(err, store.ErrConflict):
				l.refresh(ctx)
			case ctx.Err() == nil && problem != err.Error():
				problem = err.Error()
				l.log.Warn("leadership not taken", "error", err)
			}
			wait = l.times.Renew // after a leadership too: it is somebody else's turn
		}
		if !l.sleep(ctx, wait) {
			return
		}
	}
}

// sleep waits for d or for news of the record; false if ctx ended.
func (l *Lease) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-l.look:
	}
	return true
}

// watch keeps seen up to date.
func (l *Lease) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.bucket.Watch(ctx, l.network, func(c store.Change) { l.note(c) })
		if ctx.Err() != nil {
			return
		}
		l.log.Warn("the leader is not followed", "error", err)
		l.sleep(ctx, l.times.Renew)
	}
}

func (l *Lease) note(c store.Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.Key == "":
		l.seen.ready = true
	case c.Key != l.key() || c.Revision <= l.seen.revision:
		return
	case c.Deleted:
		l.seen = sight{at: l.times.Now(), ready: true}
	default:
		var r record
		if err := protocol.Decode(c.Value, 4<<10, &r); err != nil {
			l.log.Error("record of the leader cannot be read", "error", err)
			return
		}
		l.seen = sight{record: r, revision: c.Revision, at: l.times.Now(), ready: l.seen.ready}
	}
	select {
	case l.look <- struct{}{}:
	default:
	}
}

// refresh reads the record, which the watch has not told yet.
func (l *Lease) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.times.StepDown)
	defer cancel()
	value, revision, err := l.bucket.GetRevision(ctx, l.key())
	if err == nil {
		l.note(store.Change{Key: l.key(), Value: value, Revision: revision})
	}
}

// untilFree is how long to wait before the lease may be taken.
func (l *Lease) untilFree() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.seen.ready:
		return l.times.Renew
	case l.seen.Holder == "" || l.seen.Holder == l.me.ID: // ours: a write that was taken for failed
		return 0
	}
	return l.times.TTL - l.times.Now().Sub(l.seen.at)
}

// take writes this replica into the record.
func (l *Lease) take(ctx context.Context) (*hold, error) {
	l.mu.Lock()
	before := l.seen
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, l.times.StepDown)
	defer cancel()
	mine := record{Holder: l.me.ID, Replica: l.me.Name, Term: before.Term + 1}
	h := &hold{record: mine, revision: before.revision, sent: l.times.Now()}
	if err := l.write(ctx, h); err != nil {
		return nil, err
	}
	return h, nil
}

// write puts h's record in place of the one at its revision.
func (l *Lease) write(ctx context.Context, h *hold) error {
	data, err := protocol.Encode(h.record)
	if err != nil {
		return err
	}
	revision, err := l.bucket.Update(ctx, l.key(), data, h.revision)
	if err != nil {
		return fmt.Errorf("lease of network %s: %w", l.network, err)
	}
	h.revision = revision
	return nil
}

// hold leads as long as renewals succeed.
func (l *Lease) hold(ctx context.Context, h *hold, lead func(context.Context, uint64)) {
	leading, stop := context.WithCancel(ctx)
	defer stop()
	l.mu.Lock()
	l.held = h
	l.seen = sight{record: h.record, revision: h.revision, at: h.sent, ready: true}
	l.mu.Unlock()
	l.log.Info("leading", "replica", l.me.Name, "term", h.record.Term)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lead(leading, h.record.Term)
	}()
	err := l.keep(leading, stop, done)
	stop()
	<-done
	l.renewing.Lock() // nobody renews any more
	defer l.renewing.Unlock()
	l.mu.Lock()
	last := l.held
	l.held = nil
	l.mu.Unlock()
	if err == nil && last != nil {
		err = l.release(ctx, last)
	}
	if err != nil {
		l.log.Warn("not leading any more", "replica", l.me.Name, "term", h.record.Term, "error", err)
	} else {
		l.log.Info("not leading any more", "replica", l.me.Name, "term", h.record.Term)
	}
}

// keep renews until ctx or the work ends (nil) or the lease is lost. stop is called at the instant at which another replica
// may soon begin, even if a renewal hangs.
func (l *Lease) keep(ctx context.Context, stop func(), done <-chan struct{}) error {
	late := time.AfterFunc(l.times.StepDown, stop)
	defer late.Stop()
	retry := l.times.Renew / 4
	wait := l.times.Renew
	for {
		timer := time.NewTimer(wait)
		select {
		case <-done:
			timer.Stop()
			if !l.Leads() {
				return ErrLost
			}
			return nil
		case <-ctx.Done():
			timer.Stop()
			if !l.Leads() {
				return ErrLost
			}
			return nil
		case <-timer.C:
		}
		err := l.Confirm(ctx)
		switch {
		case err == nil:
			wait = l.times.Renew
			l.mu.Lock()
			late.Reset(l.times.StepDown - l.elapsed(l.held.sent))
			l.mu.Unlock()
		case errors.Is(err, ErrLost):
			return err
		default:
			if ctx.Err() == nil {
				l.log.Warn("lease not renewed", "error", err)
			}
			wait = retry
		}
	}
}

// Confirm renews the lease now. If it succeeds, this replica led at some moment after the call. Errors: ErrLost.
func (l *Lease) Confirm(ctx context.Context) error {
	l.renewing.Lock()
	defer l.renewing.Unlock()
	l.mu.Lock()
	h := l.held
	l.mu.Unlock()
	if h == nil {
		return ErrLost
	}
	left := l.times.StepDown - l.elapsed(h.sent)
	if left <= 0 {
		return ErrLost
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	next := *h
	next.record.Beat++
	next.sent = l.times.Now()
	err := l.write(ctx, &next)
	if errors.Is(err, store.ErrConflict) {
		// Even if the other record is our own (a renewal that was taken for failed): starting over is simple and rare.
		l.setHeld(nil)
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if err == nil {
		l.setHeld(&next)
	}
	return err
}

func (l *Lease) setHeld(h *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = h
}

// release says that nobody leads, so that another replica can begin at once. It takes as long as it would to step down: after
// that the others begin soon anyway.
func (l *Lease) release(ctx context.Context, h *hold) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.times.StepDown)
	defer cancel()
	last := *h
	last.record = record{Term: h.record.Term}
	return l.write(ctx, &last)
}
