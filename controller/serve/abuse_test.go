package serve_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

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
	f := newFixture(t, 0)
	docs := f.nodes(2, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	const more = 300 // than there are slots
	for i := range more {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		path := []string{protocol.ApplyPath("acme"), protocol.WebhookPath("acme"), protocol.ReportPath("acme", "prod", name(0))}[i%3]
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", path, f.addr); err != nil {
			t.Fatal(err)
		}
		if i < 60 { // these are being read: the server has asked for the body
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
				t.Fatal(line, err)
			}
		}
	}
	began := time.Now()
	for range 20 {
		if status := f.get(name(0), protocol.TimestampPath("acme", "prod"), nil); status != http.StatusOK {
			t.Fatalf("an agent is answered %d", status)
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Fatalf("20 requests took %s", took)
	}
}

// A stranger cannot even begin to send a verdict.
func TestCosignIsForWitnesses(t *testing.T) {
	f := newFixture(t, 0)
	docs := f.nodes(2, 1)
	f.publish(docs)
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\n", protocol.CosignPath("acme"), f.addr); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatal(resp, err)
	}
}

// Any two blocks of a view can be asked for as a delta. What the server keeps of that has to end.
func TestDeltasOnDemandFillNoMemory(t *testing.T) {
	f := newFixture(t, 0)
	const n = 2400
	docs := f.nodes(n, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	z, _ := f.publisher.Zone("prod")
	snap, _ := z.Snapshot()
	node, _, _ := snap.Node(name(0))
	class, _ := snap.Class(node.Class)
	ask := func(base, d peermap.Digest) {
		header := http.Header{"Accept-Encoding": {string(protocol.Delta)},
			"Available-Dictionary": {":" + base64.StdEncoding.EncodeToString(base[:]) + ":"}}
		if status := f.get(name(0), protocol.ArtefactPath("acme", "prod", name(0), d), header); status != http.StatusOK {
			t.Fatalf("answered %d", status)
		}
	}
	all := append([]peermap.Digest{node.Class}, class.Blocks...)
	if len(all)*len(all) < 16*len(all)+16 {
		t.Fatalf("%d artefacts are too few for this test", len(all))
	}
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	asked := 0
	var half uint64
	for _, base := range all {
		for _, d := range all {
			if asked == 4000 {
				break
			}
			ask(base, d)
			asked++
			if asked == 16*len(all)+16 {
				half = inUse()
			}
		}
	}
	if grown := int64(inUse()) - int64(half); grown > 4<<20 {
		t.Fatalf("%d further deltas left %d bytes", asked-16*len(all)-16, grown)
	}
}
