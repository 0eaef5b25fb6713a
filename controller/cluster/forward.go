package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/apex-network/apex/internal/protocol"
)

// Forwarder carries HTTP requests that only the leader can answer from the replica that got them to the leader.
//
// The leader answers as if the request had come to it: with the host and the path that the client's proof names, and with
// the client's address, for rate limits. Who may speak on the bus may say any address, and nothing else that a client could
// not say: every request proves itself.
type Forwarder struct {
	me  Replica
	bus Bus
	log *slog.Logger
	// leader says who leads a network; leads whether that is this replica.
	leader func(network string) (who Replica, leads bool)
	slots  chan struct{}
	// Wait is how long a request waits for a leader; set before the first.
	Wait time.Duration
}

// Bounds of a forwarded request.
const (
	maxForwarded   = 256 << 10 // body; the largest is a request to enrol
	maxAnswerBytes = protocol.MaxFleetBytes + 1<<20
	maxForwarding  = 512 // at once, long polls included
	maxArriving    = 32  // bodies of one resource at once
	bodyTimeout    = 10 * time.Second
	forwardTimeout = answerTimeout
)

// forwarded are the resources that need the leader: what allocates, signs, decides or waits for a signature, and what only the
// leader knows in full.
var forwarded = []string{
	protocol.PatternApply, protocol.PatternFleet, protocol.PatternPending, protocol.PatternCosign,
	protocol.PatternEnrolment, protocol.PatternEnrol, protocol.PatternRotate, protocol.PatternLeave,
	protocol.PatternEnrolments, protocol.PatternDecide, protocol.PatternBindings, protocol.PatternRecords,
}

// NewForwarder makes a forwarder. leader is called with names that clients chose.
func NewForwarder(me Replica, bus Bus, leader func(network string) (Replica, bool), log *slog.Logger) *Forwarder {
	return &Forwarder{me: me, bus: bus, log: log, leader: leader, slots: make(chan struct{}, maxForwarding), Wait: takeoverWait}
}

// question and answer are what travels, in CBOR.
type question struct {
	_      struct{} `cbor:",toarray"`
	Method string
	Host   string
	URI    string
	Remote string
	Header http.Header
	Body   []byte
}

type answer struct {
	_      struct{} `cbor:",toarray"`
	Status int
	Header http.Header
	Body   []byte
}

func subject(replica string) string     { return "apex.replica." + replica + ".http" }
func pokeSubject(replica string) string { return "apex.replica." + replica + ".poke" }

// Poke asks the leader of a network to look at its repository soon.
func (f *Forwarder) Poke(ctx context.Context, network string) error {
	who, _ := f.leader(network)
	if who.ID == "" {
		return ErrNobody
	}
	_, err := f.bus.Ask(ctx, pokeSubject(who.ID), []byte(network), 0)
	return err
}

// Handler forwards what needs the leader and gives the rest, and everything while this replica leads, to local.
func (f *Forwarder) Handler(local http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", local)
	for _, pattern := range forwarded {
		// Bodies that trickle in, which needs no key, hold up their like and nothing else.
		places := make(chan struct{}, maxArriving)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if _, leads := f.leader(r.PathValue("network")); leads {
				local.ServeHTTP(w, r)
				return
			}
			f.forward(w, r, local, places)
		})
	}
	return mux
}

// Listen answers what other replicas forward, by handler, and calls poke with the network of a Poke, until the returned
// function is called.
func (f *Forwarder) Listen(handler http.Handler, poke func(network string)) (stop func(), err error) {
	leading := http.NewServeMux()
	for _, pattern := range forwarded {
		leading.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if _, leads := f.leader(r.PathValue("network")); !leads {
				w.Header().Set(notLeader, "1")
				noLeader().Write(w)
				return
			}
			handler.ServeHTTP(w, r)
		})
	}
	stopHTTP, err := f.bus.Listen(subject(f.me.ID), func(ctx context.Context, data []byte) []byte {
		return serve(ctx, leading, data)
	})
	if err != nil {
		return nil, err
	}
	stopPoke, err := f.bus.Listen(pokeSubject(f.me.ID), func(_ context.Context, data []byte) []byte {
		poke(string(data))
		return nil
	})
	if err != nil {
		stopHTTP()
		return nil, err
	}
	return func() { stopPoke(); stopHTTP() }, nil
}

func noLeader() *protocol.Problem {
	return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "no replica of the controller leads this network at the moment").RetryIn(time.Second)
}

// notLeader marks the answer of a replica that was asked for a leader's and has done nothing.
const notLeader = "Apex-Not-Leader"

// takeoverWait is how long a request waits for a leader by default: longer than a takeover takes, so that clients do not
// notice one.
// takeoverLook is how often it looks.
const (
	takeoverWait = 2 * TTL
	takeoverLook = 100 * time.Millisecond
)

// forward asks the leader and gives the client the answer. What reached no leader is asked again; of what reached one that then
// fell silent nobody knows what became, and the client is told to come back. If this replica comes to lead meanwhile, it
// answers itself.
func (f *Forwarder) forward(w http.ResponseWriter, r *http.Request, local http.Handler, places chan struct{}) {
	body, err := arrived(w, r, places)
	var a *answer
	if err == nil {
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
			a, err = f.askUntil(r, body)
		default:
			err = busy()
		}
	}
	if errors.Is(err, errOurs) {
		again := r.WithContext(r.Context())
		again.Body = io.NopCloser(bytes.NewReader(body))
		local.ServeHTTP(w, again)
		return
	}
	if err != nil {
		var p *protocol.Problem
		if !errors.As(err, &p) {
			f.log.Info("request not forwarded", "path", r.URL.Path, "error", err)
			p = noLeader()
		}
		p.Write(w)
		return
	}
	for k, v := range a.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the client is gone; there is nobody to tell
}

// errOurs says that this replica leads now.
var errOurs = errors.New("this replica leads")

// askUntil asks whoever leads, until somebody does or Wait is over.
func (f *Forwarder) askUntil(r *http.Request, body []byte) (*answer, error) {
	deadline := time.Now().Add(f.Wait)
	for {
		who, leads := f.leader(r.PathValue("network"))
		err := fmt.Errorf("%w: %w", ErrNobody, errUndelivered)
		if leads {
			return nil, errOurs
		}
		var a *answer
		if who.ID != "" && who.ID != f.me.ID {
			if a, err = f.ask(r, body, who); err == nil && a.Header.Get(notLeader) == "" {
				return a, nil
			}
		}
		if err != nil && !errors.Is(err, errUndelivered) || time.Now().After(deadline) {
			return nil, cmp.Or(err, ErrNobody)
		}
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(takeoverLook):
		}
	}
}

func busy() error {
	return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeTooMany, "the controller is busy").RetryIn(2 * time.Second)
}

// arrived gives the body of a request once it is here, in one of places.
func arrived(w http.ResponseWriter, r *http.Request, places chan struct{}) ([]byte, error) {
	if r.ContentLength == 0 {
		return readForwarded(w, r)
	}
	select {
	case places <- struct{}{}:
		defer func() { <-places }()
		return readForwarded(w, r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	case <-time.After(bodyTimeout):
		return nil, busy()
	}
}

// readForwarded reads the body of a request.
func readForwarded(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // test writers have none
	_ = control.SetWriteDeadline(time.Now().Add(forwardTimeout + bodyTimeout))
	body, err := protocol.ReadAll(r.Body, maxForwarded)
	if err != nil {
		status, code := http.StatusBadRequest, protocol.CodeBadRequest
		if errors.Is(err, protocol.ErrTooLarge) {
			status, code = http.StatusRequestEntityTooLarge, protocol.CodeTooLarge
		}
		return nil, protocol.NewProblem(status, code, "the body did not arrive whole, or is too large")
	}
	return body, nil
}

func (f *Forwarder) ask(r *http.Request, body []byte, who Replica) (*answer, error) {
	q := question{Method: r.Method, Host: r.Host, URI: r.URL.RequestURI(), Remote: r.RemoteAddr, Header: r.Header, Body: body}
	data, err := cbor.Marshal(q)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardTimeout)
	defer cancel()
	data, err = f.bus.Ask(ctx, subject(who.ID), data, maxAnswerBytes)
	if err != nil {
		return nil, err
	}
	var a answer
	if err := cbor.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", who.Name, err)
	}
	if a.Status < 200 || a.Status > 599 {
		return nil, fmt.Errorf("answer of %s: status %d", who.Name, a.Status)
	}
	return &a, nil
}

// serve answers a forwarded request.
func serve(ctx context.Context, handler http.Handler, data []byte) []byte {
	w := &recorder{header: http.Header{}}
	r, err := parse(ctx, data)
	if err != nil {
		protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, "forwarded request cannot be read").Write(w)
	} else {
		handler.ServeHTTP(w, r)
	}
	w.WriteHeader(http.StatusOK) // if it did not say anything else
	out, err := cbor.Marshal(answer{Status: w.status, Header: w.header, Body: w.body.Bytes()})
	if err != nil {
		return nil // cannot happen; who asked gives up
	}
	return out
}

func parse(ctx context.Context, data []byte) (*http.Request, error) {
	var q question
	if err := cbor.Unmarshal(data, &q); err != nil {
		return nil, err
	}
	u, err := url.ParseRequestURI(q.URI)
	if err != nil {
		return nil, err
	}
	r := &http.Request{
		Method: q.Method, URL: u, Host: q.Host, RequestURI: q.URI, RemoteAddr: q.Remote, Header: q.Header, ContentLength: int64(len(q.Body)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: io.NopCloser(bytes.NewReader(q.Body)),
	}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	return r.WithContext(ctx), nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(p) > maxAnswerBytes {
		return 0, fmt.Errorf("answer of more than %d bytes", maxAnswerBytes)
	}
	return w.body.Write(p)
}
