package compile

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// layout is what a class sees, in terms of units: a Class artefact before blocks are filled in.
type layout struct {
	// groups are the units in view, sorted into groups that the rules of this layout do not tell apart: rules that this
	// class has no part in must not show. size counts the units.
	groups [][]int32
	size   int
	rules  []peermap.Rule
	vias   []peermap.Via
}

// topology says which classes and rules there are, indexed by what they select. Layouts depend on nothing else.
type topology struct {
	rules    *policy.Rules
	classes  []*class
	units    []*unit
	byTerm   [][]int32 // cells selected by each term
	carrier  []int32   // class that carries each piece
	fromTerm [][]int32 // rules whose From (To) side has each term
	toTerm   [][]int32
	fromPc   [][]int32 // rules whose From (To) side has each piece
	toPc     [][]int32
}

func newTopology(rules *policy.Rules, classes []*class, units []*unit) *topology {
	t := &topology{
		rules: rules, classes: classes, units: units,
		byTerm: make([][]int32, rules.Terms), fromTerm: make([][]int32, rules.Terms), toTerm: make([][]int32, rules.Terms),
		carrier: make([]int32, len(rules.Pieces)), fromPc: make([][]int32, len(rules.Pieces)), toPc: make([][]int32, len(rules.Pieces)),
	}
	for i, c := range classes {
		if units[c.cell].classes[0] == c.index {
			for _, term := range c.traits.terms {
				t.byTerm[term] = append(t.byTerm[term], c.cell)
			}
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

// entry is one rule of a layout while it is being made: sets hold units and pieces.
type entry struct {
	hook     peermap.Hook
	inbound  bool // forward only: towards the carried prefixes
	rule     *policy.Rule
	from, to ends
}

type ends struct {
	units  []int32
	pieces []int32
}

func (e ends) empty() bool { return len(e.units) == 0 && len(e.pieces) == 0 }

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

// seenFrom gives the far side of a rule as a node of class me sees it: nobody if that is itself only, and no prefix on its
// own side. A unit may hold the node beside others; an agent leaves itself out, and so the unit is the same for all.
func (t *topology) seenFrom(me *class, far *policy.Side) ends {
	var out ends
	if far.Term >= 0 {
		for _, u := range t.byTerm[far.Term] {
			if u != me.cell || len(t.units[u].members) > 1 {
				out.units = append(out.units, u)
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
		for _, u := range t.byTerm[far.Term] {
			out.units = append(out.units, t.abroad(me, mine, u)...)
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

// abroad gives the units of a cell that have a way to the pieces mine: the cell, or the classes of it that do not have all
// of mine on their own side.
func (t *topology) abroad(me *class, mine []int32, cell int32) []int32 {
	var others []int32
	all := true
	for _, c := range t.units[cell].classes {
		switch {
		case c == me.index:
		case hasAll(t.classes[c].traits.declares, mine):
			all = false
		default:
			others = append(others, t.classes[c].unit)
		}
	}
	if all && len(others) > 0 {
		return []int32{cell}
	}
	return others
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

// assemble sorts the units in view into groups and writes the entries in terms of them.
func (t *topology) assemble(me *class, entries []entry) *layout {
	// A unit's signature lists the sets it stands in, as entry*2 or entry*2+1.
	signatures := map[int32][]uint32{}
	var via []int32
	for i, e := range entries {
		for side, set := range []ends{e.from, e.to} {
			for _, u := range set.units {
				signatures[u] = append(signatures[u], uint32(2*i+side))
			}
			for _, p := range set.pieces {
				if t.carrier[p] != me.index {
					via = append(via, p)
				}
			}
		}
	}
	t.addCarriers(signatures, via)
	parts := t.separate(signatures)
	out := &layout{vias: t.vias(via), size: len(signatures)}
	var groupOf map[int32]uint32
	out.groups, groupOf = groupBy(signatures)
	for _, e := range entries {
		out.rules = append(out.rules, peermap.Rule{
			ID: e.rule.ID, Hook: e.hook, From: t.set(e.from, parts, groupOf), To: t.set(e.to, parts, groupOf),
			Ports: e.rule.Ports, NotAfter: e.rule.NotAfter,
		})
	}
	return out
}

// addCarriers brings the carriers of pieces into view where their cell is not; by that alone they stand in no set.
func (t *topology) addCarriers(signatures map[int32][]uint32, pieces []int32) {
	for _, p := range pieces {
		c := t.classes[t.carrier[p]]
		if _, seen := signatures[c.cell]; seen {
			continue
		}
		if _, seen := signatures[c.unit]; !seen {
			signatures[c.unit] = nil
		}
	}
}

// separate replaces a cell by its classes where some of them are in view by themselves, so that no node is twice. It gives
// the classes' units by the cells replaced.
func (t *topology) separate(signatures map[int32][]uint32) map[int32][]int32 {
	parts := map[int32][]int32{}
	for u := range signatures {
		c := t.classes[t.units[u].classes[0]]
		if _, both := signatures[c.cell]; both && u != c.cell {
			parts[c.cell] = nil
		}
	}
	for cell := range parts {
		for _, ci := range t.units[cell].classes {
			u := t.classes[ci].unit
			parts[cell] = append(parts[cell], u)
			signatures[u] = append(signatures[u], signatures[cell]...)
			slices.Sort(signatures[u])
		}
		delete(signatures, cell)
	}
	return parts
}

// groupBy puts units with equal signatures into one group. Groups are ordered by signature, which only the layout's own
// rules decide.
func groupBy(signatures map[int32][]uint32) ([][]int32, map[int32]uint32) {
	bySignature := map[string][]int32{}
	for u, s := range signatures {
		key := make([]byte, 0, 4*len(s))
		for _, v := range s {
			key = binary.BigEndian.AppendUint32(key, v)
		}
		bySignature[string(key)] = append(bySignature[string(key)], u)
	}
	groups := make([][]int32, 0, len(bySignature))
	groupOf := make(map[int32]uint32, len(signatures))
	for i, key := range slices.Sorted(maps.Keys(bySignature)) {
		group := bySignature[key]
		slices.Sort(group)
		for _, u := range group {
			groupOf[u] = uint32(i)
		}
		groups = append(groups, group)
	}
	return groups, groupOf
}

func (t *topology) set(e ends, parts map[int32][]int32, groupOf map[int32]uint32) peermap.Set {
	var out peermap.Set
	for _, u := range e.units {
		if classes, separated := parts[u]; separated {
			for _, part := range classes {
				out.Groups = append(out.Groups, groupOf[part])
			}
			continue
		}
		out.Groups = append(out.Groups, groupOf[u])
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

// layOut works out what every class sees; layouts are taken over if rules and classes are the same. What matters of a
// class's nodes is only whether there is another one.
func (b *builder) layOut() {
	if b.rules == b.prev.rules && slices.EqualFunc(b.classes, b.prev.classes, func(x, y *class) bool {
		return x.key == y.key && (len(x.members) == 1) == (len(y.members) == 1)
	}) {
		for i, c := range b.classes {
			c.layout = b.prev.classes[i].layout
		}
		return
	}
	t := newTopology(b.rules, b.classes, b.units)
	for _, c := range b.classes {
		c.layout = t.layout(c)
	}
}

// encodeClasses makes the Class artefact of every class.
func (b *builder) encodeClasses() error {
	for i, c := range b.classes {
		if i < len(b.prev.classes) {
			if old := b.prev.classes[i]; c.layout == old.layout && slices.Equal(c.uses, old.uses) {
				c.bytes, c.digest = old.bytes, old.digest
				continue
			}
		}
		if err := b.encodeClass(c); err != nil {
			return err
		}
		b.stats.Classes++
	}
	return nil
}

func (b *builder) encodeClass(c *class) error {
	out := peermap.Class{Vias: c.layout.vias, Rules: c.layout.rules}
	uses := c.uses
	for _, g := range c.layout.groups {
		out.Groups = append(out.Groups, peermap.Group{Blocks: blocksOf(uses[:len(g)])})
		uses = uses[len(g):]
	}
	var err error
	if c.bytes, err = peermap.EncodeClass(out); err != nil {
		return fmt.Errorf("zone %s: what node %s may know (%d groups, %d rules, %d prefixes): %w",
			b.src.doc.Value.Metadata.Name, c.members[0].name, len(out.Groups), len(out.Rules), len(out.Vias), err)
	}
	c.digest = peermap.DigestOf(c.bytes)
	return nil
}

// blocksOf gives the blocks of several units as one group: in the order of name hashes, as if it were one trie.
func blocksOf(units []*chunks) []peermap.Digest {
	var blocks []*block
	for _, u := range units {
		blocks = append(blocks, u.blocks...)
	}
	if len(units) > 1 {
		slices.SortFunc(blocks, func(x, y *block) int { return slices.Compare(x.first[:], y.first[:]) })
	}
	out := make([]peermap.Digest, len(blocks))
	for i, bl := range blocks {
		out[i] = bl.digest
	}
	return out
}
