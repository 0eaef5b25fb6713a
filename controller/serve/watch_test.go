package serve_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/internal/protocol"
)

// dial opens a watch and gives the response with its body.
func (f *fixture) dial(node, encoding, query string) (net.Conn, *http.Response) {
	f.tb.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(f.request(node, encoding, query)); err != nil {
		f.tb.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		f.tb.Fatal(err)
	}
	return conn, resp
}

// TestClientThatDoesNotReadIsDroppedAndHoldsUpNobody goes over pipes, which hold nothing, on a clock that moves when nobody has
// anything to do: the client that reads is never late, and the other one always.
func TestClientThatDoesNotReadIsDroppedAndHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pipes := newPipes()
		const writeTimeout = 10 * time.Second
		f := fixtureOver(t, pipes, writeTimeout)
		docs := f.nodes(20, 1)
		docs["policy.yaml"] = rules("", [2]string{"", ""})
		f.publish(docs)
		dead := pipes.dial()
		defer dead.Close()
		if _, err := dead.Write(f.request(name(1), "identity", "")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		conn := pipes.dial()
		defer conn.Close()
		if _, err := conn.Write(f.request(name(0), "zstd", "")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := protocol.NewWatchReader(resp.Body, resp.Header.Get("Content-Encoding"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		began := time.Now()
		for round := range 5 {
			docs[name(2)+".yaml"] = replacePort(f.node(2, 1), 2000+round)
			f.publish(docs)
			for {
				m, err := r.Next()
				if err != nil {
					t.Fatalf("the live client, round %d: %v", round, err)
				}
				if m.Update != nil {
					break
				}
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the live client waited %s for the dead one", waited)
		}
		connected := func() bool {
			fleet, _ := f.server.Fleet("acme")
			return fleet.Zones[0].Nodes[1].Connected
		}
		if !connected() {
			t.Error("the dead client is gone before its time")
		}
		time.Sleep(writeTimeout)
		synctest.Wait()
		if connected() {
			t.Error("a client that reads nothing was not dropped")
		}
	})
}

func TestStreamsEndWithTheNetworkAndTheServer(t *testing.T) {
	f := newFixture(t)
	docs := f.nodes(3, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	_, one := f.dial(name(0), "identity", "")
	close(f.done)
	if _, err := io.ReadAll(one.Body); err != nil {
		t.Fatalf("the stream did not end cleanly: %v", err)
	}
}

func TestWatchesOfOneNodeAreCapped(t *testing.T) {
	f := newFixture(t)
	docs := f.nodes(2, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	for range 4 {
		if _, resp := f.dial(name(0), "zstd", ""); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	if _, resp := f.dial(name(0), "zstd", ""); resp.StatusCode != http.StatusTooManyRequests {
		t.Fatal(resp.Status)
	}
	if _, resp := f.dial(name(1), "zstd", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	if _, resp := f.dial(name(1), "zstd", "?have=zz"); resp.StatusCode != http.StatusBadRequest {
		t.Fatal(resp.Status)
	}
}

func TestReplaysFillNoMemory(t *testing.T) {
	// Time stands still meanwhile: what is remembered is forgotten after minutes, and the requests may take that long.
	synctest.Test(t, replay)
}

func replay(t *testing.T) {
	f := fixtureOver(t, newPipes(), 0)
	docs := f.nodes(2, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	refused := 0
	for range 4200 {
		w := &discard{header: http.Header{}}
		path := protocol.TimestampPath("acme", "prod")
		r, err := http.NewRequest(http.MethodGet, "http://"+f.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := protocol.NewProof(name(0), http.MethodGet, r.URL, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		token, err := p.Sign(f.id(name(0)).Sign)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(protocol.ProofHeader, token)
		f.server.Handler().ServeHTTP(w, r)
		if w.status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Fatal("one node made the server remember without end")
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

func TestIncrementalUpdateEqualsTheFullOne(t *testing.T) {
	f := newFixture(t)
	docs := f.nodes(300, 3)
	docs["policy.yaml"] = rules("", [2]string{"g0", "g1"}, [2]string{"g2", "g2"})
	f.publish(docs)
	_, resp := f.dial(name(0), "zstd", "")
	follow, err := protocol.NewWatchReader(resp.Body, "zstd")
	if err != nil {
		t.Fatal(err)
	}
	defer follow.Close()
	held := &holder{}
	held.take(t, follow)
	for round := range 20 {
		switch round % 4 {
		case 0:
			docs[name(round*7+1)+".yaml"] = replacePort(f.node(round*7+1, 3), 4000+round)
		case 1:
			delete(docs, name(299-round)+".yaml")
		case 2:
			docs["policy.yaml"] = rules(", ports: [udp/"+strings.Repeat("5", 1+round%3)+"]", [2]string{"g0", "g1"}, [2]string{"g2", ""})
		case 3:
			docs["policy.yaml"] = rules("", [2]string{"", ""})
		}
		f.publish(docs)
		held.take(t, follow)
		conn, resp := f.dial(name(0), "identity", "")
		fresh, err := protocol.NewWatchReader(resp.Body, "")
		if err != nil {
			t.Fatal(err)
		}
		full := &holder{}
		full.take(t, fresh)
		_ = conn.Close()
		if !bytes.Equal(held.view, full.view) || !held.covers(full) {
			t.Fatalf("round %d: what came in steps differs from the whole", round)
		}
	}
}

func TestMemoryOfAConnectedAgent(t *testing.T) {
	f := newFixture(t)
	docs := f.nodes(200, 1)
	docs["policy.yaml"] = rules("", [2]string{"", ""})
	f.publish(docs)
	warm := f.crowd(1)
	warm.wait()
	before := inUse()
	c := f.crowd(200)
	c.wait()
	if per := float64(inUse()-before) / 200; per > 64<<10 {
		t.Errorf("%.0f bytes per connected agent, server and client together", per)
	}
	runtime.KeepAlive(c)
}
