package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// Route is a prefix that a node declares to be behind it.
type Route struct {
	Prefix   netip.Prefix
	Node     string
	Shared   bool
	Priority int
}

// RoutesOf gives the declared routes of a node.
func RoutesOf(n *spec.Node) []Route {
	if len(n.Spec.Routes) == 0 {
		return nil
	}
	out := make([]Route, 0, len(n.Spec.Routes))
	for _, r := range n.Spec.Routes {
		out = append(out, Route{r.Prefix.Masked(), n.Metadata.Name, r.Shared, r.Priority})
	}
	return out
}

// Piece is a prefix with the one node that carries all of it.
type Piece struct {
	Prefix netip.Prefix
	Node   string
}

// Routes answers who carries an address of a zone. Where routes overlap, the lowest Priority wins, then the lexically
// first name; the length of a prefix does not matter, so that a carrier is a function of the address alone. Immutable.
type Routes struct {
	// List is every declared route, sorted by prefix, priority and node.
	List   []Route
	best   map[netip.Prefix]Route
	sorted []netip.Prefix // the distinct prefixes
}

// NewRoutes indexes declared routes, given in any order.
func NewRoutes(routes []Route) *Routes {
	t := &Routes{List: slices.Clone(routes), best: make(map[netip.Prefix]Route, len(routes))}
	slices.SortFunc(t.List, func(a, b Route) int {
		return cmp.Or(peermap.ComparePrefixes(a.Prefix, b.Prefix), compareRank(a, b))
	})
	for _, r := range t.List {
		if _, known := t.best[r.Prefix]; !known {
			t.best[r.Prefix] = r
			t.sorted = append(t.sorted, r.Prefix)
		}
	}
	return t
}

func compareRank(a, b Route) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Node, b.Node))
}

// Carriers cuts p into as few pieces as have one carrier each, sorted by prefix. It gives nil if no declared route
// contains all of p: then parts of it lead nowhere.
func (t *Routes) Carriers(p netip.Prefix) []Piece {
	cover, ok := t.cover(p)
	if !ok {
		return nil
	}
	return t.cut(p, cover)
}

// cover gives the best of the routes that contain all of p.
func (t *Routes) cover(p netip.Prefix) (Route, bool) {
	var best Route
	found := false
	if len(t.best) == 0 {
		return best, false
	}
	for bits := 0; bits <= p.Bits(); bits++ {
		wider, err := p.Addr().Prefix(bits)
		if err != nil {
			continue
		}
		if r, ok := t.best[wider]; ok && (!found || compareRank(r, best) < 0) {
			best, found = r, true
		}
	}
	return best, found
}

// cut splits p in halves until no narrower route inside beats the best one around.
func (t *Routes) cut(p netip.Prefix, cover Route) []Piece {
	contested := false
	for _, inner := range t.inside(p) {
		if compareRank(t.best[inner], cover) < 0 && t.best[inner].Node != cover.Node {
			contested = true
			break
		}
	}
	if !contested {
		return []Piece{{p, cover.Node}}
	}
	low, high := halves(p)
	left, right := t.cut(low, t.better(low, cover)), t.cut(high, t.better(high, cover))
	if len(left) == 1 && len(right) == 1 && left[0].Node == right[0].Node {
		return []Piece{{p, left[0].Node}}
	}
	return append(left, right...)
}

// better is the best cover of half, given that of the prefix it is half of.
func (t *Routes) better(half netip.Prefix, cover Route) Route {
	if r, ok := t.best[half]; ok && compareRank(r, cover) < 0 {
		return r
	}
	return cover
}

// inside gives the declared prefixes strictly inside p.
func (t *Routes) inside(p netip.Prefix) []netip.Prefix {
	return prefixesInside(t.sorted, p)
}

// prefixesInside gives those of the sorted prefixes that lie strictly inside p: they stand together, right behind p.
func prefixesInside(sorted []netip.Prefix, p netip.Prefix) []netip.Prefix {
	i, found := slices.BinarySearchFunc(sorted, p, peermap.ComparePrefixes)
	if found {
		i++
	}
	j := i
	for j < len(sorted) && p.Overlaps(sorted[j]) {
		j++
	}
	return sorted[i:j]
}

// halves splits a prefix that is not a single address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits() + 1
	low = netip.PrefixFrom(p.Addr(), bits)
	raw := p.Addr().As16()
	bit := bits - 1
	if p.Addr().Is4() {
		bit += 96
	}
	raw[bit/8] |= 1 << (7 - bit%8)
	addr := netip.AddrFrom16(raw)
	if p.Addr().Is4() {
		addr = addr.Unmap()
	}
	return low, netip.PrefixFrom(addr, bits)
}

// Declares reports whether the node itself declares a route that contains all of p: p is then on the node's own side
// and never reached through a tunnel.
func Declares(routes []Route, p netip.Prefix) bool {
	return slices.ContainsFunc(routes, func(r Route) bool {
		return r.Prefix.Bits() <= p.Bits() && r.Prefix.Contains(p.Addr())
	})
}

// Clash is a pair of routes that overlap although not both are declared shared.
type Clash struct{ A, B Route }

// Clashes lists the pairs of routes of different nodes that overlap without both being shared, in order of their
// prefixes; each route is held against the nearest ones around it, so a list is complete in the routes it names.
func (t *Routes) Clashes() []Clash {
	var out []Clash
	var stack []Route
	for _, r := range t.List {
		for len(stack) > 0 && !stack[len(stack)-1].Prefix.Overlaps(r.Prefix) {
			stack = stack[:len(stack)-1]
		}
		for i := len(stack) - 1; i >= 0; i-- {
			if a := stack[i]; a.Node != r.Node && !(a.Shared && r.Shared) {
				out = append(out, Clash{a, r})
				break
			}
		}
		stack = append(stack, r)
	}
	return out
}

// Within reports whether p lies inside one of prefixes.
func Within(p netip.Prefix, prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(w netip.Prefix) bool { return w.Bits() <= p.Bits() && w.Contains(p.Addr()) })
}
