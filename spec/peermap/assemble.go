package peermap

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrMissing says that an artefact a view refers to was not to be had. ErrDigest says that bytes do not hash to the
// digest they were asked for by.
var (
	ErrMissing = errors.New("artefact missing")
	ErrDigest  = errors.New("bytes do not match their digest")
)

// Map is an assembled view: everything a node acts on, checked as a whole. It may share memory with the maps before and
// after it (see AssembleFrom), so nothing in it is to be changed.
type Map struct {
	View  View
	Class Class
	// Peers are sorted by name; the node itself is left out.
	Peers []PeerEntry

	self *PeerEntry // the node's own record, if its class holds one
}

// PeerEntry is a peer with its place in the class.
type PeerEntry struct {
	Peer
	Group  uint32         // index into Class.Groups
	block  uint32         // index into Class.Blocks()
	Routes []netip.Prefix // prefixes reached through this peer, sorted; with the addresses these are its allowed IPs
}

// peerRecords counts the records of all blocks.
func (m *Map) peerRecords() int {
	if m.self != nil {
		return len(m.Peers) + 1
	}
	return len(m.Peers)
}

// Blocks lists the digests of all blocks of c in the order of its groups.
func (c Class) Blocks() []Digest {
	var out []Digest
	for _, g := range c.Groups {
		out = append(out, g.Blocks...)
	}
	return out
}

// Assemble turns a view and the artefacts it refers to into a Map, or refuses it as a whole. It trusts nothing but view,
// whose bytes the caller has proven to be a leaf of a signed manifest: every artefact that fetch gives is hashed and
// decoded strictly. fetch reports false for what it does not have (ErrMissing).
//
// What holds afterwards: the view is the one of this network, zone and node; names, public keys and addresses occur
// once, the node's own included; addresses lie in the zone's ranges; no two peers' allowed IPs overlap, nor do they
// overlap the node's own addresses or routes; every group index of a rule exists; every limit of limits.go is kept.
func Assemble(network, zone, node string, view []byte, fetch func(Digest) ([]byte, bool)) (*Map, error) {
	v, err := DecodeView(view)
	if err != nil {
		return nil, err
	}
	if v.Network != network || v.Zone != zone || v.Node != node {
		return nil, invalid("view of %s/%s/%s, want %s/%s/%s", v.Network, v.Zone, v.Node, network, zone, node)
	}
	b, err := fetched(fetch, v.Class)
	if err != nil {
		return nil, fmt.Errorf("class of node %s: %w", node, err)
	}
	c, err := DecodeClass(b)
	if err != nil {
		return nil, fmt.Errorf("class %s: %w", v.Class, err)
	}
	m := &Map{View: v, Class: c}
	if m.Peers, m.self, err = collect(v, c, fetch); err != nil {
		return nil, err
	}
	if err := m.attachVias(); err != nil {
		return nil, err
	}
	if err := m.checkAllowedIPs(); err != nil {
		return nil, err
	}
	return m, nil
}

func fetched(fetch func(Digest) ([]byte, bool), d Digest) ([]byte, error) {
	b, ok := fetch(d)
	if !ok {
		return nil, fmt.Errorf("%s: %w", d, ErrMissing)
	}
	if DigestOf(b) != d {
		return nil, fmt.Errorf("%s: %w", d, ErrDigest)
	}
	return b, nil
}

// collect fetches the blocks of every group and checks that names and keys occur once. It gives the node's own record
// apart; nil if there is none.
func collect(v View, c Class, fetch func(Digest) ([]byte, bool)) ([]PeerEntry, *PeerEntry, error) {
	var peers []PeerEntry
	number := uint32(0) // of the block
	for gi, g := range c.Groups {
		for _, d := range g.Blocks {
			b, err := fetched(fetch, d)
			if err != nil {
				return nil, nil, fmt.Errorf("block of group %d: %w", gi, err)
			}
			block, err := DecodeBlock(b)
			if err != nil {
				return nil, nil, fmt.Errorf("block %s: %w", d, err)
			}
			if len(peers)+len(block.Peers) > MaxZonePeers+1 {
				return nil, nil, fmt.Errorf("view of %s: more than %d peers: %w", v.Node, MaxZonePeers, ErrTooLarge)
			}
			for _, p := range block.Peers {
				peers = append(peers, PeerEntry{Peer: p, Group: uint32(gi), block: number})
			}
			number++
		}
	}
	slices.SortFunc(peers, func(a, b PeerEntry) int { return strings.Compare(a.Name, b.Name) })
	keys := make(map[Key]int, len(peers)+1)
	self := -1
	for i, p := range peers {
		if i > 0 && peers[i-1].Name == p.Name {
			return nil, nil, invalid("peer %s occurs twice", p.Name)
		}
		if first, twice := keys[p.PublicKey]; twice {
			return nil, nil, invalid("peers %s and %s have the same public key", peers[first].Name, p.Name)
		}
		keys[p.PublicKey] = i
		if p.Name == v.Node {
			self = i
		}
	}
	if self >= 0 {
		if p := peers[self]; p.PublicKey != v.PublicKey || !slices.Equal(p.Addresses, v.Addresses) {
			return nil, nil, invalid("the peer record of %s differs from its view", v.Node)
		}
		record := peers[self]
		return slices.Delete(peers, self, self+1), &record, nil
	}
	if i, taken := keys[v.PublicKey]; taken {
		return nil, nil, invalid("peer %s has this node's own public key", peers[i].Name)
	}
	return peers, nil, nil
}

func (m *Map) attachVias() error {
	for _, via := range m.Class.Vias {
		i, found := slices.BinarySearchFunc(m.Peers, via.Peer, func(p PeerEntry, name string) int {
			return strings.Compare(p.Name, name)
		})
		if !found {
			return invalid("prefix %s is reached through %s, which is no peer of this node", via.Prefix, via.Peer)
		}
		m.Peers[i].Routes = append(m.Peers[i].Routes, via.Prefix)
	}
	return nil
}

// claim is one allowed IP with its claimant: an index into Peers, or own.
type claim struct {
	prefix netip.Prefix
	peer   int
}

const own = -1

func (p *PeerEntry) claims(to []claim, index int) []claim {
	for _, a := range p.Addresses {
		to = append(to, claim{netip.PrefixFrom(a, a.BitLen()), index})
	}
	for _, r := range p.Routes {
		to = append(to, claim{r, index})
	}
	return to
}

func (v *View) claims(to []claim) []claim {
	for _, a := range v.Addresses {
		to = append(to, claim{netip.PrefixFrom(a, a.BitLen()), own})
	}
	for _, r := range v.Routes {
		to = append(to, claim{r, own})
	}
	return to
}

func (m *Map) checkAllowedIPs() error {
	claims := make([]claim, 0, 2*len(m.Peers)+len(m.Class.Vias)+4)
	for i := range m.Peers {
		p := &m.Peers[i]
		for _, a := range p.Addresses {
			if !inside(a, m.View.Ranges) {
				return invalid("address %s of peer %s lies outside the zone's ranges", a, p.Name)
			}
		}
		claims = p.claims(claims, i)
	}
	claims = m.View.claims(claims)
	if outer, inner, overlap := overlapping(claims); overlap {
		return invalid("%s of %s overlaps %s of %s", inner.prefix, m.claimant(inner), outer.prefix, m.claimant(outer))
	}
	return nil
}

// overlapping sorts claims and gives the first two that overlap and have different claimants. It walks them with a stack
// of the prefixes that enclose the current one: prefixes nest or are disjoint, so whatever overlaps the current one lies
// on the stack, and all of the stack has one claimant.
func overlapping(claims []claim) (outer, inner claim, overlap bool) {
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(ComparePrefixes(a.prefix, b.prefix), cmp.Compare(a.peer, b.peer))
	})
	var stack []claim
	for _, c := range claims {
		for len(stack) > 0 && !stack[len(stack)-1].prefix.Overlaps(c.prefix) {
			stack = stack[:len(stack)-1]
		}
		if len(stack) > 0 && stack[len(stack)-1].peer != c.peer {
			return stack[len(stack)-1], c, true
		}
		stack = append(stack, c)
	}
	return claim{}, claim{}, false
}

func (m *Map) claimant(c claim) string {
	if c.peer == own {
		return "this node"
	}
	return "peer " + m.Peers[c.peer].Name
}
