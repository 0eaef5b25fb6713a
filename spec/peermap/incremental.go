package peermap

import (
	"net/netip"
	"slices"
	"strings"
)

// AssembleFrom does what Assemble does, with work in proportion to what differs from previous, a Map that Assemble or
// AssembleFrom made (nil: there is none). It gives an equal Map or the same error. The result shares records with
// previous, which stays as it is; neither may be written to.
//
// Blocks that previous was made from are neither fetched nor decoded again: fetch must still have them. What was checked
// about them holds still, so only peers that are new, or that have another key or other allowed IPs, are held against the
// rest. Whatever does not pass is given to Assemble, which is the one place that refuses and says why.
func AssembleFrom(previous *Map, network, zone, node string, view []byte, fetch func(Digest) ([]byte, bool)) (*Map, error) {
	if previous != nil {
		if m, ok := assembleFrom(previous, network, zone, node, view, fetch); ok {
			return m, nil
		}
	}
	return Assemble(network, zone, node, view, fetch)
}

func assembleFrom(previous *Map, network, zone, node string, view []byte, fetch func(Digest) ([]byte, bool)) (*Map, bool) {
	v, err := DecodeView(view)
	if err != nil || v.Network != network || v.Zone != zone || v.Node != node {
		return nil, false
	}
	// Another node or other ranges put every peer in question.
	if p := &previous.View; p.Node != v.Node || !slices.Equal(p.Ranges, v.Ranges) {
		return nil, false
	}
	s := succession{previous: previous, next: &Map{View: v, Class: previous.Class}}
	if v.Class != previous.View.Class {
		b, err := fetched(fetch, v.Class)
		if err != nil {
			return nil, false
		}
		if s.next.Class, err = DecodeClass(b); err != nil {
			return nil, false
		}
	}
	if !s.takeBlocks(fetch) || !s.merge() || !s.selfAgrees() || !s.keysDistinct() || !s.claimsDisjoint() {
		return nil, false
	}
	return s.next, true
}

// succession makes next out of previous. Its methods report false for what breaks an invariant.
type succession struct {
	previous, next *Map

	kept  []place     // by number of a block in previous: where it stands in next
	fresh []PeerEntry // peers of blocks that previous lacks, sorted by name
	// routes are the prefixes behind peers, by name; carriers counts the names that no peer has borne yet.
	routes   map[string][]netip.Prefix
	carriers int
	// changed are the indexes in next.Peers, ascending, of peers that are not known to agree with the rest.
	changed []int
}

// place says where a block stands in a class.
type place struct {
	held         bool
	group, block uint32
}

// takeBlocks fetches the blocks that previous lacks and notes where the others stand now.
func (s *succession) takeBlocks(fetch func(Digest) ([]byte, bool)) bool {
	numbers := make(map[Digest]int)
	for i, d := range s.previous.Class.Blocks() {
		numbers[d] = i
	}
	s.kept = make([]place, len(numbers))
	number := uint32(0)
	for gi, g := range s.next.Class.Groups {
		for _, d := range g.Blocks {
			at := place{held: true, group: uint32(gi), block: number}
			number++
			if i, ok := numbers[d]; ok {
				s.kept[i] = at
				continue
			}
			b, err := fetched(fetch, d)
			if err != nil {
				return false
			}
			block, err := DecodeBlock(b)
			if err != nil {
				return false
			}
			for _, p := range block.Peers {
				s.fresh = append(s.fresh, PeerEntry{Peer: p, Group: at.group, block: at.block})
			}
			if len(s.fresh) > MaxZonePeers+1 {
				return false
			}
		}
	}
	slices.SortFunc(s.fresh, func(a, b PeerEntry) int { return strings.Compare(a.Name, b.Name) })
	return true
}

// merge makes next's peers, sorted by name, from those of kept blocks and the fresh ones, and marks what changed.
func (s *succession) merge() bool {
	s.routes = make(map[string][]netip.Prefix)
	for _, via := range s.next.Class.Vias {
		s.routes[via.Peer] = append(s.routes[via.Peer], via.Prefix)
	}
	s.carriers = len(s.routes)
	old, fresh := s.previous.Peers, s.fresh
	s.next.Peers = make([]PeerEntry, 0, max(len(old), len(fresh)))
	for len(old) > 0 || len(fresh) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(fresh) == 0:
			order = -1
		default:
			order = strings.Compare(old[0].Name, fresh[0].Name)
		}
		var before *PeerEntry
		if order <= 0 {
			before, old = &old[0], old[1:]
		}
		held := before != nil && s.kept[before.block].held
		if order < 0 {
			if held {
				s.add(s.moved(before), before)
			}
			continue
		}
		if held || len(fresh) > 1 && fresh[0].Name == fresh[1].Name {
			return false // the name occurs twice
		}
		p := fresh[0]
		fresh = fresh[1:]
		if before != nil {
			p.share(before)
		}
		s.add(p, before)
	}
	return s.carriers == 0 && s.keepSelf() && s.next.peerRecords() <= MaxZonePeers+1
}

// moved is a record of previous at its place in next.
func (s *succession) moved(before *PeerEntry) PeerEntry {
	p, at := *before, s.kept[before.block]
	p.Group, p.block = at.group, at.block
	return p
}

// add takes up a peer, or the node's own record. before is the record of that name in previous, or nil.
func (s *succession) add(p PeerEntry, before *PeerEntry) {
	if p.Name == s.next.View.Node {
		self := p // so that only this one leaves the stack
		s.next.self = &self
		return
	}
	p.Routes = s.routes[p.Name]
	if p.Routes != nil {
		s.carriers--
	}
	if before == nil || before.PublicKey != p.PublicKey || !sameSlice(before.Addresses, p.Addresses) || !slices.Equal(before.Routes, p.Routes) {
		s.changed = append(s.changed, len(s.next.Peers))
	} else {
		p.Routes = before.Routes
	}
	s.next.Peers = append(s.next.Peers, p)
}

// keepSelf takes over the node's own record if its block is still there.
func (s *succession) keepSelf() bool {
	before := s.previous.self
	if before == nil || !s.kept[before.block].held {
		return true
	}
	if s.next.self != nil {
		return false // it occurs twice
	}
	self := s.moved(before)
	s.next.self = &self
	return true
}

// share makes equal parts of p the same memory as those of before.
func (p *PeerEntry) share(before *PeerEntry) {
	p.Name = before.Name
	if slices.Equal(p.Addresses, before.Addresses) {
		p.Addresses = before.Addresses
	}
	if slices.Equal(p.Endpoints, before.Endpoints) {
		p.Endpoints = before.Endpoints
	}
}

func sameSlice[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func (s *succession) selfAgrees() bool {
	self, v := s.next.self, &s.next.View
	return self == nil || self.PublicKey == v.PublicKey && slices.Equal(self.Addresses, v.Addresses)
}

// keysDistinct holds the keys of what changed against each other and against all others.
func (s *succession) keysDistinct() bool {
	keys := make(map[Key]struct{}, len(s.changed)+1)
	// The node's own key is as good as a peer's, whether or not its record stands among them.
	keys[s.next.View.PublicKey] = struct{}{}
	for _, i := range s.changed {
		key := s.next.Peers[i].PublicKey
		if _, twice := keys[key]; twice {
			return false
		}
		keys[key] = struct{}{}
	}
	return s.rest(func(p *PeerEntry) bool {
		_, twice := keys[p.PublicKey]
		return !twice
	})
}

// claimsDisjoint holds the allowed IPs of what changed, and the node's own, against each other and against all others.
func (s *succession) claimsDisjoint() bool {
	v := &s.next.View
	claims := v.claims(nil)
	for _, i := range s.changed {
		p := &s.next.Peers[i]
		for _, a := range p.Addresses {
			if !inside(a, v.Ranges) {
				return false
			}
		}
		claims = p.claims(claims, i)
	}
	if _, _, overlap := overlapping(claims); overlap {
		return false
	}
	outer := outermost(claims)
	return s.rest(func(p *PeerEntry) bool {
		for _, a := range p.Addresses {
			if touches(outer, netip.PrefixFrom(a, a.BitLen())) {
				return false
			}
		}
		return !slices.ContainsFunc(p.Routes, func(r netip.Prefix) bool { return touches(outer, r) })
	})
}

// rest asks about every peer that did not change, until one does not hold.
func (s *succession) rest(holds func(*PeerEntry) bool) bool {
	changed := s.changed
	for i := range s.next.Peers {
		if len(changed) > 0 && changed[0] == i {
			changed = changed[1:]
			continue
		}
		if !holds(&s.next.Peers[i]) {
			return false
		}
	}
	return true
}

// outermost gives the prefixes of sorted claims that lie in no other: they are disjoint and ascending.
func outermost(claims []claim) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range claims {
		if len(out) == 0 || !out[len(out)-1].Overlaps(c.prefix) {
			out = append(out, c.prefix)
		}
	}
	return out
}

// touches reports whether p overlaps one of ascending disjoint prefixes. If it lies in one, or is one, that is the last
// not after it; if it holds one, that is the first after it.
func touches(disjoint []netip.Prefix, p netip.Prefix) bool {
	i, found := slices.BinarySearchFunc(disjoint, p, ComparePrefixes)
	return found || i > 0 && disjoint[i-1].Overlaps(p) || i < len(disjoint) && disjoint[i].Overlaps(p)
}
