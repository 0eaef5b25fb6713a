package jetstream_test

import (
	"log/slog"
	"testing"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
)

func embedded(t *testing.T, dir string) store.Store {
	t.Helper()
	s, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
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
	if b, err = s.Bucket(t.Context(), store.BucketConfig{Name: "status"}); err != nil {
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
