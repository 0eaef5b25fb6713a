package serve

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// Cache policies. What carries a digest never changes; what only its node may see stays out of shared caches.
const (
	cacheForAll  = "public, max-age=31536000, immutable"
	cacheForOne  = "private, max-age=31536000, immutable"
	cacheRecheck = "private, no-cache"
)

// smallest is the size from which compression pays.
const smallest = 256

// body is a response with everything that HTTP caching wants to know.
type body struct {
	kind  string // media type
	cache string
	etag  string // without quotes
	enc   protocol.Encoding
	data  []byte
}

func (b body) write(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", b.cache)
	h.Set("ETag", `"`+b.etag+`"`)
	h.Add("Vary", "Accept-Encoding")
	if match(r, b.etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", b.kind)
	h.Set("Content-Length", strconv.Itoa(len(b.data)))
	if b.enc != "" && b.enc != protocol.Identity {
		h.Set("Content-Encoding", string(b.enc))
	}
	_, _ = w.Write(b.data) // the client is gone; there is nobody to tell
	return nil
}

// match reports whether the client holds this representation already.
func match(r *http.Request, etag string) bool {
	for part := range strings.SplitSeq(strings.Join(r.Header.Values("If-None-Match"), ","), ",") {
		part = strings.TrimPrefix(strings.TrimSpace(part), "W/")
		if part == "*" || part == `"`+etag+`"` {
			return true
		}
	}
	return false
}

// getRoot is public: a trust root holds public keys, and an agent has nothing but its pin when it asks.
func (s *Server) getRoot(r *http.Request) (body, error) {
	n, ok := s.network(r.PathValue("network"))
	if !ok {
		return body{}, notFound()
	}
	text := r.PathValue("version")
	version, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(version, 10) != text {
		return body{}, notFound()
	}
	root, ok := n.Roots(version)
	if !ok && n.rootVersion() == 0 {
		// 404 would say that the network has no such version, which nobody knows before a commit was accepted.
		return body{}, protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "no trust root has been verified yet").RetryIn(time.Second)
	}
	if !ok {
		return body{}, notFound()
	}
	return body{kind: protocol.TypeEnvelope, cache: cacheForAll, etag: peermap.DigestOf(root).String(), data: root}, nil
}

func (s *Server) getTimestamp(r *http.Request) (body, error) {
	c, err := s.authenticate(r, nil)
	if err != nil {
		return body{}, err
	}
	stamp := c.snapshot.Timestamp
	if stamp == nil {
		return body{}, protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "no timestamp is signed yet").RetryIn(time.Second)
	}
	return body{kind: protocol.TypeEnvelope, cache: cacheRecheck, etag: peermap.DigestOf(stamp).String(), data: stamp}, nil
}

// getManifest gives a manifest that the asking node is part of.
func (s *Server) getManifest(r *http.Request) (body, error) {
	c, err := s.authenticate(r, nil)
	if err != nil {
		return body{}, err
	}
	var d peermap.Digest
	if d.UnmarshalText([]byte(r.PathValue("digest"))) != nil {
		return body{}, notFound()
	}
	g, ok := c.snapshot.ByManifest(d)
	if !ok {
		return body{}, notFound()
	}
	if _, _, member := g.Node(c.node.Name); !member {
		return body{}, notFound()
	}
	return body{kind: protocol.TypeEnvelope, cache: cacheForOne, etag: d.String(), data: g.Envelope}, nil
}

// getView gives the node's view in the current generation, or in one that is still kept.
func (s *Server) getView(r *http.Request) (body, error) {
	c, err := s.authenticateNode(r, nil)
	if err != nil {
		return body{}, err
	}
	d, err := queryDigest(r.URL.Query(), protocol.QueryManifest)
	if err != nil {
		return body{}, err
	}
	g, cache := c.snapshot.Generation, cacheRecheck
	if !d.IsZero() {
		ok := false
		if g, ok = c.snapshot.ByManifest(d); !ok {
			return body{}, notFound()
		}
		cache = cacheForOne
	}
	node, index, ok := g.Node(c.node.Name)
	if !ok {
		return body{}, notFound()
	}
	v := protocol.ViewResponse{Manifest: g.Digest, Index: index, Size: g.Tree.Size(), Proof: g.Tree.Proof(index), View: node.View}
	if v.Proof == nil {
		v.Proof = []peermap.Digest{}
	}
	data, err := protocol.Encode(v)
	if err != nil {
		return body{}, err
	}
	return body{kind: protocol.TypeJSON, cache: cache, etag: peermap.DigestOf(data).String(), data: data}, nil
}

// getArtefact gives a class or block of the node's own view, now or in a generation that is still kept.
func (s *Server) getArtefact(r *http.Request) (body, error) {
	c, err := s.authenticateNode(r, nil)
	if err != nil {
		return body{}, err
	}
	var d peermap.Digest
	if d.UnmarshalText([]byte(r.PathValue("digest"))) != nil {
		return body{}, notFound()
	}
	data, ok := visible(c, d)
	if !ok {
		return body{}, notFound()
	}
	b := body{kind: protocol.TypeArtefact, cache: cacheForOne, etag: d.String(), enc: protocol.Identity, data: data}
	if match(r, b.etag) || len(data) < smallest {
		return b, nil
	}
	return s.compressed(b, c, r, d), nil
}

// visible finds an artefact in a generation in which the node may see it.
func visible(c *caller, d peermap.Digest) ([]byte, bool) {
	for _, g := range append([]*publish.Generation{c.snapshot.Generation}, c.snapshot.Older...) {
		if node, _, ok := g.Node(c.node.Name); ok {
			if data, ok := g.Artefact(node, d); ok {
				return data, true
			}
		}
	}
	return nil, false
}

// compressed chooses the smallest form that the client takes. Each form has an ETag of its own.
func (s *Server) compressed(b body, c *caller, r *http.Request, d peermap.Digest) body {
	f := c.zone.framesFor(c.snapshot)
	if base, ok := dictionary(r); ok && accepts(r, protocol.Delta) {
		if old, ok := visible(c, base); ok {
			if a, err := f.encoded(move{from: base, to: d, base: old, bytes: b.data}); err == nil {
				b.data = append(protocol.AppendDictionaryHeader(nil, base), a.Data...)
				b.enc, b.etag = protocol.Delta, b.etag+"."+base.String()
				return b
			}
		}
	}
	if accepts(r, protocol.Zstd) {
		if a, err := f.encoded(move{to: d, bytes: b.data}); err == nil {
			b.data, b.enc, b.etag = a.Data, protocol.Zstd, b.etag+".zstd"
		}
	}
	return b
}

// dictionary reads the digest in Available-Dictionary, a structured field of type byte sequence (RFC 9842, RFC 9651).
func dictionary(r *http.Request) (peermap.Digest, bool) {
	v := r.Header.Get("Available-Dictionary")
	raw, err := base64.StdEncoding.DecodeString(strings.Trim(v, ":"))
	if err != nil || len(raw) != len(peermap.Digest{}) {
		return peermap.Digest{}, false
	}
	return peermap.Digest(raw), true
}
