package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// header is what a zone's views have in common.
type header struct {
	network, zone string
	ranges        []netip.Prefix
	dynamic       []netip.Prefix
	mode          spec.Default
	listenPort    uint16
	mtu           uint16
	keepalive     uint16
	suspended     bool
}

func (h *header) equal(o *header) bool {
	return h.network == o.network && h.zone == o.zone && slices.Equal(h.ranges, o.ranges) &&
		slices.Equal(h.dynamic, o.dynamic) && h.mode == o.mode && h.listenPort == o.listenPort && h.mtu == o.mtu &&
		h.keepalive == o.keepalive && h.suspended == o.suspended
}

// header reads the Zone document; an equal header of prev is taken over.
func (b *builder) header() error {
	z := &b.src.doc.Value
	h := &header{
		network: b.src.network, zone: z.Metadata.Name, mode: z.Spec.Default, listenPort: z.Spec.ListenPort,
		suspended: z.Spec.Suspend, mtu: spec.DefaultMTU,
	}
	if h.mode == "" {
		h.mode = spec.DefaultDeny
	}
	if h.listenPort == 0 {
		h.listenPort = spec.DefaultListenPort
	}
	var faults faults
	fault := func(format string, args ...any) {
		faults.addf("%s: zone %s: %s", b.src.doc.Pos, h.zone, fmt.Sprintf(format, args...))
	}
	if h.mode != spec.DefaultDeny && h.mode != spec.DefaultMesh {
		fault("default %q: want deny or mesh", h.mode)
	}
	if z.Spec.MTU != 0 {
		if z.Spec.MTU < peermap.MinMTU || z.Spec.MTU > peermap.MaxMTU {
			fault("mtu %d: want %d to %d", z.Spec.MTU, peermap.MinMTU, peermap.MaxMTU)
		}
		h.mtu = uint16(z.Spec.MTU)
	}
	var err error
	if h.keepalive, err = wholeSeconds(z.Spec.Keepalive); err != nil {
		fault("%v", err)
	}
	for _, p := range z.Spec.Ranges {
		h.ranges = append(h.ranges, p.Masked())
	}
	for _, p := range z.Spec.Dynamic {
		h.dynamic = append(h.dynamic, p.Masked())
	}
	h.ranges = widest(h.ranges)
	if len(h.ranges) == 0 || len(h.ranges) > peermap.MaxRanges {
		fault("%d ranges: want 1 to %d", len(h.ranges), peermap.MaxRanges)
	}
	b.head = h
	if h.equal(b.prev.head) {
		b.head = b.prev.head
	}
	return faults.err()
}

func wholeSeconds(d spec.Duration) (uint16, error) {
	s := time.Duration(d) / time.Second
	if time.Duration(d)%time.Second != 0 || s < 0 || s > 65535 {
		return 0, fmt.Errorf("keepalive %s: want whole seconds from 0 to 65535", d)
	}
	return uint16(s), nil
}

// encodeViews makes the view of every node and the tree over them.
func (b *builder) encodeViews() error {
	b.zone = Zone{
		Network: b.head.network, Zone: b.head.zone, Suspended: b.head.suspended,
		Views:   make([]NodeView, len(b.members)),
		Classes: make(map[peermap.Digest][]byte, len(b.classes)),
		Blocks:  make(map[peermap.Digest][]byte, len(b.prev.zone.Blocks)),
	}
	for _, c := range b.classes {
		b.zone.Classes[c.digest] = c.bytes
	}
	for _, u := range b.chunks {
		for _, bl := range u.blocks {
			b.zone.Blocks[bl.digest] = bl.bytes
		}
	}
	oldTree := b.prev.zone.Tree
	if oldTree == nil {
		oldTree = peermap.NewTree(nil)
	}
	leaves := make([]peermap.Digest, len(b.members))
	j := 0
	for i, m := range b.members {
		for j < len(b.prev.members) && b.prev.members[j].name < m.name {
			j++
		}
		if j < len(b.prev.members) && b.sameView(m, b.prev.members[j]) {
			b.zone.Views[i], leaves[i] = b.prev.zone.Views[j], oldTree.Leaf(uint64(j))
			b.zone.Views[i].Index = uint64(i)
			continue
		}
		v, err := b.view(m)
		if err != nil {
			return fmt.Errorf("%s: node %s: %w", m.doc.Pos, m.name, err)
		}
		v.Index = uint64(i)
		b.zone.Views[i], leaves[i] = v, peermap.LeafHash(v.Leaf)
		b.stats.Views++
	}
	b.zone.Tree = oldTree.With(leaves)
	return nil
}

// sameView reports whether m's view is that of old: a view depends on nothing but what is compared here.
func (b *builder) sameView(m, old *member) bool {
	return m.record == old.record && b.head == b.prev.head && m.class.digest == old.class.digest &&
		slices.Equal(m.carried, old.carried)
}

func (b *builder) view(m *member) (NodeView, error) {
	n := &m.doc.Value
	v := peermap.View{
		Network: b.head.network, Zone: b.head.zone, Node: m.name, PublicKey: m.peer.PublicKey, Addresses: m.peer.Addresses,
		Ranges: b.head.ranges, Routes: m.carried, ListenPort: b.head.listenPort, MTU: b.head.mtu,
		Keepalive: b.head.keepalive, Class: m.class.digest,
	}
	if n.Spec.ListenPort != 0 {
		v.ListenPort = n.Spec.ListenPort
	}
	if n.Spec.Keepalive != nil {
		var err error
		if v.Keepalive, err = wholeSeconds(*n.Spec.Keepalive); err != nil {
			return NodeView{}, err
		}
	}
	leaf, err := peermap.EncodeView(v)
	if err != nil {
		return NodeView{}, err
	}
	return NodeView{
		Node: m.name, Leaf: leaf, Digest: peermap.DigestOf(leaf), IdentityKey: peermap.Key(n.Spec.IdentityKey),
	}, nil
}
