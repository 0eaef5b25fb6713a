package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// What a follower refuses. The store is not trusted: it can keep a follower from new generations, never make it serve one
// that a quorum did not sign.
var (
	errRollback = errors.New("is older than what is served")
	errFork     = errors.New("has the serial of what is served and other content")
)

// retryAdoption is how soon a follower tries again what it could not fetch or verify.
const retryAdoption = time.Second

// nudge wakes whoever waits for c; many nudges are one.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Trust sets the root that a follower judges by. What failed before is tried again.
func (p *Publisher) Trust(root *signer.Root) {
	p.mu.Lock()
	p.setRoot(root)
	p.mu.Unlock()
	nudge(p.again)
}

// Follow serves what the leader publishes, as long as this replica does not lead itself. It works until ctx ends.
func (p *Publisher) Follow(ctx context.Context) {
	w := &wanted{entries: map[string]entry{}, dirty: map[string]bool{}, changed: make(chan struct{}, 1)}
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() {
		for ctx.Err() == nil {
			err := p.ledger.bucket.Watch(ctx, p.opts.Network, func(c store.Change) { p.heard(w, c) })
			if ctx.Err() == nil {
				p.opts.Logger.Warn("other replicas are not followed", "error", err)
				pause(ctx, retryAdoption)
			}
		}
	})
	timer := time.NewTimer(retryAdoption)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		case <-p.again:
			w.all()
		case <-timer.C:
		}
		p.catchUp(ctx, w)
		timer.Reset(retryAdoption)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// wanted is what the ledger says, by zone.
type wanted struct {
	mu      sync.Mutex
	entries map[string]entry
	dirty   map[string]bool // not done yet
	changed chan struct{}
}

func (p *Publisher) heard(w *wanted, c store.Change) {
	zone, ok := strings.CutPrefix(c.Key, p.opts.Network+".")
	if !ok || c.Deleted {
		return
	}
	e, err := decodeEntry(c.Value)
	if err != nil {
		p.opts.Logger.Error("entry of the ledger ignored", "zone", zone, "error", err)
		return
	}
	w.mu.Lock()
	w.entries[zone], w.dirty[zone] = e, true
	w.mu.Unlock()
	nudge(w.changed)
}

func (w *wanted) all() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for zone := range w.entries {
		w.dirty[zone] = true
	}
}

func (w *wanted) take() map[string]entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]entry{}
	for zone := range w.dirty {
		out[zone] = w.entries[zone]
	}
	clear(w.dirty)
	return out
}

func (w *wanted) putBack(zone string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty[zone] = true
}

// catchUp does what is wanted and not done.
func (p *Publisher) catchUp(ctx context.Context, w *wanted) {
	todo := w.take()
	for _, zone := range slices.Sorted(maps.Keys(todo)) {
		if err := p.adoptZone(ctx, zone, todo[zone]); err != nil {
			w.putBack(zone)
		}
	}
}

// adoptZone is adopt unless this replica leads.
func (p *Publisher) adoptZone(ctx context.Context, name string, e entry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leading != nil {
		return nil
	}
	z, err := p.place(name)
	if err == nil {
		err = p.adopt(ctx, z, e)
	}
	if err != nil && ctx.Err() == nil {
		if before := z.State().Problem; before == nil || before.Error() != err.Error() {
			p.opts.Logger.Error("not taken over from the leader", "zone", name, "serial", e.Serial, "error", err)
		}
		z.setProblem(err)
		return err
	}
	z.setProblem(nil)
	return nil
}

// place finds a zone or begins it, as retired as it is on disk. It gives a zone also with an error.
func (p *Publisher) place(name string) (*Zone, error) {
	z, ok := p.zones[name]
	if !ok {
		z = newZone(name, filepath.Join(p.opts.Dir, name))
		p.view.Lock()
		p.zones[name] = z
		p.view.Unlock()
	}
	return z, makeDir(z.dir)
}

// adopt serves what e names, if a quorum of the trust root signed it and it is no step back.
func (p *Publisher) adopt(ctx context.Context, z *Zone, e entry) error {
	if e.Retired {
		return z.retire()
	}
	if e.Current == nil {
		return nil
	}
	if p.root == nil {
		return errors.New("no trust root has been verified yet")
	}
	current := z.currentGeneration()
	if current == nil || current.mark() != e.Current.mark() {
		if current != nil && e.Current.mark().compare(current.mark()) < 0 {
			m := current.Manifest
			return fmt.Errorf("generation %d-%d %w: %d-%d", e.Current.Epoch, e.Current.Serial, errRollback, m.Epoch, m.Serial)
		}
		if err := p.fetch(ctx, z, *e.Current); err != nil {
			return err
		}
	} else if current.Digest != e.Current.Manifest {
		return fmt.Errorf("generation %d-%d %w", e.Current.Epoch, e.Current.Serial, errFork)
	}
	if len(e.Stamp) == 0 {
		return nil // restored from a backup: the next leader signs anew
	}
	return p.adoptStamp(z, e.Stamp)
}

// fetch installs the generation that s names. It is current without a timestamp.
func (p *Publisher) fetch(ctx context.Context, z *Zone, s shared) error {
	ctx, cancel := context.WithTimeout(ctx, handTimeout)
	defer cancel()
	packed, err := p.opts.Share.Blobs.Get(ctx, s.blob(p.opts.Network, z.Name), maxFileBytes)
	if err != nil {
		return fmt.Errorf("fetch generation %d-%d: %w", s.Epoch, s.Serial, err)
	}
	data, err := unpack(packed)
	if err != nil || sha256.Sum256(data) != s.File {
		return fmt.Errorf("generation %d-%d in the store: %w", s.Epoch, s.Serial, ErrCorrupt)
	}
	in := filepath.Join(z.dir, incoming)
	if err := makeDir(in); err != nil {
		return err
	}
	path := filepath.Join(in, s.mark().file())
	if err := writeFile(path, data); err != nil {
		return err
	}
	g, err := p.judge(z, path, s)
	if err != nil {
		return errors.Join(err, removeIfThere(path))
	}
	if err := os.Rename(path, filepath.Join(z.dir, s.mark().file())); err != nil {
		return err
	}
	if err := errors.Join(syncDir(z.dir), unretire(z.dir)); err != nil {
		return err
	}
	if z.high.compare(g.mark()) < 0 {
		z.high = g.mark()
	}
	z.behind = false
	z.setSuspended(g.Manifest.Suspended)
	z.install(p.keep(z, g), nil)
	p.opts.Logger.Info("taken over from the leader", "zone", z.Name, "epoch", s.Epoch, "serial", s.Serial,
		"commit", g.Manifest.Commit)
	return nil
}

// judge reads a fetched file and demands that it is the generation named, signed by a quorum, for this zone.
func (p *Publisher) judge(z *Zone, path string, s shared) (*Generation, error) {
	g, err := load(path, z.currentGeneration())
	if err != nil {
		return nil, err
	}
	m := g.Manifest
	if g.Digest != s.Manifest || m.Network != p.opts.Network || m.Zone != z.Name {
		return nil, fmt.Errorf("generation %d-%d in the store is of network %s, zone %s: %w",
			m.Epoch, m.Serial, m.Network, m.Zone, ErrCorrupt)
	}
	if peermap.DigestOf(g.inputs) != m.Inputs {
		return nil, fmt.Errorf("inputs of generation %d-%d: %w", m.Epoch, m.Serial, ErrCorrupt)
	}
	env, err := signer.ParseEnvelope(g.Envelope, peermap.MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	q, err := p.root.CheckManifest(env)
	if err == nil {
		err = q.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("generation %d-%d in the store: %w", m.Epoch, m.Serial, err)
	}
	return g, nil
}

// adoptStamp serves a timestamp that says the current generation is current, unless the one at hand is newer.
func (p *Publisher) adoptStamp(z *Zone, envelope []byte) error {
	s, _ := z.Snapshot()
	env, err := signer.ParseEnvelope(envelope, peermap.MaxTimestampBytes)
	if err != nil {
		return fmt.Errorf("timestamp in the store: %w", err)
	}
	q, err := p.root.CheckTimestamp(env)
	if err == nil {
		err = q.Err()
	}
	if err != nil {
		return fmt.Errorf("timestamp in the store: %w", err)
	}
	t, err := peermap.ParseTimestamp(env.Payload)
	if err != nil {
		return fmt.Errorf("timestamp in the store: %w", err)
	}
	here := t.Network == p.opts.Network && t.Zone == z.Name
	if !here || t.Manifest != s.Digest || t.Epoch != s.Manifest.Epoch || t.Serial != s.Manifest.Serial {
		return fmt.Errorf("timestamp in the store is for generation %d-%d of zone %s", t.Epoch, t.Serial, t.Zone)
	}
	if s.Timestamp != nil && s.Stamp.Manifest == t.Manifest && s.Stamp.Issued >= t.Issued {
		return nil
	}
	next := *s
	next.Timestamp, next.Stamp = envelope, t
	z.serve(&next)
	return nil
}
