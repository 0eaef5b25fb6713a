package jetstream_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
)

func embedded(t *testing.T, dir string) store.Store {
	t.Helper()
	s, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Timeout: 5 * time.Minute, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEmbeddedSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	s := embedded(t, dir)
	b, err := s.Bucket(t.Context(), store.BucketConfig{Name: "status"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Put(t.Context(), "a", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = embedded(t, dir)
	defer s.Close()
	// A later version may bound what an earlier one did not.
	if b, err = s.Bucket(t.Context(), store.BucketConfig{Name: "status", MaxBytes: 512 << 20}); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Get(t.Context(), "a"); err != nil || string(v) != "kept" {
		t.Fatalf("after restart: %q, %v", v, err)
	}
}

func TestUnreachableStoreSaysSo(t *testing.T) {
	_, err := jetstream.Open(t.Context(), jetstream.Options{URL: "nats://127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Fatal("no error from a port nobody listens on")
	}
}

// A bucket that is full takes nothing more, holds up no other, and can be made empty again.
func TestFullBucketHoldsUpNoOther(t *testing.T) {
	s := embedded(t, t.TempDir())
	defer s.Close()
	full, err := s.Bucket(t.Context(), store.BucketConfig{Name: "status", MaxBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Bucket(t.Context(), store.BucketConfig{Name: "serials"})
	if err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte("x"), 37<<10)
	kept := 0
	for err = nil; err == nil && kept < 100; kept++ {
		err = full.Put(t.Context(), fmt.Sprintf("acme.prod.n%d", kept), value)
	}
	if err == nil {
		t.Fatalf("%d values of 37 KiB were stored in 256 KiB", kept)
	}
	if err := other.Put(t.Context(), "acme.prod", []byte("1")); err != nil {
		t.Fatalf("another bucket: %v", err)
	}
	keys, err := full.Keys(t.Context(), "acme")
	if err != nil || len(keys) != kept-1 {
		t.Fatalf("%d of %d keys, %v", len(keys), kept-1, err)
	}
	for _, key := range keys {
		if err := full.Delete(t.Context(), key); err != nil {
			t.Fatalf("deleting from a full bucket: %v", err)
		}
	}
	if err := full.Put(t.Context(), "acme.prod.next", value); err != nil {
		t.Fatalf("after it was emptied: %v", err)
	}
}
