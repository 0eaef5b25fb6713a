// Package desired turns what a node may know (a verified peermap.Map) into what its host should be (a
// reconciler.State). It is pure: the same map, local facts and instant give the same state.
//
// What has run out by that instant is left out: a rule or peer whose notAfter has come is not in the state, whether or
// not a controller can be reached. Next says when to build again.
package desired

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// Errors that callers tell apart. The message names the object.
var (
	// ErrKeyMismatch: the signed view carries another WireGuard key than this host has.
	ErrKeyMismatch = errors.New("the signed view is for another WireGuard key")
	// ErrClaim: the map lets a node hold a prefix that neither the zone's ranges nor the trust root grant.
	ErrClaim = errors.New("prefix claimed without a grant")
)

// Local is what the host itself contributes. None of it can widen what the map allows.
type Local struct {
	Interface  string
	PrivateKey reconciler.PrivateKey
	// Endpoint gives the address to use for a peer now, from its host:port list; invalid if there is none yet. It must
	// not block. Nil leaves every peer without an endpoint.
	Endpoint func(peer string, endpoints []string) netip.AddrPort
	// Claims are the prefixes outside the zone's ranges that the trust root lets its nodes carry.
	Claims []netip.Prefix
}

// Result is a state and what the agent must know about it.
type Result struct {
	State reconciler.State
	// Next is the earliest instant at which something in the map runs out; zero if nothing will.
	Next time.Time
	// Expired counts the peers and rules left out because their time has come.
	Expired int
}

// Build makes the state of a map at now. It fails, without a partial result, with ErrKeyMismatch or ErrClaim; every
// other invariant of a map holds already, because peermap.Assemble made it.
func Build(m *peermap.Map, id string, local Local, now time.Time) (Result, error) {
	public, err := local.PrivateKey.Public()
	if err != nil {
		return Result{}, fmt.Errorf("WireGuard key: %w", err)
	}
	if peermap.Key(public) != m.View.PublicKey {
		return Result{}, fmt.Errorf("%w: git says %s, the host has %s", ErrKeyMismatch, reconciler.Key(m.View.PublicKey), public)
	}
	if err := CheckClaims(m, local.Claims); err != nil {
		return Result{}, err
	}
	b := builder{m: m, now: now, local: local}
	b.state.ID = id
	b.state.Interface = reconciler.Interface{
		Name: local.Interface, PrivateKey: local.PrivateKey, ListenPort: m.View.ListenPort, MTU: int(m.View.MTU),
	}
	b.state.Addresses = hostPrefixes(m.View.Addresses)
	b.state.Forward = slices.Clone(m.View.Routes)
	b.peers()
	b.routes()
	b.firewall()
	return Result{State: b.state, Next: b.next, Expired: b.expired}, nil
}

// builder collects one state.
type builder struct {
	m       *peermap.Map
	local   Local
	now     time.Time
	state   reconciler.State
	next    time.Time
	expired int
	live    []bool // by index of m.Peers
}

// alive says whether something with this notAfter (Unix seconds, 0: never) still counts, and keeps the time in mind.
func (b *builder) alive(notAfter int64) bool {
	if notAfter == 0 {
		return true
	}
	end := time.Unix(notAfter, 0)
	if !b.now.Before(end) {
		b.expired++
		return false
	}
	if b.next.IsZero() || end.Before(b.next) {
		b.next = end
	}
	return true
}

func (b *builder) peers() {
	b.live = make([]bool, len(b.m.Peers))
	b.state.Peers = make([]reconciler.Peer, 0, len(b.m.Peers))
	keepalive := time.Duration(b.m.View.Keepalive) * time.Second
	for i := range b.m.Peers {
		p := &b.m.Peers[i]
		if !b.alive(p.NotAfter) {
			continue
		}
		b.live[i] = true
		allowed := make([]netip.Prefix, 0, len(p.Addresses)+len(p.Routes))
		for _, addr := range p.Addresses {
			allowed = append(allowed, netip.PrefixFrom(addr, addr.BitLen()))
		}
		out := reconciler.Peer{
			Name: p.Name, PublicKey: reconciler.Key(p.PublicKey), AllowedIPs: append(allowed, p.Routes...), Keepalive: keepalive,
			NotAfter: p.NotAfter,
		}
		if b.local.Endpoint != nil && len(p.Endpoints) > 0 {
			out.Endpoint = b.local.Endpoint(p.Name, p.Endpoints)
		}
		b.state.Peers = append(b.state.Peers, out)
	}
}

// routes sends the zone's whole ranges into the interface, so that traffic for an address nobody holds ends here and
// does not leave through the default route; and every prefix behind a live peer. The map has no prefix twice.
func (b *builder) routes() {
	seen := map[netip.Prefix]bool{} // a prefix behind a peer may be a whole range
	add := func(p netip.Prefix) {
		if !seen[p] {
			seen[p] = true
			b.state.Routes = append(b.state.Routes, reconciler.Route{Prefix: p})
		}
	}
	for _, p := range b.m.View.Ranges {
		add(p)
	}
	for i := range b.m.Peers {
		if !b.live[i] {
			continue
		}
		for _, p := range b.m.Peers[i].Routes {
			add(p)
		}
	}
}

// firewall gives every peer group one set and every distinct prefix list one, shared by all rules that name them. Input
// rules reach this node's own addresses only and output rules start from them, so that the zone cannot reach, or be
// reached from, another address that this host happens to have.
func (b *builder) firewall() {
	sets := sets{b: b, byGroup: map[uint32]int{}}
	own := sets.add(b.state.Addresses)
	for i := range b.m.Class.Rules {
		r := &b.m.Class.Rules[i]
		if !b.alive(r.NotAfter) {
			continue
		}
		out := reconciler.Rule{ID: r.ID, Hook: reconciler.Hook(r.Hook), Ports: ports(r.Ports), NotAfter: r.NotAfter}
		out.From, out.To = sets.of(r.From), sets.of(r.To)
		switch r.Hook {
		case peermap.HookInput:
			out.To = []int{own}
		case peermap.HookOutput:
			out.From = []int{own}
		}
		if len(out.From) == 0 || len(out.To) == 0 {
			continue // a selector that matches nobody; an empty list would mean anybody
		}
		b.state.Firewall.Rules = append(b.state.Firewall.Rules, out)
	}
}

func ports(in []peermap.PortRange) []reconciler.Port {
	var out []reconciler.Port
	for _, p := range in {
		out = append(out, reconciler.Port{Protocol: uint8(p.Protocol), First: p.First, Last: p.Last})
	}
	return out
}

// sets makes each address set once.
type sets struct {
	b       *builder
	byGroup map[uint32]int
	members map[uint32][]netip.Prefix // of live peers, made on first use
	lists   []list
}

type list struct {
	prefixes []netip.Prefix
	index    int
}

// of gives the indexes of the sets whose union s is; nothing if s is empty.
func (s *sets) of(set peermap.Set) []int {
	var out []int
	for _, group := range set.Groups {
		out = append(out, s.group(group))
	}
	if len(set.Prefixes) > 0 {
		out = append(out, s.prefixes(set.Prefixes))
	}
	return out
}

func (s *sets) add(prefixes []netip.Prefix) int {
	s.b.state.Firewall.Sets = append(s.b.state.Firewall.Sets, prefixes)
	return len(s.b.state.Firewall.Sets) - 1
}

func (s *sets) group(group uint32) int {
	if index, ok := s.byGroup[group]; ok {
		return index
	}
	if s.members == nil {
		s.collect()
	}
	index := s.add(s.members[group])
	s.byGroup[group] = index
	return index
}

// collect files the addresses of every live peer under its group, in one pass over the peers.
func (s *sets) collect() {
	s.members = map[uint32][]netip.Prefix{}
	for i := range s.b.m.Peers {
		if p := &s.b.m.Peers[i]; s.b.live[i] {
			s.members[p.Group] = append(s.members[p.Group], hostPrefixes(p.Addresses)...)
		}
	}
}

func (s *sets) prefixes(prefixes []netip.Prefix) int {
	at, found := slices.BinarySearchFunc(s.lists, prefixes, func(l list, want []netip.Prefix) int {
		return slices.CompareFunc(l.prefixes, want, peermap.ComparePrefixes)
	})
	if found {
		return s.lists[at].index
	}
	index := s.add(prefixes)
	s.lists = slices.Insert(s.lists, at, list{prefixes, index})
	return index
}

func hostPrefixes(addrs []netip.Addr) []netip.Prefix {
	out := make([]netip.Prefix, len(addrs))
	for i, addr := range addrs {
		out[i] = netip.PrefixFrom(addr, addr.BitLen())
	}
	return out
}

// CheckClaims is the agent's own check of what compile promised: prefixes behind nodes, this one's included, lie in the
// zone's ranges or in what the trust root grants the zone. That addresses lie in the ranges is checked by Assemble.
func CheckClaims(m *peermap.Map, claims []netip.Prefix) error {
	granted := append(slices.Clone(m.View.Ranges), claims...)
	for _, p := range m.View.Routes {
		if !within(p, granted) {
			return fmt.Errorf("%w: this node, %s", ErrClaim, p)
		}
	}
	for _, via := range m.Class.Vias {
		if !within(via.Prefix, granted) {
			return fmt.Errorf("%w: node %s, %s", ErrClaim, via.Peer, via.Prefix)
		}
	}
	return nil
}

// within says whether p lies in one of the prefixes.
func within(p netip.Prefix, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(outer netip.Prefix) bool {
		return outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
	})
}
