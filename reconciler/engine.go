package reconciler

import (
	"context"
	"log/slog"
	"time"
)

// Options of an Engine. Backends, StateDir and Owner are required.
type Options struct {
	// Owner marks what is ours, "<network>/<zone>", at most 200 bytes of printable ASCII. It becomes the interface's
	// alias, so that an interface of the same name that lacks it is never adopted.
	Owner    string
	Backends Backends
	// StateDir holds the checkpoint and the last confirmed state: mode 0700, one Engine per folder.
	StateDir string
	// PrivateKey gives the private key for a public key. It is asked only when a stored state has to be restored, because
	// states are stored without their private key.
	PrivateKey func(public Key) (PrivateKey, bool)
	Logger     *slog.Logger     // nil: discard
	Now        func() time.Time // nil: time.Now
	// FullPass is how often Watch reads everything back even without an event. 0: 5 minutes, jittered by a tenth.
	FullPass time.Duration
	// RepairEvery and RepairBurst limit drift repair: a token each RepairEvery, at most RepairBurst saved up. 0: 10 s, 5.
	RepairEvery time.Duration
	RepairBurst int
}

// Probe decides whether an applied state works: nil confirms it, an error rolls it back.
type Probe func(ctx context.Context) error

// Engine drives one interface of one host. Its methods may be called from several goroutines; they take turns.
type Engine struct {
	opt Options
}

// New checks the options and opens the state folder. It touches nothing on the host.
func New(opt Options) (*Engine, error) { return &Engine{opt: opt}, nil }

// Recover must be called once before anything else. It finishes what a crash left: an unfinished change is rolled back
// to the last confirmed state, and the Report carries RolledBack and the ID of the unfinished state. Without a
// checkpoint it brings the host to the last confirmed state (after a reboot: makes everything anew), with Drift set.
// On a fresh host it does nothing.
func (e *Engine) Recover(ctx context.Context) (Report, error) { return Report{}, ErrUnsupported }

// Apply brings the host to s: checkpoint, apply, re-read, probe, confirm. On any failure it rolls back to the last
// confirmed state (to nothing of ours, if there was none) and returns an error that wraps ErrRolledBack. A state equal
// to the last confirmed one costs nothing unless an event or a conflict is pending. A nil probe always confirms.
func (e *Engine) Apply(ctx context.Context, s State, probe Probe) (Report, error) {
	return Report{}, ErrUnsupported
}

// Repair compares the host with the last confirmed state and puts right what others changed. The Report carries Drift
// if something was found. Beyond the rate limit it changes nothing and sets Deferred.
func (e *Engine) Repair(ctx context.Context) (Report, error) { return Report{}, ErrUnsupported }

// Watch repairs on every relevant kernel event and on a slow full pass, until ctx ends; it then returns nil. report is
// called with every Report that has changes or conflicts or is Deferred, and with every error, from Watch's goroutine.
func (e *Engine) Watch(ctx context.Context, report func(Report, error)) error { return ErrUnsupported }

// Down removes everything of ours from the host and the state folder, and nothing else.
func (e *Engine) Down(ctx context.Context) (Report, error) { return Report{}, ErrUnsupported }

// Confirmed is the last confirmed state, its private key left out.
func (e *Engine) Confirmed() (State, bool) { return State{}, false }

// Peers reads handshakes and byte counts from the device.
func (e *Engine) Peers(ctx context.Context) ([]PeerStatus, error) { return nil, ErrUnsupported }

// Counters reads the firewall's counters.
func (e *Engine) Counters(ctx context.Context) ([]RuleCounter, error) { return nil, ErrUnsupported }

// Stats counts since the Engine was made.
func (e *Engine) Stats() Stats { return Stats{} }

// Stats are counters for metrics.
type Stats struct {
	Applied, RolledBack, Repairs, RepairsDeferred, DriftedObjects uint64
	// Backend is "kernel" or "userspace" once known.
	Backend string
}
