package store_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/store"
)

func bucket(t *testing.T, s store.Store, cfg store.BucketConfig) store.Bucket {
	t.Helper()
	b, err := s.Bucket(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func exerciseRevisions(t *testing.T, s store.Store) {
	ctx := t.Context()
	b := bucket(t, s, store.BucketConfig{Name: "revisions", MaxValueBytes: 1 << 10})
	if _, err := b.Update(ctx, "a", []byte("1"), 7); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("update of nothing at revision 7: %v", err)
	}
	first, err := b.Update(ctx, "a", []byte("1"), 0)
	if err != nil || first == 0 {
		t.Fatalf("create at revision 0: %d, %v", first, err)
	}
	if _, err := b.Update(ctx, "a", []byte("x"), 0); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("second create at revision 0: %v", err)
	}
	second, err := b.Update(ctx, "a", []byte("2"), first)
	if err != nil || second <= first {
		t.Fatalf("update: %d after %d, %v", second, first, err)
	}
	if _, err := b.Update(ctx, "a", []byte("x"), first); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("update at an old revision: %v", err)
	}
	if v, r, err := b.GetRevision(ctx, "a"); err != nil || string(v) != "2" || r != second {
		t.Fatalf("get: %q at %d, %v", v, r, err)
	}
	if err := b.Remove(ctx, "a", first); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("remove at an old revision: %v", err)
	}
	if err := b.Remove(ctx, "a", second); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(ctx, "a", second); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("remove of a deleted key: %v", err)
	}
	if _, err := b.Update(ctx, "a", []byte("x"), second); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("update of a deleted key: %v", err)
	}
	if _, _, err := b.GetRevision(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("get of a deleted key: %v", err)
	}
	if r, err := b.Update(ctx, "a", []byte("3"), 0); err != nil || r <= second {
		t.Fatalf("create after deletion: %d, %v", r, err)
	}
	if err := b.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if got := count(t, b, 20); got != 20 {
		t.Fatalf("20 increments by compare and set: counted %d", got)
	}
}

// count lets n goroutines add one each.
func count(t *testing.T, b store.Bucket, n int) int {
	add := func() error {
		for {
			v, r, err := b.GetRevision(t.Context(), "counter")
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if _, err = b.Update(t.Context(), "counter", append(v, 'x'), r); !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if err := add(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, err := b.Get(t.Context(), "counter")
	if err != nil {
		t.Fatal(err)
	}
	return len(v)
}

// heard collects what a watch tells.
type heard struct {
	mu      sync.Mutex
	changes []store.Change
}

func (h *heard) add(c store.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes = append(h.changes, c)
}

func (h *heard) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, c := range h.changes {
		switch {
		case c.Key == "":
			out = append(out, "ready")
		case c.Deleted:
			out = append(out, "-"+c.Key)
		default:
			out = append(out, c.Key+"="+string(c.Value))
		}
	}
	return strings.Join(out, " ")
}

func (h *heard) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute) // only for what hangs
	for h.text() != want {
		if time.Now().After(deadline) {
			t.Fatalf("heard %q, want %q", h.text(), want)
		}
		time.Sleep(time.Millisecond)
	}
}

// settled waits until lists below prefix tell exactly this: a replicated store may be a moment behind, on each of its servers.
// Which of them answers is chance, so that many have to agree.
func settled(t *testing.T, b store.Bucket, prefix string, want map[string]string) {
	t.Helper()
	agree(t, func() (map[string]string, error) {
		got := map[string]string{}
		err := b.Each(t.Context(), prefix, func(k string, v []byte) error { got[k] = string(v); return nil })
		return got, err
	}, func(got map[string]string) bool { return maps.Equal(got, want) })
}

// agree waits until what list tells is good whichever server answers.
func agree[T any](t *testing.T, list func() (T, error), good func(T) bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Minute) // only for what hangs
	for times := 0; times < 30; times++ {
		got, err := list()
		if err != nil {
			t.Fatal(err)
		}
		if !good(got) {
			times = -1
		}
		if time.Now().After(deadline) {
			t.Fatalf("lists tell %v", got)
		}
	}
}

func exerciseWatch(t *testing.T, s store.Store) {
	b := bucket(t, s, store.BucketConfig{Name: "watched"})
	put := func(key, value string) {
		if err := b.Put(t.Context(), key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	put("n.gone", "1")
	put("n.a", "1")
	put("m.a", "1")
	if err := b.Delete(t.Context(), "n.gone"); err != nil {
		t.Fatal(err)
	}
	settled(t, b, "n", map[string]string{"n.a": "1"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	h := &heard{}
	ended := make(chan error, 1)
	go func() { ended <- b.Watch(ctx, "n", h.add) }()
	h.await(t, "n.a=1 ready")
	put("n.b", "2")
	put("m.b", "2")
	h.await(t, "n.a=1 ready n.b=2")
	if err := b.Delete(t.Context(), "n.a"); err != nil {
		t.Fatal(err)
	}
	h.await(t, "n.a=1 ready n.b=2 -n.a")
	last := h.changes[1:]
	if !slices.IsSortedFunc(last[1:], func(x, y store.Change) int { return int(x.Revision) - int(y.Revision) }) {
		t.Errorf("revisions do not grow: %+v", last)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("watch ended with %v", err)
	}
	empty := &heard{}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- b.Watch(ctx, "nothing", empty.add) }()
	empty.await(t, "ready")
	cancel()
	<-ended
}

func exerciseBlobs(t *testing.T, s store.Store) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // only for what hangs; without one, JetStream gives up sooner
	defer cancel()
	b, err := s.Blobs(ctx, store.BucketConfig{Name: "files"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "n.a", 1); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("get of nothing: %v", err)
	}
	if names, err := b.Names(ctx, ""); err != nil || len(names) != 0 {
		t.Fatalf("names: %v, %v", names, err)
	}
	big := make([]byte, 3<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"n.a", "n.b", "m.c"} {
		if err := b.Put(ctx, name, big); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Put(ctx, "n.a", []byte("another")); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(ctx, "n.a", len(big)); err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes came back, %v", len(got), err)
	}
	if _, err := b.Get(ctx, "n.a", len(big)-1); err == nil {
		t.Fatal("a blob over the limit was read")
	}
	if err := errors.Join(b.Delete(ctx, "n.b"), b.Delete(ctx, "n.b")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "n.b", len(big)); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("get of a deleted blob: %v", err)
	}
	agree(t, func() ([]string, error) { return b.Names(ctx, "n") }, func(names []string) bool {
		return slices.Equal(names, []string{"n.a"})
	})
}

func exerciseTTL(t *testing.T, s store.Store) {
	const ttl = time.Second
	b := bucket(t, s, store.BucketConfig{Name: "short", TTL: ttl})
	var r uint64
	for {
		before := time.Now()
		first, err := b.Update(t.Context(), "k", []byte("1"), 0)
		if err != nil {
			t.Fatal(err)
		}
		r, err = b.Update(t.Context(), "k", []byte("2"), first)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrConflict) || time.Since(before) < ttl {
			t.Fatal(err)
		} // else the first value had its time, and the key is free again
	}
	deadline := time.Now().Add(2 * time.Minute) // only for what hangs
	for {
		err := b.Create(t.Context(), "k", nil)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrExists) || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := b.Update(t.Context(), "k", nil, r); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("update at the revision of an expired value: %v", err)
	}
}

func exerciseList(t *testing.T, s store.Store) {
	list, err := s.Buckets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, c := range list {
		text = append(text, fmt.Sprintf("%s/%s/%d", c.Name, c.TTL, c.MaxValueBytes))
	}
	want := "revisions/0s/1024 settling/0s/0 short/1s/0 status/0s/1024 watched/0s/0"
	if got := strings.Join(text, " "); got != want {
		t.Errorf("buckets are %s, want %s", got, want)
	}
}

func exerciseSettled(t *testing.T, s store.Store) {
	b := bucket(t, s, store.BucketConfig{Name: "settling"})
	for i := range 20 {
		key := fmt.Sprint("n.", i)
		if err := errors.Join(b.Put(t.Context(), key, []byte(key)), b.Put(t.Context(), "m.other", nil)); err != nil {
			t.Fatal(err)
		}
		told := map[string]bool{}
		if err := store.Settled(t.Context(), b, "n", func(c store.Change) { told[c.Key] = true }); err != nil {
			t.Fatal(err)
		}
		if !told[key] || len(told) != i+1 {
			t.Fatalf("after %s: %v", key, told)
		}
	}
}
