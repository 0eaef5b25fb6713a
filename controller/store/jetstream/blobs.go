package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/apex-network/apex/controller/store"
)

// blobPrefix is what JetStream's object store calls its streams.
const blobPrefix = "OBJ_"

// Blobs implements store.Store with JetStream's object store, which cuts blobs into messages and checks a digest of the
// whole. As in Bucket, what blobs there are is asked of the stream's leader: the nearest copy may be behind, and for a
// moment after the stream was made it does not answer at all.
func (s *Store) Blobs(ctx context.Context, cfg store.BucketConfig) (store.Blobs, error) {
	fail := func(err error) (store.Blobs, error) { return nil, fmt.Errorf("blobs %s: %w", cfg.Name, err) }
	_, err := s.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: cfg.Name, Description: cfg.Description, MaxBytes: unbounded(cfg.MaxBytes), Storage: jetstream.FileStorage,
		Replicas: s.replicas, Metadata: map[string]string{ours: "1"},
	})
	if err != nil && !errors.Is(err, jetstream.ErrBucketExists) {
		return fail(err)
	}
	stream, err := s.js.Stream(ctx, blobPrefix+cfg.Name)
	if err != nil {
		return fail(err)
	}
	if c := stream.CachedInfo().Config; c.AllowDirect {
		c.AllowDirect = false
		if _, err := s.js.UpdateStream(ctx, c); err != nil {
			return fail(err)
		}
	}
	os, err := s.js.ObjectStore(ctx, cfg.Name)
	if err != nil {
		return fail(err)
	}
	return &blobs{name: cfg.Name, os: os}, nil
}

type blobs struct {
	name string
	os   jetstream.ObjectStore
}

func (b *blobs) fail(name string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		err = store.ErrNotFound
	}
	return fmt.Errorf("%s/%s: %w", b.name, name, err)
}

func (b *blobs) Put(ctx context.Context, name string, data []byte) error {
	if _, err := b.os.GetInfo(ctx, name); err == nil {
		return nil
	}
	_, err := b.os.Put(ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(data))
	return b.fail(name, err)
}

func (b *blobs) Get(ctx context.Context, name string, limit int) (_ []byte, err error) {
	r, err := b.os.Get(ctx, name)
	if err != nil {
		return nil, b.fail(name, err)
	}
	defer func() { err = errors.Join(err, b.fail(name, r.Close())) }()
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, b.fail(name, err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s/%s: blob of more than %d bytes", b.name, name, limit)
	}
	return data, nil
}

func (b *blobs) Delete(ctx context.Context, name string) error {
	err := b.os.Delete(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil
	}
	return b.fail(name, err)
}

func (b *blobs) Names(ctx context.Context, prefix string) ([]string, error) {
	list, err := b.os.List(ctx)
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, nil
	}
	if err != nil {
		return nil, b.fail(prefix, err)
	}
	var out []string
	for _, info := range list {
		if store.Below(prefix, info.Name) {
			out = append(out, info.Name)
		}
	}
	return out, nil
}
