package serve_test

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// get asks as node, in process.
func (f *fixture) get(node, path string, header http.Header) int {
	f.tb.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+f.addr+path, nil)
	if err != nil {
		f.tb.Fatal(err)
	}
	p, err := protocol.NewProof(node, http.MethodGet, r.URL, nil, time.Now())
	if err != nil {
		f.tb.Fatal(err)
	}
	token, err := p.Sign(f.id(node).Sign)
	if err != nil {
		f.tb.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	r.Header.Set(protocol.ProofHeader, token)
	w := &discard{header: http.Header{}, status: http.StatusOK}
	f.server.Handler().ServeHTTP(w, r)
	return w.status
}

// Whoever can open connections can begin to send bodies. That must not keep agents from their artefacts.
func TestTricklingBodiesHoldUpNoAgent(t *testing.T) {
	f := newFixture(t)
	docs := f.nodes(2, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	s, err := serve.New(serve.Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler), Metrics: serve.NewMetrics(prometheus.NewRegistry()), Requests: 5})
	if err != nil {
		t.Fatal(err)
	}
	memory := store.NewMemory(time.Now)
	nonces, err1 := memory.Bucket(t.Context(), serve.NonceBucket())
	status, err2 := memory.Bucket(t.Context(), serve.StatusBucket())
	err3 := s.Set(t.Context(), serve.Network{Name: "acme", Publisher: f.publisher, Control: control{}, Nonces: nonces, Status: status})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	f.server = s
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for i := range 30 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		path := []string{protocol.ApplyPath("acme"), protocol.WebhookPath("acme"), protocol.ReportPath("acme", "prod", name(0))}[i%3]
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", path, f.addr); err != nil {
			t.Fatal(err)
		}
		// The server asks for the body: it is being read.
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatal(i, line, err)
		}
	}
	if status := f.get(name(0), protocol.TimestampPath("acme", "prod"), nil); status != http.StatusOK {
		t.Fatalf("an agent is answered %d", status)
	}
}

// A stranger cannot even begin to send a verdict.
func TestCosignIsForWitnesses(t *testing.T) {
	f := newFixture(t)
	docs := f.nodes(2, 1)
	f.publish(docs)
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", protocol.CosignPath("acme"), f.addr); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatal(resp, err)
	}
}

// A body that nobody asked for and that never comes must not hold a connection for ever.
func TestBodiesThatNeverComeEndTheConnection(t *testing.T) {
	s, err := serve.New(serve.Options{Now: time.Now, Logger: slog.New(slog.DiscardHandler), Metrics: serve.NewMetrics(prometheus.NewRegistry()), BodyTimeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for _, method := range []string{"GET", "POST"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		path := protocol.RootPath("acme", "prod", 1)
		if method == "POST" {
			path = protocol.ReportPath("acme", "prod", "a")
		}
		if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", method, path); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: the connection stays open: %v", method, err)
		}
	}
}

// Any two blocks that a node may see, now or before, can be asked for as a delta. What the server keeps of that has to end.
func TestDeltasOnDemandFillNoMemory(t *testing.T) {
	f := newFixture(t)
	const n = 600
	docs := f.nodes(n, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	var all []peermap.Digest
	for round := range publish.DefaultKeep {
		for i := range n {
			docs[name(i)+".yaml"] = replacePort(f.node(i, 1), 2000+round)
		}
		f.publish(docs)
		z, _ := f.publisher.Zone("prod")
		snap, _ := z.Snapshot()
		node, _, _ := snap.Node(name(0))
		class, _ := snap.Class(node.Class)
		all = append(append(all, node.Class), class.Blocks...)
	}
	ask := func(base, d peermap.Digest) {
		header := http.Header{"Accept-Encoding": {string(protocol.Delta)},
			"Available-Dictionary": {":" + base64.StdEncoding.EncodeToString(base[:]) + ":"}}
		if status := f.get(name(0), protocol.ArtefactPath("acme", "prod", name(0), d), header); status != http.StatusOK {
			t.Fatalf("answered %d", status)
		}
	}
	inUse := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const first, most = 200, 1600
	asked, before := 0, int64(0)
	for _, base := range all {
		for _, d := range all {
			if asked++; asked > most {
				break
			}
			ask(base, d)
			if asked == first {
				before = inUse()
			}
		}
	}
	if asked < most {
		t.Fatalf("%d artefacts are too few for this test", len(all))
	}
	if grown := inUse() - before; grown > 1<<20 {
		t.Fatalf("%d deltas left %d bytes", most-first, grown)
	}
}
