package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// Stream is one open watch.
type Stream struct {
	client *Client
	base   *url.URL
	pace   *pace
	resp   *http.Response
	reader *protocol.WatchReader
}

// Watch opens the node's event stream and says which manifest and view the node holds; zero digests for none. The
// controller then sends what is newer. Close must be called.
func (c *Client) Watch(ctx context.Context, manifest, view peermap.Digest) (*Stream, error) {
	a := ask{path: protocol.WatchPath(c.opt.Network, c.opt.Zone, c.opt.Node), what: "watch", accept: string(protocol.Zstd), query: url.Values{}}
	if !manifest.IsZero() {
		a.query.Set(protocol.QueryManifest, manifest.String())
	}
	if !view.IsZero() {
		a.query.Set(protocol.QueryHave, view.String())
	}
	base := c.base()
	wrap := func(err error) error { return fmt.Errorf("watch at %s: %w", base, err) }
	ctx, pace := newPace(ctx, protocol.WatchTimeout, c.opt.MinRate)
	req, err := c.request(ctx, base, a)
	if err != nil {
		pace.stop()
		return nil, wrap(err)
	}
	req.Header.Set("Accept", protocol.TypeEvents)
	resp, err := c.http.Do(req)
	if err != nil {
		c.Rotate()
		err = pace.explain(ErrUnreachable, err)
		pace.stop()
		return nil, wrap(err)
	}
	if err := c.judge(resp, a); err != nil {
		resp.Body.Close()
		pace.stop()
		return nil, wrap(err)
	}
	c.heard.Store(c.opt.Now().UnixNano())
	counted := heard{c, pace.reader(resp.Body)}
	reader, err := protocol.NewWatchReader(counted, resp.Header.Get("Content-Encoding"))
	if err != nil {
		resp.Body.Close()
		pace.stop()
		return nil, wrap(err)
	}
	return &Stream{client: c, base: base, pace: pace, resp: resp, reader: reader}, nil
}

// Next blocks for the next message. A server that says nothing for protocol.WatchTimeout, not even a heartbeat, or that
// takes longer over one message than its bytes excuse, ends the stream with ErrSlow. Any error is final.
func (s *Stream) Next() (protocol.Message, error) {
	s.pace.again()
	message, err := s.reader.Next()
	if err == nil {
		return message, nil
	}
	wrap := func(err error) error { return fmt.Errorf("watch at %s: %w", s.base, err) }
	switch {
	case errors.Is(err, protocol.ErrTooLarge):
		return protocol.Message{}, wrap(fmt.Errorf("%w: %w", ErrTooLarge, err))
	case errors.Is(err, protocol.ErrMalformed):
		return protocol.Message{}, wrap(err)
	case errors.Is(err, io.EOF):
		return protocol.Message{}, wrap(fmt.Errorf("%w: the server closed the stream", ErrUnreachable))
	}
	return protocol.Message{}, wrap(s.pace.explain(ErrUnreachable, err))
}

// Close ends the stream.
func (s *Stream) Close() {
	s.pace.stop()
	s.resp.Body.Close()
	s.reader.Close()
}

// heard notes when bytes arrive.
type heard struct {
	c *Client
	r io.Reader
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.r.Read(b)
	if n > 0 {
		h.c.heard.Store(h.c.opt.Now().UnixNano())
	}
	return n, err
}
