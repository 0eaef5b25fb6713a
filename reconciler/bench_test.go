package reconciler_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

const manyPeers = 10_000

// watched runs Watch for the length of a benchmark, so that the engine may trust what it knows, and waits until it does.
func watched(b *testing.B, e *reconciler.Engine, s reconciler.State) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Watch(ctx, func(reconciler.Report, error) {}) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	eventually(b, "quiet", func() error {
		started := time.Now()
		if _, err := e.Apply(b.Context(), s, nil); err != nil {
			return err
		}
		if d := time.Since(started); d > 20*time.Millisecond {
			return fmt.Errorf("an unchanged state still takes %s", d)
		}
		return nil
	})
}

// swapEndpoint gives s with the endpoint of one peer changed.
func swapEndpoint(s reconciler.State, n int) reconciler.State {
	s.ID = fmt.Sprint("swap", n)
	s.Peers = append([]reconciler.Peer{}, s.Peers...)
	s.Peers[n%len(s.Peers)].Endpoint = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(1+n%60000))
	return s
}

// swapPeer gives s with one more peer, and that peer's address in the firewall's set; every second time without.
func swapPeer(s reconciler.State, n int) reconciler.State {
	s.ID = fmt.Sprint("peer", n)
	if n%2 == 0 {
		p := peer(len(s.Peers))
		s.Peers = append(append([]reconciler.Peer{}, s.Peers...), p)
		s.Firewall.Sets = append([][]netip.Prefix{}, s.Firewall.Sets...)
		s.Firewall.Sets[0] = append(append([]netip.Prefix{}, s.Firewall.Sets[0]...), p.AllowedIPs[0])
	}
	return s
}

func BenchmarkFakeOnePeerOf10000(b *testing.B) {
	f := start(b, twin.New(), b.TempDir())
	s := state("many", manyPeers)
	f.mustApply(b, s)
	watched(b, f.Engine, s)
	states := []reconciler.State{swapPeer(s, 0), swapPeer(s, 1)}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		f.mustApply(b, states[n%2])
	}
}

func BenchmarkFakeUnchanged10000(b *testing.B) {
	f := start(b, twin.New(), b.TempDir())
	s := state("many", manyPeers)
	f.mustApply(b, s)
	watched(b, f.Engine, s)
	b.ReportAllocs()
	for b.Loop() {
		f.mustApply(b, s)
	}
}

func BenchmarkFakeFullPass10000(b *testing.B) {
	f := start(b, twin.New(), b.TempDir())
	f.mustApply(b, state("many", manyPeers))
	b.ReportAllocs()
	for b.Loop() {
		f.settled(b)
	}
}

// BenchmarkEngineMemory reports the heap an engine holds per state size.
func BenchmarkEngineMemory(b *testing.B) {
	for _, n := range []int{1000, manyPeers} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				h := twin.New()
				before := heap()
				f := start(b, h, b.TempDir())
				f.mustApply(b, state("many", n))
				after := heap()
				runtime.KeepAlive(f)
				b.ReportMetric(float64(after-before)/1e6, "MB-with-the-twin's-copy")
			}
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
