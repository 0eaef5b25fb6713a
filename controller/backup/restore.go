package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
)

// Buckets that a restore does not copy as they are.
var (
	serials = publish.LedgerBucket().Name
	leases  = cluster.LeaseBucket().Name
)

var (
	// ErrNotEmpty says that a restore would overwrite something.
	ErrNotEmpty = errors.New("the store is not empty")
	// ErrInUse says that a controller works on the store.
	ErrInUse = errors.New("a controller is running on this store")
)

// Restore brings back what a snapshot holds. Serials are set far ahead of both the snapshot's and the store's, for agents may
// have seen numbers that neither knows. With force, what the store holds is replaced, else it must hold nothing. No controller
// may run on the store: ErrInUse. A restore that fails half-way can be repeated with force.
func Restore(ctx context.Context, s store.Store, snap *Snapshot, force bool) error {
	if err := checkIdle(ctx, s); err != nil {
		return err
	}
	now, err := present(ctx, s)
	if err != nil {
		return err
	}
	if n := now.Keys(); n > 0 && !force {
		return fmt.Errorf("%w: it holds %d values; restore with --force replaces them", ErrNotEmpty, n)
	}
	old := map[string]Bucket{}
	for _, b := range now.Buckets {
		old[b.Config.Name] = b
	}
	buckets := snap.Buckets
	if !slices.ContainsFunc(buckets, func(b Bucket) bool { return b.Config.Name == serials }) {
		buckets = append(slices.Clone(buckets), Bucket{Config: publish.LedgerBucket()}) // numbers jump whatever was known
	}
	for _, b := range buckets {
		before := old[b.Config.Name]
		delete(old, b.Config.Name)
		values, err := merged(b, before)
		if err != nil {
			return fmt.Errorf("bucket %s: %w", b.Config.Name, err)
		}
		if err := replace(ctx, s, b.Config, values, before.Values); err != nil {
			return fmt.Errorf("bucket %s: %w", b.Config.Name, err)
		}
	}
	for _, b := range old { // of a later version of the controller, or of a network that came later
		if b.Config.Name == serials || b.Config.Name == leases {
			continue
		}
		if err := replace(ctx, s, b.Config, nil, b.Values); err != nil {
			return fmt.Errorf("bucket %s: %w", b.Config.Name, err)
		}
	}
	return nil
}

// merged is what a bucket shall hold.
func merged(b, before Bucket) (map[string][]byte, error) {
	switch b.Config.Name {
	case serials:
		return publish.RestoredLedger(b.Values, before.Values)
	case leases:
		return cluster.RestoredLeases(b.Values, before.Values)
	}
	return b.Values, nil
}

func replace(ctx context.Context, s store.Store, c store.BucketConfig, values, before map[string][]byte) error {
	b, err := s.Bucket(ctx, c)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := b.Put(ctx, key, values[key]); err != nil {
			return err
		}
	}
	for key := range before {
		if _, stays := values[key]; !stays {
			if err := b.Delete(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// present reads what the store holds.
func present(ctx context.Context, s store.Store) (*Snapshot, error) {
	configs, err := s.Buckets(ctx)
	if err != nil {
		return nil, err
	}
	out := &Snapshot{}
	for _, c := range configs {
		values, err := read(ctx, s, c, map[string]uint64{})
		if err != nil {
			return nil, fmt.Errorf("read bucket %s: %w", c.Name, err)
		}
		out.Buckets = append(out.Buckets, Bucket{Config: c, Values: values})
	}
	return out, nil
}

// checkIdle fails if a replica leads.
func checkIdle(ctx context.Context, s store.Store) error {
	b, err := s.Bucket(ctx, cluster.LeaseBucket())
	if err != nil {
		return err
	}
	name, err := cluster.Active(ctx, b)
	if err != nil {
		return err
	}
	if name != "" {
		return fmt.Errorf("%w: %s leads a network; stop every replica first", ErrInUse, name)
	}
	return nil
}
