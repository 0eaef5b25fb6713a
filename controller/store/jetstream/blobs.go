package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/apex-network/apex/controller/store"
)

// Blobs implements store.Store with JetStream's object store, which cuts blobs into messages and checks a digest of the whole.
func (s *Store) Blobs(ctx context.Context, cfg store.BucketConfig) (store.Blobs, error) {
	os, err := s.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: cfg.Name, Description: cfg.Description, MaxBytes: unbounded(cfg.MaxBytes), Storage: jetstream.FileStorage,
		Replicas: s.replicas, Metadata: map[string]string{ours: "1"},
	})
	if err == nil {
		err = answers(ctx, os)
	}
	if err != nil {
		return nil, fmt.Errorf("blobs %s: %w", cfg.Name, err)
	}
	return &blobs{name: cfg.Name, os: os}, nil
}

// answers waits until a copy of the object store answers: for a moment after it was made in a cluster, none does.
func answers(ctx context.Context, os jetstream.ObjectStore) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := os.GetInfo(ctx, "nothing")
		if !errors.Is(err, nats.ErrNoResponders) {
			return nil // what else is wrong shows when it is used
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		}
	}
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
