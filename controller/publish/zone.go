package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Zone is one zone's place in a Publisher. Readers take a Snapshot and, if they want to follow, wait for its Next.
type Zone struct {
	Name string

	dir    string
	high   mark // highest number given out; guarded by Publisher.mu
	onDisk mark // what highFile says; guarded by Publisher.mu
	// What the ledger says of the zone and at what revision, if it was asked; names of blobs that can go soon. Guarded by
	// Publisher.mu.
	asked    bool
	entry    entry
	revision uint64
	blobs    []string
	// behind says that agents may hold a newer generation than the current one, because its file is damaged or the folder
	// is an old copy: until the content is signed anew, no timestamp may call the current one current. Guarded by
	// Publisher.mu.
	behind bool

	mu        sync.RWMutex
	snapshot  *Snapshot // nil: nothing to serve
	next      chan struct{}
	suspended bool
	pending   *waiting
	problem   error // of the last Publish
	stale     error // of the last Maintain
}

// Snapshot is what a zone serves at one moment. It is immutable.
type Snapshot struct {
	*Generation
	// Timestamp is the signed envelope and Stamp its payload. They are zero until the first was signed after a start.
	Timestamp []byte
	Stamp     peermap.Timestamp
	// Older are the kept generations before this one, newest first.
	Older []*Generation
}

// Held finds the newest kept generation in which node had the view with this digest.
func (s *Snapshot) Held(node string, view peermap.Digest) (*Generation, *Node, bool) {
	if n, _, ok := s.Node(node); ok && n.Digest == view {
		return s.Generation, n, true
	}
	for _, g := range s.Older {
		if n, _, ok := g.Node(node); ok && n.Digest == view {
			return g, n, true
		}
	}
	return nil, nil, false
}

// Bindings finds the list of bindings with a digest: that of a generation that is kept.
func (s *Snapshot) Bindings(d peermap.Digest) ([]byte, bool) {
	for _, g := range append([]*Generation{s.Generation}, s.Older...) {
		if len(g.bindings) > 0 && g.Manifest.Bindings == d {
			return g.bindings, true
		}
	}
	return nil, false
}

// ByManifest finds a kept generation.
func (s *Snapshot) ByManifest(d peermap.Digest) (*Generation, bool) {
	if s.Digest == d {
		return s.Generation, true
	}
	for _, g := range s.Older {
		if g.Digest == d {
			return g, true
		}
	}
	return nil, false
}

// waiting is a generation that too few have signed.
type waiting struct {
	gen      *Generation
	env      *signer.Envelope
	since    time.Time
	quorum   signer.Quorum
	refusals map[string]Refusal // by the name of the witness's key
}

// State describes a zone for people.
type State struct {
	Suspended bool
	// Problem says why the newest content or timestamp could not be signed or stored; nil if all is well.
	Problem error
	Pending *Pending
}

// Bindings finds the list of bindings with a digest: that of the generation that waits for witnesses, or of one that is
// kept.
func (z *Zone) Bindings(d peermap.Digest) ([]byte, bool) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	if w := z.pending; w != nil && len(w.gen.bindings) > 0 && w.gen.Manifest.Bindings == d {
		return w.gen.bindings, true
	}
	if z.snapshot == nil {
		return nil, false
	}
	return z.snapshot.Bindings(d)
}

// Pending describes a generation that waits for signatures.
type Pending struct {
	Zone     string
	Digest   peermap.Digest
	Payload  []byte
	Manifest peermap.Manifest
	Since    time.Time
	Quorum   signer.Quorum
	Refusals map[string]Refusal // by the name of the witness's key
}

func newZone(name, dir string) *Zone {
	return &Zone{Name: name, dir: dir, next: make(chan struct{})}
}

// Snapshot gives what is served now, nil if nothing is, and a channel that is closed when that is no longer so.
func (z *Zone) Snapshot() (*Snapshot, <-chan struct{}) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.snapshot, z.next
}

// State describes the zone.
func (z *Zone) State() State {
	_, s := z.Look()
	return s
}

// Look gives what is served and the state of one and the same moment.
func (z *Zone) Look() (*Snapshot, State) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	s := State{Suspended: z.suspended, Problem: errors.Join(z.problem, z.stale)}
	if z.pending != nil {
		s.Pending = z.pending.describe(z.Name)
	}
	return z.snapshot, s
}

func (w *waiting) describe(zone string) *Pending {
	return &Pending{
		Zone: zone, Digest: w.gen.Digest, Payload: w.env.Payload, Manifest: w.gen.Manifest, Since: w.since, Quorum: w.quorum,
		Refusals: w.refusals, // it is replaced, never changed
	}
}

// Missing says in words whose signatures p lacks.
func (p *Pending) Missing() string {
	s := p.Quorum.Lacks
	if len(p.Quorum.Missing) > 0 {
		s += "; could still sign: " + strings.Join(p.Quorum.Missing, ", ")
	}
	for name, why := range p.Refusals {
		verb := "refused"
		if why.Later {
			verb = "cannot judge yet"
		}
		s += fmt.Sprintf("; %s %s: %s", name, verb, why.Why)
	}
	return s
}

func (z *Zone) currentGeneration() *Generation {
	z.mu.RLock()
	defer z.mu.RUnlock()
	if z.snapshot == nil {
		return nil
	}
	return z.snapshot.Generation
}

// keptGenerations are the current and the older ones, newest first.
func (z *Zone) keptGenerations() []*Generation {
	z.mu.RLock()
	defer z.mu.RUnlock()
	if z.snapshot == nil {
		return nil
	}
	return append([]*Generation{z.snapshot.Generation}, z.snapshot.Older...)
}

// signedStamp is a timestamp with its envelope.
type signedStamp struct {
	envelope []byte
	payload  peermap.Timestamp
}

// install makes kept[0] current, with a timestamp if there is one for it.
func (z *Zone) install(kept []*Generation, stamp *signedStamp) {
	s := &Snapshot{Generation: kept[0], Older: kept[1:]}
	if stamp != nil {
		s.Timestamp, s.Stamp = stamp.envelope, stamp.payload
	}
	z.serve(s)
}

func (z *Zone) serve(s *Snapshot) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.snapshot = s
	close(z.next)
	z.next = make(chan struct{})
}

func (z *Zone) setSuspended(on bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.suspended = on
}

func (z *Zone) setProblem(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.problem = err
}

func (z *Zone) setStale(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.stale = err
}

func (z *Zone) isSuspended() bool {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.suspended
}

func (z *Zone) setPending(w *waiting) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.pending = w
}

func (z *Zone) pendingGeneration() *waiting {
	z.mu.RLock()
	defer z.mu.RUnlock()
	return z.pending
}

// retiredFile marks the folder of a zone that the repository no longer has.
const retiredFile = "retired"

func isRetired(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, retiredFile))
	return err == nil
}

func unretire(dir string) error { return removeIfThere(filepath.Join(dir, retiredFile)) }

// retire stops serving the zone.
func (z *Zone) retire() error {
	if snapshot, _ := z.Snapshot(); snapshot == nil && z.pendingGeneration() == nil && isRetired(z.dir) {
		return nil
	}
	if err := writeFile(filepath.Join(z.dir, retiredFile)); err != nil {
		return err
	}
	z.setPending(nil)
	z.setProblem(nil)
	z.serve(nil)
	return nil
}

// highFile holds the highest number that was signed but not published, as the name its file would have had.
const highFile = "high"

// keepHigh writes it if it has grown.
func (z *Zone) keepHigh() error {
	if z.onDisk == z.high {
		return nil
	}
	if err := writeFile(filepath.Join(z.dir, highFile), []byte(z.high.file())); err != nil {
		return err
	}
	z.onDisk = z.high
	return nil
}

func readHigh(dir string) (mark, error) {
	data, err := os.ReadFile(filepath.Join(dir, highFile))
	if errors.Is(err, fs.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, err
	}
	m, ok := parseMark(string(data))
	if !ok {
		return mark{}, fmt.Errorf("%s: %w", filepath.Join(dir, highFile), ErrCorrupt)
	}
	return m, nil
}

// Answered reports whether the key or witness identity with this ID has signed or refused p.
func (p *Pending) Answered(root *signer.Root, keyID string) bool {
	name, ok := root.SignerName(keyID)
	r, refused := p.Refusals[name]
	return ok && (refused && !r.Later || slices.Contains(p.Quorum.Signed, name))
}
