package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// listed is how many names a text spells out; beyond, it counts.
const listed = 6

// namer names sets of nodes by what they have in common in one state.
type namer struct {
	labels map[string][]string // "key=value" to the sorted nodes that carry it
	all    int
}

func newNamer(s *side) *namer {
	n := &namer{labels: map[string][]string{}, all: len(s.nodes)}
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		for k, v := range s.nodes[name].Metadata.Labels {
			n.labels[k+"="+v] = append(n.labels[k+"="+v], name)
		}
	}
	return n
}

// set names the union of ends.
func (n *namer) set(ends []*end, chosen []int32) Set {
	var s Set
	var prefixes []netip.Prefix
	for _, i := range chosen {
		s.Nodes = append(s.Nodes, ends[i].nodes...)
		if ends[i].prefix.IsValid() {
			prefixes = append(prefixes, ends[i].prefix)
		}
	}
	slices.Sort(s.Nodes)
	for _, p := range mergePrefixes(prefixes) {
		s.Prefixes = append(s.Prefixes, p.String())
	}
	parts := n.cover(s.Nodes)
	s.Text = strings.Join(append(parts, shorten(s.Prefixes)...), ", ")
	return s
}

// cover names nodes by the labels that select none but them, largest group first, and the rest by name.
func (n *namer) cover(nodes []string) []string {
	if len(nodes) == n.all && n.all > 1 {
		return []string{fmt.Sprintf("every node (%d)", n.all)}
	}
	left := make(map[string]bool, len(nodes))
	for _, name := range nodes {
		left[name] = true
	}
	type group struct {
		label string
		nodes []string
	}
	var groups []group
	for label, members := range n.labels {
		if len(members) > 1 && !slices.ContainsFunc(members, func(m string) bool { return !left[m] }) {
			groups = append(groups, group{label, members})
		}
	}
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(len(b.nodes), len(a.nodes)), cmp.Compare(a.label, b.label))
	})
	var parts []string
	for _, g := range groups {
		if !slices.ContainsFunc(g.nodes, func(m string) bool { return left[m] }) {
			continue // others have named them all
		}
		parts = append(parts, fmt.Sprintf("%s (%d)", g.label, len(g.nodes)))
		for _, m := range g.nodes {
			delete(left, m)
		}
	}
	if len(parts) > listed {
		parts = []string{fmt.Sprintf("%s and nodes of %d more labels (%d)", strings.Join(parts[:listed], ", "), len(parts)-listed, len(nodes)-len(left))}
	}
	return append(parts, shorten(slices.Sorted(maps.Keys(left)))...)
}

// shorten spells out the first names and counts the rest.
func shorten(names []string) []string {
	if len(names) <= listed+1 {
		return names
	}
	return append(slices.Clone(names[:listed]), fmt.Sprintf("and %d more", len(names)-listed))
}
