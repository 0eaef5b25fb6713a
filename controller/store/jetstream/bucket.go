package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/apex-network/apex/controller/store"
)

// markerLife is how long the marker of a deleted key stays. Whoever watches and is cut off for longer may miss that the key
// went; without an end, markers of short-lived keys would fill the bucket.
const markerLife = 7 * 24 * time.Hour

// ours marks the streams that this package made, in an account that others may use too.
const ours = "apex-store"

// Names of JetStream's key-value convention.
const (
	streamPrefix  = "KV_"
	subjectPrefix = "$KV."
)

// Bucket implements store.Store. The stream is that of a JetStream bucket (the nats command can read it), but for one thing:
// values are read from the stream's leader, not from the nearest copy, so that a write which was acknowledged is seen by the
// next read.
func (s *Store) Bucket(ctx context.Context, cfg store.BucketConfig) (store.Bucket, error) {
	stream := jetstream.StreamConfig{
		Name: streamPrefix + cfg.Name, Description: cfg.Description, Subjects: []string{subjectPrefix + cfg.Name + ".>"},
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxConsumers: -1, MaxBytes: unbounded(cfg.MaxBytes), MaxMsgSize: unbounded(cfg.MaxValueBytes),
		MaxAge: cfg.TTL, Duplicates: window(cfg.TTL), Storage: jetstream.FileStorage, Replicas: s.replicas,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, Metadata: map[string]string{ours: "1"},
	}
	if cfg.TTL == 0 {
		stream.AllowMsgTTL, stream.SubjectDeleteMarkerTTL = true, markerLife
	}
	if _, err := s.js.CreateOrUpdateStream(ctx, stream); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", cfg.Name, err)
	}
	kv, err := s.js.KeyValue(ctx, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", cfg.Name, err)
	}
	return &bucket{store: s, name: cfg.Name, kv: kv, markers: cfg.TTL == 0}, nil
}

// unbounded is n, or -1 for 0.
func unbounded[N int32 | int64](n N) N { return cmp.Or(n, -1) }

// window is how long JetStream recognises a repeated message, which nobody here needs: as short as the values' life.
func window(ttl time.Duration) time.Duration {
	if ttl > 0 {
		return min(ttl, time.Minute)
	}
	return time.Minute
}

// Buckets implements store.Store. It asks for the names first and then for each: a list of streams leaves out, without a word,
// those whose leader did not answer in time.
func (s *Store) Buckets(ctx context.Context) ([]store.BucketConfig, error) {
	var out []store.BucketConfig
	list := s.js.StreamNames(ctx, jetstream.WithStreamListSubject(subjectPrefix+">"))
	for stream := range list.Name() {
		name, ok := strings.CutPrefix(stream, streamPrefix)
		if !ok {
			continue
		}
		info, err := s.js.Stream(ctx, stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("bucket %s: %w", name, err)
		}
		if c := info.CachedInfo().Config; c.Metadata[ours] != "" || s.embedded != nil {
			out = append(out, store.BucketConfig{
				Name: name, Description: c.Description, TTL: c.MaxAge, MaxBytes: max(c.MaxBytes, 0), MaxValueBytes: max(c.MaxMsgSize, 0),
			})
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list buckets: %w", err)
	}
	slices.SortFunc(out, func(a, b store.BucketConfig) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

type bucket struct {
	store   *Store
	name    string
	kv      jetstream.KeyValue
	markers bool // whether the markers of deleted keys have a life of their own
}

func (b *bucket) fail(key string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound):
		err = store.ErrNotFound
	case errors.Is(err, jetstream.ErrKeyRevisionMismatch): // before the next: they share a code
		err = store.ErrConflict
	case errors.Is(err, jetstream.ErrKeyExists):
		err = store.ErrExists
	case mismatch(err):
		err = store.ErrConflict
	}
	return fmt.Errorf("%s/%s: %w", b.name, key, err)
}

// mismatch knows the code of replicated streams, which Create does not translate where the key was deleted before.
func mismatch(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

func (b *bucket) Get(ctx context.Context, key string) ([]byte, error) {
	value, _, err := b.GetRevision(ctx, key)
	return value, err
}

func (b *bucket) GetRevision(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := b.kv.Get(ctx, key)
	if err != nil {
		return nil, 0, b.fail(key, err)
	}
	return e.Value(), e.Revision(), nil
}

func (b *bucket) Put(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, b.store.timeout)
	defer cancel()
	_, err := b.kv.Put(ctx, key, value)
	return b.fail(key, err)
}

func (b *bucket) Create(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, b.store.timeout)
	defer cancel()
	_, err := b.kv.Create(ctx, key, value)
	if mismatch(err) {
		err = jetstream.ErrKeyExists
	}
	return b.fail(key, err)
}

func (b *bucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.store.timeout)
	defer cancel()
	var next uint64
	var err error
	if revision == 0 {
		// A deleted key has a revision too, that of its marker; Create knows.
		if next, err = b.kv.Create(ctx, key, value); errors.Is(err, jetstream.ErrKeyExists) {
			err = store.ErrConflict
		}
	} else {
		next, err = b.kv.Update(ctx, key, value, revision)
	}
	return next, b.fail(key, err)
}

func (b *bucket) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, b.store.timeout)
	defer cancel()
	err := b.kv.Purge(ctx, key, b.purge()...)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil
	}
	return b.fail(key, err)
}

func (b *bucket) Remove(ctx context.Context, key string, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, b.store.timeout)
	defer cancel()
	return b.fail(key, b.kv.Purge(ctx, key, b.purge(jetstream.LastRevision(revision))...))
}

func (b *bucket) purge(opts ...jetstream.KVDeleteOpt) []jetstream.KVDeleteOpt {
	if b.markers {
		opts = append(opts, jetstream.PurgeTTL(markerLife))
	}
	return opts
}

// errEnough ends the watch of Each.
var errEnough = errors.New("enough")

func (b *bucket) Each(ctx context.Context, prefix string, f func(string, []byte) error) error {
	return b.list(ctx, prefix, f)
}

func (b *bucket) Keys(ctx context.Context, prefix string) (keys []string, err error) {
	err = b.list(ctx, prefix, func(key string, _ []byte) error { keys = append(keys, key); return nil }, jetstream.MetaOnly())
	return keys, err
}

// list tells f what there is.
func (b *bucket) list(ctx context.Context, prefix string, f func(string, []byte) error, opts ...jetstream.WatchOpt) error {
	err := b.follow(ctx, prefix, nil, func(c store.Change) error {
		if c.Key == "" {
			return errEnough
		}
		return f(c.Key, c.Value)
	}, append(opts, jetstream.IgnoreDeletes())...)
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errReconnected ends one consumer of Watch, retryWatch is the pause before the next if that cannot be made.
var errReconnected = errors.New("reconnected")

const retryWatch = 250 * time.Millisecond

// Watch begins anew after every reconnect, for the client notices only after a while that the servers forgot its consumer.
// It does not tell anything twice.
func (b *bucket) Watch(ctx context.Context, prefix string, f func(store.Change)) error {
	ready, last := false, uint64(0)
	tell := func(c store.Change) error {
		switch {
		case c.Key == "" && ready, c.Key != "" && c.Revision <= last:
			return nil
		case c.Key == "":
			ready = true
		default:
			last = c.Revision
		}
		if ready || !c.Deleted { // what is gone already is no news at the start
			f(c)
		}
		return nil
	}
	err := b.follow(ctx, prefix, b.store.nextReconnect(), tell)
	for errors.Is(err, errReconnected) {
		again := b.store.nextReconnect()
		err = b.follow(ctx, prefix, again, tell)
		for errors.Is(err, errNoConsumer) && ctx.Err() == nil && !b.store.conn.IsClosed() {
			select {
			case <-ctx.Done():
			case <-time.After(retryWatch):
			}
			again = b.store.nextReconnect()
			err = b.follow(ctx, prefix, again, tell)
		}
	}
	return err
}

// errNoConsumer says that a watch could not begin.
var errNoConsumer = errors.New("cannot be watched")

// follow tells f what there is, a Change without a key, and what changes, until f fails or the channel is closed.
func (b *bucket) follow(ctx context.Context, prefix string, until <-chan struct{}, f func(store.Change) error, opts ...jetstream.WatchOpt) error {
	pattern := ">"
	if prefix != "" {
		pattern = prefix + ".>"
	}
	w, err := b.kv.Watch(ctx, pattern, opts...)
	if err != nil {
		return b.fail(prefix, fmt.Errorf("%w: %w", errNoConsumer, err))
	}
	defer func() {
		_ = w.Stop() // the server forgets the consumer by itself
		go func() {
			for range w.Updates() { // until it is closed: the one who fills it may be waiting
			}
		}()
	}()
	for {
		select {
		case <-ctx.Done():
			return b.fail(prefix, ctx.Err())
		case <-until:
			return errReconnected
		case e, ok := <-w.Updates():
			if !ok {
				if err := ctx.Err(); err != nil { // the end of ctx closes the channel too
					return b.fail(prefix, err)
				}
				return b.fail(prefix, store.ErrWatchEnded)
			}
			c := store.Change{}
			if e != nil { // nil: end of the values there are
				c = store.Change{Key: e.Key(), Value: e.Value(), Revision: e.Revision(), Deleted: e.Operation() != jetstream.KeyValuePut}
				if c.Deleted {
					c.Value = nil
				}
			}
			if err := f(c); err != nil {
				return err
			}
		}
	}
}
