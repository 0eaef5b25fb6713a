package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// LedgerBucket is the bucket that Publisher keeps the highest serial of each zone in, so that a controller which lost its
// folder goes on where it was instead of looking like a rollback. Between replicas it also says what is published: see
// Share.
func LedgerBucket() store.BucketConfig {
	return store.BucketConfig{Name: "serials", Description: "highest (epoch, serial) signed per zone", MaxValueBytes: maxEntryBytes}
}

const maxEntryBytes = 32 << 10

// ErrDeposed says that another replica has taken over numbering and publishing.
var ErrDeposed = errors.New("another replica leads now")

// entry is the highest number given out in a zone, and the last published manifest.
type entry struct {
	Epoch    uint64         `json:"epoch"`
	Serial   uint64         `json:"serial"`
	Manifest peermap.Digest `json:"manifest"`
	// Restored says that the entry comes from a backup: agents may hold newer generations than the current one, until one
	// with this number or a higher one is published.
	Restored bool `json:"restored,omitempty"`
	// The rest is for replicas. Term is the leadership that wrote last; Current is what is served, Stamp its newest timestamp,
	// an envelope; Retired says that nothing is.
	Term    uint64  `json:"term,omitempty"`
	Current *shared `json:"current,omitempty"`
	Stamp   []byte  `json:"stamp,omitempty"`
	Retired bool    `json:"retired,omitempty"`
}

func (e entry) mark() mark { return mark{e.Epoch, e.Serial} }

// lostSerials is how far a controller that has only the ledger jumps ahead of it: the ledger is flushed once a second,
// so a power cut together with a lost folder may have lost numbers that agents have seen.
const lostSerials = 100

type ledger struct {
	bucket  store.Bucket
	network string
}

func (l ledger) key(zone string) string { return l.network + "." + zone }

// read gives revision 0 for a zone that never was, and where its numbers begin.
func (l ledger) read(ctx context.Context, zone string) (entry, uint64, error) {
	data, revision, err := l.bucket.GetRevision(ctx, l.key(zone))
	if errors.Is(err, store.ErrNotFound) {
		if data, err = l.bucket.Get(ctx, floorKey); errors.Is(err, store.ErrNotFound) {
			return entry{}, 0, nil
		}
	}
	if err != nil {
		return entry{}, 0, fmt.Errorf("ledger: %w", err)
	}
	e, err := decodeEntry(data)
	if err != nil {
		return entry{}, 0, fmt.Errorf("ledger of zone %s: %w", zone, err)
	}
	return e, revision, nil
}

func decodeEntry(data []byte) (entry, error) {
	var e entry
	return e, protocol.Decode(data, maxEntryBytes, &e)
}

// note changes the ledger's entry for z, if it still is what this process read or wrote last. After a failure it has to be
// read again. Errors: ErrDeposed if somebody else wrote.
func (p *Publisher) note(ctx context.Context, z *Zone, change func(*entry)) error {
	if !z.asked {
		return errors.New("ledger: not read yet")
	}
	e := z.entry
	change(&e)
	if p.leading != nil {
		e.Term = p.leading.term
	}
	data, err := protocol.Encode(e)
	if err != nil {
		return err
	}
	revision, err := p.ledger.bucket.Update(ctx, p.ledger.key(z.Name), data, z.revision)
	if err != nil {
		z.asked = false
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return fmt.Errorf("ledger: %w: %w", ErrDeposed, err)
	case err != nil:
		return fmt.Errorf("ledger: %w", err)
	}
	z.entry, z.revision = e, revision
	return nil
}

// recall asks the ledger, once in a process and again after a failed write, whether it knows higher numbers than the folder:
// then the folder is lost or an old copy. A zone with a generation can do without the answer, unless there are replicas; it
// asks again next time.
func (p *Publisher) recall(ctx context.Context, z *Zone) error {
	if z.asked {
		return nil
	}
	current := z.currentGeneration()
	e, revision, err := p.ledger.read(ctx, z.Name)
	switch {
	case err != nil && p.shares():
		return err
	case err != nil && current == nil:
		return fmt.Errorf("nothing on disk, and %w", err)
	case err != nil:
		p.opts.Logger.Warn("serials not compared with the ledger", "network", p.opts.Network, "zone", z.Name, "error", err)
		return nil
	case p.leading != nil && e.Term > p.leading.term:
		return fmt.Errorf("zone %s: %w", z.Name, ErrDeposed)
	}
	z.entry, z.revision, z.asked = e, revision, true
	if z.outrun() {
		z.behind = true
	}
	switch {
	case e.mark().compare(z.high) <= 0:
	case e.Restored:
		z.high = e.mark()
	case p.shares(): // what is served stands in the entry, and numbers above were never seen by an agent
		z.high = e.mark()
	default:
		z.high = mark{e.Epoch, e.Serial + lostSerials}
		z.behind = current != nil
	}
	return nil
}

// outrun says whether a backup was restored and agents may since hold something newer than the current generation.
func (z *Zone) outrun() bool {
	current := z.currentGeneration()
	return z.entry.Restored && current != nil && current.mark().compare(z.entry.mark()) < 0
}
