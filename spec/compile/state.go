package compile

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
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
	live     int       // how many rules held as of the compile
	members  []*member // sorted by name
	checked  *claims
	classes  []*class // sorted by key
	byKey    map[string]*class
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
		prev = &state{head: &header{}, byKey: map[string]*class{}}
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

// readRules takes over the rules of prev if they are of the same documents, routes and instant. Of given documents the
// rules live at two instants are nested sets, so an equal count means equal rules.
func (b *builder) readRules(asOf time.Time) {
	for _, doc := range b.policies {
		for i := range doc.Value.Spec.Allow {
			if end := doc.Value.Spec.Allow[i].NotAfter; end == nil || asOf.Unix() < end.Unix() {
				b.live++
			}
		}
	}
	if b.prev.rules != nil && b.prev.live == b.live && b.prev.routes == b.routes &&
		b.prev.head.mode == b.head.mode && slices.Equal(b.prev.policies, b.policies) {
		b.rules = b.prev.rules
		return
	}
	b.rules = policy.NewRules(b.head.mode, b.policies, b.routes, asOf)
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

// key writes traits as a string that is equal for equal traits only: each list after its length.
func (t *traits) key() string {
	b := make([]byte, 0, 4*(len(t.terms)+len(t.carries)+len(t.declares)+3))
	b = binary.BigEndian.AppendUint32(b, uint32(len(t.terms)))
	for _, v := range t.terms {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
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
	chunks  *chunks
	layout  *layout
	uses    []*chunks // of the classes in the layout's groups, in that order
	bytes   []byte
	digest  peermap.Digest
}

// single reports whether the class has one node, which then has no peer in its own class.
func (c *class) single() bool { return len(c.members) == 1 }

// classify sorts members into classes.
func (b *builder) classify() {
	b.byKey = make(map[string]*class, len(b.prev.byKey))
	for _, m := range b.members {
		c := b.byKey[m.key]
		if c == nil {
			c = &class{key: m.key, traits: m.traits}
			b.byKey[m.key] = c
			b.classes = append(b.classes, c)
		}
		m.class = c
		c.members = append(c.members, m)
	}
	slices.SortFunc(b.classes, func(x, y *class) int { return cmp.Compare(x.key, y.key) })
	for i, c := range b.classes {
		c.index = int32(i)
	}
}

// chunks are the blocks of a class.
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

// chunk makes the blocks of every class; classes and blocks of unchanged records are taken over.
func (b *builder) chunk() error {
	var known map[*record]*block
	for _, c := range b.classes {
		if old := b.prev.byKey[c.key]; old != nil && len(old.members) == len(c.members) && sameRecords(old.chunks.records, c.members) {
			c.chunks = old.chunks
			continue
		}
		if known == nil {
			known = b.prev.blocks()
		}
		if err := b.newChunks(c, known); err != nil {
			return err
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

// blocks gives every block of the state by its first record.
func (s *state) blocks() map[*record]*block {
	out := map[*record]*block{}
	for _, c := range s.classes {
		for _, bl := range c.chunks.blocks {
			out[bl.records[0]] = bl
		}
	}
	return out
}

func (b *builder) newChunks(c *class, known map[*record]*block) error {
	c.chunks = &chunks{records: make([]*record, len(c.members))}
	for i, m := range c.members {
		c.chunks.records[i] = m.record
	}
	leaves := peermap.Chunk(slices.Clone(c.chunks.records),
		func(r *record) *peermap.Digest { return &r.hash }, func(r *record) string { return r.name })
	for _, leaf := range leaves {
		if o := known[leaf[0]]; o != nil && slices.Equal(o.records, leaf) {
			c.chunks.blocks = append(c.chunks.blocks, o)
			continue
		}
		made, err := newBlock(leaf)
		if err != nil {
			return err
		}
		b.stats.Blocks++
		c.chunks.blocks = append(c.chunks.blocks, made)
	}
	return nil
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
