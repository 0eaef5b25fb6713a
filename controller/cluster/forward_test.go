package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/internal/natstest"
	"github.com/apex-network/apex/internal/protocol"
)

// buses gives two ends of each kind of bus.
func buses(t *testing.T) map[string][2]cluster.Bus {
	memory := cluster.NewMemory()
	c := natstest.Start(t, 1)
	connect := func() cluster.Bus {
		conn, err := nats.Connect(c.URL(), nats.Timeout(5*time.Minute)) // only for what hangs
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return cluster.NewPatientBus(conn)
	}
	return map[string][2]cluster.Bus{"memory": {memory, memory}, "nats": {connect(), connect()}}
}

func TestForwardedRequestArrivesAsItWas(t *testing.T) {
	for name, ends := range buses(t) {
		t.Run(name, func(t *testing.T) {
			leader := cluster.Replica{Name: "leader", ID: "l1"}
			big := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB: more than one message
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.Host, " ", r.URL.EscapedPath(), " ", r.RemoteAddr, " ", r.Header.Get(protocol.ProofHeader), " ", string(body)))
				w.WriteHeader(http.StatusAccepted)
				_, _ = w.Write(big)
			})
			poked := make(chan string, 1)
			here := cluster.NewForwarder(leader, ends[0], func(string) (cluster.Replica, bool) { return leader, true }, slog.New(slog.DiscardHandler))
			stop, err := here.Listen(handler, func(network string) { poked <- network })
			if err != nil {
				t.Fatal(err)
			}
			there := cluster.NewForwarder(cluster.Replica{ID: "f1"}, ends[1], func(string) (cluster.Replica, bool) { return leader, false }, slog.New(slog.DiscardHandler))
			local := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
			there.Wait = time.Millisecond
			front := there.Handler(local)

			r := httptest.NewRequest(http.MethodPost, "https://apex.example:8443/v1/networks/acme/zones/prod/enrol", strings.NewReader("body"))
			r.Header.Set(protocol.ProofHeader, "proof")
			r.RemoteAddr = "192.0.2.7:1234"
			w := httptest.NewRecorder()
			front.ServeHTTP(w, r)
			if want := "POST apex.example:8443 /v1/networks/acme/zones/prod/enrol 192.0.2.7:1234 proof body"; w.Header().Get("X-Seen") != want {
				t.Errorf("the leader saw %q, want %q", w.Header().Get("X-Seen"), want)
			}
			if w.Code != http.StatusAccepted || !bytes.Equal(w.Body.Bytes(), big) {
				t.Errorf("answer %d of %d bytes, want 202 of %d", w.Code, w.Body.Len(), len(big))
			}

			w = httptest.NewRecorder()
			front.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
			if w.Code != http.StatusTeapot {
				t.Errorf("what needs no leader was answered with %d", w.Code)
			}
			w = httptest.NewRecorder()
			front.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/networks/acme/apply", bytes.NewReader(make([]byte, 1<<20))))
			if w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("a body of 1 MiB was answered with %d", w.Code)
			}

			if err := there.Poke(t.Context(), "acme"); err != nil || <-poked != "acme" {
				t.Errorf("poke: %v", err)
			}
			stop()
			w = httptest.NewRecorder()
			front.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/networks/acme/apply", nil))
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
				t.Errorf("with the leader gone: %d %s", w.Code, w.Body)
			}
		})
	}
}

// slowBody never ends.
type slowBody struct {
	reading chan<- struct{} // told when somebody waits for it
	done    <-chan struct{}
}

func (b slowBody) Read([]byte) (int, error) {
	b.reading <- struct{}{}
	<-b.done
	return 0, io.ErrUnexpectedEOF
}

// TestSlowBodiesHoldUpNothingElse: anybody may send a body, and slowly.
func TestSlowBodiesHoldUpNothingElse(t *testing.T) {
	bus, leader := cluster.NewMemory(), cluster.Replica{ID: "l1"}
	here := cluster.NewForwarder(leader, bus, func(string) (cluster.Replica, bool) { return leader, true }, slog.New(slog.DiscardHandler))
	stop, err := here.Listen(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	there := cluster.NewForwarder(cluster.Replica{ID: "f1"}, bus, func(string) (cluster.Replica, bool) { return leader, false }, slog.New(slog.DiscardHandler))
	front := there.Handler(http.NotFoundHandler())
	const bodies = 600
	reading, done := make(chan struct{}, bodies), make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	defer close(done)
	for range bodies {
		all.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/v1/networks/acme/zones/prod/enrol", slowBody{reading, done})
			front.ServeHTTP(httptest.NewRecorder(), r)
		})
	}
	for range cluster.MaxArriving { // as many as may arrive at once
		<-reading
	}
	for range 100 {
		w := httptest.NewRecorder()
		front.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/networks/acme/cosign", strings.NewReader("signature")))
		if w.Code != http.StatusAccepted {
			t.Fatalf("the witness gets %d", w.Code)
		}
	}
}

func TestFollowerDoesNotAnswerForTheLeader(t *testing.T) {
	bus := cluster.NewMemory()
	me := cluster.Replica{Name: "a", ID: "a1"}
	f := cluster.NewForwarder(me, bus, func(string) (cluster.Replica, bool) { return me, false }, slog.New(slog.DiscardHandler))
	stop, err := f.Listen(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("answered without leading") }), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	f.Wait = time.Millisecond
	w := httptest.NewRecorder()
	f.Handler(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/networks/acme/apply", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("answered with %d", w.Code)
	}
}

// A request that finds the leader gone waits for the next one, whoever that is.
func TestRequestWaitsForALeader(t *testing.T) {
	bus := cluster.NewMemory()
	var leader atomic.Pointer[cluster.Replica]
	leader.Store(&cluster.Replica{Name: "gone", ID: "g1"})
	replica := func(id string) *cluster.Forwarder {
		me := cluster.Replica{Name: id, ID: id}
		return cluster.NewForwarder(me, bus, func(string) (cluster.Replica, bool) {
			who := *leader.Load()
			return who, who.ID == id
		}, slog.New(slog.DiscardHandler))
	}
	answers := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body) // from memory
			_, _ = w.Write([]byte(text + " " + string(body)))
		})
	}
	b := replica("b")
	stop, err := b.Listen(answers("b"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	front := replica("a").Handler(answers("a"))
	for _, next := range []string{"b", "a"} {
		leader.Store(&cluster.Replica{Name: "gone", ID: "g1"})
		w := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			front.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/networks/acme/apply", strings.NewReader("body")))
		}()
		leader.Store(&cluster.Replica{Name: next, ID: next})
		<-done
		if w.Code != http.StatusOK || w.Body.String() != next+" body" {
			t.Errorf("%d %q, want it from %s", w.Code, w.Body, next)
		}
	}
}

func TestBusBoundsAndGivesUp(t *testing.T) {
	for name, ends := range buses(t) {
		t.Run(name, func(t *testing.T) {
			stop, err := ends[0].Listen("big", func(context.Context, []byte) []byte { return make([]byte, 1<<20) })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			if _, err := ends[1].Ask(t.Context(), "big", nil, 1<<20-1); err == nil {
				t.Error("an answer over the limit was taken")
			}
			if data, err := ends[1].Ask(t.Context(), "big", nil, 1<<20); err != nil || len(data) != 1<<20 {
				t.Errorf("%d bytes, %v", len(data), err)
			}
			if _, err := ends[1].Ask(t.Context(), "big", make([]byte, 1<<20), 1); err == nil {
				t.Error("a question over the limit was asked")
			}
			if _, err := ends[1].Ask(t.Context(), "nobody", nil, 1); !errors.Is(err, cluster.ErrNobody) {
				t.Errorf("asked nobody: %v", err)
			}
			release := make(chan struct{})
			stop, err = ends[0].Listen("slow", func(ctx context.Context, _ []byte) []byte {
				select {
				case <-release:
				case <-ctx.Done():
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			defer close(release)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := ends[1].Ask(ctx, "slow", nil, 1); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("asked in vain: %v", err)
			}
		})
	}
}
