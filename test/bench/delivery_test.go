//go:build linux

package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// BenchmarkDelivery is the controller's part of a merge: until the last agent has read what is new. The clients are the
// agents' own, over TLS, without what agents do with what they get: on real hosts each does that on its own processor.
func BenchmarkDelivery(b *testing.B) {
	binary := buildCommand(b, "apex-controller")
	for _, s := range []shape{{1000, 200, false}, {300, 20, true}} {
		b.Run(s.String(), func(b *testing.B) {
			n := newNetwork(b, s)
			p := newProcess(b, binary, n)
			p.start()
			b.Run("firstMaps", func(b *testing.B) {
				m := figures{}
				for b.Loop() {
					p.stop()
					p.start()
					resident, cpu := p.resident(), p.cpu()
					c := newCrowd(b, n, p)
					took := c.await(n.all(), c.began)
					m.seconds("cpu-s", p.cpu()-cpu)
					m.seconds("last-s", took[len(took)-1])
					m.add("KiB-rss/agent", (p.resident()-resident)/1024/float64(n.nodes))
					c.close()
				}
				m.report(b)
			})
			for _, e := range []edit{policyLine, oneNode} {
				b.Run(string(e), func(b *testing.B) { benchmarkDelivery(b, n, p, e) })
			}
		})
	}
}

func benchmarkDelivery(b *testing.B, n *network, p *process, e edit) {
	c := newCrowd(b, n, p)
	defer c.close()
	c.await(n.all(), c.began)
	m := figures{}
	for b.Loop() {
		n.push(e)
		cpu, since := p.cpu(), time.Now()
		p.poke()
		took := c.await(n.affected(e), since)
		m.seconds("p50-s", percentile(took, 50))
		m.seconds("p99-s", percentile(took, 99))
		m.seconds("last-s", took[len(took)-1])
		m.seconds("cpu-s", p.cpu()-cpu)
	}
	m.report(b)
}

// crowd is a watch of every node.
type crowd struct {
	tb    testing.TB
	began time.Time
	got   chan arrival
	close func()
}

func newCrowd(tb testing.TB, n *network, p *process) *crowd {
	tb.Helper()
	spki, err := hex.DecodeString(p.pin())
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &crowd{tb: tb, began: time.Now(), got: make(chan arrival, 16*n.nodes)}
	var all sync.WaitGroup
	c.close = sync.OnceFunc(func() { cancel(); all.Wait() })
	tb.Cleanup(c.close)
	for i := range n.nodes {
		transport, err := fetch.NewTransport(fetch.TLS{SPKI: spki})
		if err != nil {
			tb.Fatal(err)
		}
		client, err := fetch.New(fetch.Options{
			Controllers: []string{"https://" + p.api}, Network: networkName, Zone: zoneName, Node: nodeName(i),
			Identity: func() signer.PrivateKey { return n.ids[i] }, Transport: transport,
		})
		if err != nil {
			tb.Fatal(err)
		}
		all.Go(func() {
			if err := c.listen(ctx, client, i); err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
				c.got <- arrival{node: i, at: time.Now(), err: err}
			}
			client.CloseIdle()
		})
	}
	return c
}

func (c *crowd) listen(ctx context.Context, client *fetch.Client, node int) error {
	stream, err := client.Watch(ctx, peermap.Digest{}, peermap.Digest{})
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		message, err := stream.Next()
		if err != nil {
			return err
		}
		if message.Update != nil {
			c.got <- arrival{node: node, at: time.Now()}
		}
	}
}

// await waits until each of these nodes has heard of a generation, and gives when, counted from since, in order.
func (c *crowd) await(nodes []int, since time.Time) []time.Duration {
	c.tb.Helper()
	return collect(c.tb, c.got, nodes, since)
}

// collect reads arrivals until each of these nodes has one that is younger than since.
func collect(tb testing.TB, from <-chan arrival, nodes []int, since time.Time) []time.Duration {
	tb.Helper()
	missing := make(map[int]bool, len(nodes))
	for _, n := range nodes {
		missing[n] = true
	}
	late := time.After(2 * time.Minute)
	var took []time.Duration
	for len(missing) > 0 {
		select {
		case a := <-from:
			if a.err != nil {
				tb.Fatalf("%s: %v", nodeName(a.node), a.err)
			}
			if missing[a.node] && a.at.After(since) {
				delete(missing, a.node)
				took = append(took, a.at.Sub(since))
			}
		case <-late:
			tb.Fatalf("%d of %d nodes have nothing new after two minutes", len(missing), len(nodes))
		}
	}
	slices.Sort(took)
	return took
}
