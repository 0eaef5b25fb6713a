package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Memory is a Store that forgets when the process ends. TTLs follow the clock it is given.
type Memory struct {
	now     func() time.Time
	mu      sync.Mutex
	buckets map[string]*memoryBucket
	closed  bool
}

// NewMemory gives an empty store.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, buckets: map[string]*memoryBucket{}}
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
		b = &memoryBucket{store: m, cfg: cfg, values: map[string]memoryValue{}}
		m.buckets[cfg.Name] = b
	}
	return b, nil
}

var errClosed = errors.New("store is closed")

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
	m.closed = true
	return nil
}

type memoryValue struct {
	data  []byte
	until time.Time // zero: for ever
}

type memoryBucket struct {
	store  *Memory
	cfg    BucketConfig
	values map[string]memoryValue // guarded by store.mu
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
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	v, ok := b.values[key]
	if !ok {
		return nil, fmt.Errorf("%s/%s: %w", b.cfg.Name, key, ErrNotFound)
	}
	return bytes.Clone(v.data), nil
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
	v := memoryValue{data: bytes.Clone(value)}
	if b.cfg.TTL > 0 {
		v.until = b.store.now().Add(b.cfg.TTL)
	}
	b.values[key] = v
	return nil
}

func (b *memoryBucket) Delete(ctx context.Context, key string) error {
	defer b.store.mu.Unlock()
	if err := b.lock(ctx); err != nil {
		return err
	}
	delete(b.values, key)
	return nil
}

func (b *memoryBucket) Each(ctx context.Context, prefix string, f func(string, []byte) error) error {
	found := map[string][]byte{}
	err := b.lock(ctx)
	for k, v := range b.values {
		if err == nil && below(prefix, k) {
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

func below(prefix, key string) bool {
	return prefix == "" || strings.HasPrefix(key, prefix+".")
}
