// Package store keeps the controller's durable run-time state: small values in named buckets, and larger ones (what replicas
// publish to each other) in named folders of blobs. Agent status, request nonces, bindings and the serials already used
// live here. Together with git it is all there is to back up.
//
// It promises that a write which returned is seen by every later Get, whichever replica asks; that of several writers who
// compare and set one succeeds; and that whoever watches is told the last state of every key, in the order of the writes.
// Lists and watches of a replicated store may begin a moment behind: whoever must not miss anything writes a key of its own
// and waits until its watch tells it.
//
// The contract is here, with Memory, which is for tests. The one durable implementation is package jetstream below: it
// brings NATS with it, which what only reads the contract (the witness in the CLI) must not link.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound says that a bucket does not hold a key.
	ErrNotFound = errors.New("key not found")
	// ErrExists says that Create found the key taken.
	ErrExists = errors.New("key exists")
	// ErrConflict says that Update or Remove found another revision than the caller's: somebody else wrote in between.
	ErrConflict = errors.New("key was changed by somebody else")
	// ErrWatchEnded says that a watch can tell no more: the store was closed, or the bucket is gone.
	ErrWatchEnded = errors.New("watch ended")
)

// Store holds buckets.
type Store interface {
	// Bucket opens a bucket and makes it if it is not there. Names are letters, digits, dashes and underscores.
	Bucket(ctx context.Context, cfg BucketConfig) (Bucket, error)
	// Buckets describes the buckets that were ever opened through a Store, by name.
	Buckets(ctx context.Context) ([]BucketConfig, error)
	// Blobs opens a folder of blobs and makes it if it is not there. Of cfg, Name, Description and MaxBytes count.
	Blobs(ctx context.Context, cfg BucketConfig) (Blobs, error)
	// Flush returns once a power cut takes nothing that was written before the call. After the disk has failed once it fails until
	// the store is opened anew. Where a cluster of servers holds the store, that is theirs to see to, and Flush does nothing.
	Flush(ctx context.Context) error
	// Ready reports whether the store can be reached; nil means yes.
	Ready() error
	// Close flushes and ends the store; buckets fail afterwards.
	Close() error
}

// BucketConfig names a bucket.
type BucketConfig struct {
	Name string
	// Description tells people what the bucket holds.
	Description string
	// TTL is how long a value lives after it was written; 0: for ever.
	TTL time.Duration
	// MaxBytes bounds the bucket, MaxValueBytes one value; 0: unbounded.
	MaxBytes      int64
	MaxValueBytes int32
}

// Bucket holds values by key. Keys are dot-separated words of letters, digits, dashes and underscores. Values are copied
// in and out. Methods are safe for concurrent use.
type Bucket interface {
	// Get fails with ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put writes whatever was there before.
	Put(ctx context.Context, key string, value []byte) error
	// Create writes only if there is no such key, and fails with ErrExists otherwise: of any number of concurrent calls
	// with one key, one succeeds.
	Create(ctx context.Context, key string, value []byte) error
	// GetRevision is Get with the revision of the value: it grows with every write to the bucket and is never 0. Fails with
	// ErrNotFound.
	GetRevision(ctx context.Context, key string) (value []byte, revision uint64, err error)
	// Update writes only if the key's revision is still this one, and gives the new one; revision 0 says that there must be
	// no such key. Fails with ErrConflict. After any other failure the write may have taken place or not.
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete is no error if there is no such key.
	Delete(ctx context.Context, key string) error
	// Remove deletes only if the key's revision is still this one. Fails with ErrConflict.
	Remove(ctx context.Context, key string, revision uint64) error
	// Each calls f for every key below prefix ("a.b" is below "a"; "" is above all), in no order, until f fails.
	Each(ctx context.Context, prefix string, f func(key string, value []byte) error) error
	// Keys lists the keys below prefix, in no order, without reading their values.
	Keys(ctx context.Context, prefix string) ([]string, error)
	// Watch tells f every value below prefix that there is, then one Change without a key, then every change until ctx ends
	// or the store does; the error is never nil. A key that changes fast may skip values, never the last one. A value that
	// its TTL ends is not told. f runs on the caller's goroutine, one call at a time.
	Watch(ctx context.Context, prefix string, f func(Change)) error
}

// Change is one thing that a Watch tells.
type Change struct {
	// Key is empty once: when all values that were there at the start have been told.
	Key      string
	Value    []byte // nil if Deleted
	Revision uint64
	Deleted  bool
}

// Blobs holds immutable values of any size under names. Names are like keys. Methods are safe for concurrent use.
type Blobs interface {
	// Put stores data under name. A name that is there already keeps what it has: name blobs by their content.
	Put(ctx context.Context, name string, data []byte) error
	// Get gives what was put, whole and undamaged; at most limit bytes. Fails with ErrNotFound.
	Get(ctx context.Context, name string, limit int) ([]byte, error)
	// Delete is no error if there is no such blob.
	Delete(ctx context.Context, name string) error
	// Names lists the blobs below prefix, in no order.
	Names(ctx context.Context, prefix string) ([]string, error)
}
