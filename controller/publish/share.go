package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/spec/peermap"
)

// Share is what the Publishers of several replicas have in common, besides the ledger. One of them leads at a time: it
// numbers, signs and hands over; the others follow. A Publisher with a Share does neither until Lead or Follow is called.
//
//	           Lead: every entry of the ledger carries the new term
//	following ─────────────────────────────────────────────────────▶ leading
//	    ▲  └─ Follow: verify what the ledger names, serve it             │
//	    └────────────────────────────────────────────────────────────────┘
//	      StepDown, or a write to the ledger that finds another term's
//
// The leader serves a generation only after it is in the store: first its file, as a blob named by its content, then the
// ledger's entry, by compare and set. So there is one order of what is published in a zone, whatever leaders believe of
// themselves: who was deposed finds the entry changed, and two manifests under one serial can never both be served.
type Share struct {
	// Blobs is the folder of BlobFolder.
	Blobs store.Blobs
	// Confirm fails unless this replica leads at this moment. It is asked where there is no entry yet to compare with.
	Confirm func(ctx context.Context) error
}

// BlobFolder holds the files of published generations.
func BlobFolder() store.BucketConfig {
	return store.BucketConfig{Name: "generations", Description: "generations that replicas hand to each other"}
}

// shared names a published generation and its file.
type shared struct {
	Epoch    uint64         `json:"epoch"`
	Serial   uint64         `json:"serial"`
	Manifest peermap.Digest `json:"manifest"`
	File     peermap.Digest `json:"file"`
}

func (s shared) mark() mark { return mark{s.Epoch, s.Serial} }

// blob is the name under which the file travels.
func (s shared) blob(network, zone string) string {
	return fmt.Sprintf("%s.%s.%d-%d-%s", network, zone, s.Epoch, s.Serial, hex.EncodeToString(s.File[:8]))
}

// leadership is the time during which this replica leads.
type leadership struct {
	ctx  context.Context // ends with it
	term uint64
}

// handTimeout bounds one exchange with the store.
const handTimeout = 30 * time.Second

// keptBlobs is how many older generations of a zone stay in the store for followers that are just fetching them.
const keptBlobs = 2

func (p *Publisher) shares() bool { return p.opts.Share != nil }

// ErrFollowing says that this replica does not lead.
var ErrFollowing = errors.New("this replica follows: another one signs and publishes")

// mayWrite fails unless this Publisher may number and sign. The caller holds mu.
func (p *Publisher) mayWrite() error {
	if p.shares() && p.leading == nil {
		return ErrFollowing
	}
	return nil
}

// Lead begins to number and publish under term, until ctx ends or StepDown is called: it takes over what the leader before
// published and marks every entry of the ledger, after which nobody of an earlier term can write. A zone whose published
// generation cannot be fetched or verified goes on above its number, with what this replica has. Errors: ErrDeposed.
func (p *Publisher) Lead(ctx context.Context, term uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := map[string]bool{}
	for _, z := range p.Zones() {
		names[z.Name] = true
	}
	err := p.ledger.bucket.Each(ctx, p.opts.Network, func(key string, _ []byte) error {
		names[strings.TrimPrefix(key, p.opts.Network+".")] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	p.leading = &leadership{ctx: ctx, term: term}
	for name := range names {
		if err := p.claim(ctx, name); err != nil {
			p.stepDown()
			return fmt.Errorf("zone %s: %w", name, err)
		}
	}
	p.sweep(ctx)
	return nil
}

// claim takes over a zone.
func (p *Publisher) claim(ctx context.Context, name string) error {
	z, err := p.place(name)
	if err != nil {
		return err
	}
	z.asked = false
	if err := p.recall(ctx, z); err != nil {
		return err
	}
	if err := p.adopt(ctx, z, z.entry); err != nil {
		p.opts.Logger.Error("what was published is not taken over; it is signed anew", "zone", name, "error", err)
		z.behind = z.currentGeneration() != nil
	}
	z.behind = z.behind || z.outrun()
	return p.note(ctx, z, func(e *entry) {
		if z.high.compare(e.mark()) > 0 {
			e.Epoch, e.Serial = z.high.epoch, z.high.serial
		}
	})
}

// StepDown ends the leadership. What waits for witnesses is given up: the next leader proposes it again.
func (p *Publisher) StepDown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stepDown()
	p.announcePending()
}

func (p *Publisher) stepDown() {
	p.leading = nil
	for _, z := range p.Zones() {
		z.asked = false
		z.setPending(nil)
		z.setProblem(nil)
		z.setStale(nil)
	}
	nudge(p.again)
}

// handGeneration makes g durable and, if there are replicas, known to them; then it may be served.
func (p *Publisher) handGeneration(z *Zone, g *Generation, stamp *signedStamp) error {
	if !p.shares() {
		return g.save(z.dir)
	}
	if err := p.mayWrite(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.leading.ctx, handTimeout)
	defer cancel()
	if err := p.recall(ctx, z); err != nil {
		return err
	}
	out := filepath.Join(z.dir, outgoing)
	if err := makeDir(out); err != nil {
		return err
	}
	if err := g.save(out); err != nil {
		return err
	}
	path := filepath.Join(out, g.mark().file())
	if err := p.handFile(ctx, z, path, g, stamp); err != nil {
		return errors.Join(err, removeIfThere(path))
	}
	if err := os.Rename(path, filepath.Join(z.dir, g.mark().file())); err != nil {
		return err
	}
	return syncDir(z.dir)
}

// Folders in a zone's: files on their way into the store, and out of it. What is left there after a crash counts for nothing.
const (
	outgoing = "outgoing"
	incoming = "incoming"
)

// handFile puts a generation's file into the store and names it in the ledger.
func (p *Publisher) handFile(ctx context.Context, z *Zone, path string, g *Generation, stamp *signedStamp) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	packed, err := pack(data)
	if err != nil {
		return err
	}
	s := &shared{Epoch: g.Manifest.Epoch, Serial: g.Manifest.Serial, Manifest: g.Digest, File: sha256.Sum256(data)}
	if err := p.opts.Share.Blobs.Put(ctx, s.blob(p.opts.Network, z.Name), packed); err != nil {
		return fmt.Errorf("hand generation %d-%d of zone %s to the other replicas: %w", s.Epoch, s.Serial, z.Name, err)
	}
	before, fresh := z.entry.Current, z.revision == 0
	err = p.note(ctx, z, func(e *entry) {
		e.Current, e.Stamp, e.Retired = s, stamp.envelope, false
		if g.mark().compare(e.mark()) >= 0 {
			e.Epoch, e.Serial, e.Manifest = s.Epoch, s.Serial, s.Manifest
		}
	})
	if err == nil && fresh {
		err = p.opts.Share.Confirm(ctx)
	}
	if err != nil {
		return err
	}
	if before != nil {
		p.forget(ctx, z, before.blob(p.opts.Network, z.Name))
	}
	return nil
}

// forget removes blobs that no follower can still be fetching.
func (p *Publisher) forget(ctx context.Context, z *Zone, blob string) {
	z.blobs = append(z.blobs, blob)
	for len(z.blobs) > keptBlobs {
		if err := p.opts.Share.Blobs.Delete(ctx, z.blobs[0]); err != nil {
			p.opts.Logger.Warn("old generation not removed from the store", "zone", z.Name, "error", err)
			return
		}
		z.blobs = z.blobs[1:]
	}
}

// sweep removes what leaders before left behind.
func (p *Publisher) sweep(ctx context.Context) {
	names, err := p.opts.Share.Blobs.Names(ctx, p.opts.Network)
	if err != nil {
		p.opts.Logger.Warn("old generations in the store not listed", "error", err)
		return
	}
	current := map[string]bool{}
	for _, z := range p.Zones() {
		z.blobs = nil
		if c := z.entry.Current; c != nil {
			current[c.blob(p.opts.Network, z.Name)] = true
		}
	}
	for _, name := range names {
		if current[name] {
			continue
		}
		if err := p.opts.Share.Blobs.Delete(ctx, name); err != nil {
			p.opts.Logger.Warn("old generation not removed from the store", "blob", name, "error", err)
		}
	}
}

// handStamp makes a new timestamp known to the other replicas; then it may be served.
func (p *Publisher) handStamp(z *Zone, stamp *signedStamp) error {
	if !p.shares() {
		return nil
	}
	return p.handNote(z, func(e *entry) { e.Stamp = stamp.envelope })
}

// handRetired tells the other replicas that a zone is no more.
func (p *Publisher) handRetired(z *Zone) error {
	if !p.shares() || z.asked && (z.entry.Retired || z.revision == 0) {
		return nil
	}
	return p.handNote(z, func(e *entry) { e.Retired, e.Current, e.Stamp = true, nil, nil })
}

func (p *Publisher) handNote(z *Zone, change func(*entry)) error {
	if err := p.mayWrite(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.leading.ctx, handTimeout)
	defer cancel()
	if err := p.recall(ctx, z); err != nil {
		return err
	}
	return p.note(ctx, z, change)
}

// handOld shares a generation that is on disk but not in the ledger: the controller had no replicas before.
func (p *Publisher) handOld(z *Zone, g *Generation, stamp *signedStamp) error {
	if !p.shares() || z.entry.Current != nil && z.entry.Current.mark().compare(g.mark()) >= 0 {
		return p.handStamp(z, stamp)
	}
	return p.handGeneration(z, g, stamp)
}

func pack(data []byte) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	packed := enc.EncodeAll(data, nil)
	return packed, enc.Close()
}

func unpack(packed []byte) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxFileBytes), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	return dec.DecodeAll(packed, nil)
}
