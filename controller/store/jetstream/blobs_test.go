package jetstream

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats.go/jetstream"
)

// copies answers one Get after the other with what a copy has of a blob.
type copies struct {
	jetstream.ObjectStore
	size uint64
	have []string
}

func (c *copies) Get(context.Context, string, ...jetstream.GetObjectOpt) (jetstream.ObjectResult, error) {
	text := c.have[0]
	if len(c.have) > 1 {
		c.have = c.have[1:]
	}
	return &result{Reader: strings.NewReader(text), info: jetstream.ObjectInfo{Size: c.size}, sound: !strings.Contains(text, "-")}, nil
}

// result ends as JetStream's does: with an error, which Info repeats, where the digest does not match.
type result struct {
	io.Reader
	info  jetstream.ObjectInfo
	sound bool
	err   error
}

func (r *result) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF && !r.sound {
		r.err = jetstream.ErrDigestMismatch
		err = r.err
	}
	return n, err
}

func (r *result) Close() error                         { return nil }
func (r *result) Error() error                         { return r.err }
func (r *result) Info() (*jetstream.ObjectInfo, error) { return &r.info, r.err }

func TestBlobIsReadAgainWhereACopyIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := blobs{name: "files", os: &copies{size: 5, have: []string{"-", "wh-", "whole"}}, timeout: requestTimeout}
		if data, err := b.Get(t.Context(), "a", 10); err != nil || string(data) != "whole" {
			t.Errorf("%q, %v", data, err)
		}
		b.os = &copies{size: 5, have: []string{"wh-"}}
		if _, err := b.Get(t.Context(), "a", 10); !errors.Is(err, errBehind) {
			t.Errorf("a copy that stays behind: %v", err)
		}
		b.os = &copies{size: 5, have: []string{"who-e", "whole"}}
		if _, err := b.Get(t.Context(), "a", 10); !errors.Is(err, jetstream.ErrDigestMismatch) {
			t.Errorf("a damaged blob: %v", err)
		}
	})
}
