//go:build linux

package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/apex-network/apex/internal/protocol"
)

// liar stands between agents and the controller, with the controller's own certificate. It knows from the proof which
// node asks, and tells each node its own lie. What it once passed on it remembers.
type liar struct {
	upstream *http.Transport
	target   string

	mu    sync.Mutex
	lies  map[string]lie
	turn  context.Context // ends when the lies change, and every open stream with it
	flip  context.CancelFunc
	first map[string][]byte // "<zone>/<kind>" or "<node>/<kind>" → the first honest answer
	told  map[string]int
}

// lie answers one kind of request of one node. It must not answer others.
type lie struct {
	kinds  string // of requests that it answers, such as "timestamp view"
	answer func(*question)
}

// question is a request with the controller's honest answer.
type question struct {
	w                http.ResponseWriter
	ctx              context.Context // ends with the request and with the lie
	kind, zone, node string
	honest           []byte
	first            func(whose, kind string) []byte
}

// say answers, at once. It reports whether anybody still listens.
func (q *question) say(b []byte) bool {
	_, err := q.w.Write(b)
	return err == nil && http.NewResponseController(q.w).Flush() == nil && q.ctx.Err() == nil
}

// The kinds of requests, by the resource they ask for.
const (
	watching  = "watch"
	stamps    = "timestamp"
	manifests = "manifests"
	views     = "view"
	artefacts = "artefacts"
	roots     = "roots"
)

// newLiar starts a liar on the controller's host; agents started afterwards ask it.
func (w *world) newLiar() *liar {
	w.t.Helper()
	c := w.Controller
	pem, err := os.ReadFile(c.CAFile)
	w.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(filepath.Join(c.Dir, "tls.crt"), filepath.Join(c.Dir, "tls.key"))
	w.must(err)
	addr := c.Host.Interfaces()[0].Addr4()
	front := netip.AddrPortFrom(addr, 9443).String()
	listener, err := c.Host.Listen(w.ctx, "tcp", front)
	w.must(err)
	l := &liar{
		upstream: &http.Transport{DialContext: c.Host.DialContext, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true},
		target:   strings.TrimPrefix(c.URL(), "https://"), first: map[string][]byte{}, told: map[string]int{},
	}
	l.tell(nil)
	server := &http.Server{Handler: l, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{cert}}))
	}()
	w.t.Cleanup(func() {
		l.flip()
		_ = server.Close()
		l.upstream.CloseIdleConnections()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			w.t.Errorf("liar: %v", err)
		}
	})
	c.Front = "https://" + front
	return l
}

// tell changes the lies, by node; nodes without one hear the truth. Open streams end.
func (l *liar) tell(lies map[string]lie) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flip != nil {
		l.flip()
	}
	l.lies = lies
	l.turn, l.flip = context.WithCancel(context.Background())
}

// lied counts the false answers a node got.
func (l *liar) lied(node string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told[node]
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &question{w: w}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/networks/"), "/") // net, zones, zone, kind | nodes, node, kind
	if len(parts) > 3 {
		q.zone, q.kind = parts[2], parts[3]
	}
	if len(parts) > 5 && q.kind == "nodes" {
		q.kind = parts[5]
	}
	if token, err := protocol.ParseToken(r.Header.Get(protocol.ProofHeader)); err == nil {
		q.node = token.Proof.Subject
	}
	l.mu.Lock()
	lie, lying := l.lies[q.node]
	turn := l.turn
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(turn, cancel)()
	q.ctx = ctx
	q.first = func(whose, kind string) []byte {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.first[whose+"/"+kind]
	}
	answers := lying && strings.Contains(lie.kinds, q.kind)
	if q.kind == watching && (lying && !answers || q.first(q.node, views) == nil) {
		// So that the agent fetches: the truth at first, for the liar to remember, and later the lie.
		http.Error(w, "no streams today", http.StatusBadGateway)
		return
	}
	resp, err := l.ask(r.Clone(ctx))
	if err != nil {
		http.Error(w, "away", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.Header().Del("Content-Length")
	if q.kind == watching && !answers {
		stream(w, resp)
		return
	}
	if q.kind != watching {
		if q.honest, err = io.ReadAll(resp.Body); err != nil {
			panic(http.ErrAbortHandler) // cut short: an answer of nothing would be a lie of its own
		}
	}
	if resp.StatusCode == http.StatusOK {
		l.remember(q)
		if answers {
			l.mu.Lock()
			l.told[q.node]++
			l.mu.Unlock()
			lie.answer(q)
			return
		}
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(q.honest)
}

// ask asks the controller what the agent asked.
func (l *liar) ask(out *http.Request) (*http.Response, error) {
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "https", l.target
	out.Header.Del("If-None-Match")
	return l.upstream.RoundTrip(out)
}

func (l *liar) remember(q *question) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, whose := range []string{q.zone, q.node} {
		if key := whose + "/" + q.kind; l.first[key] == nil {
			l.first[key] = q.honest
		}
	}
}

// stream passes an event stream on as it comes.
func stream(w http.ResponseWriter, resp *http.Response) {
	w.WriteHeader(resp.StatusCode)
	out := http.NewResponseController(w)
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil || out.Flush() != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
