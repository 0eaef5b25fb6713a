package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
	"github.com/apex-network/apex/internal/natstest"
)

func embedded(t *testing.T) store.Store {
	return opened(t, jetstream.Options{Dir: t.TempDir()})
}

// external runs n servers on loopback and reaches them by URL.
func external(n int) func(t *testing.T) store.Store {
	return func(t *testing.T) store.Store {
		return opened(t, jetstream.Options{URL: natstest.Start(t, n).URL(), Replicas: n})
	}
}

func opened(t *testing.T, o jetstream.Options) store.Store {
	t.Helper()
	o.Logger, o.Timeout = slog.New(slog.DiscardHandler), 5*time.Minute // only for what hangs
	s, err := jetstream.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoresBehaveAlike(t *testing.T) {
	for name, open := range map[string]func(*testing.T) store.Store{
		"memory":   func(*testing.T) store.Store { return store.NewMemory(time.Now) },
		"embedded": embedded,
		"external": external(1),
		"cluster":  external(3),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			defer s.Close()
			if err := s.Ready(); err != nil {
				t.Fatal(err)
			}
			b, err := s.Bucket(t.Context(), store.BucketConfig{Name: "status", MaxValueBytes: 1 << 10})
			if err != nil {
				t.Fatal(err)
			}
			exercise(t, b)
			t.Run("revisions", func(t *testing.T) { exerciseRevisions(t, s) })
			t.Run("watch", func(t *testing.T) { exerciseWatch(t, s) })
			t.Run("blobs", func(t *testing.T) { exerciseBlobs(t, s) })
			t.Run("ttl", func(t *testing.T) { exerciseTTL(t, s) })
			t.Run("settled", func(t *testing.T) { exerciseSettled(t, s) })
			t.Run("list", func(t *testing.T) { exerciseList(t, s) })
			again, err := s.Bucket(t.Context(), store.BucketConfig{Name: "status", MaxValueBytes: 1 << 10})
			if err != nil {
				t.Fatal(err)
			}
			if v, err := again.Get(t.Context(), "net.zone.a"); err != nil || string(v) != "2" {
				t.Fatalf("reopened bucket: %q, %v", v, err)
			}
		})
	}
}

func exercise(t *testing.T, b store.Bucket) {
	ctx := t.Context()
	if _, err := b.Get(ctx, "net.zone.a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("empty get: %v", err)
	}
	for _, v := range []string{"1", "2"} {
		if err := b.Put(ctx, "net.zone.a", []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Put(ctx, "network.zone.b", []byte("3")); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(ctx, "net.big", make([]byte, 2<<10)); err == nil {
		t.Fatal("a value over the limit was stored")
	}
	settled(t, b, "net", map[string]string{"net.zone.a": "2"})
	if keys, err := b.Keys(ctx, "net"); err != nil || !slices.Equal(keys, []string{"net.zone.a"}) {
		t.Fatalf("keys below net: %v, %v", keys, err)
	}
	if err := b.Delete(ctx, "network.zone.b"); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, "network.zone.b"); err != nil {
		t.Fatalf("second delete: %v", err)
	}
	if _, err := b.Get(ctx, "network.zone.b"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("deleted get: %v", err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			switch err := b.Create(ctx, "net.nonce", fmt.Append(nil, i)); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrExists):
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d creations of one key succeeded", won.Load())
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.Put(canceled, "net.zone.a", nil); err == nil {
		t.Fatal("a canceled write succeeded")
	}
}

func TestMemoryForgetsAfterTTL(t *testing.T) {
	now := time.Unix(1000, 0)
	s := store.NewMemory(func() time.Time { return now })
	b, err := s.Bucket(t.Context(), store.BucketConfig{Name: "nonces", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "n", nil); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if err := b.Create(t.Context(), "n", nil); err != nil {
		t.Fatalf("after its TTL: %v", err)
	}
}
