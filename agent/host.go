package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/apex-network/apex/agent/desired"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/resolve"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// longestSleep bounds how long the loop trusts a timer: a clock that was set must not keep what has run out alive.
const longestSleep = time.Minute

// hostLoop alone changes the host. Its states:
//
//	    Recover fails                           an error
//	  ┌──(pause)──┐                            ┌──(pause)──┐
//	  ▼           │                            ▼           │
//	booting ──────┴──▶ in the last good ──▶ attending ─────┘◀─ offered: a newer generation is trusted
//	                   state (offline)         │  ▲         ◀─ moved:   an endpoint has another address, or the clock was set back
//	                                           └──┘         ◀─ due:     something has run out (notAfter)
//	                                                        ◀─ next:    a refused generation's turn (trial)
//
// An error pauses what it hit, nothing else. A generation that the host refuses waits for its next attempt (see trial)
// while the confirmed state is kept up; an error in keeping that up holds everything back, but not a newer generation.
func (z *zone) hostLoop(ctx context.Context) {
	pause := newBackoff(z.opt.Times.HostMin, z.opt.Times.HostMax)
	for {
		due, err := z.boot(ctx)
		closeOnce(z.booted)
		if err == nil {
			z.attendAll(ctx, due, pause)
			return
		}
		if ctx.Err() != nil {
			return
		}
		z.hostFailed(err)
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

// attendAll runs once the host is in its last good state. due is when something in it runs out.
func (z *zone) attendAll(ctx context.Context, due time.Time, pause *backoff) {
	var drift sync.WaitGroup
	drift.Go(func() { z.watchDrift(ctx) })
	defer drift.Wait()
	pause.reset()
	moved, latest := false, z.now().Round(0)
	var hold held
	for {
		wake := time.NewTimer(z.untilDue(due, hold.until, moved))
		select {
		case <-ctx.Done():
			wake.Stop()
			return
		case <-z.offered:
		case <-z.moved:
			moved = true
		case <-wake.C:
		}
		wake.Stop()
		now := z.now().Round(0)             // as the wall clock says
		moved = moved || now.Before(latest) // it was set back: what it ended too early is in force again
		latest = now
		newest, left := z.follower.Current(), z.member.Left()
		if z.now().Before(hold.until) && left == hold.left && (!newest.Complete() || newest.View == hold.view) {
			continue
		}
		var err error
		if due, err = z.attend(ctx, due, moved); err == nil {
			moved, hold = false, held{}
			pause.reset()
			continue
		}
		if ctx.Err() != nil {
			return
		}
		hold = held{until: z.now().Add(pause.next()), view: newest.View, left: left} // before anybody hears of it
		z.hostFailed(err)
		if due.After(z.now()) && due.Before(hold.until) {
			hold.until = due // what runs out does not wait for the host to get well
		}
	}
}

// held says until when nothing is done after an error, unless there is another generation or the host is to leave.
type held struct {
	until time.Time
	view  peermap.Digest // the newest when the error came
	left  bool
}

// untilDue is how long the host loop may sleep.
func (z *zone) untilDue(due, hold time.Time, moved bool) time.Duration {
	switch {
	case !hold.IsZero():
		due = hold
	case moved:
		return 0
	case z.trial.pending(z.follower.Current().View) && (due.IsZero() || z.trial.next.Before(due)):
		due = z.trial.next
	}
	if due.IsZero() {
		return longestSleep
	}
	return min(max(due.Sub(z.now()), 0), longestSleep)
}

// attend does what there is to do: change to a newer generation, or renew the one applied, or nothing. It gives the
// instant at which something in force runs out, also with an error. While a newer generation is known that cannot be
// applied, the applied one is kept up all the same: its peers move, and what has run out goes.
func (z *zone) attend(ctx context.Context, due time.Time, moved bool) (time.Time, error) {
	if z.standing.reason(status.ApplyFailed) == rollbackFailed {
		if err := z.recoverHost(ctx); err != nil {
			return due, err
		}
	}
	if z.member.Left() {
		z.trial.forget()
		return time.Time{}, z.depart(ctx)
	}
	newest, applied := z.follower.Current(), z.standing.current()
	if newest.Complete() {
		z.forgive(newest.View)
		if !z.trial.pending(newest.View) {
			z.trial.forget()
		}
	}
	passed := !due.IsZero() && !z.now().Before(due)
	switch {
	case !newest.Complete():
	case newest.View == applied.View:
		z.same(newest, applied)
		applied = newest
	case z.standing.isUndone(newest.View), !z.trial.mayTry(newest.View, z.now()):
	default:
		next, changed, err := z.try(ctx, newest)
		if err != nil {
			return due, err
		}
		if changed {
			return next, nil
		}
	}
	unwell := z.standing.is(status.ApplyFailed) && z.trial.count == 0 || z.standing.is(status.Conflict)
	if applied.Complete() && (moved || passed || unwell) {
		return z.renew(ctx, applied, due)
	}
	if passed {
		return z.lapse(ctx, applied, due)
	}
	z.judge()
	return due, nil
}

// lapse takes away what has run out: by building the applied generation anew, or, where the cache is lost, by what the
// engine itself knows.
func (z *zone) lapse(ctx context.Context, applied follow.Trusted, due time.Time) (time.Time, error) {
	if applied.Complete() {
		return z.renew(ctx, applied, due)
	}
	if _, err := z.engine.Recover(ctx); err != nil {
		return due, err
	}
	return z.engineEnd(), nil
}

// boot brings the host to its last good state without the network: first what the engine confirmed, then what the
// verified cache says of it now (something may have run out since).
func (z *zone) boot(ctx context.Context) (due time.Time, err error) {
	report, err := z.engine.Recover(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if report.RolledBack {
		z.standing.count(func(c *status.Counters) { c.RolledBack++ })
		z.log.Warn("an interrupted change was taken back", "state", report.ID, "reason", report.Reason)
	}
	if z.member.Left() {
		return time.Time{}, z.depart(ctx)
	}
	t, ok := z.lastGood()
	if !ok {
		return z.engineEnd(), nil
	}
	due, err = z.enforce(ctx, t, nil)
	if err != nil {
		// The engine's own last state is in force; what is wrong is told, and the network may bring better.
		z.log.Error("the last good generation cannot be renewed from the cache", "error", err)
		z.hostFailed(err)
		return z.engineEnd(), nil
	}
	z.confirmed(t, report)
	return due, nil
}

// engineEnd is when something in the engine's own last state runs out: that state is all there is when the cache is lost.
func (z *zone) engineEnd() time.Time {
	confirmed, ok := z.engine.Confirmed()
	if !ok {
		return time.Time{}
	}
	return confirmed.NextEnd()
}

// lastGood is the generation to boot into. The newest verified one counts if the engine confirmed it, even if a crash
// kept the record of that from being written.
func (z *zone) lastGood() (follow.Trusted, bool) {
	newest := z.follower.Current()
	confirmed, ok := z.engine.Confirmed()
	if ok && newest.Complete() && confirmed.ID == newest.View.String() {
		return newest, true
	}
	pin, err := z.opt.Config.Pin()
	if err != nil {
		return follow.Trusted{}, false
	}
	t, ok, err := follow.Load(z.store, appliedRecord, z.opt.Config.Network, z.name, z.opt.Config.Node, pin)
	if err != nil {
		z.standing.set(status.CacheDamaged, true, "Damaged", err.Error(), z.now())
	}
	if !ok || !t.Complete() {
		return follow.Trusted{}, false
	}
	if newest.Complete() && newest.View == t.View {
		return newest, true
	}
	return t, true
}

// same notes a generation that changes nothing for this node. The host is not looked at. The record of what is applied
// stays as it is: it proves the same view.
func (z *zone) same(t, applied follow.Trusted) {
	if t.State.ManifestDigest() != applied.State.ManifestDigest() {
		z.standing.count(func(c *status.Counters) { c.Unchanged++ })
	}
	z.standing.confirm(t, z.now())
}

// renew builds the state of the applied generation anew: an endpoint moved or something ran out. It was wanted before and
// takes nothing away that a probe could miss, so none is asked. With an error due stays what it was.
func (z *zone) renew(ctx context.Context, t follow.Trusted, due time.Time) (time.Time, error) {
	next, err := z.enforce(ctx, t, nil)
	if err != nil {
		return due, err
	}
	if z.trial.count == 0 {
		z.clear(status.ApplyFailed)
	}
	return next, nil
}

// change is the commit-confirm of a new generation.
func (z *zone) change(ctx context.Context, t follow.Trusted) (time.Time, error) {
	p := z.newProbe()
	due, err := z.enforce(ctx, t, p)
	if isUnfinished(err) {
		return due, err // there is no old state to compare with; the attempt after the recovery decides
	}
	if errors.Is(err, errCutOff) && !z.reachable(ctx) {
		// With the old state back in force the controller is away as well, so the new state is not to blame.
		z.log.Warn("the controller is away with the old state too; applying again without asking for it")
		p.controller = false
		due, err = z.enforce(ctx, t, p)
	}
	if errors.Is(err, errCutOff) {
		return due, z.condemn(t, err)
	}
	return due, err
}

// reachable gives a controller the probe's bound to answer, and no less than any exchange has.
func (z *zone) reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, max(z.opt.Times.ProbeBound, z.opt.Times.Grace))
	defer cancel()
	return z.client.Reachable(ctx) == nil
}

// enforce brings the host to a generation as it is now, and says when something in it runs out.
func (z *zone) enforce(ctx context.Context, t follow.Trusted, p *probe) (due time.Time, err error) {
	m, err := z.follower.Map(t)
	if err != nil {
		return time.Time{}, err
	}
	pair, held := z.opt.Keys.Find(z.name, m.View.PublicKey)
	if !held {
		pair = z.opt.Keys.Current(z.name) // and Build says what is wrong
	}
	end := z.resolver.Round()
	built, err := desired.Build(m, t.View.String(), desired.Local{
		Interface: z.iface, PrivateKey: pair.WireGuard, Endpoint: z.resolver.Endpoint, Claims: t.Claims(),
	}, z.now())
	end()
	if err != nil {
		return time.Time{}, err
	}
	var ask reconciler.Probe
	if p != nil {
		ask = p.prepare(built.State)
	}
	report, err := z.engine.Apply(ctx, built.State, ask)
	if err != nil {
		return time.Time{}, z.undone(t, report, err, p)
	}
	z.runsWith(pair)
	z.standing.follow(movableOf(m))
	if p != nil {
		z.confirmed(t, report)
	}
	z.judgeConflicts(report.Conflicts)
	return built.Next, nil
}

// confirmed notes that the host is in t: in memory, and on disk for the next boot.
func (z *zone) confirmed(t follow.Trusted, report reconciler.Report) {
	if report.Total > 0 {
		z.standing.count(func(c *status.Counters) { c.Applied++ })
	}
	z.standing.confirm(t, z.now())
	if err := z.store.Save(appliedRecord, t); err != nil {
		z.set(status.CacheDamaged, "WriteFailed", err.Error())
	}
	if err := z.follower.Prune(t); err != nil {
		z.log.Warn("old artefacts cannot be removed", "error", err)
	}
	z.clear(status.ApplyFailed)
	z.clear(status.KeyMismatch)
	poke(z.changed)
}

// forgive lifts the quarantine once the newest view is another one.
func (z *zone) forgive(newest peermap.Digest) {
	if !z.standing.is(status.RolledBack) || z.standing.isUndone(newest) {
		return
	}
	if err := z.store.Remove(quarantineRecord); err != nil {
		z.log.Warn("the quarantine cannot be lifted on disk", "error", err)
	}
	z.standing.quarantine(nil, z.now())
}

// undone notes that the engine took a generation back, and quarantines it if its probe failed. A probe that could not
// look says nothing about the generation.
func (z *zone) undone(t follow.Trusted, report reconciler.Report, err error, p *probe) error {
	if !report.RolledBack {
		return err
	}
	z.standing.count(func(c *status.Counters) { c.RolledBack++ })
	if p == nil || !report.Quarantine || errors.Is(err, errBlind) {
		return err
	}
	if p.cutOff() {
		return fmt.Errorf("%w: %w", errCutOff, err)
	}
	return z.condemn(t, err)
}

// condemn quarantines a generation.
func (z *zone) condemn(t follow.Trusted, cause error) error {
	q := &quarantine{View: t.View, Serial: t.State.Serial(), Reason: explain(cause), Since: z.now().UTC()}
	z.standing.quarantine(q, z.now())
	if err := z.store.Save(quarantineRecord, q); err != nil {
		z.log.Error("the quarantine cannot be written; after a restart the generation is tried again", "error", err)
	}
	z.log.Error("generation rolled back and quarantined", "serial", q.Serial, "view", q.View, "reason", q.Reason)
	poke(z.changed)
	z.judge()
	return fmt.Errorf("%w: %w", errQuarantined, cause)
}

// Reasons why a change did not stay.
var (
	errCutOff      = errors.New("the change cut this host off from its controller")
	errQuarantined = errors.New("quarantined")
	errBlind       = errors.New("the host did not let the probe look")
)

// hostFailed raises the condition that says why the host is not as it should be.
func (z *zone) hostFailed(err error) {
	switch kind := conditionOf(err); kind {
	case "":
	case status.ApplyFailed:
		z.set(kind, applyReason(err), explain(err))
	case status.KeyMismatch:
		z.set(kind, "OtherKey", explain(err))
	case status.Refused:
		z.set(kind, "ClaimNotGranted", explain(err))
	case status.CacheDamaged:
		z.follower.Forget() // the network loop fetches again what the disk lost
		z.set(kind, "Damaged", explain(err))
	case status.Conflict:
		z.set(kind, "NameTaken", explain(err))
	}
}

// conditionOf says which condition an error of the host loop raises; "" if none, or if it is raised already.
func conditionOf(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return ""
	case isUnfinished(err):
		// Also when the generation is quarantined: the host lies between two states until the engine recovers.
		return status.ApplyFailed
	case errors.Is(err, errQuarantined):
		return ""
	case errors.Is(err, desired.ErrKeyMismatch):
		return status.KeyMismatch
	case errors.Is(err, desired.ErrClaim):
		return status.Refused
	case errors.Is(err, peermap.ErrMissing), errors.Is(err, peermap.ErrDigest):
		return status.CacheDamaged
	case errors.Is(err, reconciler.ErrForeign):
		return status.Conflict
	}
	return status.ApplyFailed
}

func isUnfinished(err error) bool {
	return errors.Is(err, reconciler.ErrRollbackFailed) || errors.Is(err, reconciler.ErrUnfinished)
}

// rollbackFailed is the reason under which the engine must recover before anything else.
const rollbackFailed = "RollbackFailed"

// applyReason is the one-word reason for what the host refused.
func applyReason(err error) string {
	switch {
	case isUnfinished(err):
		return rollbackFailed
	case errors.Is(err, reconciler.ErrPermission):
		return "MissingPrivilege"
	case errors.Is(err, reconciler.ErrUnsupported):
		return "Unsupported"
	case errors.Is(err, reconciler.ErrInvalidState):
		return "InvalidState"
	}
	return "HostRefused"
}

func (z *zone) judgeConflicts(conflicts []reconciler.Conflict) {
	if len(conflicts) == 0 {
		z.clear(status.Conflict)
		return
	}
	message := conflicts[0].String()
	if more := len(conflicts) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more)", more)
	}
	z.set(status.Conflict, "ForeignObject", message)
}

// watchDrift lets the engine repair what others change, and tells of it.
func (z *zone) watchDrift(ctx context.Context) {
	err := z.engine.Watch(ctx, func(report reconciler.Report, err error) {
		if err != nil {
			if report.Total > 0 { // what was put back counts, also where the rest failed or was undone meanwhile
				z.standing.drifted(report)
			}
			z.set(status.Drifted, "RepairFailed", explain(err))
			return
		}
		z.judgeConflicts(report.Conflicts)
		if !report.Drift {
			z.clear(status.Drifted) // what was told of before is over
			return
		}
		z.standing.drifted(report)
		if report.Deferred {
			z.set(status.Drifted, "RateLimited", "Somebody keeps changing what is ours; the repair waits for its turn.")
			return
		}
		z.clear(status.Drifted)
		poke(z.changed)
	})
	if err != nil && ctx.Err() == nil {
		z.set(status.Drifted, "NotWatching", explain(err))
	}
}

// movable is a peer whose endpoint may have another address.
type movable struct {
	name      string
	endpoints []string
	sent      int64 // bytes, when it was last looked at
}

func movableOf(m *peermap.Map) map[reconciler.Key]movable {
	out := map[reconciler.Key]movable{}
	for i := range m.Peers {
		if p := &m.Peers[i]; resolve.Movable(p.Endpoints) {
			out[reconciler.Key(p.PublicKey)] = movable{name: p.Name, endpoints: p.Endpoints}
		}
	}
	return out
}
