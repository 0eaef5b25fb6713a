package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

// DefaultKeep is how many generations of a zone are kept for deltas and for agents in the middle of a fetch.
const DefaultKeep = 8

// Keys are the controller's signing keys. Several may be given while they are rotated; each signs what the trust root
// lets it sign.
type Keys struct {
	Manifest  []signer.PrivateKey
	Timestamp []signer.PrivateKey
}

// Options make a Publisher. Every field but Keep is required.
type Options struct {
	Network string
	// Dir holds a folder per zone.
	Dir string
	// Keep is how many generations per zone stay; 0 means DefaultKeep.
	Keep int
	Keys Keys
	// Ledger is the bucket of LedgerBucket.
	Ledger store.Bucket
	// Share, if there are replicas: the Publisher then waits for Lead or Follow.
	Share  *Share
	Now    func() time.Time
	Logger *slog.Logger
}

// Publisher owns the generations of one network's zones. Its methods are safe for concurrent use; readers of a Zone never
// wait for a writer that signs or writes to disk.
type Publisher struct {
	opts   Options
	ledger ledger

	mu      sync.Mutex // held for the length of every change
	keys    Keys
	root    *signer.Root
	zones   map[string]*Zone // replaced, never changed, under view
	waiting chan struct{}    // closed when the list of pending generations changes
	leading *leadership      // nil: this replica follows, or there are none

	again chan struct{} // a follower looks at everything again

	view sync.RWMutex // guards the map and the channel above for readers
}

// Open reads what is on disk. A file that is damaged is left out and reported to the log; the generation before it is
// then current, and its number is not used again. root may be nil if no commit was ever accepted.
func Open(opts Options, root *signer.Root) (*Publisher, error) {
	if opts.Keep <= 0 {
		opts.Keep = DefaultKeep
	}
	p := &Publisher{
		opts: opts, ledger: ledger{opts.Ledger, opts.Network}, keys: opts.Keys, root: root,
		zones: map[string]*Zone{}, waiting: make(chan struct{}), again: make(chan struct{}, 1),
	}
	if err := makeDir(opts.Dir); err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	entries, err := os.ReadDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		z, err := p.openZone(e.Name())
		if err != nil {
			return nil, err
		}
		p.zones[z.Name] = z
	}
	return p, nil
}

func (p *Publisher) openZone(name string) (*Zone, error) {
	z := newZone(name, filepath.Join(p.opts.Dir, name))
	if err := makeDir(z.dir); err != nil {
		return nil, fmt.Errorf("zone %s: %w", name, err)
	}
	marks, err := listZone(z.dir)
	if err != nil {
		return nil, fmt.Errorf("zone %s: %w", name, err)
	}
	if z.high, err = readHigh(z.dir); err != nil {
		return nil, fmt.Errorf("zone %s: %w", name, err)
	}
	var kept []*Generation // newest first
	for _, m := range marks {
		if m.compare(z.high) > 0 {
			z.high = m
		}
		var old *Generation
		if len(kept) > 0 {
			old = kept[0]
		}
		g, err := load(filepath.Join(z.dir, m.file()), old)
		if err != nil {
			p.opts.Logger.Error("generation left out", "zone", name, "error", err)
			continue
		}
		kept = append([]*Generation{g}, kept...)
	}
	z.behind = len(kept) > 0 && kept[0].mark() != marks[len(marks)-1]
	if len(kept) > 0 && !isRetired(z.dir) {
		z.suspended = kept[0].Manifest.Suspended
		z.install(kept, nil)
	}
	return z, nil
}

// SetKeys replaces the signing keys; they count from the next signature on.
func (p *Publisher) SetKeys(k Keys) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = k
}

// Zone finds a zone that has, had or will have a generation.
func (p *Publisher) Zone(name string) (*Zone, bool) {
	p.view.RLock()
	defer p.view.RUnlock()
	z, ok := p.zones[name]
	return z, ok
}

// Zones lists the zones by name.
func (p *Publisher) Zones() []*Zone {
	p.view.RLock()
	defer p.view.RUnlock()
	out := make([]*Zone, 0, len(p.zones))
	for _, name := range slices.Sorted(maps.Keys(p.zones)) {
		out = append(out, p.zones[name])
	}
	return out
}

// Root is the trust root that the last Publish brought; nil before the first.
func (p *Publisher) Root() *signer.Root {
	p.view.RLock()
	defer p.view.RUnlock()
	return p.root
}

// Publish takes the zones of an accepted commit, judged under root. Each zone stands for itself: the error joins those
// of the zones that could not be signed or stored, whose published generations stay. A zone that is no longer among them
// is retired: it is served no more, and its numbers are not used again. The shrink guard has been asked before.
func (p *Publisher) Publish(ctx context.Context, zones map[string]*compile.Zone, root *signer.Root) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.mayWrite(); err != nil {
		return err
	}
	p.setRoot(root)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		z, err := p.makeZone(name)
		if err == nil {
			err = p.publishZone(ctx, z, zones[name])
		}
		z.setProblem(err)
		if err != nil {
			errs = append(errs, fmt.Errorf("zone %s: %w", name, err))
		}
	}
	for name, z := range p.zones {
		if _, still := zones[name]; !still {
			if err := errors.Join(z.retire(), p.handRetired(z)); err != nil {
				errs = append(errs, fmt.Errorf("retire zone %s: %w", name, err))
			}
		}
	}
	p.announcePending()
	return errors.Join(errs...)
}

func (p *Publisher) setRoot(root *signer.Root) {
	p.view.Lock()
	defer p.view.Unlock()
	p.root = root
}

// makeZone finds or begins a zone. It gives a zone also with an error, to carry the problem.
func (p *Publisher) makeZone(name string) (*Zone, error) {
	z, err := p.place(name)
	if err != nil {
		return z, err
	}
	return z, unretire(z.dir)
}

func (p *Publisher) publishZone(ctx context.Context, z *Zone, c *compile.Zone) error {
	z.setSuspended(c.Suspended)
	current := z.currentGeneration()
	if c.Suspended {
		if current == nil {
			z.setPending(nil)
			return errors.New("suspended before anything was published: there is no generation to freeze")
		}
		if w := z.pendingGeneration(); w != nil && !w.gen.Manifest.Suspended {
			z.setPending(nil)
		}
		return p.refresh(ctx, z)
	}
	if current != nil && current.sameAs(c, p.root.Epoch) {
		z.setPending(nil)
		return p.refresh(ctx, z)
	}
	if w := z.pendingGeneration(); w != nil && w.gen.sameAs(c, p.root.Epoch) && p.liveFor(w.gen) > 0 {
		return p.settle(z, w)
	}
	body, err := fromCompile(c, current)
	if err != nil {
		return fmt.Errorf("compiled zone is incomplete: %w", err)
	}
	return p.propose(ctx, z, body, func(epoch, serial uint64, previous peermap.Digest, expires time.Time) peermap.Manifest {
		return c.Manifest(epoch, serial, previous, expires)
	})
}

// manifestFunc numbers a manifest.
type manifestFunc func(epoch, serial uint64, previous peermap.Digest, expires time.Time) peermap.Manifest

// propose numbers and signs a generation, and publishes it if that is a quorum; else it becomes pending.
func (p *Publisher) propose(ctx context.Context, z *Zone, body content, manifest manifestFunc) error {
	next, previous, err := p.number(ctx, z)
	if err != nil {
		return err
	}
	expires := p.opts.Now().Add(time.Duration(p.root.Validity.Manifest) * time.Second)
	m := manifest(next.epoch, next.serial, previous, expires)
	payload, err := m.Encode()
	if err != nil {
		return err
	}
	env, err := p.sign(peermap.ManifestType, payload, p.keys.Manifest, signer.RoleManifest)
	if err != nil {
		return err
	}
	err = p.note(ctx, z, func(e *entry) {
		e.Epoch, e.Serial, e.Manifest = next.epoch, next.serial, peermap.DigestOf(payload)
		e.Restored = e.Restored && z.behind
	})
	switch {
	case err != nil && (p.shares() || errors.Is(err, ErrDeposed)):
		return err
	case err != nil:
		p.opts.Logger.Warn("serial not in the ledger", "zone", z.Name, "error", err)
	}
	z.high = next
	g := &Generation{Manifest: m, Digest: peermap.DigestOf(payload), content: body}
	return p.settle(z, &waiting{gen: g, env: env, since: p.opts.Now(), refusals: map[string]Refusal{}})
}

// settle publishes w if enough have signed it, else leaves it pending.
func (p *Publisher) settle(z *Zone, w *waiting) error {
	q, err := p.root.CheckManifest(w.env)
	if err != nil {
		z.setPending(nil)
		return fmt.Errorf("manifest: %w", err)
	}
	next := *w
	next.quorum = q
	if !q.Met() {
		// The serial must not be used again after a restart: witnesses may have signed under it.
		if err := z.keepHigh(); err != nil {
			return err
		}
		z.setPending(&next)
		return nil
	}
	g := &Generation{Manifest: w.gen.Manifest, Digest: w.gen.Digest, Published: p.opts.Now(), content: w.gen.content}
	if g.Envelope, err = w.env.Encode(); err != nil {
		return err
	}
	stamp, err := p.stamp(g)
	if err == nil {
		err = p.handGeneration(z, g, stamp)
	}
	if err != nil {
		z.setPending(&next) // Maintain tries again
		return err
	}
	z.install(p.keep(z, g), stamp)
	z.setPending(nil)
	z.behind = false
	p.opts.Logger.Info("published", "zone", z.Name, "epoch", g.Manifest.Epoch,
		"serial", g.Manifest.Serial, "commit", g.Manifest.Commit, "nodes", len(g.Nodes))
	return nil
}

// keep gives what is kept once g is there, newest first, and removes the files of the rest.
func (p *Publisher) keep(z *Zone, g *Generation) []*Generation {
	kept := append([]*Generation{g}, z.keptGenerations()...)
	for _, old := range kept[min(len(kept), p.opts.Keep):] {
		if err := removeIfThere(filepath.Join(z.dir, old.mark().file())); err != nil {
			p.opts.Logger.Warn("old generation not removed", "zone", z.Name, "error", err)
		}
	}
	return kept[:min(len(kept), p.opts.Keep)]
}

// number gives the next (epoch, serial) of a zone and the digest of the manifest before it. Where the manifest before it
// is not at hand (lost, or never published), a number is left out: agents demand that a direct successor names the
// manifest they hold.
func (p *Publisher) number(ctx context.Context, z *Zone) (mark, peermap.Digest, error) {
	if err := p.recall(ctx, z); err != nil {
		return mark{}, peermap.Digest{}, err
	}
	current := z.currentGeneration()
	epoch := p.root.Epoch
	switch {
	case epoch < z.high.epoch:
		return mark{}, peermap.Digest{}, fmt.Errorf("trust root has epoch %d, but epoch %d was published before: raise the root's epoch", epoch, z.high.epoch)
	case epoch > z.high.epoch && z.entry.Restored: // agents may have seen numbers of this epoch
		return mark{epoch, z.high.serial + 1}, peermap.Digest{}, nil
	case epoch > z.high.epoch || z.high.serial == 0:
		return mark{epoch, 1}, peermap.Digest{}, nil
	case current != nil && current.mark() == z.high:
		return mark{epoch, z.high.serial + 1}, current.Digest, nil
	}
	var previous peermap.Digest
	if current != nil && current.Manifest.Epoch == epoch {
		previous = current.Digest
	}
	return mark{epoch, z.high.serial + 2}, previous, nil
}

// Suffices says whether the keys given here sign manifests under root without anybody else.
func (p *Publisher) Suffices(root *signer.Root) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := 0
	for _, k := range p.keys.Manifest {
		if root.HasRole(k.Public().ID(), signer.RoleManifest) {
			mine++
		}
	}
	return mine >= root.Manifest.Threshold && root.Witnesses.Threshold == 0
}

// sign signs with every given key that holds the role now.
func (p *Publisher) sign(payloadType string, payload []byte, keys []signer.PrivateKey, role signer.RoleName) (*signer.Envelope, error) {
	var mine []signer.PrivateKey
	for _, k := range keys {
		if p.root.HasRole(k.Public().ID(), role) {
			mine = append(mine, k)
		}
	}
	if len(mine) == 0 {
		return nil, fmt.Errorf("none of the %d configured %s keys holds that role in trust root version %d: add its public key to the trust root, or configure the right key file",
			len(keys), role, p.root.Version)
	}
	return signer.SignEd25519(payloadType, payload, mine...)
}
