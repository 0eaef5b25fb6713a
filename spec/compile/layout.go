package compile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// layout is what a class sees, in terms of classes: a Class artefact before blocks are filled in.
type layout struct {
	// groups are the classes in view, sorted into groups that the rules of this layout do not tell apart: rules that
	// this class has no part in must not show.
	groups [][]int32
	rules  []peermap.Rule
	vias   []peermap.Via
}

// topology says which classes and rules there are, indexed by what they select. Layouts depend on nothing else.
type topology struct {
	rules    *policy.Rules
	classes  []*class
	byTerm   [][]int32 // classes selected by each term
	carrier  []int32   // class that carries each piece
	fromTerm [][]int32 // rules whose From (To) side has each term
	toTerm   [][]int32
	fromPc   [][]int32 // rules whose From (To) side has each piece
	toPc     [][]int32
}

func newTopology(rules *policy.Rules, classes []*class) *topology {
	t := &topology{
		rules: rules, classes: classes,
		byTerm: make([][]int32, rules.Terms), fromTerm: make([][]int32, rules.Terms), toTerm: make([][]int32, rules.Terms),
		carrier: make([]int32, len(rules.Pieces)), fromPc: make([][]int32, len(rules.Pieces)), toPc: make([][]int32, len(rules.Pieces)),
	}
	for i, c := range classes {
		for _, term := range c.traits.terms {
			t.byTerm[term] = append(t.byTerm[term], int32(i))
		}
		for _, p := range c.traits.carries {
			t.carrier[p] = int32(i)
		}
	}
	for i, r := range rules.List {
		if r.From.Term >= 0 {
			t.fromTerm[r.From.Term] = append(t.fromTerm[r.From.Term], int32(i))
		}
		if r.To.Term >= 0 {
			t.toTerm[r.To.Term] = append(t.toTerm[r.To.Term], int32(i))
		}
		for _, p := range r.From.Pieces {
			t.fromPc[p] = append(t.fromPc[p], int32(i))
		}
		for _, p := range r.To.Pieces {
			t.toPc[p] = append(t.toPc[p], int32(i))
		}
	}
	return t
}

// entry is one rule of a layout while it is being made: sets hold classes and pieces.
type entry struct {
	hook     peermap.Hook
	inbound  bool // forward only: towards the carried prefixes
	rule     *policy.Rule
	from, to ends
}

type ends struct {
	classes []int32
	pieces  []int32
}

func (e ends) empty() bool { return len(e.classes) == 0 && len(e.pieces) == 0 }

// layout works out what class me sees. Every connection is found from both of its ends by the same conditions: see ends
// and farPieces; the property test of this package holds the two against each other.
func (t *topology) layout(me *class) *layout {
	var entries []entry
	for _, term := range me.traits.terms {
		for _, ri := range t.fromTerm[term] {
			r := &t.rules.List[ri]
			if to := t.seenFrom(me, &r.To); !to.empty() {
				entries = append(entries, entry{hook: peermap.HookOutput, rule: r, to: to})
			}
		}
		for _, ri := range t.toTerm[term] {
			r := &t.rules.List[ri]
			if from := t.seenFrom(me, &r.From); !from.empty() {
				entries = append(entries, entry{hook: peermap.HookInput, rule: r, from: from})
			}
		}
	}
	for _, ri := range involved(me.traits.carries, t.toPc) {
		r := &t.rules.List[ri]
		mine := intersect(r.To.Pieces, me.traits.carries)
		if from := t.seenFromSite(me, mine, &r.From); !from.empty() {
			entries = append(entries, entry{peermap.HookForward, true, r, from, ends{pieces: mine}})
		}
	}
	for _, ri := range involved(me.traits.carries, t.fromPc) {
		r := &t.rules.List[ri]
		mine := intersect(r.From.Pieces, me.traits.carries)
		if to := t.seenFromSite(me, mine, &r.To); !to.empty() {
			entries = append(entries, entry{peermap.HookForward, false, r, ends{pieces: mine}, to})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.hook, b.hook), strings.Compare(a.rule.ID, b.rule.ID), compareBool(a.inbound, b.inbound))
	})
	return t.assemble(me, entries)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// involved gives the rules that have one of the pieces, ascending.
func involved(pieces []int32, rules [][]int32) []int32 {
	var out []int32
	for _, p := range pieces {
		out = append(out, rules[p]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// intersect gives what is in both ascending lists.
func intersect(a, b []int32) []int32 {
	var out []int32
	for _, v := range a {
		if _, found := slices.BinarySearch(b, v); found {
			out = append(out, v)
		}
	}
	return out
}

// seenFrom gives the far side of a rule as a node of class me sees it: not itself, and no prefix on its own side.
func (t *topology) seenFrom(me *class, far *policy.Side) ends {
	var out ends
	if far.Term >= 0 {
		for _, c := range t.byTerm[far.Term] {
			if c != me.index || !me.single() {
				out.classes = append(out.classes, c)
			}
		}
	}
	for _, p := range far.Pieces {
		if !has(me.traits.declares, p) {
			out.pieces = append(out.pieces, p)
		}
	}
	return out
}

// seenFromSite gives the far side of a rule as the pieces mine, which class me carries, see it: nodes and prefixes of
// other sites. A far end that has all of mine on its own side is no far end.
func (t *topology) seenFromSite(me *class, mine []int32, far *policy.Side) ends {
	var out ends
	if far.Term >= 0 {
		for _, c := range t.byTerm[far.Term] {
			if c != me.index && !hasAll(t.classes[c].traits.declares, mine) {
				out.classes = append(out.classes, c)
			}
		}
	}
	for _, p := range far.Pieces {
		site := t.classes[t.carrier[p]]
		if site != me && !has(me.traits.declares, p) && !hasAll(site.traits.declares, mine) {
			out.pieces = append(out.pieces, p)
		}
	}
	return out
}

func has(sorted []int32, v int32) bool {
	_, found := slices.BinarySearch(sorted, v)
	return found
}

func hasAll(sorted, vs []int32) bool {
	for _, v := range vs {
		if !has(sorted, v) {
			return false
		}
	}
	return true
}

// assemble sorts the classes in view into groups and writes the entries in terms of them.
func (t *topology) assemble(me *class, entries []entry) *layout {
	// A class's signature lists the sets it stands in, as entry*2 or entry*2+1. Carriers stand in none by that alone.
	signatures := map[int32][]byte{}
	var via []int32
	for i, e := range entries {
		for side, set := range []ends{e.from, e.to} {
			for _, c := range set.classes {
				signatures[c] = binary.BigEndian.AppendUint32(signatures[c], uint32(2*i+side))
			}
			for _, p := range set.pieces {
				if c := t.carrier[p]; c != me.index {
					via = append(via, p)
					if _, seen := signatures[c]; !seen {
						signatures[c] = nil
					}
				}
			}
		}
	}
	out := &layout{vias: t.vias(via)}
	groupOf := map[int32]uint32{}
	out.groups, groupOf = groupBy(signatures)
	for _, e := range entries {
		out.rules = append(out.rules, peermap.Rule{
			ID: e.rule.ID, Hook: e.hook, From: t.set(e.from, groupOf), To: t.set(e.to, groupOf),
			Ports: e.rule.Ports, NotAfter: e.rule.NotAfter,
		})
	}
	return out
}

// groupBy puts classes with equal signatures into one group. Groups are ordered by signature, which only the layout's own
// rules decide.
func groupBy(signatures map[int32][]byte) ([][]int32, map[int32]uint32) {
	bySignature := map[string][]int32{}
	for c, s := range signatures {
		bySignature[string(s)] = append(bySignature[string(s)], c)
	}
	keys := make([]string, 0, len(bySignature))
	for k := range bySignature {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	groups := make([][]int32, len(keys))
	groupOf := make(map[int32]uint32, len(signatures))
	for i, k := range keys {
		groups[i] = bySignature[k]
		slices.Sort(groups[i])
		for _, c := range groups[i] {
			groupOf[c] = uint32(i)
		}
	}
	return groups, groupOf
}

func (t *topology) set(e ends, groupOf map[int32]uint32) peermap.Set {
	var out peermap.Set
	for _, c := range e.classes {
		out.Groups = append(out.Groups, groupOf[c])
	}
	slices.Sort(out.Groups)
	out.Groups = slices.Compact(out.Groups)
	prefixes := make([]netip.Prefix, 0, len(e.pieces))
	for _, p := range e.pieces {
		prefixes = append(prefixes, t.rules.Pieces[p].Prefix)
	}
	out.Prefixes = widest(prefixes)
	return out
}

// vias gives the pieces as Vias, none inside another: pieces that overlap have one carrier, because the carrier is a
// function of the address.
func (t *topology) vias(pieces []int32) []peermap.Via {
	slices.Sort(pieces)
	pieces = slices.Compact(pieces)
	out := make([]peermap.Via, 0, len(pieces))
	for _, p := range pieces {
		out = append(out, peermap.Via{Prefix: t.rules.Pieces[p].Prefix, Peer: t.rules.Pieces[p].Node})
	}
	slices.SortFunc(out, func(a, b peermap.Via) int { return peermap.ComparePrefixes(a.Prefix, b.Prefix) })
	kept := out[:0]
	for _, v := range out {
		if n := len(kept); n == 0 || !kept[n-1].Prefix.Overlaps(v.Prefix) {
			kept = append(kept, v)
		}
	}
	return kept
}

// encodeClasses makes the Class artefact of every class.
func (b *builder) encodeClasses() error {
	sameTopology := b.rules == b.prev.rules && slices.EqualFunc(b.classes, b.prev.classes, func(x, y *class) bool {
		return x.key == y.key && x.single() == y.single()
	})
	var t *topology
	if !sameTopology {
		t = newTopology(b.rules, b.classes)
	}
	for i, c := range b.classes {
		if sameTopology {
			c.layout = b.prev.classes[i].layout
		} else {
			c.layout = t.layout(c)
		}
		c.uses = b.usedBy(c.layout)
		if sameTopology && slices.Equal(c.uses, b.prev.classes[i].uses) {
			c.bytes, c.digest = b.prev.classes[i].bytes, b.prev.classes[i].digest
			continue
		}
		if err := b.encodeClass(c); err != nil {
			return err
		}
		b.stats.Classes++
	}
	return nil
}

func (b *builder) usedBy(l *layout) []*chunks {
	var out []*chunks
	for _, g := range l.groups {
		for _, c := range g {
			out = append(out, b.classes[c].chunks)
		}
	}
	return out
}

func (b *builder) encodeClass(c *class) error {
	out := peermap.Class{Vias: c.layout.vias, Rules: c.layout.rules}
	for _, g := range c.layout.groups {
		out.Groups = append(out.Groups, peermap.Group{Blocks: b.blocksOf(g)})
	}
	var err error
	if c.bytes, err = peermap.EncodeClass(out); err != nil {
		return fmt.Errorf("zone %s: what node %s may know (%d groups, %d rules, %d prefixes): %w",
			b.src.doc.Value.Metadata.Name, c.members[0].name, len(out.Groups), len(out.Rules), len(out.Vias), err)
	}
	c.digest = peermap.DigestOf(c.bytes)
	return nil
}

// blocksOf gives the blocks of several classes as one group: in the order of name hashes, as if it were one trie.
func (b *builder) blocksOf(classes []int32) []peermap.Digest {
	var blocks []*block
	for _, c := range classes {
		blocks = append(blocks, b.classes[c].chunks.blocks...)
	}
	if len(classes) > 1 {
		slices.SortFunc(blocks, func(x, y *block) int { return slices.Compare(x.first[:], y.first[:]) })
	}
	out := make([]peermap.Digest, len(blocks))
	for i, bl := range blocks {
		out[i] = bl.digest
	}
	return out
}
