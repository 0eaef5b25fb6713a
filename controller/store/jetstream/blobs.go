package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/apex-network/apex/controller/store"
)

// Names of JetStream's object store convention.
const (
	blobStreamPrefix  = "OBJ_"
	blobSubjectPrefix = "$O."
)

// Blobs implements store.Store with JetStream's object store, which cuts blobs into messages and checks a digest of the whole.
// As with Bucket, its stream is not answered for by the nearest copy: what was put is there for who looks next.
func (s *Store) Blobs(ctx context.Context, cfg store.BucketConfig) (store.Blobs, error) {
	_, err := s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: blobStreamPrefix + cfg.Name, Description: cfg.Description,
		Subjects: []string{blobSubjectPrefix + cfg.Name + ".C.>", blobSubjectPrefix + cfg.Name + ".M.>"},
		MaxBytes: unbounded(cfg.MaxBytes), Storage: jetstream.FileStorage, Replicas: s.replicas,
		Discard: jetstream.DiscardNew, AllowRollup: true, Metadata: map[string]string{ours: "1"},
	})
	if err != nil {
		return nil, fmt.Errorf("blobs %s: %w", cfg.Name, err)
	}
	os, err := s.js.ObjectStore(ctx, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("blobs %s: %w", cfg.Name, err)
	}
	return &blobs{name: cfg.Name, os: os, timeout: s.timeout}, nil
}

type blobs struct {
	name    string
	os      jetstream.ObjectStore
	timeout time.Duration
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

// errBehind says that a copy of the store does not have the whole of a blob yet.
var errBehind = errors.New("the copy that was read is behind")

// Get reads what the blob consists of from the leader, but its messages from a copy that the servers choose. One that is behind
// ends where it is, and is read again: it has all in a moment.
func (b *blobs) Get(ctx context.Context, name string, limit int) ([]byte, error) {
	enough := time.Now().Add(b.timeout)
	for {
		data, err := b.read(ctx, name, limit)
		if !errors.Is(err, errBehind) || time.Now().After(enough) {
			return data, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(againBehind):
		}
	}
}

const againBehind = 20 * time.Millisecond

func (b *blobs) read(ctx context.Context, name string, limit int) (_ []byte, err error) {
	r, err := b.os.Get(ctx, name)
	if err != nil {
		return nil, b.fail(name, err)
	}
	defer func() { err = errors.Join(err, b.fail(name, r.Close())) }()
	info, err := r.Info() // after a failed read it gives that failure
	if err != nil {
		return nil, b.fail(name, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if errors.Is(err, jetstream.ErrDigestMismatch) && uint64(len(data)) < info.Size {
		err = fmt.Errorf("%w: %d of %d bytes", errBehind, len(data), info.Size)
	}
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
