package serve

import (
	"bytes"
	"cmp"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// frames keeps what the nodes of one zone share of the events for one generation, each part made once, when it is first
// needed:
//
//	stamps[timestamp]        the timestamp and the manifest event, for the newest timestamp
//	steps[from, to class]    the artefact events of what changed between two classes, or of a whole class
//	artefacts[from, to]      each of these events
//	packed[from, to]         the compressed artefacts in them, which GET gives too
//
// A zone keeps the frames of its newest generation only, so memory is bounded by one generation.
type frames struct {
	generation *publish.Generation

	mu        sync.Mutex
	stamp     peermap.Digest // of the timestamp envelope that events are for
	events    *stampEvents
	packer    lazy[*protocol.Packer] // for whole artefacts; it goes with the generation
	packed    map[delta]*lazy[protocol.Artefact]
	artefacts map[delta]*lazy[event]
	steps     map[delta]*lazy[[]event]
}

// stampEvents are the shared events that carry a timestamp.
type stampEvents struct{ stamp, head lazy[event] }

// delta names the way from one artefact or class to another; a zero from is the whole of it.
type delta struct{ from, to peermap.Digest }

// event is Server-Sent Events text: plain, and as one zstd frame.
type event struct{ plain, packed []byte }

func (e event) bytes(packed bool) []byte {
	if packed {
		return e.packed
	}
	return e.plain
}

// lazy makes a value once, however many ask at the same time.
type lazy[T any] struct {
	once  sync.Once
	value T
	err   error
}

func (l *lazy[T]) get(create func() (T, error)) (T, error) {
	l.once.Do(func() { l.value, l.err = create() })
	return l.value, l.err
}

// framesFor gives the frames for a snapshot. A stream that still holds an older snapshot than others gets frames of its
// own, which end with its event.
func (z *zone) framesFor(s *publish.Snapshot) *frames {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.frames != nil && z.frames.generation == s.Generation {
		return z.frames
	}
	f := &frames{generation: s.Generation, packed: map[delta]*lazy[protocol.Artefact]{},
		artefacts: map[delta]*lazy[event]{}, steps: map[delta]*lazy[[]event]{}}
	if z.frames == nil || !newer(z.frames.generation, s.Generation) {
		z.frames = f
		for name := range z.members {
			if _, _, ok := s.Node(name); !ok {
				delete(z.members, name)
			}
		}
	}
	return f
}

func newer(a, b *publish.Generation) bool {
	return cmp.Or(cmp.Compare(a.Manifest.Epoch, b.Manifest.Epoch), cmp.Compare(a.Manifest.Serial, b.Manifest.Serial)) > 0
}

// stamped gives the events that carry the timestamp of s.
func (f *frames) stamped(s *publish.Snapshot) *stampEvents {
	d := peermap.DigestOf(s.Timestamp)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.events == nil || f.stamp != d {
		f.stamp, f.events = d, &stampEvents{}
	}
	return f.events
}

// once gives the place of key in a map of lazies.
func once[T any](mu *sync.Mutex, m map[delta]*lazy[T], key delta) *lazy[T] {
	mu.Lock()
	defer mu.Unlock()
	l, ok := m[key]
	if !ok {
		l = &lazy[T]{}
		m[key] = l
	}
	return l
}

// packer compresses events; one is shared by all.
type packer struct{ enc *zstd.Encoder }

func newPacker() (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(64<<10), zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return nil, fmt.Errorf("compress events: %w", err)
	}
	return &packer{enc}, nil
}

func (p *packer) pack(plain []byte) event {
	return event{plain: plain, packed: p.enc.EncodeAll(plain, nil)}
}

// stampEvent is the timestamp event of snap.
func (s *Server) stampEvent(z *zone, snap *publish.Snapshot) (event, error) {
	return z.framesFor(snap).stamped(snap).stamp.get(func() (event, error) {
		return s.packer.pack(protocol.AppendEvent(nil, protocol.EventTimestamp, snap.Timestamp)), nil
	})
}

// headEvent is the manifest event of snap.
func (s *Server) headEvent(z *zone, snap *publish.Snapshot) (event, error) {
	return z.framesFor(snap).stamped(snap).head.get(func() (event, error) {
		plain, err := protocol.AppendManifest(nil, protocol.Update{
			Manifest: snap.Envelope, Timestamp: snap.Timestamp, RootVersion: z.net.rootVersion(),
		})
		return s.packer.pack(plain), err
	})
}

// stepEvents are the artefact events that bring a node from the class it held (in the generation old; nil: none) to the
// one it has now.
func (s *Server) stepEvents(z *zone, snap *publish.Snapshot, old *publish.Generation, from, to peermap.Digest) ([]event, error) {
	if old == nil {
		from = peermap.Digest{}
	}
	if from == to {
		return nil, nil
	}
	f := z.framesFor(snap)
	return once(&f.mu, f.steps, delta{from, to}).get(func() ([]event, error) { return s.makeStep(f, old, from, to) })
}

func (s *Server) makeStep(f *frames, old *publish.Generation, from, to peermap.Digest) ([]event, error) {
	next, ok := f.generation.Class(to)
	if !ok {
		return nil, fmt.Errorf("class %s is missing", to)
	}
	var before *publish.Class
	if old != nil {
		before, _ = old.Class(from)
	}
	moves := []move{{to: to, bytes: next.Bytes}}
	if before != nil {
		moves[0].from, moves[0].base = from, before.Bytes
	}
	blocks, err := blockMoves(f.generation, old, before, next)
	if err != nil {
		return nil, err
	}
	moves = append(moves, blocks...)
	size := 0
	var out []event
	for _, m := range moves {
		// What does not fit in one update is fetched by digest.
		if size += len(m.bytes); size > protocol.MaxUpdateArtefactBytes/2 || len(out) == protocol.MaxUpdateArtefacts {
			break
		}
		e, err := s.artefactEvent(f, m)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// move is one artefact that a node lacks, with the one it holds that resembles it, if any.
type move struct {
	from, to    peermap.Digest
	base, bytes []byte
}

// blockMoves lists the blocks of next that before lacks. The base of each is the block that is gone and holds the same
// stretch of names.
func blockMoves(now, old *publish.Generation, before, next *publish.Class) ([]move, error) {
	var gone []peermap.Digest
	if before != nil {
		for _, d := range before.Blocks {
			if !next.Has(d) {
				gone = append(gone, d)
			}
		}
	}
	homes := map[string]peermap.Digest{} // peer → gone block
	for _, d := range gone {
		names, _, err := peerNames(old, d)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			homes[n] = d
		}
	}
	var out []move
	for _, d := range next.Blocks {
		if before != nil && before.Has(d) {
			continue
		}
		m := move{to: d}
		if len(gone) == 0 {
			m.bytes, _ = now.Block(d)
			out = append(out, m)
			continue
		}
		names, b, err := peerNames(now, d)
		if err != nil {
			return nil, err
		}
		m.bytes = b
		if m.from = commonest(names, homes); !m.from.IsZero() {
			m.base, _ = old.Block(m.from)
		}
		out = append(out, m)
	}
	return out, nil
}

func peerNames(g *publish.Generation, d peermap.Digest) ([]string, []byte, error) {
	b, ok := g.Block(d)
	if !ok {
		return nil, nil, fmt.Errorf("block %s is missing", d)
	}
	block, err := peermap.DecodeBlock(b)
	if err != nil {
		return nil, nil, fmt.Errorf("block %s: %w", d, err)
	}
	names := make([]string, len(block.Peers))
	for i, p := range block.Peers {
		names[i] = p.Name
	}
	return names, b, nil
}

// commonest gives the block that most names lived in; zero if none did. Of equals it takes the lower digest.
func commonest(names []string, homes map[string]peermap.Digest) peermap.Digest {
	counts := map[peermap.Digest]int{}
	var best peermap.Digest
	for _, n := range names {
		d, ok := homes[n]
		if !ok {
			continue
		}
		counts[d]++
		if c := counts[d]; c > counts[best] || c == counts[best] && bytes.Compare(d[:], best[:]) < 0 {
			best = d
		}
	}
	return best
}

// artefactEvent is the event of one move, shared by every step that contains it.
func (s *Server) artefactEvent(f *frames, m move) (event, error) {
	return once(&f.mu, f.artefacts, delta{m.from, m.to}).get(func() (event, error) {
		a, err := f.encoded(m)
		if err != nil {
			return event{}, err
		}
		plain, err := protocol.AppendArtefact(nil, a)
		return s.packer.pack(plain), err
	})
}

// encoded gives the compressed form of a move, kept while the generation is the newest.
func (f *frames) encoded(m move) (protocol.Artefact, error) {
	if m.base != nil && f.full(delta{m.from, m.to}) {
		return f.encode(m)
	}
	return once(&f.mu, f.packed, delta{m.from, m.to}).get(func() (protocol.Artefact, error) { return f.encode(m) })
}

// full says that no more deltas are kept. Updates need few for each artefact, but any two that a node may see can be asked
// for as one. Whole artefacts are always kept: there is one form of each, and it costs the most.
func (f *frames) full(key delta) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, kept := f.packed[key]
	return !kept && len(f.packed) >= packedPerArtefact*f.generation.Artefacts()+packedPerArtefact
}

// packedPerArtefact is how many compressed forms are kept for each artefact of a generation, on average.
const packedPerArtefact = 8

func (f *frames) encode(m move) (a protocol.Artefact, err error) {
	a = protocol.Artefact{Digest: m.to, Encoding: protocol.Zstd}
	if m.base != nil {
		a.From, a.Encoding = m.from, protocol.Delta
		a.Data, err = protocol.CompressDelta(m.base, m.bytes)
		return a, err
	}
	packer, err := f.packer.get(protocol.NewPacker)
	if err != nil {
		return a, err
	}
	a.Data = packer.Compress(m.bytes)
	return a, nil
}

// leafEvent is the node's own part of an update.
func (s *Server) leafEvent(snap *publish.Snapshot, node *publish.Node, index uint64, held *publish.Node, packed bool) ([]byte, error) {
	u := protocol.Update{
		Index: index, Size: snap.Tree.Size(), Proof: snap.Tree.Proof(index), ViewDigest: node.Digest,
	}
	switch {
	case held == nil:
		u.View = &protocol.Artefact{Digest: node.Digest, Encoding: protocol.Identity, Data: node.View}
	case held.Digest != node.Digest:
		u.View = viewFrom(held, node)
	}
	plain, err := protocol.AppendLeaf(nil, u)
	if err != nil || !packed {
		return plain, err
	}
	return s.packer.enc.EncodeAll(plain, nil), nil
}

// viewFrom sends only the class digest if that is all that changed.
func viewFrom(held, node *publish.Node) *protocol.Artefact {
	a := protocol.Artefact{Digest: node.Digest, From: held.Digest, Encoding: protocol.NewClass, Data: node.Class[:]}
	if _, err := protocol.Open(a.Encoding, a.Data, held.View, node.Digest, peermap.MaxViewBytes); err == nil {
		return &a
	}
	return &protocol.Artefact{Digest: node.Digest, Encoding: protocol.Identity, Data: node.View}
}
