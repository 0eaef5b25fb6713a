package serve

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// maxWatches is how many watches of one node may be open: the old one of a reconnecting agent may take a while to be
// noticed as dead.
const maxWatches = 4

// watch streams generations and timestamps to one node:
//
//	        ┌──────────────── something changed: the newest snapshot, whatever was skipped
//	        ▼                                                      │
//	deliver ──▶ wait for the next snapshot, a heartbeat, or the end ┘
//
// What it holds between events is the digest of what it delivered last and that generation's node, both shared; a client
// that does not read within the write time-out is dropped.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) error {
	if err := s.acquire(r.Context(), s.slots); err != nil {
		return err
	}
	c, held, err := s.openWatch(r)
	s.release()
	if err != nil {
		return err
	}
	if c.member.watches.Add(1) > maxWatches {
		c.member.watches.Add(-1)
		return protocol.NewProblem(http.StatusTooManyRequests, protocol.CodeTooMany, "this node watches already").RetryIn(30 * time.Second)
	}
	defer c.member.watches.Add(-1)
	if e := c.zone.net.Enrolment; e != nil {
		defer e.Connected(c.zone.name, c.node.Name)()
	}
	s.opts.Metrics.watches.Inc()
	defer s.opts.Metrics.watches.Dec()
	st := &stream{
		server: s, w: w, control: http.NewResponseController(w), zone: c.zone, name: c.node.Name, held: held,
		packed: accepts(r, protocol.Zstd), identity: c.node.Identity,
	}
	st.begin()
	if err := st.run(r, c.snapshot, c.changed); err != nil {
		// The headers are gone; the client notices the end and comes back.
		s.opts.Logger.Debug("watch ended", "network", c.zone.net.Name, "zone", c.zone.name, "node", st.name, "error", err)
	}
	return nil
}

// delivered is what a client holds: the manifest it was told of and its view, with the generation that has both. Either
// may be unknown (zero, nil).
type delivered struct {
	manifest   peermap.Digest
	generation *publish.Generation
	node       *publish.Node
}

func (s *Server) openWatch(r *http.Request) (*caller, delivered, error) {
	c, err := s.authenticateNode(r, nil)
	if err != nil {
		return nil, delivered{}, err
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, delivered{}, badRequest("query: %v", err)
	}
	var held delivered
	if held.manifest, err = queryDigest(q, protocol.QueryManifest); err != nil {
		return nil, delivered{}, err
	}
	view, err := queryDigest(q, protocol.QueryHave)
	if err != nil {
		return nil, delivered{}, err
	}
	if !view.IsZero() {
		held.generation, held.node, _ = c.snapshot.Held(c.node.Name, view)
	}
	return c, held, nil
}

func queryDigest(q url.Values, name string) (d peermap.Digest, err error) {
	if v := q.Get(name); v != "" {
		if err := d.UnmarshalText([]byte(v)); err != nil {
			return d, badRequest("query %s: %v", name, err)
		}
	}
	return d, nil
}

// accepts reports whether the client takes an encoding.
func accepts(r *http.Request, enc protocol.Encoding) bool {
	for _, line := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(line, ",") {
			name, q, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), string(enc)) {
				q = strings.ReplaceAll(q, " ", "")
				return q != "q=0" && !strings.HasPrefix(q, "q=0.000") && q != "q=0.0" && q != "q=0.00"
			}
		}
	}
	return false
}

// stream is one open watch.
type stream struct {
	server  *Server
	w       http.ResponseWriter
	control *http.ResponseController
	zone    *zone
	name    string
	// identity is the key that opened the stream; a node whose key was replaced has to come again.
	identity peermap.Key
	packed   bool
	held     delivered
}

func (st *stream) begin() {
	h := st.w.Header()
	h.Set("Content-Type", protocol.TypeEvents)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // tells reverse proxies not to collect events
	h.Set("Vary", "Accept-Encoding")
	if st.packed {
		h.Set("Content-Encoding", string(protocol.Zstd))
	}
	st.w.WriteHeader(http.StatusOK)
}

func (st *stream) run(r *http.Request, snap *publish.Snapshot, changed <-chan struct{}) error {
	published, ok := st.zone.net.Publisher.Zone(st.zone.name)
	if !ok {
		return nil
	}
	beat := time.NewTicker(st.server.opts.Heartbeat)
	defer beat.Stop()
	for {
		if member, err := st.deliver(snap); err != nil || !member {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case <-beat.C:
				if err := st.heartbeat(); err != nil {
					return err
				}
			case <-r.Context().Done():
				return nil
			case <-st.zone.net.Done:
				return nil
			case <-st.server.closed:
				return nil
			}
		}
		if snap, changed = published.Snapshot(); snap == nil {
			return nil
		}
	}
}

// deliver tells the client what it does not know of snap. member is false if the node is no longer in it: it is told
// nothing more.
func (st *stream) deliver(snap *publish.Snapshot) (member bool, err error) {
	node, index, ok := snap.Node(st.name)
	if !ok || node.Identity != st.identity {
		return false, nil
	}
	if snap.Timestamp == nil {
		return true, nil // after a restart, until the first timestamp is signed
	}
	if st.held.manifest == snap.Digest && st.held.node != nil && st.held.node.Digest == node.Digest {
		e, err := st.server.stampEvent(st.zone, snap)
		if err != nil {
			return true, err
		}
		return true, st.write(e.bytes(st.packed))
	}
	if err := st.update(snap, node, index); err != nil {
		return true, err
	}
	st.held = delivered{manifest: snap.Digest, generation: snap.Generation, node: node}
	return true, nil
}

// update sends a generation.
func (st *stream) update(snap *publish.Snapshot, node *publish.Node, index uint64) error {
	s := st.server
	var from peermap.Digest
	if st.held.node != nil {
		from = st.held.node.Class
	}
	steps, err := s.stepEvents(st.zone, snap, st.held.generation, from, node.Class)
	if err != nil {
		return err
	}
	head, err := s.headEvent(st.zone, snap)
	if err != nil {
		return err
	}
	leaf, err := s.leafEvent(snap, node, index, st.held.node, st.packed)
	if err != nil {
		return err
	}
	parts := make([][]byte, 0, len(steps)+2)
	for _, e := range steps {
		parts = append(parts, e.bytes(st.packed))
	}
	s.opts.Metrics.updates.Inc()
	return st.write(append(parts, head.bytes(st.packed), leaf)...)
}

func (st *stream) heartbeat() error {
	plain := protocol.AppendHeartbeat(nil)
	if st.packed {
		plain = st.server.packer.enc.EncodeAll(plain, nil)
	}
	return st.write(plain)
}

// A client must take chunkBytes within the write time-out, and everything there is to say within updateTimeout: until
// then it keeps a generation's events in memory.
const (
	chunkBytes    = 64 << 10
	updateTimeout = 3 * time.Minute
)

// write sends parts and flushes. A client that does not read is dropped.
func (st *stream) write(parts ...[]byte) error {
	last := time.Now().Add(updateTimeout)
	for _, p := range parts {
		for chunk := range slices.Chunk(p, chunkBytes) {
			deadline := time.Now().Add(st.server.opts.WriteTimeout)
			if deadline.After(last) {
				deadline = last
			}
			if err := st.control.SetWriteDeadline(deadline); err != nil {
				return err
			}
			n, err := st.w.Write(chunk)
			st.server.opts.Metrics.watchBytes.Add(float64(n))
			if err != nil {
				st.server.opts.Metrics.dropped.Inc()
				return err
			}
		}
	}
	if err := st.control.Flush(); err != nil {
		st.server.opts.Metrics.dropped.Inc()
		return err
	}
	return nil
}
