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
// folder goes on where it was instead of looking like a rollback.
func LedgerBucket() store.BucketConfig {
	return store.BucketConfig{Name: "serials", Description: "highest (epoch, serial) signed per zone", MaxValueBytes: 1 << 10}
}

// entry is the highest number given out in a zone, and the last published manifest.
type entry struct {
	Epoch    uint64         `json:"epoch"`
	Serial   uint64         `json:"serial"`
	Manifest peermap.Digest `json:"manifest"`
}

// lostSerials is how far a controller that has only the ledger jumps ahead of it: the ledger is flushed once a second,
// so a power cut together with a lost folder may have lost numbers that agents have seen.
const lostSerials = 100

type ledger struct {
	bucket  store.Bucket
	network string
}

func (l ledger) key(zone string) string { return l.network + "." + zone }

// read gives the zero entry for a zone that never was.
func (l ledger) read(ctx context.Context, zone string) (entry, error) {
	data, err := l.bucket.Get(ctx, l.key(zone))
	if errors.Is(err, store.ErrNotFound) {
		return entry{}, nil
	}
	if err != nil {
		return entry{}, fmt.Errorf("ledger: %w", err)
	}
	var e entry
	if err := protocol.Decode(data, 1<<10, &e); err != nil {
		return entry{}, fmt.Errorf("ledger of zone %s: %w", zone, err)
	}
	return e, nil
}

func (l ledger) write(ctx context.Context, zone string, e entry) error {
	data, err := protocol.Encode(e)
	if err != nil {
		return err
	}
	if err := l.bucket.Put(ctx, l.key(zone), data); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}
