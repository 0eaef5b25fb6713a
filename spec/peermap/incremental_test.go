package peermap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// history is a zone that changes at random, seen by its node "n00". Peers are cut into blocks by their first letters, so
// that a change of one leaves the blocks of the others alone.
type history struct {
	rng    *rand.Rand
	view   View
	peers  map[string]Peer
	groups map[string]int
	vias   []Via
}

const historyNames = 40

func newHistory(seed uint64) *history {
	h := &history{
		rng: rand.New(rand.NewPCG(seed, 1)), peers: map[string]Peer{}, groups: map[string]int{},
		view: View{
			Network: "net", Zone: "prod", Node: "n00", PublicKey: keyOf("n00"), Addresses: []netip.Addr{addr("10.0.0.0")},
			Ranges: []netip.Prefix{prefix("10.0.0.0/16")}, ListenPort: 51820, MTU: 1420,
		},
	}
	for i := range historyNames / 2 {
		h.set(i)
	}
	return h
}

func (h *history) set(i int) {
	name := fmt.Sprintf("n%02d", i)
	h.peers[name] = peer(name, fmt.Sprintf("10.0.%d.%d", i/10, i%10))
	if _, ok := h.groups[name]; !ok {
		h.groups[name] = i % 3
	}
}

// step changes something; often it breaks an invariant.
func (h *history) step() {
	i := h.rng.IntN(historyNames)
	name := fmt.Sprintf("n%02d", i)
	p, there := h.peers[name]
	switch h.rng.IntN(13) {
	case 0, 1, 2:
		h.set(i) // add, or mend
	case 3:
		delete(h.peers, name)
	case 4:
		h.groups[name] = h.rng.IntN(3)
	case 5:
		if there {
			p.Endpoints = []string{fmt.Sprintf("192.0.2.1:%d", 1+h.rng.IntN(9))}
			h.peers[name] = p
		}
	case 6:
		if there {
			p.PublicKey = keyOf(fmt.Sprintf("n%02d", h.rng.IntN(historyNames)))
			h.peers[name] = p
		}
	case 7:
		if there {
			p.Addresses = []netip.Addr{addr(fmt.Sprintf("10.%d.%d.%d", h.rng.IntN(20)/19, h.rng.IntN(4), h.rng.IntN(10)))}
			h.peers[name] = p
		}
	case 8, 9:
		via := Via{Prefix: prefix(fmt.Sprintf("172.16.%d.0/%d", h.rng.IntN(8)*16, 20+h.rng.IntN(5))), Peer: name}
		h.vias = append(h.vias, via)
	case 10:
		if len(h.vias) > 0 {
			h.vias = slices.Delete(h.vias, 0, 1+h.rng.IntN(len(h.vias)))
		}
	case 11:
		h.ownChange()
	case 12:
		h.mend()
	}
}

func (h *history) ownChange() {
	switch h.rng.IntN(4) {
	case 0:
		h.view.PublicKey = keyOf(fmt.Sprintf("n%02d", h.rng.IntN(3)))
	case 1:
		h.view.Addresses = []netip.Addr{addr(fmt.Sprintf("10.0.0.%d", h.rng.IntN(3)))}
	case 2:
		h.view.Routes = []netip.Prefix{prefix(fmt.Sprintf("172.16.%d.0/24", h.rng.IntN(64)))}
	case 3:
		h.view.Ranges = []netip.Prefix{prefix(fmt.Sprintf("10.0.0.0/%d", 15+h.rng.IntN(3)))}
	}
}

// mend makes most of it valid again, so that a history goes on.
func (h *history) mend() {
	for name := range h.peers {
		var i int
		fmt.Sscanf(name, "n%d", &i)
		h.set(i)
	}
	h.view.PublicKey, h.view.Addresses = keyOf("n00"), []netip.Addr{addr("10.0.0.0")}
	h.view.Routes, h.vias = nil, nil
}

// publish encodes the present. False if it cannot even be encoded. Sometimes a name stands in two blocks.
func (h *history) publish(t *testing.T) (view []byte, store map[Digest][]byte, ok bool) {
	t.Helper()
	byBlock := map[string][]Peer{}
	for name, p := range h.peers {
		key := fmt.Sprintf("%d/%s", h.groups[name], name[:2])
		byBlock[key] = append(byBlock[key], p)
		if h.rng.IntN(400) == 0 {
			key = fmt.Sprintf("%d/%s", (h.groups[name]+1)%3, name[:2])
			byBlock[key] = append(byBlock[key], p)
		}
	}
	store = map[Digest][]byte{}
	seen := map[Digest]bool{}
	class := Class{Vias: slices.Clone(h.vias)}
	slices.SortFunc(class.Vias, func(a, b Via) int { return ComparePrefixes(a.Prefix, b.Prefix) })
	for g := range 3 {
		var group Group
		for letter := range 10 {
			block := Block{Peers: byBlock[fmt.Sprintf("%d/n%d", g, letter)]}
			if len(block.Peers) == 0 {
				continue
			}
			slices.SortFunc(block.Peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
			encoded, err := EncodeBlock(block)
			if err != nil {
				t.Fatal(err)
			}
			d := DigestOf(encoded)
			if seen[d] {
				return nil, nil, false
			}
			seen[d], store[d] = true, encoded
			group.Blocks = append(group.Blocks, d)
		}
		if len(group.Blocks) > 0 {
			class.Groups = append(class.Groups, group)
		}
	}
	encoded, err := EncodeClass(class)
	if err != nil {
		return nil, nil, false
	}
	h.view.Class = DigestOf(encoded)
	store[h.view.Class] = encoded
	view, err = EncodeView(h.view)
	return view, store, err == nil
}

// TestAssembleFromIsAssemble walks random histories and holds every incremental assembly, from whatever was valid last,
// against a full one: the same map or the same error, and the map before untouched.
func TestAssembleFromIsAssemble(t *testing.T) {
	valid, refused, unlike := 0, map[string]int{}, 0
	for seed := range uint64(150) {
		h := newHistory(seed)
		var previous, pristine *Map
		for range 60 {
			for range 1 + h.rng.IntN(2) {
				h.step()
			}
			view, store, ok := h.publish(t)
			if !ok {
				continue
			}
			if h.rng.IntN(30) == 0 { // an artefact is gone or damaged that is new
				spoil(h.rng, previous, store)
			}
			fetch := func(d Digest) ([]byte, bool) { b, ok := store[d]; return b, ok }
			want, wantErr := Assemble("net", "prod", "n00", view, fetch)
			got, err := AssembleFrom(previous, "net", "prod", "n00", view, fetch)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || errors.Is(err, ErrInvalid) != errors.Is(wantErr, ErrInvalid) {
				t.Fatalf("seed %d: incremental says %v, full says %v", seed, err, wantErr)
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: maps differ:\n%+v\n%+v", seed, got, want)
			}
			if !reflect.DeepEqual(previous, pristine) {
				t.Fatalf("seed %d: the map before was changed", seed)
			}
			if err != nil {
				refused[kindOf(err)]++
				continue
			}
			if m, ok := assembleFrom(orEmpty(previous), "net", "prod", "n00", view, fetch); ok && m != nil {
				valid++
			} else if previous != nil && slices.Equal(previous.View.Ranges, want.View.Ranges) {
				unlike++
			}
			previous, pristine = got, want
		}
	}
	t.Logf("%d valid by increments, refused: %v", valid, refused)
	if unlike > 0 {
		t.Errorf("%d valid steps needed a full assembly", unlike)
	}
	for _, kind := range []string{"occurs twice", "public key", "overlaps", "outside", "no peer", "differs", "missing", "digest"} {
		if refused[kind] == 0 {
			t.Errorf("no history met %q", kind)
		}
	}
	if valid < 1000 {
		t.Errorf("only %d steps were valid", valid)
	}
}

func orEmpty(m *Map) *Map {
	if m == nil {
		return &Map{}
	}
	return m
}

// spoil takes away or damages an artefact that previous does not hold.
func spoil(rng *rand.Rand, previous *Map, store map[Digest][]byte) {
	held := map[Digest]bool{}
	if previous != nil {
		held[previous.View.Class] = true
		for _, d := range previous.Class.Blocks() {
			held[d] = true
		}
	}
	for d := range store {
		switch {
		case held[d]:
		case rng.IntN(2) == 0:
			delete(store, d)
			return
		default:
			store[d] = []byte("noise")
			return
		}
	}
}

func kindOf(err error) string {
	for _, kind := range []string{"occurs twice", "public key", "overlaps", "outside", "no peer", "differs", "missing", "digest"} {
		if strings.Contains(err.Error(), kind) {
			return kind
		}
	}
	return err.Error()
}

// bigZone is a valid map of n peers in blocks of MaxBlockPeers at most.
func bigZone(t testing.TB, n int) (*parts, []byte) {
	p := sample()
	p.class, p.blocks = Class{}, nil
	p.view.Node, p.view.Routes = "self", nil
	p.view.Addresses = []netip.Addr{addr("10.0.0.1")}
	p.view.Ranges = []netip.Prefix{prefix("10.0.0.0/8")}
	p.store = map[Digest][]byte{}
	var peers []Peer
	for i := range n {
		peers = append(peers, peer(fmt.Sprintf("node-%05d", i), fmt.Sprintf("10.1.%d.%d", i>>8, i&255)))
		peers[i].Endpoints = []string{fmt.Sprintf("203.0.%d.%d:51820", i>>8, i&255)}
	}
	type item struct {
		hash Digest
		peer Peer
	}
	items := make([]item, n)
	for i, q := range peers {
		items[i] = item{NameHash(q.Name), q}
	}
	for _, leaf := range Chunk(items, func(i item) *Digest { return &i.hash }, func(i item) string { return i.peer.Name }) {
		var b Block
		for _, i := range leaf {
			b.Peers = append(b.Peers, i.peer)
		}
		p.blocks = append(p.blocks, b)
	}
	var group Group
	for _, b := range p.blocks {
		encoded, err := EncodeBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		p.store[DigestOf(encoded)] = encoded
		group.Blocks = append(group.Blocks, DigestOf(encoded))
	}
	p.class.Groups = []Group{group}
	view := p.sealTop(t)
	return p, view
}

// sealTop encodes class and view alone.
func (p *parts) sealTop(t testing.TB) []byte {
	encoded, err := EncodeClass(p.class)
	if err != nil {
		t.Fatal(err)
	}
	p.view.Class = DigestOf(encoded)
	p.store[p.view.Class] = encoded
	view, err := EncodeView(p.view)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func BenchmarkAssemble10000(b *testing.B) {
	p, view := bigZone(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Assemble("net", "prod", "self", view, p.fetch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAssembleFromOnePeerOf10000 goes to and fro between two maps that differ in one peer's key.
func BenchmarkAssembleFromOnePeerOf10000(b *testing.B) {
	p, view := bigZone(b, 10_000)
	m, err := Assemble("net", "prod", "self", view, p.fetch)
	if err != nil {
		b.Fatal(err)
	}
	views := [2][]byte{1: view}
	last := len(p.blocks) - 1
	p.blocks[last].Peers[0].PublicKey = keyOf("another")
	encoded, err := EncodeBlock(p.blocks[last])
	if err != nil {
		b.Fatal(err)
	}
	p.store[DigestOf(encoded)] = encoded
	blocks := slices.Clone(p.class.Groups[0].Blocks)
	blocks[last] = DigestOf(encoded)
	p.class.Groups = []Group{{Blocks: blocks}}
	views[0] = p.sealTop(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		next, ok := assembleFrom(m, "net", "prod", "self", views[i%2], p.fetch)
		if !ok {
			b.Fatal("not by increments")
		}
		m = next
	}
}
