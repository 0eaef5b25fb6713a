package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// end is a set of nodes that neither state's policy tells apart, or a prefix that neither state divides.
type end struct {
	nodes  []string
	prefix netip.Prefix
	in     [2]presence // in the old and in the new state
	// stable ends are selected by the same rules and lie on the same site in both states.
	stable bool
}

// presence is an end in one state. The second point is another of the end's nodes, to judge flows within the end.
type presence struct {
	there         bool
	point, second policy.Point
	from, to      []int32 // live rules that select it, ascending
}

// alone reports whether there is no flow within the end.
func (e *end) alone() bool { return len(e.nodes) < 2 }

// reacher compares reachability of two states.
type reacher struct {
	sides [2]*side
	rules [2][]policy.Rule
	texts [2][]string        // content of each rule
	known [2]map[string]bool // contents
	live  [2][]bool
	ends  []*end
}

// reach gives the flows gained, lost, and limited otherwise.
func reach(a, b *side, asOf time.Time) (gained, lost, limits []Reach) {
	r := &reacher{sides: [2]*side{a, b}}
	r.readRules(asOf)
	r.makeEnds()
	out := [3]map[change][]pair{{}, {}, {}}
	rules := [3]map[change]map[string]bool{{}, {}, {}}
	for _, p := range r.candidates() {
		was, is := r.between(0, p), r.between(1, p)
		for i, diffs := range compare(was, is) {
			for _, d := range diffs {
				out[i][d.change] = append(out[i][d.change], p)
				if rules[i][d.change] == nil {
					rules[i][d.change] = map[string]bool{}
				}
				for _, id := range d.rules {
					rules[i][d.change][id] = true
				}
			}
		}
	}
	lists := [3][]Reach{}
	for i, state := range []int{1, 0, 1} {
		lists[i] = r.lines(out[i], rules[i], r.sides[state])
	}
	tests := newTests(b, asOf)
	for i := range lists[0] {
		tests.judge(&lists[0][i], "allow")
	}
	for i := range lists[1] {
		tests.judge(&lists[1][i], "deny")
	}
	for i := range lists[2] {
		lists[2][i].Tested = tests.covered(&lists[2][i], "allow")
	}
	return lists[0], lists[1], lists[2]
}

func (r *reacher) readRules(asOf time.Time) {
	for i, s := range r.sides {
		r.rules[i] = s.policy.Rules()
		r.live[i] = make([]bool, len(r.rules[i]))
		r.known[i] = map[string]bool{}
		zone := ""
		for _, n := range s.nodes {
			zone = n.Metadata.Zone
			break
		}
		if s.zone != nil {
			zone = s.zone.Metadata.Name
		}
		texts := s.rulesByID(zone)
		for j := range r.rules[i] {
			rule := &r.rules[i][j]
			r.live[i][j] = rule.Live(asOf)
			r.texts[i] = append(r.texts[i], texts[rule.ID])
			if r.live[i][j] {
				r.known[i][texts[rule.ID]] = true
			}
		}
	}
}

// makeEnds sorts nodes and prefixes into ends.
func (r *reacher) makeEnds() {
	a, b := r.sides[0], r.sides[1]
	byTraits := map[[2]string]*end{}
	for _, name := range both(a, b) {
		key := [2]string{a.policy.Traits(name), b.policy.Traits(name)}
		e := byTraits[key]
		if e == nil {
			e = &end{}
			byTraits[key] = e
			r.ends = append(r.ends, e)
		}
		e.nodes = append(e.nodes, name)
	}
	cuts := slices.Concat(a.policy.Cuts(), b.policy.Cuts())
	slices.SortFunc(cuts, peermap.ComparePrefixes)
	cuts = slices.Compact(cuts)
	for _, p := range outermost(cuts) {
		for _, part := range policy.Cut(p, cuts) {
			r.ends = append(r.ends, &end{prefix: part})
		}
	}
	for _, e := range r.ends {
		r.place(e)
	}
}

// place finds what each state makes of the end.
func (r *reacher) place(e *end) {
	var sites, selected [2]string
	for i, s := range r.sides {
		in := &e.in[i]
		holder := ""
		if len(e.nodes) > 0 {
			in.point, in.there = s.policy.Node(e.nodes[0])
			in.second, _ = s.policy.Node(e.nodes[len(e.nodes)-1])
			holder = e.nodes[0]
		} else {
			in.point, in.there = s.policy.Prefix(e.prefix)
			holder = in.point.Carrier()
			sites[i] = holder
		}
		if !in.there {
			continue
		}
		if n := s.nodes[holder]; n != nil {
			for _, route := range n.Spec.Routes {
				sites[i] += " " + route.Prefix.String()
			}
		}
		var contents []string
		for j := range r.rules[i] {
			if !r.live[i][j] {
				continue
			}
			if r.rules[i][j].From.Holds(in.point) {
				in.from = append(in.from, int32(j))
				contents = append(contents, "from "+r.texts[i][j])
			}
			if r.rules[i][j].To.Holds(in.point) {
				in.to = append(in.to, int32(j))
				contents = append(contents, "to "+r.texts[i][j])
			}
		}
		slices.Sort(contents)
		selected[i] = strings.Join(contents, "\n")
	}
	e.stable = e.in[0].there == e.in[1].there && sites[0] == sites[1] && selected[0] == selected[1]
}

// pair is two ends by index.
type pair struct{ from, to int32 }

// candidates gives every pair of ends whose flows may differ: those that a rule of one state only connects, and those of
// which one end is not stable.
func (r *reacher) candidates() []pair {
	found := map[pair]struct{}{}
	for i := range r.sides {
		froms, tos := make([][]int32, len(r.rules[i])), make([][]int32, len(r.rules[i]))
		for e, end := range r.ends {
			for _, j := range end.in[i].from {
				froms[j] = append(froms[j], int32(e))
			}
			for _, j := range end.in[i].to {
				tos[j] = append(tos[j], int32(e))
			}
		}
		for j := range r.rules[i] {
			if !r.live[i][j] {
				continue
			}
			stable := r.known[1-i][r.texts[i][j]]
			for _, f := range froms[j] {
				if stable && r.ends[f].stable {
					continue
				}
				for _, t := range tos[j] {
					found[pair{f, t}] = struct{}{}
				}
			}
			for _, t := range tos[j] {
				if !stable || r.ends[t].stable {
					continue
				}
				for _, f := range froms[j] {
					found[pair{f, t}] = struct{}{}
				}
			}
		}
	}
	out := make([]pair, 0, len(found))
	for p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b pair) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	return out
}

// grants are the flows between two ends by when they end (0: not by themselves), with the rules that allow them.
type grants struct {
	byEnd map[int64]flows
	rules map[int64][]string
	all   flows
}

func (r *reacher) between(state int, p pair) grants {
	g := grants{byEnd: map[int64]flows{}, rules: map[int64][]string{}}
	from, to := r.ends[p.from], r.ends[p.to]
	x, y := &from.in[state], &to.in[state]
	if !x.there || !y.there || p.from == p.to && from.alone() {
		return g
	}
	target := y.point
	if p.from == p.to {
		target = y.second
	}
	if policy.Local(x.point, target) != "" {
		return g
	}
	for _, j := range x.from {
		if _, found := slices.BinarySearch(y.to, j); !found {
			continue
		}
		rule := &r.rules[state][j]
		f := flowsOf(rule.Ports)
		g.byEnd[rule.NotAfter] = g.byEnd[rule.NotAfter].plus(f)
		g.rules[rule.NotAfter] = append(g.rules[rule.NotAfter], rule.ID)
		g.all = g.all.plus(f)
	}
	// What is allowed without end needs no other rule.
	for end, f := range g.byEnd {
		if end != 0 {
			if f = f.minus(g.byEnd[0]); len(f) == 0 {
				delete(g.byEnd, end)
			} else {
				g.byEnd[end] = f
			}
		}
	}
	return g
}

// change is what differs between two ends, comparable so that pairs of equal change gather.
type change struct {
	ports, except string // joined with spaces
	until         int64
}

type difference struct {
	change
	rules []string
}

// compare gives what is gained, lost and limited otherwise.
func compare(was, is grants) [3][]difference {
	var out [3][]difference
	add := func(list int, f flows, until int64, rules []string) {
		if len(f) == 0 {
			return
		}
		ports, except := f.names()
		out[list] = append(out[list], difference{change{strings.Join(ports, " "), strings.Join(except, " "), until}, rules})
	}
	for end, f := range is.byEnd {
		add(0, f.minus(was.all), end, is.rules[end])
		add(2, f.and(was.all).minus(was.byEnd[end]), end, is.rules[end])
	}
	for end, f := range was.byEnd {
		add(1, f.minus(is.all), end, was.rules[end])
	}
	return out
}

// lines gathers pairs with the same change into lines: all sources that change towards the same targets.
func (r *reacher) lines(changes map[change][]pair, rules map[change]map[string]bool, s *side) []Reach {
	namer := newNamer(s)
	var out []Reach
	for c, pairs := range changes {
		targets := map[int32][]int32{}
		for _, p := range pairs {
			targets[p.from] = append(targets[p.from], p.to)
		}
		for _, g := range r.gather(targets) {
			line := Reach{
				From: namer.set(r.ends, g.from), To: namer.set(r.ends, g.to), Ports: strings.Fields(c.ports),
				Except: strings.Fields(c.except), Rules: sortedKeys(rules[c]),
			}
			for _, e := range g.apart {
				line.Apart = append(line.Apart, namer.set(r.ends, []int32{e}))
			}
			if c.until != 0 {
				t := time.Unix(c.until, 0).UTC()
				line.Until = &t
			}
			out = append(out, line)
		}
	}
	slices.SortFunc(out, func(a, b Reach) int {
		return cmp.Or(compareSets(a.From, b.From), compareSets(a.To, b.To),
			slices.Compare(a.Ports, b.Ports), slices.Compare(a.Except, b.Except), cmp.Compare(until(a), until(b)))
	})
	return out
}

func until(r Reach) string {
	if r.Until == nil {
		return ""
	}
	return r.Until.Format(time.RFC3339)
}

// gathered is a line in terms of ends; within each of apart nothing changes.
type gathered struct{ from, to, apart []int32 }

// fewest is how many ends make it worth saying "all of these to each other, but not among themselves".
const fewest = 3

// gather puts sources with equal targets together. Whether an end of nodes is its own target is left open at first: of
// one node it means nothing, of several it can be said apart. Each end takes the reading that more ends share.
func (r *reacher) gather(targets map[int32][]int32) []gathered {
	shared := map[string]int{}
	for from, to := range targets {
		slices.Sort(to)
		shared[fmt.Sprint(to)]++
		if wider, differs := r.withItself(from, to); differs {
			shared[fmt.Sprint(wider)]++
		}
	}
	groups := map[string]*gathered{}
	for from, to := range targets {
		key, apart := fmt.Sprint(to), false
		if wider, differs := r.withItself(from, to); differs && shared[fmt.Sprint(wider)] > shared[key] {
			to, key, apart = wider, fmt.Sprint(wider), !r.ends[from].alone()
		}
		g := groups[key]
		if g == nil {
			g = &gathered{to: to}
			groups[key] = g
		}
		g.from = append(g.from, from)
		if apart {
			g.apart = append(g.apart, from)
		}
	}
	out := make([]gathered, 0, len(groups))
	for _, g := range groups {
		out = append(out, r.settle(g)...)
	}
	return out
}

// withItself gives the targets with the source among them, if it is nodes and is not there yet.
func (r *reacher) withItself(from int32, to []int32) ([]int32, bool) {
	i, found := slices.BinarySearch(to, from)
	if found || len(r.ends[from].nodes) == 0 {
		return to, false
	}
	return slices.Insert(slices.Clone(to), i, from), true
}

// settle says what a group leaves apart if that is shorter than a line for each.
func (r *reacher) settle(g *gathered) []gathered {
	slices.Sort(g.from)
	slices.Sort(g.apart)
	var out []gathered
	if len(g.from) < fewest {
		for _, from := range g.apart {
			out = append(out, gathered{from: []int32{from}, to: without(g.to, from)})
		}
		g.from = slices.DeleteFunc(g.from, func(f int32) bool { _, apart := slices.BinarySearch(g.apart, f); return apart })
		g.apart = nil
	}
	if len(g.from) == 1 && r.ends[g.from[0]].alone() {
		g.to = without(g.to, g.from[0])
	}
	if len(g.from) > 0 {
		out = append(out, *g)
	}
	return out
}

func without(list []int32, v int32) []int32 {
	return slices.DeleteFunc(slices.Clone(list), func(o int32) bool { return o == v })
}

func sortedKeys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
