//go:build linux

package bench

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
)

// wire stands between one agent and the controller and counts what passes: TLS records with all that is in them.
type wire struct {
	listener net.Listener
	to       string
	down, up atomic.Int64
	open     sync.WaitGroup
}

func newWire(tb testing.TB, to string) *wire {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w := &wire{listener: l, to: to}
	w.open.Go(w.accept)
	tb.Cleanup(func() {
		l.Close()
		w.open.Wait()
	})
	return w
}

func (w *wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.open.Go(func() { w.join(client) })
	}
}

// join moves bytes until either side ends.
func (w *wire) join(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		return // the agent sees its connection end
	}
	defer server.Close()
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(client, counted{server, &w.down})
		client.Close()
	})
	io.Copy(server, counted{client, &w.up})
	server.Close()
	back.Wait()
}

type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// BenchmarkWire counts the bytes of one agent on the wire, TLS included: its first map, and what edits cost it.
func BenchmarkWire(b *testing.B) {
	binary := buildCommand(b, "apex-controller")
	for _, s := range []shape{{1000, 200, false}, {10_000, 200, false}, {10_000, 200, true}} {
		b.Run(s.String(), func(b *testing.B) {
			n := newNetwork(b, s)
			p := newProcess(b, binary, n)
			p.start()
			w := newWire(b, p.api)
			f := newFleet(b, n, p)
			f.url = "https://" + w.listener.Addr().String()
			b.Run("firstMap", func(b *testing.B) { f.benchmarkFirstMap(b, w) })
			for _, e := range []edit{policyLine, oneNode, noEffect} {
				b.Run(string(e), func(b *testing.B) { f.benchmarkBytes(b, w, e) })
			}
		})
	}
}

// one is the agent that is watched: of the group of the node that is edited.
func (f *fleet) one() int { return f.network.edited() - f.network.groups }

// startOne runs that agent until the returned function is called, with nothing on disk, and waits for its first map.
func (f *fleet) startOne(b *testing.B) (*agent.Agent, func()) {
	b.Helper()
	f.forget()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	a := f.newAgent(f.one())
	since := time.Now()
	go func() { ended <- a.Run(ctx) }()
	f.await([]int{f.one()}, since)
	return a, func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
}

func (f *fleet) benchmarkFirstMap(b *testing.B, w *wire) {
	m := figures{}
	for b.Loop() {
		down, up, since := w.down.Load(), w.up.Load(), time.Now()
		a, stop := f.startOne(b)
		m.millis("ms", time.Since(since))
		m.add("B-down", float64(w.down.Load()-down))
		m.add("B-up", float64(w.up.Load()-up))
		peers := float64(len(a.Status(b.Context()).Zones[0].Peers))
		m.add("peers", peers)
		m.add("B/peer", float64(w.down.Load()-down)/max(peers, 1))
		stop()
	}
	m.report(b)
}

func (f *fleet) benchmarkBytes(b *testing.B, w *wire, e edit) {
	a, stop := f.startOne(b)
	defer stop()
	f.watched()
	m := figures{}
	for b.Loop() {
		before := verified(b, a)
		f.network.push(e)
		down, since, own := w.down.Load(), time.Now(), ownCPU(b)
		f.server.poke()
		if e == noEffect {
			// Nothing is applied, so the agent is asked, which costs more than the change: no time is reported.
			f.server.await("the agent has the generation", 20*time.Millisecond, func() bool { return verified(b, a) > before })
		} else {
			f.await([]int{f.one()}, since)
			m.millis("agent-cpu-ms", ownCPU(b)-own)
			m.millis("ms", time.Since(since))
		}
		m.add("B-down", float64(w.down.Load()-down))
	}
	m.report(b)
}

func (f *fleet) watched() {
	f.server.await("the agent watches", 20*time.Millisecond, func() bool { return f.server.metric("apex_controller_watches", "") >= 1 })
}

func verified(b *testing.B, a *agent.Agent) uint64 {
	b.Helper()
	if v := a.Status(b.Context()).Zones[0].Verified; v != nil {
		return v.Serial
	}
	return 0
}
