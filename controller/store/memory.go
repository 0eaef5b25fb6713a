package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a Store that forgets when the process ends. TTLs follow the clock it is given.
type Memory struct {
	now     func() time.Time
	mu      sync.Mutex
	buckets map[string]*memoryBucket
	blobs   map[string]*memoryBlobs
	closed  bool
	done    chan struct{} // closed with the store
}

// NewMemory gives an empty store.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, buckets: map[string]*memoryBucket{}, blobs: map[string]*memoryBlobs{}, done: make(chan struct{})}
}

// Bucket implements Store.
func (m *Memory) Bucket(_ context.Context, cfg BucketConfig) (Bucket, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	b, ok := m.buckets[cfg.Name]
	if !ok {
		b = &memoryBucket{store: m, cfg: cfg, values: map[string]memoryValue{}, watches: map[*memoryWatch]struct{}{}}
		m.buckets[cfg.Name] = b
	}
	return b, nil
}

// Buckets implements Store.
func (m *Memory) Buckets(context.Context) ([]BucketConfig, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]BucketConfig, 0, len(m.buckets))
	for _, name := range slices.Sorted(maps.Keys(m.buckets)) {
		out = append(out, m.buckets[name].cfg)
	}
	return out, nil
}

var errClosed = errors.New("store is closed")

// Flush implements Store; there is no disk.
func (m *Memory) Flush(context.Context) error { return nil }

// Ready implements Store.
func (m *Memory) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	return nil
}

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		close(m.done)
	}
	return nil
}

type memoryValue struct {
	data     []byte
	revision uint64
	until    time.Time // zero: for ever
}

type memoryBucket struct {
	store *Memory
	cfg   BucketConfig
	// Guarded by store.mu.
	values  map[string]memoryValue
	last    uint64 // revision
	watches map[*memoryWatch]struct{}
}

// lock drops what has expired. The caller unlocks store.mu in every case.
func (b *memoryBucket) lock(ctx context.Context) error {
	b.store.mu.Lock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if b.store.closed {
		return errClosed
	}
	now := b.store.now()
	for k, v := range b.values {
		if !v.until.IsZero() && !now.Before(v.until) {
			delete(b.values, k)
		}
	}
	return nil
}

func (b *memoryBucket) Get(ctx context.Context, key string) ([]byte, error) {
	data, _, err := b.GetRevision(ctx, key)
	return data, err
}

func (b *memoryBucket) GetRevision(ctx context.Context, key string) ([]byte, uint64, error) {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return nil, 0, err
	}
	v, ok := b.values[key]
	if !ok {
		return nil, 0, fmt.Errorf("%s/%s: %w", b.cfg.Name, key, ErrNotFound)
	}
	return bytes.Clone(v.data), v.revision, nil
}

func (b *memoryBucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return 0, err
	}
	if b.values[key].revision != revision {
		return 0, fmt.Errorf("%s/%s: %w", b.cfg.Name, key, ErrConflict)
	}
	if err := b.put(key, value); err != nil {
		return 0, err
	}
	return b.last, nil
}

func (b *memoryBucket) Put(ctx context.Context, key string, value []byte) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	return b.put(key, value)
}

func (b *memoryBucket) Create(ctx context.Context, key string, value []byte) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	if _, taken := b.values[key]; taken {
		return fmt.Errorf("%s/%s: %w", b.cfg.Name, key, ErrExists)
	}
	return b.put(key, value)
}

func (b *memoryBucket) put(key string, value []byte) error {
	if limit := int(b.cfg.MaxValueBytes); limit > 0 && len(value) > limit {
		return fmt.Errorf("%s/%s: value of %d bytes, limit %d", b.cfg.Name, key, len(value), limit)
	}
	b.last++
	v := memoryValue{data: bytes.Clone(value), revision: b.last}
	if b.cfg.TTL > 0 {
		v.until = b.store.now().Add(b.cfg.TTL)
	}
	b.values[key] = v
	b.tell(Change{Key: key, Value: v.data, Revision: v.revision})
	return nil
}

func (b *memoryBucket) Delete(ctx context.Context, key string) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	b.remove(key)
	return nil
}

func (b *memoryBucket) Remove(ctx context.Context, key string, revision uint64) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	if v, ok := b.values[key]; !ok || v.revision != revision {
		return fmt.Errorf("%s/%s: %w", b.cfg.Name, key, ErrConflict)
	}
	b.remove(key)
	return nil
}

func (b *memoryBucket) remove(key string) {
	if _, ok := b.values[key]; ok {
		delete(b.values, key)
		b.last++
		b.tell(Change{Key: key, Revision: b.last, Deleted: true})
	}
}

func (b *memoryBucket) Each(ctx context.Context, prefix string, f func(string, []byte) error) error {
	found := map[string][]byte{}
	err := b.lock(ctx)
	for k, v := range b.values {
		if err == nil && Below(prefix, k) {
			found[k] = bytes.Clone(v.data)
		}
	}
	b.store.mu.Unlock()
	if err != nil {
		return err
	}
	for k, v := range found {
		if err := f(k, v); err != nil {
			return err
		}
	}
	return nil
}

func (b *memoryBucket) Keys(ctx context.Context, prefix string) ([]string, error) {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	var keys []string
	for k := range b.values {
		if Below(prefix, k) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// Below reports whether key lies below prefix, as Each, Watch and Names mean it.
func Below(prefix, key string) bool {
	return prefix == "" || strings.HasPrefix(key, prefix+".")
}

// memoryWatch is a queue of what one watcher has not been told yet.
type memoryWatch struct {
	prefix string
	queue  []Change      // guarded by store.mu
	more   chan struct{} // holds a token while queue may not be empty
}

// tell queues a change for those who watch. The caller holds store.mu.
func (b *memoryBucket) tell(c Change) {
	for w := range b.watches {
		if Below(w.prefix, c.Key) {
			w.add(c)
		}
	}
}

func (w *memoryWatch) add(c Change) {
	c.Value = bytes.Clone(c.Value)
	w.queue = append(w.queue, c)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (b *memoryBucket) Watch(ctx context.Context, prefix string, f func(Change)) error {
	w, err := b.watch(ctx, prefix)
	if err != nil {
		return err
	}
	defer func() {
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
		delete(b.watches, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s/%s: %w", b.cfg.Name, prefix, ctx.Err())
		case <-b.store.done:
			return fmt.Errorf("%s/%s: %w: %w", b.cfg.Name, prefix, ErrWatchEnded, errClosed)
		case <-w.more:
		}
		b.store.mu.Lock()
		queue := w.queue
		w.queue = nil
		b.store.mu.Unlock()
		for _, c := range queue {
			f(c)
		}
	}
}

// watch begins with what there is, in the order it was written.
func (b *memoryBucket) watch(ctx context.Context, prefix string) (*memoryWatch, error) {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	w := &memoryWatch{prefix: prefix, more: make(chan struct{}, 1)}
	keys := slices.SortedFunc(maps.Keys(b.values), func(x, y string) int {
		return cmp.Compare(b.values[x].revision, b.values[y].revision)
	})
	for _, k := range keys {
		if Below(prefix, k) {
			w.add(Change{Key: k, Value: b.values[k].data, Revision: b.values[k].revision})
		}
	}
	w.add(Change{})
	b.watches[w] = struct{}{}
	return w, nil
}

// Blobs implements Store.
func (m *Memory) Blobs(_ context.Context, cfg BucketConfig) (Blobs, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	b, ok := m.blobs[cfg.Name]
	if !ok {
		b = &memoryBlobs{store: m, name: cfg.Name, values: map[string][]byte{}}
		m.blobs[cfg.Name] = b
	}
	return b, nil
}

type memoryBlobs struct {
	store  *Memory
	name   string
	values map[string][]byte // guarded by store.mu
}

// lock fails if nothing can be done any more. The caller unlocks store.mu in every case.
func (b *memoryBlobs) lock(ctx context.Context) error {
	b.store.mu.Lock()
	if b.store.closed {
		return errClosed
	}
	return ctx.Err()
}

func (b *memoryBlobs) Put(ctx context.Context, name string, data []byte) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	if _, ok := b.values[name]; !ok {
		b.values[name] = bytes.Clone(data)
	}
	return nil
}

func (b *memoryBlobs) Get(ctx context.Context, name string, limit int) ([]byte, error) {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	data, ok := b.values[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("%s/%s: %w", b.name, name, ErrNotFound)
	case len(data) > limit:
		return nil, fmt.Errorf("%s/%s: blob of %d bytes, limit %d", b.name, name, len(data), limit)
	}
	return bytes.Clone(data), nil
}

func (b *memoryBlobs) Delete(ctx context.Context, name string) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	delete(b.values, name)
	return nil
}

func (b *memoryBlobs) Names(ctx context.Context, prefix string) ([]string, error) {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	var out []string
	for name := range b.values {
		if Below(prefix, name) {
			out = append(out, name)
		}
	}
	return out, nil
}
