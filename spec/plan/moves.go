package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// moves lists addresses and prefixes that change hands. An address of a node that merely comes or goes is no move.
func moves(a, b *side) []Move {
	var out []Move
	was, is := holders(a), holders(b)
	for addr, from := range was {
		if to, held := is[addr]; held && to != from {
			out = append(out, Move{"address", addr.String(), from, to})
		}
	}
	slices.SortFunc(out, func(x, y Move) int { return cmp.Compare(x.Item, y.Item) })
	return append(out, routeMoves(a.policy.Routes(), b.policy.Routes())...)
}

func holders(s *side) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for name, n := range s.nodes {
		for _, a := range n.Spec.Addresses {
			out[a] = name
		}
	}
	return out
}

// routeMoves compares who carries what, prefix by prefix of either side's routes.
func routeMoves(a, b *policy.Routes) []Move {
	cuts := routePrefixes(a, b)
	type hands struct{ from, to string }
	moved := map[hands][]netip.Prefix{}
	for _, p := range outermost(cuts) {
		for _, part := range policy.Cut(p, cuts) {
			if h := (hands{carrier(a, part), carrier(b, part)}); h.from != h.to {
				moved[h] = append(moved[h], part)
			}
		}
	}
	var out []Move
	for h, parts := range moved {
		for _, p := range mergePrefixes(parts) {
			out = append(out, Move{"route", p.String(), h.from, h.to})
		}
	}
	slices.SortFunc(out, func(x, y Move) int {
		return cmp.Or(cmp.Compare(x.Item, y.Item), cmp.Compare(x.From, y.From))
	})
	return out
}

// outermost gives those of sorted prefixes that lie in no other: a wider one stands before all it contains.
func outermost(sorted []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range sorted {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

func routePrefixes(tables ...*policy.Routes) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range tables {
		for _, r := range t.List {
			out = append(out, r.Prefix)
		}
	}
	slices.SortFunc(out, peermap.ComparePrefixes)
	return slices.Compact(out)
}

// carrier names who carries a prefix that no route divides; "" if nobody does.
func carrier(t *policy.Routes, p netip.Prefix) string {
	pieces := t.Carriers(p)
	if len(pieces) != 1 {
		return ""
	}
	return pieces[0].Node
}

// mergePrefixes gives the fewest prefixes with the same addresses, sorted.
func mergePrefixes(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, peermap.ComparePrefixes)
	var out []netip.Prefix
	for _, p := range ps {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			x, y := out[n-2], out[n-1]
			if x.Bits() != y.Bits() || x.Bits() == 0 {
				break
			}
			wider := netip.PrefixFrom(x.Addr(), x.Bits()-1).Masked()
			if !wider.Contains(y.Addr()) || wider.Addr() != x.Addr() {
				break
			}
			out = append(out[:n-2], wider)
		}
	}
	return out
}

// overlaps lists overlaps that the new state brings: shared routes, and ranges of other zones.
func overlaps(a, b *side) []Overlap {
	known := map[Overlap]bool{}
	for _, o := range overlapsOf(a) {
		known[o] = true
	}
	return slices.DeleteFunc(overlapsOf(b), func(o Overlap) bool { return known[o] })
}

func overlapsOf(s *side) []Overlap {
	var out []Overlap
	var around []policy.Route // the routes that contain the current one: prefixes nest or are disjoint
	for _, r := range s.policy.Routes().List {
		for len(around) > 0 && !around[len(around)-1].Prefix.Overlaps(r.Prefix) {
			around = around[:len(around)-1]
		}
		for _, q := range around {
			if q.Node == r.Node {
				continue
			}
			carriers := map[string]bool{}
			var names []string
			for _, p := range s.policy.Routes().Carriers(r.Prefix) {
				if !carriers[p.Node] {
					carriers[p.Node] = true
					names = append(names, p.Node)
				}
			}
			out = append(out, Overlap{
				A: fmt.Sprintf("route %s of %s", q.Prefix, q.Node), B: fmt.Sprintf("route %s of %s", r.Prefix, r.Node),
				Note: strings.Join(names, ", ") + " carries " + r.Prefix.String(),
			})
		}
		around = append(around, r)
	}
	if s.zone == nil {
		return out
	}
	for _, z := range s.repo.Zones {
		if z.Value.Metadata.Name == s.zone.Metadata.Name {
			continue
		}
		for _, p := range s.zone.Spec.Ranges {
			for _, q := range z.Value.Spec.Ranges {
				if p.Overlaps(q) {
					out = append(out, Overlap{
						A: "range " + p.String(), B: fmt.Sprintf("range %s of zone %s", q, z.Value.Metadata.Name),
						Note: "no host may be in both zones",
					})
				}
			}
		}
	}
	return out
}
