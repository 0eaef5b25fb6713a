package agent

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/cache"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// BenchmarkUnchanged takes update frames that change nothing for this node, at a thousand and ten thousand peers: two
// signatures, one proof and one durable record. Disk is the temporary folder's.
func BenchmarkUnchanged(b *testing.B) {
	for _, size := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmarkFrames(b, size, false) })
	}
}

// BenchmarkOnePeer takes update frames with one peer more or less, down to the assembled and checked map.
func BenchmarkOnePeer(b *testing.B) {
	for _, size := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) { benchmarkFrames(b, size, true) })
	}
}

func benchmarkFrames(b *testing.B, size int, change bool) {
	clock := &agenttest.Clock{}
	network := agenttest.NewNetwork(b, testNetwork)
	zone := agenttest.Zone{Name: testZone, Rules: agenttest.SSHRule(0), Epoch: 1, Serial: 1, Issued: clock.Now()}
	for i := range size {
		zone.Nodes = append(zone.Nodes, network.NewNode(fmt.Sprintf("node-%05d", i), i+1))
	}
	store, err := cache.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	source := &honest{network: network, g: network.Publish(zone)}
	f := follow.New(follow.Options{
		Network: testNetwork, Zone: testZone, Node: "node-00000", Pin: network.Pin(), Source: source, Cache: store, Now: clock.Now, Logger: log,
	})
	if _, err := f.Sync(context.Background()); err != nil {
		b.Fatal(err)
	}
	// Two zones that differ in one peer take turns; without a change they are the same.
	other := zone
	if change {
		other.Nodes = zone.Nodes[:size-1]
	}
	b.ReportAllocs()
	b.ResetTimer()
	previous := source.g
	for i := range b.N {
		b.StopTimer()
		next := zone
		if i%2 == 0 {
			next = other
		}
		next.Serial, next.Previous, next.Issued = previous.Zone.Serial+1, previous.Digest, clock.Now()
		previous = network.Publish(next)
		frame := frameOf(previous, "node-00000")
		b.StartTimer()
		if changed, err := f.Update(context.Background(), frame); err != nil || changed != change {
			b.Fatalf("changed %t: %v", changed, err)
		}
	}
}

// frameOf is the update frame of a generation for one node that lacks only what changed.
func frameOf(g *agenttest.Generation, node string) *protocol.Update {
	v := g.Views[node]
	u := &protocol.Update{
		Manifest: g.Manifest, Timestamp: g.Timestamp, RootVersion: 1, Index: v.Index, Size: v.Size, Proof: v.Proof,
		ViewDigest: peermap.DigestOf(v.Bytes),
	}
	u.View = &protocol.Artefact{Digest: u.ViewDigest, Encoding: protocol.Identity, Data: v.Bytes}
	for d, data := range g.Artefacts {
		u.Artefacts = append(u.Artefacts, protocol.Artefact{Digest: d, Encoding: protocol.Identity, Data: data})
	}
	return u
}

// honest is a follow.Source that gives what a generation holds.
type honest struct {
	network *agenttest.Network
	g       *agenttest.Generation
}

func (h *honest) Root(_ context.Context, version uint64) ([]byte, error) {
	if envelope, ok := h.network.SignedRoot(version); ok {
		return envelope, nil
	}
	return nil, fetch.ErrNotFound
}

func (h *honest) Timestamp(context.Context) ([]byte, error) { return h.g.Timestamp, nil }

func (h *honest) Manifest(context.Context, peermap.Digest) ([]byte, error) { return h.g.Manifest, nil }

func (h *honest) View(context.Context, peermap.Digest) (protocol.ViewResponse, error) {
	v := h.g.Views["node-00000"]
	return protocol.ViewResponse{Manifest: h.g.Digest, Index: v.Index, Size: v.Size, Proof: v.Proof, View: v.Bytes}, nil
}

func (h *honest) Artefact(_ context.Context, d peermap.Digest, _ int) ([]byte, error) {
	if data, ok := h.g.Artefacts[d]; ok {
		return data, nil
	}
	return nil, fetch.ErrNotFound
}
