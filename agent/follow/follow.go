// Package follow keeps up with the published generations of one zone: it fetches, verifies and stores, and tells its
// caller what is trusted now. It never touches the host.
//
// One step forward is all or nothing. A trust root, a timestamp, or a whole generation (manifest, view, class, blocks)
// is trusted after every check has passed and it is on disk, and not before; whatever fails leaves what was trusted as
// it was. The order of a step:
//
//	roots N+1, N+2, … ─▶ timestamp ─▶ manifest ─▶ view + proof ─▶ class ─▶ blocks ─▶ invariants of the map ─▶ disk
//
// An update frame from the watch is an optimisation of the same step: it brings the bytes along, and each missing or
// unusable piece is fetched by its digest instead.
package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/agent/cache"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Errors of this package; those of signer, peermap, fetch and desired pass through, wrapped.
var (
	// ErrNoPinnedRoot: the controller serves no trust root with the pinned digest.
	ErrNoPinnedRoot = errors.New("no served trust root has the pinned digest")
	// ErrNotReady: the controller serves no trust root at all: it has not taken up the network yet, or does not know it.
	ErrNotReady = errors.New("the controller serves no trust root yet")
	// ErrStore: the state folder cannot be written.
	ErrStore = errors.New("the state folder cannot be written")
	// ErrTooManyRoots: a walk along the trust roots does not end.
	ErrTooManyRoots = errors.New("too many trust roots in one walk")
)

// maxRootWalk bounds one walk along the trust roots.
const maxRootWalk = 1024

// Record is the name of the cache record that holds what is trusted.
const Record = "trusted"

// Source is where unverified bytes come from; *fetch.Client in production.
type Source interface {
	Root(ctx context.Context, version uint64) ([]byte, error)
	Timestamp(ctx context.Context) ([]byte, error)
	Manifest(ctx context.Context, digest peermap.Digest) ([]byte, error)
	View(ctx context.Context, manifest peermap.Digest) (protocol.ViewResponse, error)
	Artefact(ctx context.Context, digest peermap.Digest, limit int) ([]byte, error)
}

// Options of a Follower. All are required.
type Options struct {
	Network, Zone, Node string
	Pin                 peermap.Digest
	Source              Source
	Cache               *cache.Store
	Now                 func() time.Time
	Logger              *slog.Logger
}

// Follower holds what is trusted about one zone. One goroutine drives it (Load, Sync, Update, Timestamp); Current and
// Counters may be called from any.
type Follower struct {
	opt Options

	// step is held for the length of Sync, Update and Timestamp, so that Prune does not take away what a step has just
	// stored. It guards unsaved: a timestamp was accepted that is not on disk yet, because the step may go on to commit.
	step    sync.Mutex
	unsaved bool
	full    atomic.Uint64

	mu      sync.Mutex
	current Trusted
	// assembled is the newest map that was checked, and assembledOf the digest of its view: that of current, or of the one
	// before, from which the next is made. Nil if there is none, or if artefacts of it are gone from the disk.
	assembled   *peermap.Map
	assembledOf peermap.Digest
}

// New makes a Follower that trusts nothing but the pin.
func New(opt Options) *Follower {
	f := &Follower{opt: opt}
	f.current.State = signer.NewState(opt.Network, opt.Zone, opt.Pin)
	return f
}

// Current is what is trusted now.
func (f *Follower) Current() Trusted {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// FullFetches counts the artefacts that had to be fetched by digest although an update frame should have brought them.
func (f *Follower) FullFetches() uint64 { return f.full.Load() }

// Load takes up what the cache holds, verified anew from the pin on: the newest record, or, if that is lost, the one
// named fallback. It reports damage as cache.ErrDamaged and goes on with what holds; the rest is fetched.
func (f *Follower) Load(fallback string) error {
	var all []error
	for _, record := range []string{Record, fallback} {
		t, ok, err := Load(f.opt.Cache, record, f.opt.Network, f.opt.Zone, f.opt.Node, f.opt.Pin)
		all = append(all, err)
		if ok {
			f.set(t)
			break
		}
	}
	return errors.Join(all...)
}

func (f *Follower) set(t Trusted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current = t
}

// Map gives the map of a generation t: the one made by its check, if t is the current one. Nothing in it may be changed.
func (f *Follower) Map(t Trusted) (*peermap.Map, error) {
	if m := f.base(t.View); m != nil {
		return m, nil
	}
	m, err := t.Map(f.opt.Cache, f.opt.Node)
	if err == nil && f.Current().View == t.View {
		f.keep(t.View, m)
	}
	return m, err
}

// base gives the kept map if it is of this view; of whichever view it is, if that is zero. Nil if there is none.
func (f *Follower) base(view peermap.Digest) *peermap.Map {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !view.IsZero() && view != f.assembledOf {
		return nil
	}
	return f.assembled
}

func (f *Follower) keep(view peermap.Digest, m *peermap.Map) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.assembled, f.assembledOf = m, view
}

// Forget says that artefacts of the current generation are gone from the disk: the next Sync fetches them again. What was
// seen (epoch, serial) stays.
func (f *Follower) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current.View, f.assembled, f.assembledOf = peermap.Digest{}, nil, peermap.Digest{}
}

// Prune removes artefacts that neither the current generation nor one of the others needs. It does nothing while a step
// is under way; the next call makes up for it.
func (f *Follower) Prune(others ...Trusted) error {
	if !f.step.TryLock() {
		return nil
	}
	defer f.step.Unlock()
	keep := map[peermap.Digest]bool{}
	for _, t := range append(others, f.Current()) {
		if !t.Complete() {
			continue
		}
		needed, err := t.Artefacts(f.opt.Cache)
		if err != nil {
			return err
		}
		for _, d := range needed {
			keep[d] = true
		}
	}
	return f.opt.Cache.Retain(func(d peermap.Digest) bool { return keep[d] })
}

// commit makes t what is trusted: first on disk, then in memory.
func (f *Follower) commit(t Trusted) error {
	f.unsaved = false
	if err := f.opt.Cache.Save(Record, t); err != nil {
		return fmt.Errorf("%w: what was verified is not used: %w", ErrStore, err)
	}
	f.set(t)
	return nil
}

// Sync does one full step: roots, timestamp and, if that names a manifest that is not trusted yet, the generation. It
// reports whether this node's view changed.
func (f *Follower) Sync(ctx context.Context) (changed bool, err error) {
	f.step.Lock()
	defer f.step.Unlock()
	defer func() { err = errors.Join(err, f.save()) }()
	if err := f.roots(ctx); err != nil {
		return false, err
	}
	stamp, err := f.opt.Source.Timestamp(ctx)
	if err != nil {
		return false, err
	}
	if err := f.timestamp(ctx, stamp); err != nil {
		return false, err
	}
	t := f.Current()
	wanted, missing := t.State.Wanted()
	if !missing && t.Complete() {
		return false, nil
	}
	envelope, err := f.opt.Source.Manifest(ctx, wanted)
	if err != nil {
		return false, err
	}
	next, err := f.manifest(ctx, envelope)
	if err != nil {
		return false, err
	}
	view, err := f.opt.Source.View(ctx, wanted)
	if err != nil {
		return false, err
	}
	p := place{view.Index, view.Size, view.Proof, peermap.DigestOf(view.View)}
	return f.generation(ctx, next, p, view.View, nil)
}

// Roots walks along the trust roots as far as the controller has them.
func (f *Follower) Roots(ctx context.Context) error {
	f.step.Lock()
	defer f.step.Unlock()
	return f.roots(ctx)
}

func (f *Follower) roots(ctx context.Context) error {
	t := f.Current()
	if t.State.RootVersion() == 0 {
		return f.firstRoot(ctx)
	}
	walked, err := f.walk(ctx, t)
	if walked.State.RootVersion() == t.State.RootVersion() {
		return err
	}
	// What was gained before an error counts: every version stands for itself.
	return errors.Join(err, f.commit(walked))
}

func (f *Follower) walk(ctx context.Context, t Trusted) (Trusted, error) {
	for range maxRootWalk {
		version := t.State.RootVersion() + 1
		envelope, err := f.opt.Source.Root(ctx, version)
		if errors.Is(err, fetch.ErrNotFound) {
			return t, nil
		}
		if err != nil {
			return t, err
		}
		state, err := t.State.WithRoot(envelope, f.opt.Now())
		if err != nil {
			return t, err
		}
		f.opt.Logger.Info("trust root accepted", "version", version)
		t.State, t.Rooted = state, f.opt.Now().UTC()
	}
	return t, fmt.Errorf("%w: reached version %d", ErrTooManyRoots, t.State.RootVersion())
}

// firstRoot looks for the pinned root. Its version is not known, but its digest is: versions before it are passed over.
func (f *Follower) firstRoot(ctx context.Context) error {
	t := f.Current()
	for version := uint64(1); version <= maxRootWalk; version++ {
		envelope, err := f.opt.Source.Root(ctx, version)
		if errors.Is(err, fetch.ErrNotFound) && version == 1 {
			return fmt.Errorf("%w: check that it has network %q, and that the URL leads to it: %w", ErrNotReady, f.opt.Network, err)
		}
		if errors.Is(err, fetch.ErrNotFound) {
			return fmt.Errorf("%w: pinned is %s, the controller has versions below %d; compare rootDigest with `apex trust show`",
				ErrNoPinnedRoot, f.opt.Pin, version)
		}
		if err != nil {
			return err
		}
		state, err := t.State.WithRoot(envelope, f.opt.Now())
		if errors.Is(err, signer.ErrPin) {
			continue
		}
		if err != nil {
			return err
		}
		t.State, t.Rooted = state, f.opt.Now().UTC()
		walked, err := f.walk(ctx, t)
		return errors.Join(err, f.commit(walked))
	}
	return ErrTooManyRoots
}

// Timestamp takes a timestamp envelope. One that an unknown or newer key signed makes it look for newer roots first.
func (f *Follower) Timestamp(ctx context.Context, envelope []byte) error {
	f.step.Lock()
	defer f.step.Unlock()
	return errors.Join(f.timestamp(ctx, envelope), f.save())
}

func (f *Follower) timestamp(ctx context.Context, envelope []byte) error {
	t := f.Current()
	state, err := f.retry(ctx, func() (signer.State, error) {
		t = f.Current()
		return t.State.WithTimestamp(envelope, f.opt.Now())
	})
	if errors.Is(err, signer.ErrOlder) {
		return nil // a replica whose clock is behind; the newer one stays
	}
	if err != nil {
		return err
	}
	t.State = state
	f.set(t)
	f.unsaved = true
	return nil
}

// save writes what a step has accepted and not committed.
func (f *Follower) save() error {
	if !f.unsaved {
		return nil
	}
	return f.commit(f.Current())
}

// manifest verifies a manifest envelope against what is trusted; nothing is committed.
func (f *Follower) manifest(ctx context.Context, envelope []byte) (Trusted, error) {
	t := f.Current()
	state, err := f.retry(ctx, func() (signer.State, error) {
		t = f.Current()
		return t.State.WithManifest(envelope, f.opt.Now())
	})
	t.State = state
	return t, err
}

// retry does a step again after a walk along the roots, if the step failed in a way that a newer root may mend.
func (f *Follower) retry(ctx context.Context, step func() (signer.State, error)) (signer.State, error) {
	state, err := step()
	if !errors.Is(err, signer.ErrThreshold) && !errors.Is(err, signer.ErrNewerRoot) {
		return state, err
	}
	before := f.Current().State.RootVersion()
	if rootErr := f.roots(ctx); rootErr != nil {
		return state, errors.Join(err, rootErr)
	}
	if f.Current().State.RootVersion() == before {
		return state, err
	}
	return step()
}

// Update takes an update frame. It reports whether this node's view changed.
func (f *Follower) Update(ctx context.Context, u *protocol.Update) (changed bool, err error) {
	f.step.Lock()
	defer f.step.Unlock()
	defer func() { err = errors.Join(err, f.save()) }()
	if u.RootVersion > f.Current().State.RootVersion() {
		if err := f.roots(ctx); err != nil {
			return false, err
		}
	}
	if err := f.timestamp(ctx, u.Timestamp); err != nil {
		return false, err
	}
	next, err := f.manifest(ctx, u.Manifest)
	if err != nil {
		return false, err
	}
	p := place{u.Index, u.Size, u.Proof, u.ViewDigest}
	return f.generation(ctx, next, p, f.viewOf(u), u.Artefacts)
}

// viewOf gives the view that an update means: the one held, or the one it carries. Nil if it must be fetched.
func (f *Follower) viewOf(u *protocol.Update) []byte {
	if u.View == nil {
		held, _ := f.opt.Cache.Artefact(u.ViewDigest, peermap.MaxViewBytes)
		return held
	}
	view, err := u.View.Open(peermap.MaxViewBytes, func(d peermap.Digest) ([]byte, bool) {
		return f.opt.Cache.Artefact(d, peermap.MaxViewBytes)
	})
	if err != nil {
		f.opt.Logger.Debug("the view in the update frame is of no use", "error", err)
		return nil
	}
	return view
}

// place says where a view stands in a generation.
type place struct {
	index, size uint64
	proof       []peermap.Digest
	view        peermap.Digest
}

// generation completes a step whose manifest has been verified: view, class, blocks, invariants, disk. A nil view is
// fetched. carried are artefacts that came along.
func (f *Follower) generation(ctx context.Context, next Trusted, p place, view []byte, carried []protocol.Artefact) (bool, error) {
	if view == nil {
		f.full.Add(1)
		answer, err := f.opt.Source.View(ctx, next.State.ManifestDigest())
		if err != nil {
			return false, err
		}
		p, view = place{answer.Index, answer.Size, answer.Proof, peermap.DigestOf(answer.View)}, answer.View
	}
	if _, err := next.State.CheckNodeView(f.opt.Node, p.index, p.size, view, p.proof); err != nil {
		return false, err
	}
	before := f.Current()
	next.Index, next.Size, next.Proof, next.View = p.index, p.size, p.proof, p.view
	next.Since = f.opt.Now().UTC()
	if next.View == before.View {
		return false, f.commit(next)
	}
	base := f.base(peermap.Digest{})
	if err := f.artefacts(ctx, view, carried, base); err != nil {
		return false, err
	}
	// The whole map once, so that a generation which no host may act on is never trusted.
	m, err := assemble(next, base, f.opt.Cache, f.opt.Node, view)
	if err != nil {
		return false, err
	}
	if err := f.commit(next); err != nil {
		return false, err
	}
	f.keep(next.View, m)
	return true, nil
}
