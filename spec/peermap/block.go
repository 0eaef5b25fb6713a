package peermap

import (
	"fmt"
	"net/netip"
)

// blockWire is how a Block is encoded: by columns, because zstd then finds one field of the next peer at the same
// distance, which costs about a byte where rows cost several. Row i of every column belongs to peer i.
type blockWire struct {
	_         struct{} `cbor:",toarray"`
	Names     []string
	Keys      []byte // 32 bytes a peer
	Addresses [][]netip.Addr
	Endpoints [][][]byte // see packEndpoint
	NotAfter  []int64
}

func (blockWire) check() error { return nil }

func (b Block) wire() blockWire {
	w := blockWire{
		Names: make([]string, len(b.Peers)), Keys: make([]byte, 0, len(Key{})*len(b.Peers)),
		Addresses: make([][]netip.Addr, len(b.Peers)), Endpoints: make([][][]byte, len(b.Peers)),
		NotAfter: make([]int64, len(b.Peers)),
	}
	for i, p := range b.Peers {
		w.Names[i], w.Addresses[i], w.NotAfter[i] = p.Name, p.Addresses, p.NotAfter
		w.Keys = append(w.Keys, p.PublicKey[:]...)
		if len(p.Endpoints) == 0 {
			continue
		}
		w.Endpoints[i] = make([][]byte, len(p.Endpoints))
		for j, e := range p.Endpoints {
			w.Endpoints[i][j] = packEndpoint(e)
		}
	}
	return w
}

func (w blockWire) block() (Block, error) {
	n := len(w.Names)
	if len(w.Keys) != n*len(Key{}) || len(w.Addresses) != n || len(w.Endpoints) != n || len(w.NotAfter) != n {
		return Block{}, invalid("columns of different lengths")
	}
	b := Block{Peers: make([]Peer, n)}
	for i := range b.Peers {
		p := &b.Peers[i]
		p.Name, p.Addresses, p.NotAfter = w.Names[i], w.Addresses[i], w.NotAfter[i]
		copy(p.PublicKey[:], w.Keys[i*len(Key{}):])
		for _, packed := range w.Endpoints[i] {
			e, ok := unpackEndpoint(packed)
			if !ok {
				return Block{}, invalid("peer %.80q: endpoint %.80x has another packed form", p.Name, packed)
			}
			p.Endpoints = append(p.Endpoints, e)
		}
	}
	return b, nil
}

// The first byte of a packed endpoint: text as it stands, or an IP address and a port (2 bytes, big-endian).
const (
	endpointText = 0
	endpointIPv4 = 4
	endpointIPv6 = 6
)

// packEndpoint writes host:port. The binary forms are for the canonical text of an IP address and port only.
func packEndpoint(s string) []byte {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.String() != s || ap.Addr().Zone() != "" || ap.Addr().Is4In6() {
		return append([]byte{endpointText}, s...)
	}
	form := byte(endpointIPv6)
	if ap.Addr().Is4() {
		form = endpointIPv4
	}
	out := append(make([]byte, 0, 19), form)
	out = append(out, ap.Addr().AsSlice()...)
	return append(out, byte(ap.Port()>>8), byte(ap.Port()))
}

// unpackEndpoint takes exactly what packEndpoint gives.
func unpackEndpoint(b []byte) (string, bool) {
	if len(b) == 0 {
		return "", false
	}
	var s string
	switch form, rest := b[0], b[1:]; {
	case form == endpointText:
		s = string(rest)
	case form == endpointIPv4 && len(rest) == 6, form == endpointIPv6 && len(rest) == 18:
		host, ok := netip.AddrFromSlice(rest[:len(rest)-2])
		if !ok {
			return "", false
		}
		s = netip.AddrPortFrom(host, uint16(rest[len(rest)-2])<<8|uint16(rest[len(rest)-1])).String()
	default:
		return "", false
	}
	return s, string(packEndpoint(s)) == string(b)
}

// EncodeBlock gives the canonical bytes of b, at most MaxBlockBytes. It fails with ErrInvalid if b breaks a rule.
func EncodeBlock(b Block) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("encode block: %w", err)
	}
	return encode("block", b.wire(), MaxBlockBytes)
}

// DecodeBlock takes only the canonical bytes of a valid block: ErrTooLarge, ErrNotCanonical or ErrInvalid otherwise.
func DecodeBlock(b []byte) (Block, error) {
	w, err := decode[blockWire]("block", b, MaxBlockBytes)
	if err != nil {
		return Block{}, err
	}
	out, err := w.block()
	if err == nil {
		err = out.check()
	}
	if err != nil {
		return Block{}, fmt.Errorf("decode block: %w", err)
	}
	return out, nil
}
