package peermap

import (
	"bytes"
	"testing"
)

// fuzzDecoder wants of any bytes: no panic, and what is accepted encodes back to the same bytes.
func fuzzDecoder[T any](f *testing.F, decode func([]byte) (T, error), encode func(T) ([]byte, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
		if len(s) > 0 {
			f.Add(s[:len(s)-1])
			f.Add(append(bytes.Clone(s), s[0]))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decode(b)
		if err != nil {
			return
		}
		again, err := encode(v)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x decodes but encodes to %x, %v", b, again, err)
		}
	})
}

func FuzzDecodeView(f *testing.F) {
	fuzzDecoder(f, DecodeView, EncodeView, sample().seal(f), nil, []byte{0xf6})
}

func FuzzDecodeClass(f *testing.F) {
	p := sample()
	p.seal(f)
	fuzzDecoder(f, DecodeClass, EncodeClass, p.store[p.view.Class], []byte{0x83, 0x80, 0x80, 0x80})
}

func FuzzDecodeBlock(f *testing.F) {
	p := sample()
	p.seal(f)
	for _, d := range p.class.Blocks() {
		f.Add(p.store[d])
	}
	fuzzDecoder(f, DecodeBlock, EncodeBlock, []byte{0x85, 0x80, 0x40, 0x80, 0x80, 0x80})
}

func FuzzParseManifest(f *testing.F) {
	b, err := manifest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	fuzzDecoder(f, ParseManifest, Manifest.Encode, b)
}

func FuzzParseTimestamp(f *testing.F) {
	b, err := timestamp().Encode()
	if err != nil {
		f.Fatal(err)
	}
	fuzzDecoder(f, ParseTimestamp, Timestamp.Encode, b)
}

// FuzzAssemble gives one hostile class and block to a genuine node: no panic, and no map with an overlap.
func FuzzAssemble(f *testing.F) {
	p := sample()
	p.seal(f)
	f.Add(p.store[p.class.Groups[0].Blocks[0]], p.store[p.class.Groups[1].Blocks[0]])
	f.Fuzz(func(t *testing.T, one, two []byte) {
		q := sample()
		q.class.Groups = []Group{{Blocks: []Digest{DigestOf(one)}}, {Blocks: []Digest{DigestOf(two)}}}
		q.blocks = nil
		if bytes.Equal(one, two) {
			return
		}
		view := q.seal(t)
		q.store[DigestOf(one)], q.store[DigestOf(two)] = one, two
		m, err := Assemble("net", "prod", "web", view, q.fetch)
		if err != nil {
			return
		}
		names := map[string]bool{"web": true}
		for _, e := range m.Peers {
			if names[e.Name] || e.PublicKey == q.view.PublicKey {
				t.Fatalf("peer %s twice", e.Name)
			}
			names[e.Name] = true
		}
	})
}
