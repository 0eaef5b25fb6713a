package agenttest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// Controller serves one zone over HTTP on loopback. Tests change what it serves while it runs.
type Controller struct {
	t      testing.TB
	server *httptest.Server
	now    func() time.Time
	// Requests counts by resource name: root, timestamp, manifest, view, artefact, watch, status.
	requests sync.Map
	// Enrolment is the simulated enrolment service.
	Enrolment *Enrolment

	mu      sync.Mutex
	current *Generation
	fresh   bool          // the timestamp of current is kept fresh
	change  chan struct{} // closed and replaced when what is served changes
	// override answers requests of a resource in place of the controller if it returns true.
	override map[string]func(w http.ResponseWriter, r *http.Request) bool
	frame    func(*protocol.Update)
	reports  []protocol.NodeStatus
}

// NewController starts a controller that serves nothing yet.
func NewController(t testing.TB, now func() time.Time) *Controller {
	c := &Controller{t: t, now: now, change: make(chan struct{}), override: map[string]func(http.ResponseWriter, *http.Request) bool{}}
	c.Enrolment = newEnrolment(c)
	c.serve(listen(t))
	t.Cleanup(c.Stop)
	return c
}

// URL is the base URL. It stays the same through Stop and Start.
func (c *Controller) URL() string { return "http://" + c.server.Listener.Addr().String() }

// Start listens again, where it did before Stop.
func (c *Controller) Start() {
	l, err := net.Listen("tcp", c.server.Listener.Addr().String())
	check(c.t, err)
	c.serve(l)
}

func (c *Controller) serve(l net.Listener) {
	c.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: c.mux()}}
	c.server.Start()
}

// Stop ends every connection.
func (c *Controller) Stop() {
	c.server.CloseClientConnections()
	c.server.Close()
}

// Publish changes the generation that is served. As with an honest controller its timestamp never runs out, however far
// the clock is moved.
func (c *Controller) Publish(g *Generation) { c.replace(g, true) }

// Serve changes the generation that is served: these bytes and no others, whatever becomes of them.
func (c *Controller) Serve(g *Generation) { c.replace(g, false) }

func (c *Controller) replace(g *Generation, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.fresh = g, fresh
	close(c.change)
	c.change = make(chan struct{})
}

// Override answers requests of a resource in place of the controller; nil ends that. Overriding the watch ends the
// streams there are.
func (c *Controller) Override(resource string, answer func(w http.ResponseWriter, r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.override[resource] = answer
	close(c.change)
	c.change = make(chan struct{})
}

// Frame changes update frames before they are sent; nil ends that.
func (c *Controller) Frame(edit func(*protocol.Update)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frame = edit
}

// Requests counts what was asked of a resource.
func (c *Controller) Requests(resource string) int64 {
	n, _ := c.requests.LoadOrStore(resource, new(atomic.Int64))
	return n.(*atomic.Int64).Load()
}

// Reports gives the status reports that came in.
func (c *Controller) Reports() []protocol.NodeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]protocol.NodeStatus(nil), c.reports...)
}

// generation is what is served, what tells of a change, and whether the watch is overridden.
func (c *Controller) generation() (*Generation, <-chan struct{}, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.served(), c.change, c.override["watch"] != nil
}

// served is the current generation, under a timestamp that is not half over if it is kept fresh. mu is held.
func (c *Controller) served() *Generation {
	if now := c.now(); c.fresh && !c.current.isFresh(now) {
		c.current = c.current.renewed(now)
	}
	return c.current
}

func (c *Controller) mux() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern, resource string, serve func(w http.ResponseWriter, r *http.Request, g *Generation)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			n, _ := c.requests.LoadOrStore(resource, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			c.mu.Lock()
			override := c.override[resource]
			g := c.served()
			c.mu.Unlock()
			if override != nil && override(w, r) {
				return
			}
			if g == nil {
				protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "nothing published yet").Write(w)
				return
			}
			if resource != "root" && !c.proven(w, r, g) {
				return
			}
			serve(w, r, g)
		})
	}
	handle(protocol.PatternRoot, "root", c.root)
	handle(protocol.PatternStamp, "timestamp", func(w http.ResponseWriter, r *http.Request, g *Generation) {
		etag := strconv.Quote(peermap.DigestOf(g.Timestamp).String())
		w.Header().Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Write(g.Timestamp)
	})
	handle(protocol.PatternManifest, "manifest", func(w http.ResponseWriter, r *http.Request, g *Generation) {
		if r.PathValue("digest") != g.Digest.String() {
			notFound(w)
			return
		}
		w.Write(g.Manifest)
	})
	handle(protocol.PatternView, "view", c.view)
	handle(protocol.PatternArtefact, "artefact", func(w http.ResponseWriter, r *http.Request, g *Generation) {
		var d peermap.Digest
		if d.UnmarshalText([]byte(r.PathValue("digest"))) != nil || g.Artefacts[d] == nil {
			notFound(w)
			return
		}
		packed, err := protocol.Compress(g.Artefacts[d])
		check(c.t, err)
		w.Header().Set("Content-Encoding", string(protocol.Zstd))
		w.Write(packed)
	})
	handle(protocol.PatternWatch, "watch", c.watch)
	handle(protocol.PatternReport, "status", c.report)
	c.Enrolment.register(mux)
	return mux
}

func notFound(w http.ResponseWriter) {
	protocol.NewProblem(http.StatusNotFound, protocol.CodeNotFound, "no such thing, or not for you").Write(w)
}

// proven demands a good proof by the node that the path or the proof names.
func (c *Controller) proven(w http.ResponseWriter, r *http.Request, g *Generation) bool {
	err := c.verify(r, g)
	if err != nil {
		protocol.NewProblem(http.StatusUnauthorized, protocol.CodeProof, err.Error()).Write(w)
		return false
	}
	return true
}

func (c *Controller) verify(r *http.Request, g *Generation) error {
	token, err := protocol.ParseToken(r.Header.Get(protocol.ProofHeader))
	if err != nil {
		return err
	}
	var body []byte
	if r.Method == http.MethodPost {
		if body, err = protocol.ReadAll(r.Body, protocol.MaxStatusBytes); err != nil {
			return err
		}
		r.Body = &replay{body: body}
	}
	for _, node := range g.Zone.Nodes {
		if node.Name == token.Proof.Subject && (r.PathValue("node") == "" || r.PathValue("node") == node.Name) {
			return token.Verify(node.identityKey(), r.Method, r.URL.EscapedPath(), []string{r.Host}, body, c.now())
		}
	}
	return fmt.Errorf("unknown node %q", token.Proof.Subject)
}

func (c *Controller) root(w http.ResponseWriter, r *http.Request, g *Generation) {
	version, err := strconv.ParseUint(r.PathValue("version"), 10, 64)
	envelope, ok := g.Network.SignedRoot(version)
	if err != nil || !ok {
		notFound(w)
		return
	}
	w.Write(envelope)
}

func (c *Controller) view(w http.ResponseWriter, r *http.Request, g *Generation) {
	v, ok := g.Views[r.PathValue("node")]
	if !ok || r.URL.Query().Get(protocol.QueryManifest) != g.Digest.String() { // a view proves another manifest too, if nothing differs
		notFound(w)
		return
	}
	body, err := protocol.Encode(protocol.ViewResponse{Manifest: g.Digest, Index: v.Index, Size: v.Size, Proof: v.Proof, View: v.Bytes})
	check(c.t, err)
	w.Write(body)
}

func (c *Controller) report(w http.ResponseWriter, r *http.Request, g *Generation) {
	body, err := protocol.ReadAll(r.Body, protocol.MaxStatusBytes)
	if err == nil {
		var status protocol.NodeStatus
		if status, err = protocol.DecodeStatus(body, g.Network.Name, g.Zone.Name, r.PathValue("node")); err == nil {
			c.mu.Lock()
			c.reports = append(c.reports, status)
			c.mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
			return
		}
	}
	protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, err.Error()).Write(w)
}

// watch sends an update whenever what is served is not what the client has, and heartbeats ten times a second.
func (c *Controller) watch(w http.ResponseWriter, r *http.Request, g *Generation) {
	node := r.PathValue("node")
	have, stamp := r.URL.Query().Get(protocol.QueryManifest), ""
	w.Header().Set("Content-Type", protocol.TypeEvents)
	flush := func(b []byte) bool {
		_, err := w.Write(b)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		return err == nil
	}
	for {
		g, change, overridden := c.generation()
		if overridden {
			return
		}
		switch {
		case g.Digest.String() != have:
			if !flush(c.update(g, node)) {
				return
			}
		case string(g.Timestamp) != stamp:
			if !flush(protocol.AppendEvent(nil, protocol.EventTimestamp, g.Timestamp)) {
				return
			}
		}
		have, stamp = g.Digest.String(), string(g.Timestamp)
		select {
		case <-r.Context().Done():
			return
		case <-change:
		case <-time.After(100 * time.Millisecond):
			if !flush(protocol.AppendHeartbeat(nil)) {
				return
			}
		}
	}
}

func (c *Controller) update(g *Generation, node string) []byte {
	v := g.Views[node]
	u := protocol.Update{
		Manifest: g.Manifest, Timestamp: g.Timestamp, RootVersion: g.Network.RootVersion(), Index: v.Index, Size: v.Size, Proof: v.Proof,
		ViewDigest: peermap.DigestOf(v.Bytes),
		View:       &protocol.Artefact{Digest: peermap.DigestOf(v.Bytes), Encoding: protocol.Identity, Data: v.Bytes},
	}
	for d, data := range g.Artefacts {
		packed, err := protocol.Compress(data)
		check(c.t, err)
		u.Artefacts = append(u.Artefacts, protocol.Artefact{Digest: d, Encoding: protocol.Zstd, Data: packed})
	}
	c.mu.Lock()
	edit := c.frame
	c.mu.Unlock()
	if edit != nil {
		edit(&u)
	}
	out, err := protocol.AppendUpdate(nil, u)
	check(c.t, err)
	return out
}
