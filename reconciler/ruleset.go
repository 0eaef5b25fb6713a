package reconciler

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Ruleset is the firewall of one interface in the form a packet filter takes: named address sets, and rules that each
// match one family, at most one source and one destination set, and at most one port range. It is made by newRuleset
// and must not be changed.
type Ruleset struct {
	Table     string
	Interface string
	// Self are the interface's own addresses: packets to them that arrive on another interface are dropped.
	Self  []netip.Addr
	Sets  []AddressSet
	Rules []FilterRule
}

// AddressSet is a named set of one family. A set of single hosts is a hash; one with ranges is an interval set, whose
// elements neither overlap nor touch.
type AddressSet struct {
	Name     string
	V6       bool
	Interval bool
	Elements []Range // sorted
}

// Range is an inclusive range of addresses of one family.
type Range struct{ First, Last netip.Addr }

// FilterRule lets a new flow through. V4 and V6 say to which families it applies.
type FilterRule struct {
	ID       string
	Hook     Hook
	V4, V6   bool
	From, To string // set names; empty: any
	Port     *Port
}

// newRuleset compiles the firewall of s. self are its addresses less those that another interface carries: what arrives
// for them there is no stray. A rule whose From or To is a union that holds no address of a family makes no
// filter rule for that family: it lets nothing through, rather than everything.
func newRuleset(s *State, self []netip.Addr) Ruleset {
	b := rulesetBuilder{sets: s.Firewall.Sets, unions: make(map[string][]string)}
	b.out = Ruleset{Table: TableName(s.Interface.Name), Interface: s.Interface.Name, Self: self}
	for i := range s.Firewall.Rules {
		b.rule(&s.Firewall.Rules[i])
	}
	return b.out
}

type rulesetBuilder struct {
	sets   [][]netip.Prefix
	unions map[string][]string // index list → names of the sets made for it
	out    Ruleset
}

const (
	anyFamily = ""
	suffixV4  = "4"
	suffixV6  = "6"
)

func (b *rulesetBuilder) rule(r *Rule) {
	from, to := b.union(r.From), b.union(r.To)
	for _, f := range from {
		for _, t := range to {
			fam := familyOf(f)
			if fam == anyFamily {
				fam = familyOf(t)
			} else if ft := familyOf(t); ft != anyFamily && ft != fam {
				continue
			}
			rule := FilterRule{ID: r.ID, Hook: r.Hook, From: f, To: t, V4: fam != suffixV6, V6: fam != suffixV4}
			if len(r.Ports) == 0 {
				b.out.Rules = append(b.out.Rules, rule)
				continue
			}
			for i := range r.Ports {
				rule.Port = &r.Ports[i]
				b.out.Rules = append(b.out.Rules, rule)
			}
		}
	}
}

func familyOf(set string) string {
	if set == "" {
		return anyFamily
	}
	return set[len(set)-1:]
}

// union names the address sets that together hold the given sets: up to one per family and form. No index at all means
// any address, named by the empty string.
func (b *rulesetBuilder) union(indexes []int) []string {
	if len(indexes) == 0 {
		return []string{""}
	}
	sorted := slices.Clone(indexes)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	key := fmt.Sprint(sorted)
	if names, ok := b.unions[key]; ok {
		return names
	}
	var parts [4][]Range // host v4, host v6, range v4, range v6
	var sizes [4]int
	for _, i := range sorted {
		for _, p := range b.sets[i] {
			sizes[part(p)]++
		}
	}
	for k, n := range sizes {
		parts[k] = make([]Range, 0, n)
	}
	for _, i := range sorted {
		for _, p := range b.sets[i] {
			parts[part(p)] = append(parts[part(p)], rangeOf(p))
		}
	}
	ordinal := len(b.unions)
	var names []string
	for k, elements := range parts {
		if len(elements) == 0 {
			continue
		}
		set := AddressSet{V6: k%2 == 1, Interval: k >= 2}
		form, family := "hosts", suffixV4
		if set.Interval {
			form = "nets"
			set.Elements = mergeRanges(elements)
		} else {
			set.Elements = sortedUnique(elements, compareRange)
		}
		if set.V6 {
			family = suffixV6
		}
		set.Name = fmt.Sprintf("%s-%d-v%s", form, ordinal, family)
		b.out.Sets = append(b.out.Sets, set)
		names = append(names, set.Name)
	}
	b.unions[key] = names
	return names
}

// part sorts prefixes into hosts and ranges of the two families.
func part(p netip.Prefix) int {
	k := 0
	if p.Addr().Is6() {
		k++
	}
	if !p.IsSingleIP() {
		k += 2
	}
	return k
}

func compareRange(a, b Range) int {
	if c := a.First.Compare(b.First); c != 0 {
		return c
	}
	return a.Last.Compare(b.Last)
}

func rangeOf(p netip.Prefix) Range {
	if p.IsSingleIP() {
		return Range{p.Addr(), p.Addr()}
	}
	first := p.Masked().Addr()
	last := first.AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 1 << (7 - bit%8)
	}
	end, _ := netip.AddrFromSlice(last)
	return Range{first, end}
}

// mergeRanges sorts ranges of one family and joins those that overlap or touch: an interval set takes neither.
func mergeRanges(in []Range) []Range {
	in = slices.Clone(in)
	slices.SortFunc(in, compareRange)
	out := in[:0]
	for _, r := range in {
		if n := len(out); n > 0 {
			next := out[n-1].Last.Next()
			if !next.IsValid() || r.First.Compare(next) <= 0 {
				if r.Last.Compare(out[n-1].Last) > 0 {
					out[n-1].Last = r.Last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// Shape is everything of a ruleset but the elements of its host sets: while it stays the same, a change of members is
// an update of elements, and the counters live on.
func (r *Ruleset) Shape() string {
	var sb strings.Builder
	fmt.Fprintf(&sb, "%s %s %v\n", r.Table, r.Interface, r.Self)
	for _, s := range r.Sets {
		fmt.Fprintf(&sb, "set %s %t %t", s.Name, s.V6, s.Interval)
		if s.Interval {
			fmt.Fprintf(&sb, " %v", s.Elements)
		}
		sb.WriteByte('\n')
	}
	for _, f := range r.Rules {
		fmt.Fprintf(&sb, "rule %s %d %t %t %s %s", f.ID, f.Hook, f.V4, f.V6, f.From, f.To)
		if f.Port != nil {
			fmt.Fprintf(&sb, " %v", *f.Port)
		}
		sb.WriteByte('\n')
	}
	return sb.String()
}
