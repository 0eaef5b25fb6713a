package compile

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// state is a compiled zone with the intermediate results that the next compile may take over. Nothing in it changes
// after build returns.
type state struct {
	head     *header
	policies []*spec.Document[spec.Policy]
	routes   *policy.Routes
	rules    *policy.Rules
	live     int // how many rules held as of the compile
	names    spec.IdentityNames
	members  []*member // sorted by name
	checked  *claims
	classes  []*class // sorted by key
	units    []*unit
	chunks   map[string]*chunks // of the units that some layout uses, by key
	zone     Zone
}

// record is what a Node document says, whatever the rest of the repository says.
type record struct {
	doc    *spec.Document[spec.Node]
	name   string
	peer   peermap.Peer
	hash   peermap.Digest // of the name: the record's place in the trie
	routes []policy.Route
}

// member is a record under the zone's rules and routes.
type member struct {
	*record
	carried []netip.Prefix // of the declared routes, what this node carries now
	traits  traits
	key     string // equal keys: no rule tells the nodes apart
	class   *class
}

// traits are all that rules can see of a node.
type traits struct {
	terms    []policy.Term // sides of rules that select it
	carries  []int32       // pieces of rules (policy.Rules.Pieces) that it carries
	declares []int32       // pieces inside its own declared routes: never reached through a tunnel
}

// build compiles one zone, taking over from prev (which may be nil) what depends on nothing that changed.
func build(src *source, asOf time.Time, prev *state) (*state, Stats, error) {
	if prev == nil {
		prev = &state{head: &header{}}
	}
	b := &builder{src: src, prev: prev, state: &state{policies: slices.Clone(src.policies)}}
	if err := b.header(); err != nil {
		return nil, b.stats, err
	}
	records, err := b.records()
	if err != nil {
		return nil, b.stats, err
	}
	b.readRoutes(records)
	b.readRules(asOf)
	if err := b.check(records); err != nil {
		return nil, b.stats, err
	}
	b.match(records)
	b.classify()
	b.layOut()
	if err := b.chunk(); err != nil {
		return nil, b.stats, err
	}
	if err := b.encodeClasses(); err != nil {
		return nil, b.stats, err
	}
	if err := b.encodeViews(); err != nil {
		return nil, b.stats, err
	}
	b.stats.Zones = 1
	return b.state, b.stats, nil
}

// builder is one run of build: the state being made and the one before it.
type builder struct {
	src   *source
	prev  *state
	stats Stats
	*state
}

// records reads the Node documents; those of prev that are the same documents are the same records.
func (b *builder) records() ([]*record, error) {
	var faults faults
	out := make([]*record, 0, len(b.src.nodes))
	old := b.prev.members
	for _, doc := range b.src.nodes {
		name := doc.Value.Metadata.Name
		for len(old) > 0 && old[0].name < name {
			old = old[1:]
		}
		if len(old) > 0 && old[0].doc == doc {
			out = append(out, old[0].record)
			continue
		}
		rec, err := newRecord(doc)
		if err != nil {
			faults.addf("%s: node %s: %v", doc.Pos, name, err)
			continue
		}
		b.stats.Records++
		out = append(out, rec)
	}
	return out, faults.err()
}

func newRecord(doc *spec.Document[spec.Node]) (*record, error) {
	n := &doc.Value
	rec := &record{
		doc:  doc,
		name: n.Metadata.Name,
		peer: peermap.Peer{
			Name:      n.Metadata.Name,
			PublicKey: peermap.Key(n.Spec.PublicKey),
			Addresses: slices.SortedFunc(slices.Values(n.Spec.Addresses), netip.Addr.Compare),
			Endpoints: n.Spec.Endpoints,
		},
		hash:   peermap.NameHash(n.Metadata.Name),
		routes: policy.RoutesOf(n),
	}
	if n.Enrolled != nil {
		rec.peer.NotAfter = n.Enrolled.Expires
	}
	return rec, rec.peer.Check()
}

// readRoutes takes over the routes of prev if no declared route differs.
func (b *builder) readRoutes(records []*record) {
	var list []policy.Route
	for _, rec := range records {
		list = append(list, rec.routes...)
	}
	b.routes = policy.NewRoutes(list)
	if b.prev.routes != nil && slices.Equal(b.routes.List, b.prev.routes.List) {
		b.routes = b.prev.routes
	}
}

// readRules takes over the rules of prev if they are of the same documents, issuers, routes and instant. Of given documents the
// rules live at two instants are nested sets, so an equal count means equal rules.
func (b *builder) readRules(asOf time.Time) {
	for _, doc := range b.policies {
		for i := range doc.Value.Spec.Allow {
			if end := doc.Value.Spec.Allow[i].NotAfter; end == nil || asOf.Unix() < end.Unix() {
				b.live++
			}
		}
	}
	b.names = b.src.names
	if b.prev.rules != nil && b.prev.live == b.live && b.prev.routes == b.routes && b.names.Equal(b.prev.names) &&
		b.prev.head.mode == b.head.mode && slices.Equal(b.prev.policies, b.policies) {
		b.rules = b.prev.rules
		return
	}
	b.rules = policy.NewRules(b.head.mode, b.policies, b.routes, b.names, asOf)
}

// match finds what the rules see of each record.
func (b *builder) match(records []*record) {
	sameRules := b.rules == b.prev.rules // which implies the same routes
	b.members = make([]*member, len(records))
	pieces := piecesByNode(b.rules)
	old := b.prev.members
	for i, rec := range records {
		for len(old) > 0 && old[0].name < rec.name {
			old = old[1:]
		}
		if sameRules && len(old) > 0 && old[0].record == rec {
			// Classes are made anew by every compile, so the member is copied, not shared.
			m := *old[0]
			b.members[i] = &m
			continue
		}
		b.members[i] = b.newMember(rec, pieces)
	}
}

func piecesByNode(rules *policy.Rules) map[string][]int32 {
	out := map[string][]int32{}
	for i, p := range rules.Pieces {
		out[p.Node] = append(out[p.Node], int32(i))
	}
	return out
}

func (b *builder) newMember(rec *record, pieces map[string][]int32) *member {
	m := &member{record: rec, carried: b.carriedBy(rec)}
	m.traits.terms = b.rules.Match(policy.SubjectOf(&rec.doc.Value))
	m.traits.carries = pieces[rec.name]
	if len(rec.routes) > 0 {
		for i, p := range b.rules.Pieces {
			if policy.Declares(rec.routes, p.Prefix) {
				m.traits.declares = append(m.traits.declares, int32(i))
			}
		}
	}
	m.key = m.traits.key()
	return m
}

// carriedBy gives the prefixes of rec's declared routes that it carries, none inside another.
func (b *builder) carriedBy(rec *record) []netip.Prefix {
	var out []netip.Prefix
	for _, r := range rec.routes {
		for _, p := range b.routes.Carriers(r.Prefix) {
			if p.Node == rec.name {
				out = append(out, p.Prefix)
			}
		}
	}
	return widest(out)
}

// widest sorts prefixes and leaves out those inside another.
func widest(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, peermap.ComparePrefixes)
	out := ps[:0]
	for _, p := range ps {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// termsKey writes the terms as a string that is equal for equal terms only; key appends the rest of the traits.
func (t *traits) termsKey() string {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(t.terms)))
	for _, v := range t.terms {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return string(b)
}

func (t *traits) key() string {
	b := []byte(t.termsKey())
	for _, list := range [][]int32{t.carries, t.declares} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
		for _, v := range list {
			b = binary.BigEndian.AppendUint32(b, uint32(v))
		}
	}
	return string(b)
}

// class is the nodes of a zone that no rule tells apart.
type class struct {
	index   int32 // into state.classes
	key     string
	traits  traits
	members []*member // sorted by name
	unit    int32     // its own unit, and the unit of all classes with its terms: the same if it is the only one
	cell    int32
	layout  *layout
	uses    []*chunks // of the layout's units
	bytes   []byte
	digest  peermap.Digest
}

// unit is a set of nodes that is cut into blocks as a whole: a cell (all nodes with the same terms) or, where a layout must
// tell them apart, one class of a cell. Cells keep blocks shared in a zone of many routers, whose classes have one node
// each because of what they carry.
type unit struct {
	key     string
	classes []int32 // one, or all of the cell
	members []*member
}

// classify sorts members into classes, and classes into units.
func (b *builder) classify() {
	byKey := make(map[string]*class, len(b.prev.classes))
	for _, m := range b.members {
		c := byKey[m.key]
		if c == nil {
			c = &class{key: m.key, traits: m.traits}
			byKey[m.key] = c
			b.classes = append(b.classes, c)
		}
		m.class = c
		c.members = append(c.members, m)
	}
	slices.SortFunc(b.classes, func(x, y *class) int { return cmp.Compare(x.key, y.key) })
	// Keys begin with the terms, so the classes of a cell stand together.
	for i := 0; i < len(b.classes); {
		cell := &unit{key: b.classes[i].traits.termsKey()}
		at := int32(len(b.units))
		b.units = append(b.units, cell)
		j := i
		for ; j < len(b.classes) && slices.Equal(b.classes[j].traits.terms, b.classes[i].traits.terms); j++ {
			c := b.classes[j]
			c.index, c.cell, c.unit = int32(j), at, at
			cell.classes = append(cell.classes, c.index)
			cell.members = append(cell.members, c.members...)
		}
		if j > i+1 {
			slices.SortFunc(cell.members, func(x, y *member) int { return strings.Compare(x.name, y.name) })
			for _, c := range b.classes[i:j] {
				c.unit = int32(len(b.units))
				b.units = append(b.units, &unit{key: c.key, classes: []int32{c.index}, members: c.members})
			}
		}
		i = j
	}
}

// chunks are the blocks of a unit.
type chunks struct {
	records []*record // sorted by name
	blocks  []*block  // in trie order
}

type block struct {
	records []*record
	bytes   []byte
	digest  peermap.Digest
	first   peermap.Digest // the lowest name hash, which places the block among those of other classes
}

// chunk makes the blocks of every unit that a layout uses; units and blocks of unchanged records are taken over.
func (b *builder) chunk() error {
	b.chunks = make(map[string]*chunks, len(b.prev.chunks))
	var known map[*record]*block
	for _, c := range b.classes {
		c.uses = make([]*chunks, 0, c.layout.size)
		for _, group := range c.layout.groups {
			for _, u := range group {
				unit := b.units[u]
				made := b.chunks[unit.key]
				if made == nil {
					if old := b.prev.chunks[unit.key]; old != nil && len(old.records) == len(unit.members) && sameRecords(old.records, unit.members) {
						made = old
					} else {
						if known == nil {
							known = b.prev.blocks()
						}
						var err error
						if made, err = b.newChunks(unit, known); err != nil {
							return err
						}
					}
					b.chunks[unit.key] = made
				}
				c.uses = append(c.uses, made)
			}
		}
	}
	return nil
}

func sameRecords(records []*record, members []*member) bool {
	for i, r := range records {
		if members[i].record != r {
			return false
		}
	}
	return true
}

// blocks gives the blocks of the state by their first record; one of several with the same.
func (s *state) blocks() map[*record]*block {
	out := map[*record]*block{}
	for _, key := range slices.Sorted(maps.Keys(s.chunks)) {
		for _, bl := range s.chunks[key].blocks {
			out[bl.records[0]] = bl
		}
	}
	return out
}

func (b *builder) newChunks(u *unit, known map[*record]*block) (*chunks, error) {
	made := &chunks{records: make([]*record, len(u.members))}
	for i, m := range u.members {
		made.records[i] = m.record
	}
	leaves := peermap.Chunk(slices.Clone(made.records),
		func(r *record) *peermap.Digest { return &r.hash }, func(r *record) string { return r.name })
	for _, leaf := range leaves {
		if o := known[leaf[0]]; o != nil && slices.Equal(o.records, leaf) {
			made.blocks = append(made.blocks, o)
			continue
		}
		fresh, err := newBlock(leaf)
		if err != nil {
			return nil, err
		}
		b.stats.Blocks++
		made.blocks = append(made.blocks, fresh)
	}
	return made, nil
}

func newBlock(records []*record) (*block, error) {
	out := &block{records: records, first: records[0].hash}
	peers := make([]peermap.Peer, len(records))
	for i, r := range records {
		peers[i] = r.peer
		if slices.Compare(r.hash[:], out.first[:]) < 0 {
			out.first = r.hash
		}
	}
	var err error
	if out.bytes, err = peermap.EncodeBlock(peermap.Block{Peers: peers}); err != nil {
		return nil, err
	}
	out.digest = peermap.DigestOf(out.bytes)
	return out, nil
}
