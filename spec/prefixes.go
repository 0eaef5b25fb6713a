package spec

import (
	"cmp"
	"net/netip"
	"slices"
)

// prefixSet answers which prefixes lie in one of its own. The zero value is empty; invalid prefixes are ignored.
type prefixSet struct {
	members map[netip.Prefix]bool
	four    [33]int // how many members have each length
	six     [129]int
}

func (s *prefixSet) add(p netip.Prefix) {
	if !p.IsValid() || s.members[p] {
		return
	}
	if s.members == nil {
		s.members = map[netip.Prefix]bool{}
	}
	s.members[p] = true
	s.lengths(p.Addr())[p.Bits()]++
}

func (s *prefixSet) lengths(a netip.Addr) []int {
	if a.Is4() {
		return s.four[:]
	}
	return s.six[:]
}

// covers reports whether p equals or lies inside a member.
func (s *prefixSet) covers(p netip.Prefix) bool {
	if !p.IsValid() || len(s.members) == 0 {
		return false
	}
	for bits, n := range s.lengths(p.Addr())[:p.Bits()+1] {
		if n == 0 {
			continue
		}
		if outer, err := p.Addr().Prefix(bits); err == nil && s.members[outer] {
			return true
		}
	}
	return false
}

// comparePrefix orders prefixes by address, then the shorter first, so that a prefix follows all that contain it.
func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// claim is a prefix that someone lays claim to.
type claim struct {
	prefix netip.Prefix
	zone   string
	node   string // who carries it; empty for a range of the zone
	shared bool
	doc    located
	path   string
}

// sweep calls conflict for each claim with the nearest claim around it (or equal to it) that is apart from it, if there is
// one. Prefixes nest or are disjoint, so the claims around a point are a stack. Keep says whether a claim adds anything
// to those on the stack that have an equal prefix; it must bound their number, so that the cost stays O(n log n).
func sweep(claims []claim, apart func(outer, inner *claim) bool, keep func(equal []*claim, next *claim) bool, conflict func(outer, inner *claim)) {
	slices.SortStableFunc(claims, func(a, b claim) int { return comparePrefix(a.prefix, b.prefix) })
	var open []*claim
	for i := range claims {
		next := &claims[i]
		if !next.prefix.IsValid() {
			continue
		}
		for len(open) > 0 && !open[len(open)-1].prefix.Contains(next.prefix.Addr()) {
			open = open[:len(open)-1]
		}
		for _, outer := range slices.Backward(open) {
			if apart(outer, next) {
				conflict(outer, next)
				break
			}
		}
		equal := len(open)
		for equal > 0 && open[equal-1].prefix == next.prefix {
			equal--
		}
		if keep(open[equal:], next) {
			open = append(open, next)
		}
	}
}

// fewerThan reports whether fewer than n of the claims are like next.
func fewerThan(n int, claims []*claim, like func(c *claim) bool) bool {
	for _, c := range claims {
		if like(c) {
			n--
		}
	}
	return n > 0
}
