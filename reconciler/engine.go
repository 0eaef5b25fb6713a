package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options of an Engine. Owner, Interface, Backends and StateDir are required.
type Options struct {
	// Owner marks what is ours, "<network>/<zone>", at most 200 bytes of printable ASCII. It becomes the interface's
	// alias, so that an interface of the same name that lacks it is never adopted.
	Owner string
	// Interface is the name of the one interface this Engine drives; every State must carry it. See InterfaceName.
	Interface string
	Backends  Backends
	// StateDir holds the checkpoint and the last confirmed state: mode 0700, one Engine per folder.
	StateDir string
	// PrivateKey gives the private key for a public key. It is asked only when a stored state has to be restored, because
	// states are stored without their private key.
	PrivateKey func(public Key) (PrivateKey, bool)
	Logger     *slog.Logger     // nil: discard
	Now        func() time.Time // nil: time.Now
	// FullPass is how often Watch reads everything back even without an event. 0: 5 minutes.
	FullPass time.Duration
	// RepairEvery and RepairBurst limit drift repair: a token each RepairEvery, at most RepairBurst saved up. 0: 10 s, 5.
	// A firewall that was tampered with is put back at once, whatever the limit.
	RepairEvery time.Duration
	RepairBurst int
}

// Probe decides whether an applied state works: nil confirms it, an error rolls it back.
type Probe func(ctx context.Context) error

// Engine drives one interface of one host. Its methods may be called from several goroutines; they take turns.
//
// A change goes through these states; a crash in any of them leads to Recover:
//
//	             ┌───────── plan: nothing to do ────────────────────────────┐
//	             │                                                          ▼
//	confirmed ──plan──▶ checkpointed ──▶ applying ──▶ re-read ──▶ probing ──▶ confirmed (the new state)
//	             │            │             │            │           │
//	             ▼            └─────────────┴──── any error ─────────┘
//	   refused, untouched                          ▼
//	   (invalid, foreign)                     rolling back ──▶ confirmed (the old state, or nothing of ours)
//	                                               │
//	                                               ▼ error
//	                                          unfinished: only Recover and Down are possible
type Engine struct {
	opt   Options
	alias string
	log   *slog.Logger
	now   func() time.Time

	// mu is held for the length of every operation and guards what follows.
	mu        sync.Mutex
	store     *store
	ready     bool // Recover succeeded and no roll back has failed since
	confirmed *State
	saved     map[string]savedSysctl
	table     knownTable // what the packet filter is known to hold
	linkIndex int        // of the interface whose device was last read in full
	fullRead  time.Time  // when that was
	conflicts []Conflict // of the last pass
	deferred  bool       // the last pass left drift to a later one
	loopsOf   *State     // the state that loops belongs to
	loops     []Conflict // its peers whose endpoints lie inside its routes
	limit     limiter
	stats     Stats

	// events, interest and public guard themselves: they are used while mu is held by a long operation.
	events   eventState
	interest atomic.Pointer[map[netip.Prefix]struct{}] // prefixes whose foreign namesakes would clash with ours
	ifindex  atomic.Int64                              // of our interface when it was last seen
	public   publicState

	// beforeStep and afterStep are for fault injection in tests.
	beforeStep, afterStep func(Change)
}

// knownTable is a ruleset that was in force when the packet filter had this generation.
type knownTable struct {
	rules      *Ruleset
	form       string
	generation uint32
}

// Stats are counters for metrics, since the Engine was made.
type Stats struct {
	Applied         uint64 // states confirmed that changed something
	RolledBack      uint64
	Repairs         uint64 // passes that found and repaired drift
	RepairsDeferred uint64 // passes that found drift beyond the rate limit
	DriftedObjects  uint64 // objects put right by repairs
	// Backend is "kernel" or "userspace" once the interface was seen.
	Backend string
}

// New checks the options and makes the state folder if needed. It touches nothing else on the host.
func New(opt Options) (*Engine, error) {
	if opt.Owner == "" || len(opt.Owner) > maxOwner || strings.ContainsFunc(opt.Owner, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("reconciler: owner %q: want 1 to %d printable ASCII characters without spaces", opt.Owner, maxOwner)
	}
	if err := checkInterfaceName(opt.Interface); err != nil {
		return nil, fmt.Errorf("reconciler: %w", err)
	}
	if !filepath.IsAbs(opt.StateDir) {
		return nil, fmt.Errorf("reconciler: state folder %q: want an absolute path", opt.StateDir)
	}
	b := opt.Backends
	if b.Links == nil || b.WireGuard == nil || b.Routes == nil || b.Firewall == nil || b.Sysctl == nil || b.Events == nil {
		return nil, errors.New("reconciler: a backend is missing; use Host or package twin")
	}
	e := &Engine{opt: opt, alias: aliasOf(opt.Owner), log: opt.Logger, now: opt.Now}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.opt.FullPass == 0 {
		e.opt.FullPass = 5 * time.Minute
	}
	if e.opt.RepairEvery == 0 {
		e.opt.RepairEvery = 10 * time.Second
	}
	if e.opt.RepairBurst == 0 {
		e.opt.RepairBurst = 5
	}
	e.limit = limiter{every: e.opt.RepairEvery, burst: e.opt.RepairBurst}
	var err error
	e.store, err = openStore(opt.StateDir)
	return e, err
}

func (e *Engine) privateKey(public Key) (PrivateKey, bool) {
	if e.opt.PrivateKey == nil {
		return PrivateKey{}, false
	}
	key, ok := e.opt.PrivateKey(public)
	if !ok {
		return key, false
	}
	got, err := key.Public()
	return key, err == nil && got == public
}

// Apply brings the host to s: checkpoint, apply, re-read, probe, confirm. On any failure it rolls back to the last
// confirmed state (to nothing of ours, if there was none) and returns an error that wraps ErrRolledBack. An error that
// wraps ErrInvalidState or ErrForeign means that nothing was touched. A state equal to the last confirmed one costs
// nothing while Watch runs and no event or conflict is pending. A nil probe always confirms; the probe is not asked when
// nothing had to be changed.
func (e *Engine) Apply(ctx context.Context, s State, probe Probe) (Report, error) {
	e.mu.Lock()
	defer e.publish()
	started := e.now()
	r, err := e.apply(ctx, s, probe)
	r.ID = s.ID
	r.Duration = e.now().Sub(started)
	return r, err
}

func (e *Engine) apply(ctx context.Context, s State, probe Probe) (Report, error) {
	if !e.ready {
		return Report{}, fmt.Errorf("apply %s: %w", s.ID, ErrUnfinished)
	}
	if e.settledAs(&s) {
		same := *e.confirmed
		same.ID = s.ID
		e.confirmed = &same // not written to disk: the stored ID is that of an equal state
		return Report{}, nil
	}
	next, err := normalise(s, e.confirmed)
	if err == nil && next.Interface.Name != e.opt.Interface {
		err = fmt.Errorf("%w: interface %s, but this engine drives %s", ErrInvalidState, next.Interface.Name, e.opt.Interface)
	}
	if err != nil {
		return Report{}, fmt.Errorf("apply %s: %w", s.ID, err)
	}
	if e.settledAs(&next) {
		return Report{}, nil
	}
	taken := e.events.take()
	w, err := e.plan(ctx, &next, e.confirmed, e.trusted(taken))
	if err != nil {
		e.events.put(taken)
		return Report{}, fmt.Errorf("apply %s: %w", s.ID, err)
	}
	r := Report{Conflicts: w.conflicts}
	if w.isZero() {
		e.observed(w)
		return r, e.settle(&next)
	}
	if err := e.store.begin(next.ID, e.now()); err != nil {
		return r, fmt.Errorf("apply %s: %w; nothing was changed", s.ID, err)
	}
	if err := e.carryOut(ctx, w, probe, &r); err != nil {
		return e.rollBack(ctx, &r, &next, err)
	}
	if err := e.store.confirm(e.confirmed, &next); err != nil {
		return e.rollBack(ctx, &r, &next, err)
	}
	e.setConfirmed(&next)
	e.stats.Applied++
	return r, e.store.end()
}

// settledAs reports whether s asks for what is confirmed and nothing has happened since. A normalised state equals only
// what is normalised, so s may come straight from the caller.
func (e *Engine) settledAs(s *State) bool {
	return e.confirmed != nil && e.events.quiet() && len(e.conflicts) == 0 && !e.deferred &&
		len(s.ID) <= maxID && equalStates(e.confirmed, s)
}

// settle confirms a state for which the host needed no change.
func (e *Engine) settle(next *State) error {
	if e.confirmed == nil || !equalStates(e.confirmed, next) || e.confirmed.ID != next.ID {
		if err := e.store.confirm(e.confirmed, next); err != nil {
			return err
		}
	}
	e.setConfirmed(next)
	return nil
}

func (e *Engine) setConfirmed(s *State) {
	e.confirmed = s
	interest := make(map[netip.Prefix]struct{})
	if s != nil {
		for _, r := range s.Routes {
			interest[r.Prefix] = struct{}{}
		}
		for _, a := range s.Addresses {
			interest[netip.PrefixFrom(a.Addr(), a.Addr().BitLen())] = struct{}{}
		}
	}
	e.interest.Store(&interest)
}

// carryOut executes the work, reads back, and asks the probe.
func (e *Engine) carryOut(ctx context.Context, w *work, probe Probe, r *Report) error {
	if err := e.execute(ctx, w, r); err != nil {
		return err
	}
	if err := e.verify(ctx, w, r); err != nil {
		return err
	}
	if probe == nil {
		return nil
	}
	if err := probe(ctx); err != nil {
		r.Quarantine = ctx.Err() == nil
		return fmt.Errorf("probe: %w", err)
	}
	return nil
}

// rereadPeers is up to how many peers a device is read back after a small change. Beyond it, a device that was fully read
// lately is trusted to hold what it acknowledged, for a dump costs more than the change; Watch's full pass reads it.
const rereadPeers = 256

// verify reads the host again: what was applied must be there.
func (e *Engine) verify(ctx context.Context, w *work, r *Report) error {
	t := trust{firewall: true, wireguard: !w.createLink && !w.readWireGuard && len(w.want.Peers) > rereadPeers}
	again, err := e.plan(ctx, w.want, w.want, t)
	if err != nil {
		return fmt.Errorf("re-read: %w", err)
	}
	// Whoever holds a peer's key can move its endpoint between the write and this look, and nothing shows yet that it did.
	again.setPeers = slices.DeleteFunc(again.setPeers, PeerChange.endpointAlone)
	if !again.isZero() {
		return fmt.Errorf("re-read: the host does not have what was applied: %s", again.remaining())
	}
	r.Conflicts = again.conflicts
	e.observed(again)
	return nil
}

// observed takes note of a pass that found nothing to do.
func (e *Engine) observed(w *work) {
	e.conflicts = w.conflicts
	e.ifindex.Store(int64(w.link.Index))
	if w.readTables {
		e.table = knownTable{w.rules, w.form, w.generation}
	}
	if w.readWireGuard {
		e.linkIndex, e.fullRead = w.link.Index, e.now()
	}
	e.stats.Backend = "kernel"
	if w.link.Userspace {
		e.stats.Backend = "userspace"
	}
}

// trusted says what an intended change need not read, given the events that were pending.
func (e *Engine) trusted(pending pending) trust {
	recent := e.now().Sub(e.fullRead) < 2*e.opt.FullPass
	return trust{
		firewall:  true, // the generation number proves it
		wireguard: e.events.watched() && recent && !pending.all && !pending.link,
	}
}

// rollbackTime bounds a roll back, which runs even when the caller's context has ended.
const rollbackTime = 2 * time.Minute

// rollBack takes back what was done towards next and reports why.
func (e *Engine) rollBack(ctx context.Context, r *Report, next *State, cause error) (Report, error) {
	r.RolledBack, r.Reason = true, cause.Error()
	e.stats.RolledBack++
	e.log.Warn("rolling back", "reason", cause)
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTime)
	defer cancel()
	if err := e.restore(back, next, r); err != nil {
		e.ready = false
		return *r, fmt.Errorf("%w: %w (rolling back because: %w)", ErrRollbackFailed, err, cause)
	}
	return *r, fmt.Errorf("%w: %w", ErrRolledBack, cause)
}

// restore brings the host to the last confirmed state, reading everything, and ends the checkpoint. from is the state
// that was under way, so that an endpoint it had written is not taken for one that roamed; nil if it is not known.
func (e *Engine) restore(ctx context.Context, from *State, r *Report) error {
	e.table = knownTable{}
	if e.confirmed == nil {
		if err := e.removeAll(ctx, e.opt.Interface, r); err != nil {
			return err
		}
		return e.store.end()
	}
	w, err := e.plan(ctx, e.confirmed, from, trust{})
	if err != nil {
		return e.guard(ctx, w, r, err)
	}
	if err := e.execute(ctx, w, r); err != nil {
		return err
	}
	if err := e.verify(ctx, w, r); err != nil {
		return err
	}
	return e.store.end()
}

// publicState is what may be asked for while an operation runs.
type publicState struct {
	mu        sync.Mutex
	confirmed *State
	stats     Stats
}

// publish ends an operation: it makes its outcome visible and lets the next one begin.
func (e *Engine) publish() {
	e.public.mu.Lock()
	e.public.confirmed, e.public.stats = e.confirmed, e.stats
	e.public.mu.Unlock()
	e.mu.Unlock()
}

// Confirmed is the last confirmed state, its private key left out. Its slices must not be changed.
func (e *Engine) Confirmed() (State, bool) {
	e.public.mu.Lock()
	defer e.public.mu.Unlock()
	if e.public.confirmed == nil {
		return State{}, false
	}
	s := *e.public.confirmed
	s.Interface.PrivateKey = PrivateKey{}
	return s, true
}

// Stats are the Engine's counters.
func (e *Engine) Stats() Stats {
	e.public.mu.Lock()
	defer e.public.mu.Unlock()
	return e.public.stats
}

// Peers reads handshakes and byte counts from the device, sorted by key. A probe may call it.
func (e *Engine) Peers(ctx context.Context) ([]PeerStatus, error) {
	d, err := e.opt.Backends.WireGuard.Device(ctx, e.opt.Interface)
	if err != nil {
		return nil, fmt.Errorf("read WireGuard device %s: %w", e.opt.Interface, err)
	}
	out := make([]PeerStatus, len(d.Peers))
	for i, p := range d.Peers {
		out[i] = PeerStatus{p.PublicKey, p.Endpoint, p.LastHandshake, p.RxBytes, p.TxBytes}
	}
	return out, nil
}

// Counters reads the firewall's counters, one per rule of the State and one per dropping rule. A probe may call it.
func (e *Engine) Counters(ctx context.Context) ([]RuleCounter, error) {
	c, err := e.opt.Backends.Firewall.Counters(ctx, TableName(e.opt.Interface))
	return mergeCounters(c), err
}
