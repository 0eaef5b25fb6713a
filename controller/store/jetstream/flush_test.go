package jetstream

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/apex-network/apex/controller/store"
)

// recordFlushes gives what a store has flushed since it was asked last.
func recordFlushes(s *Store) func() []string {
	var mu sync.Mutex
	var paths []string
	s.flusher.sync = func(path string) error {
		mu.Lock()
		defer mu.Unlock()
		paths = append(paths, path)
		return syncFile(path)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		last := paths
		paths = nil
		return last
	}
}

// TestFlushBringsWritesToDisk: every file that a write changed is flushed by the next Flush, and none that it did not.
func TestFlushBringsWritesToDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open := func(name string) store.Bucket {
		b, err := s.Bucket(t.Context(), store.BucketConfig{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	a, b := open("a"), open("b")
	flushed := recordFlushes(s)
	// flush gives the buckets whose messages were flushed.
	flush := func() (names []string) {
		t.Helper()
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, path := range flushed() {
			if name, is := strings.CutSuffix(path, ".blk"); is {
				names = append(names, filepath.Base(filepath.Dir(filepath.Dir(name))))
			}
		}
		slices.Sort(names)
		return names
	}
	write := func(b store.Bucket) {
		t.Helper()
		if err := b.Put(t.Context(), "key", []byte("value")); err != nil {
			t.Fatal(err)
		}
	}
	write(a)
	write(b)
	if got, want := flush(), []string{"KV_a", "KV_b"}; !slices.Equal(got, want) {
		t.Errorf("the first flush brought %v to the disk, want %v", got, want)
	}
	write(b)
	if got, want := flush(), []string{"KV_b"}; !slices.Equal(got, want) {
		t.Errorf("after a write to b: %v, want %v", got, want)
	}
	if got := flush(); len(got) != 0 {
		t.Errorf("after no write: %v", got)
	}
}

// TestFlushIsShared: whoever comes during a round waits for the next, all of them for the same; what failed is done again.
func TestFlushIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		began, end := make(chan struct{}), make(chan error)
		f := &flusher{dir: path, sync: func(string) error {
			began <- struct{}{}
			return <-end
		}}
		results := make(chan error, 10)
		ask := func() { results <- f.flush(t.Context()) }
		go ask()
		<-began
		for range 5 {
			go ask()
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.flush(impatient); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		synctest.Wait()
		broken := errors.New("input/output error")
		end <- broken
		if err := <-results; !errors.Is(err, broken) {
			t.Errorf("the first: %v", err)
		}
		<-began
		synctest.Wait()
		if len(results) != 0 {
			t.Fatal("answered before the round that began after the question")
		}
		end <- nil
		for range 5 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if err := f.flush(t.Context()); err != nil { // nothing has changed, so nothing is flushed
			t.Error(err)
		}
	})
}

// TestFlushOfALostWriteFailsForGood: the system reports a failed flush once, and the next one of the same file succeeds without
// what was lost.
func TestFlushOfALostWriteFailsForGood(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	results := []error{errors.New("too many open files"), errLost}
	f := &flusher{dir: path, sync: func(string) error {
		if len(results) == 0 {
			return nil
		}
		defer func() { results = results[1:] }()
		return results[0]
	}}
	if err := f.flush(t.Context()); err == nil || errors.Is(err, errLost) {
		t.Errorf("a shortage: %v", err)
	}
	for range 3 {
		if err := f.flush(t.Context()); !errors.Is(err, errLost) {
			t.Errorf("after a lost write: %v", err)
		}
	}
}

// TestFlushKeepsToTheServersFiles: a link in place of the folder is followed, and what else a volume holds is not looked at.
func TestFlushKeepsToTheServersFiles(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "volume"), 0o700), os.Symlink("volume", link)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Options{Dir: link, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.Mkdir(filepath.Join(dir, "volume", "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := s.Bucket(t.Context(), store.BucketConfig{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Flush(t.Context()), b.Put(t.Context(), "key", nil)); err != nil {
		t.Fatal(err)
	}
	flushed := recordFlushes(s)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(flushed(), "\n")
	if !strings.Contains(all, "KV_a") || strings.Contains(all, "lost+found") {
		t.Errorf("flushed:\n%s", all)
	}
}
