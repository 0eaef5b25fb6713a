// Package serve answers agents and people over HTTP: immutable artefacts, the watch, status, apply, co-signatures and
// webhooks. It decides nothing about content: what it serves was signed by package publish, and what it takes in names
// things but carries none.
//
// It promises that a node is told nothing outside its own view, nor whether such a thing exists; that every agent
// request is proven by the node's identity key and every person's by theirs; and that a client, however slow, costs a
// bounded amount of memory: a watch remembers only which generation it delivered last and makes the next event when it
// can be written, from bytes that all nodes of a class share.
package serve

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Control is what the HTTP side may ask of a network's loop.
type Control interface {
	// Poke asks for a look at the repository soon.
	Poke()
	// Apply fetches now and takes commit if it is the head and passes every check. Errors: a *protocol.Problem for what
	// the caller should know.
	Apply(ctx context.Context, commit string) error
	// Describe fills in what the loop knows: head, accepted commit, refusal. Zones are filled in by the server.
	Describe(*protocol.FleetStatus)
}

// Network is one network as the server sees it.
type Network struct {
	Name      string
	Publisher *publish.Publisher
	Control   Control
	// Roots gives the signed trust root of a version.
	Roots func(version uint64) ([]byte, bool)
	// Nonces is the bucket of NonceBucket, Status that of StatusBucket.
	Nonces store.Bucket
	Status store.Bucket
	// Verifier verifies the ID tokens of appliers, Tokens is the bucket that remembers used tokens (package enrol has it);
	// without both, identities cannot apply.
	Verifier tokens.Verifier
	Tokens   store.Bucket
	// WebhookSecret is empty if webhooks are off; Apply is whether appliers may apply.
	WebhookSecret []byte
	Apply         bool
	// Enrolment takes hosts in; nil: nobody enrols here.
	Enrolment Enrolment
	// Records gives witnesses what bindings rest on; nil if nobody enrols.
	Records Records
	// Done ends the network's watches when it is closed.
	Done <-chan struct{}
}

// NonceBucket keeps the nonces of signed requests for as long as these could be replayed, and a minute for clocks of replicas
// that are apart.
func NonceBucket() store.BucketConfig {
	return store.BucketConfig{
		Name: "nonces", Description: "nonces of signed requests", TTL: 2*protocol.RequestSkew + time.Minute, MaxBytes: 64 << 20, MaxValueBytes: 1 << 10,
	}
}

// StatusBucket keeps the last status of each node that is published (Tidy). Its size is an eighth of the embedded store, so that
// what nodes say of themselves leaves the room that serials, bindings and timestamps need: enough for 8000 nodes that send as
// much as they may, and for a hundred times as many as they are.
func StatusBucket() store.BucketConfig {
	return store.BucketConfig{
		Name: "status", Description: "last status of each node, by network.zone.node", MaxBytes: 512 << 20,
		MaxValueBytes: protocol.MaxStatusBytes + 1<<10,
	}
}

// Options make a Server. Now, Logger and Metrics are required.
type Options struct {
	// Version is the controller's.
	Version string
	// Requests is the most requests worked on at once, watches apart; 0 means 256.
	Requests int
	// Notice says why the store cannot be reached, "" if it can: readiness and status tell it, and serving goes on.
	Notice  func() string
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics *Metrics
	// Heartbeat, WriteTimeout and BodyTimeout (how long a client may take to send a body) have defaults; tests shorten them.
	Heartbeat    time.Duration
	WriteTimeout time.Duration
	BodyTimeout  time.Duration
}

// Server answers for any number of networks. Its methods are safe for concurrent use.
type Server struct {
	opts   Options
	mux    *http.ServeMux
	slots  chan struct{} // one per request worked on
	hosts  atomic.Pointer[[]string]
	dummy  peermap.Key // stands in for the key of a node that does not exist, so that both take as long
	packer *packer
	closed chan struct{}
	close  sync.Once

	mu       sync.RWMutex
	networks map[string]*network
}

// New makes a server without networks.
func New(o Options) (*Server, error) {
	if o.Requests <= 0 {
		o.Requests = 256
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = protocol.HeartbeatInterval
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 20 * time.Second
	}
	if o.BodyTimeout <= 0 {
		o.BodyTimeout = 10 * time.Second
	}
	if o.Notice == nil {
		o.Notice = func() string { return "" }
	}
	nobody, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	packer, err := newPacker()
	if err != nil {
		return nil, err
	}
	s := &Server{
		packer: packer, opts: o, mux: http.NewServeMux(), slots: make(chan struct{}, o.Requests), dummy: peermap.Key(nobody.Raw()),
		closed: make(chan struct{}), networks: map[string]*network{},
	}
	s.hosts.Store(&[]string{})
	s.routes()
	return s, nil
}

func (s *Server) routes() {
	give := func(pattern, name string, h func(*http.Request) (body, error)) {
		s.mux.Handle(pattern, s.measured(name, s.given(h)))
	}
	give(protocol.PatternRoot, "root", s.getRoot)
	give(protocol.PatternStamp, "timestamp", s.getTimestamp)
	give(protocol.PatternManifest, "manifest", s.getManifest)
	give(protocol.PatternView, "view", s.getView)
	give(protocol.PatternArtefact, "artefact", s.getArtefact)
	give(protocol.PatternBindings, "bindings", s.getBindings)
	take := func(pattern, name string, limit int, first func(*http.Request) error, h takes) {
		s.mux.Handle(pattern, s.measured(name, s.taken(limit, first, h)))
	}
	take(protocol.PatternReport, "report", protocol.MaxStatusBytes, anybody, s.postReport)
	take(protocol.PatternCosign, "cosign", protocol.MaxCosignBytes, s.fromWitness, s.postCosign)
	// An enrolment and an apply may wait for a provider: each has slots of its own, so that one that hangs keeps no agent from
	// its view.
	wait := func(pattern, name string, limit int, h takes) {
		s.mux.Handle(pattern, s.measured(name, s.takenIn(make(chan struct{}, s.opts.Requests), limit, anybody, h)))
	}
	wait(protocol.PatternEnrol, "enrol", protocol.MaxEnrolBytes, s.postEnrol)
	wait(protocol.PatternApply, "apply", protocol.MaxApplyBytes, s.postApply)
	take(protocol.PatternRotate, "rotate", protocol.MaxRotateBytes, anybody, s.postRotate)
	take(protocol.PatternLeave, "leave", 0, anybody, s.postLeave)
	take(protocol.PatternDecide, "decide", protocol.MaxApplyBytes*2, anybody, s.postDecision)
	s.mux.Handle(protocol.PatternEnrolment, s.measured("enrolment", s.bounded(s.getEnrolment)))
	s.mux.Handle(protocol.PatternEnrolments, s.measured("enrolments", s.bounded(s.getEnrolments)))
	take(protocol.PatternRecords, "records", protocol.MaxBindingsQueryBytes, s.fromWitness, s.postRecords)
	take(protocol.PatternWebhook, "webhook", protocol.MaxWebhookBytes, anybody, s.postWebhook)
	s.mux.Handle(protocol.PatternFleet, s.measured("fleet", s.bounded(s.getFleet)))
	// These wait; a slot is held only while they work.
	s.mux.Handle(protocol.PatternWatch, s.measured("watch", s.plain(s.watch)))
	s.mux.Handle(protocol.PatternPending, s.measured("pending", s.plain(s.getPending)))
	s.mux.HandleFunc("GET /healthz", s.healthz)
	s.mux.HandleFunc("GET /readyz", s.readyz)
}

// Handler answers the public address.
func (s *Server) Handler() http.Handler { return s.mux }

// SetHosts says under which authorities clients reach the server; none: whatever the Host header says.
func (s *Server) SetHosts(hosts []string) { s.hosts.Store(&hosts) }

// Close ends all watches and pending waits. Other requests go on.
func (s *Server) Close() { s.close.Do(func() { close(s.closed) }) }

// Set adds or replaces a network. ctx bounds the reading of the statuses that are kept.
func (s *Server) Set(ctx context.Context, n Network) error {
	state := newNetwork(n)
	if err := state.loadStatuses(ctx, s.opts.Logger); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.networks[n.Name]; ok {
		state.inherit(old)
	}
	s.networks[n.Name] = state
	return nil
}

// Remove forgets a network.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.networks, name)
}

func (s *Server) network(name string) (*network, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.networks[name]
	return n, ok
}

// plain turns errors into problems. A body has to arrive in time even where nobody asked for one: net/http waits for the
// whole of it before it answers.
func (s *Server) plain(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			s.expectBody(w)
		}
		if err := h(w, r); err != nil {
			s.problem(err, r).Write(w)
		}
	})
}

// bounded is plain within the cap on concurrent requests. Those over it are told to come back rather than queued: agents
// back off with jitter, and a queue would only hold memory.
func (s *Server) bounded(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return s.plain(func(w http.ResponseWriter, r *http.Request) error {
		if err := s.acquire(r.Context(), s.slots); err != nil {
			return err
		}
		defer s.release()
		return h(w, r)
	})
}

// given is bounded for what is read: the slot is free again before the answer travels, so that who reads slowly keeps
// nobody from theirs.
func (s *Server) given(h func(*http.Request) (body, error)) http.Handler {
	return s.plain(func(w http.ResponseWriter, r *http.Request) error {
		b, err := s.made(r, h)
		if err != nil {
			return err
		}
		return b.write(w, r)
	})
}

func (s *Server) made(r *http.Request, h func(*http.Request) (body, error)) (body, error) {
	if err := s.acquire(r.Context(), s.slots); err != nil {
		return body{}, err
	}
	defer s.release()
	return h(r)
}

// takes is a handler of requests with a body, which has arrived.
type takes func(w http.ResponseWriter, r *http.Request, data []byte) error

// maxBodies is the most bodies of one resource that arrive at once.
const maxBodies = 32

// taken is bounded for requests with a body. It arrives before a slot is taken, in one of a few places that the resource
// has for itself: bodies that trickle in, which needs no key, hold up their like and nothing else. first says who may
// send one at all, before it is read.
func (s *Server) taken(limit int, first func(*http.Request) error, h takes) http.Handler {
	return s.takenIn(s.slots, limit, first, h)
}

// takenIn is taken with slots of its own.
func (s *Server) takenIn(slots chan struct{}, limit int, first func(*http.Request) error, h takes) http.Handler {
	places := make(chan struct{}, maxBodies)
	receive := func(w http.ResponseWriter, r *http.Request) ([]byte, error) {
		if err := first(r); err != nil {
			return nil, err
		}
		if err := s.acquire(r.Context(), places); err != nil {
			return nil, err
		}
		defer func() { <-places }()
		return s.readBody(w, r, limit)
	}
	return s.plain(func(w http.ResponseWriter, r *http.Request) error {
		data, err := receive(w, r)
		if err != nil {
			return err
		}
		if err := s.acquire(r.Context(), slots); err != nil {
			return err
		}
		defer func() { <-slots }()
		return h(w, r, data)
	})
}

func anybody(*http.Request) error { return nil }

// slotWait is how long a request may wait for its turn in a storm.
const slotWait = 5 * time.Second

// acquire takes a place in slots.
func (s *Server) acquire(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	default:
	}
	wait := time.NewTimer(slotWait)
	defer wait.Stop()
	select {
	case slots <- struct{}{}:
		return nil
	case <-wait.C:
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeTooMany, "the controller is busy").RetryIn(2 * time.Second)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) release() { <-s.slots }

// problem says what a client may know of err.
func (s *Server) problem(err error, r *http.Request) *protocol.Problem {
	if p, ok := asProblem(err); ok {
		s.opts.Metrics.refused.WithLabelValues(p.Code).Inc()
		return p
	}
	s.opts.Logger.Error("request failed", "path", r.URL.Path, "error", err)
	return protocol.NewProblem(http.StatusInternalServerError, protocol.CodeInternal, "see the controller's log")
}

// notFound is the one answer for what is not there and what is not for the asker.
func notFound() error {
	return protocol.NewProblem(http.StatusNotFound, protocol.CodeNotFound, "no such resource, or not for you")
}

func badRequest(format string, args ...any) error {
	return protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, fmt.Sprintf(format, args...))
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }

// readyz says whether every network serves a generation in some zone.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.networks) == 0 {
		writeText(w, http.StatusServiceUnavailable, "no network\n")
		return
	}
	for _, n := range s.networks {
		if !n.serves() {
			// No name: whoever asks has proven nothing.
			writeText(w, http.StatusServiceUnavailable, "a network has nothing published yet\n")
			return
		}
	}
	if notice := s.opts.Notice(); notice != "" {
		// Whoever takes replicas out that are not ready must not take out all of them because of this.
		writeText(w, http.StatusOK, "ok, but nothing new can be published: "+notice+"\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client is gone; there is nobody to tell
}
