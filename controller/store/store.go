// Package store keeps the controller's durable run-time state: small values in named buckets. Agent status, request
// nonces and the serials already used live here, bindings will. Together with git it is all there is to back up.
//
// The one durable implementation is NATS JetStream, embedded in the process without a listener or reached by URL, the same
// code either way. Memory is its twin for tests.
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
)

// Store holds buckets.
type Store interface {
	// Bucket opens a bucket and makes it if it is not there. Names are letters, digits, dashes and underscores.
	Bucket(ctx context.Context, cfg BucketConfig) (Bucket, error)
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
	// Delete is no error if there is no such key.
	Delete(ctx context.Context, key string) error
	// Each calls f for every key below prefix ("a.b" is below "a"; "" is above all), in no order, until f fails.
	Each(ctx context.Context, prefix string, f func(key string, value []byte) error) error
}
