package peermap

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func keyOf(s string) Key { return sha256.Sum256([]byte(s)) }

func peer(name string, addrs ...string) Peer {
	p := Peer{Name: name, PublicKey: keyOf(name)}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, addr(a))
	}
	return p
}

// parts are the artefacts of one small map, to be spoilt by tests.
type parts struct {
	view   View
	class  Class
	blocks []Block
	// store holds the encoded artefacts by digest.
	store map[Digest][]byte
}

func sample() *parts {
	return &parts{
		view: View{
			Network: "net", Zone: "prod", Node: "web", PublicKey: keyOf("web"), Addresses: []netip.Addr{addr("10.0.0.1")},
			Ranges: []netip.Prefix{prefix("10.0.0.0/16"), prefix("fd00::/64")}, Routes: []netip.Prefix{prefix("192.168.9.0/24")},
			ListenPort: 51820, MTU: 1420, Keepalive: 25,
		},
		class: Class{
			Vias: []Via{{Prefix: prefix("172.16.0.0/16"), Peer: "gw"}},
			Rules: []Rule{
				{ID: "app/0", Hook: HookInput, From: Set{Groups: []uint32{0}}, Ports: []PortRange{{Protocol: TCP, First: 80, Last: 80}, {Protocol: UDP, First: 53, Last: 53}}},
				{ID: "app/1", Hook: HookOutput, To: Set{Groups: []uint32{0, 1}, Prefixes: []netip.Prefix{prefix("172.16.0.0/16")}}},
				{ID: "app/2", Hook: HookForward, From: Set{Groups: []uint32{1}}, To: Set{Prefixes: []netip.Prefix{prefix("192.168.9.0/24")}}, NotAfter: 99},
			},
		},
		blocks: []Block{
			{Peers: []Peer{peer("db", "10.0.0.2", "fd00::2"), peer("web", "10.0.0.1")}},
			{Peers: []Peer{peer("gw", "10.0.0.3")}},
		},
	}
}

// seal encodes the parts bottom up, one block per group unless the class already has groups.
func (p *parts) seal(t testing.TB) []byte {
	t.Helper()
	p.store = map[Digest][]byte{}
	fill := p.class.Groups == nil
	for _, b := range p.blocks {
		enc, err := EncodeBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		p.store[DigestOf(enc)] = enc
		if fill {
			p.class.Groups = append(p.class.Groups, Group{Blocks: []Digest{DigestOf(enc)}})
		}
	}
	enc, err := EncodeClass(p.class)
	if err != nil {
		t.Fatal(err)
	}
	p.view.Class = DigestOf(enc)
	p.store[p.view.Class] = enc
	view, err := EncodeView(p.view)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func (p *parts) fetch(d Digest) ([]byte, bool) {
	b, ok := p.store[d]
	return b, ok
}

func TestAssemble(t *testing.T) {
	p := sample()
	m, err := Assemble("net", "prod", "web", p.seal(t), p.fetch)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range m.Peers {
		got = append(got, fmt.Sprintf("%s %d %v", e.Name, e.Group, e.Routes))
	}
	if want := []string{"db 0 []", "gw 1 [172.16.0.0/16]"}; !slices.Equal(got, want) {
		t.Errorf("peers %v, want %v", got, want)
	}
}

func TestAssembleRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*parts)
		want  string
	}{
		"name in two groups": {func(p *parts) {
			p.blocks[1].Peers = append(p.blocks[1].Peers, peer("zz", "10.0.0.9"))
			p.blocks[0].Peers = append(p.blocks[0].Peers, peer("zz", "10.0.0.8"))
		}, "peer zz occurs twice"},
		"key twice": {func(p *parts) { p.blocks[1].Peers[0].PublicKey = keyOf("db") }, "same public key"},
		"own key elsewhere": {func(p *parts) {
			p.blocks[0].Peers = p.blocks[0].Peers[:1]
			p.blocks[1].Peers[0].PublicKey = keyOf("web")
		}, "own public key"},
		"own record differs": {func(p *parts) { p.blocks[0].Peers[1].PublicKey = keyOf("evil") }, "peer record of web differs"},
		"own record moved":   {func(p *parts) { p.blocks[0].Peers[1].Addresses[0] = addr("10.0.0.7") }, "peer record of web differs"},
		"address twice":      {func(p *parts) { p.blocks[1].Peers[0].Addresses[0] = addr("10.0.0.2") }, "10.0.0.2/32 of peer gw overlaps 10.0.0.2/32 of peer db"},
		"own address":        {func(p *parts) { p.blocks[1].Peers[0].Addresses[0] = addr("10.0.0.1") }, "of this node"},
		"outside the ranges": {func(p *parts) { p.blocks[1].Peers[0].Addresses[0] = addr("10.1.0.1") }, "outside the zone's ranges"},
		"via over a peer":    {func(p *parts) { p.class.Vias[0].Prefix = prefix("10.0.0.0/24") }, "overlaps"},
		"via over own route": {func(p *parts) { p.class.Vias[0].Prefix = prefix("192.168.0.0/16") }, "overlaps"},
		"via of a stranger":  {func(p *parts) { p.class.Vias[0].Peer = "nobody" }, "no peer of this node"},
		"via of itself":      {func(p *parts) { p.class.Vias[0].Peer = "web" }, "no peer of this node"},
		"other node":         {func(p *parts) { p.view.Node = "db" }, "want net/prod/web"},
		"other zone":         {func(p *parts) { p.view.Zone = "dev" }, "want net/prod/web"},
		"other network":      {func(p *parts) { p.view.Network = "ten" }, "want net/prod/web"},
	} {
		t.Run(name, func(t *testing.T) {
			p := sample()
			c.spoil(p)
			m, err := Assemble("net", "prod", "web", p.seal(t), p.fetch)
			if m != nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want ErrInvalid with %q", err, c.want)
			}
		})
	}
}

// TestAssembleRefusesForeignBytes hands out what was not asked for: nothing, other artefacts, altered ones.
func TestAssembleRefusesForeignBytes(t *testing.T) {
	p := sample()
	view := p.seal(t)
	for d := range p.store {
		for name, c := range map[string]struct {
			give func([]byte) ([]byte, bool)
			want error
		}{
			"missing": {func([]byte) ([]byte, bool) { return nil, false }, ErrMissing},
			"altered": {func(b []byte) ([]byte, bool) { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b, true }, ErrDigest},
			"longer":  {func(b []byte) ([]byte, bool) { return append(bytes.Clone(b), 0), true }, ErrDigest},
			"another": {func(b []byte) ([]byte, bool) { return view, true }, ErrDigest},
		} {
			_, err := Assemble("net", "prod", "web", view, func(asked Digest) ([]byte, bool) {
				if asked == d {
					return c.give(p.store[d])
				}
				return p.fetch(asked)
			})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	long := strings.Repeat("x", 64)
	for name, encode := range map[string]func(*parts) error{
		"node name":  func(p *parts) error { p.view.Node = "Web"; _, err := EncodeView(p.view); return err },
		"no address": func(p *parts) error { p.view.Addresses = nil; _, err := EncodeView(p.view); return err },
		"address order": func(p *parts) error {
			a := addr("10.0.0.1")
			p.view.Addresses = []netip.Addr{a, a}
			_, err := EncodeView(p.view)
			return err
		},
		"own range": func(p *parts) error { p.view.Ranges = p.view.Ranges[1:]; _, err := EncodeView(p.view); return err },
		"ranges overlap": func(p *parts) error {
			p.view.Ranges = []netip.Prefix{prefix("10.0.0.0/8"), prefix("10.0.0.0/16")}
			_, err := EncodeView(p.view)
			return err
		},
		"host bits": func(p *parts) error {
			p.view.Ranges[0] = prefix("10.0.0.1/16")
			_, err := EncodeView(p.view)
			return err
		},
		"mtu":              func(p *parts) error { p.view.MTU = 100; _, err := EncodeView(p.view); return err },
		"no class":         func(p *parts) error { _, err := EncodeView(p.view); return err },
		"mapped address":   func(p *parts) error { return peer("a", "::ffff:10.0.0.1").Check() },
		"zoned address":    func(p *parts) error { return peer("a", "fe80::1%eth0").Check() },
		"long name":        func(p *parts) error { return peer(long, "10.0.0.1").Check() },
		"endpoint":         func(p *parts) error { x := peer("a", "10.0.0.1"); x.Endpoints = []string{"a:0"}; return x.Check() },
		"endpoint newline": func(p *parts) error { x := peer("a", "10.0.0.1"); x.Endpoints = []string{"a\n:1"}; return x.Check() },
		"empty block":      func(p *parts) error { _, err := EncodeBlock(Block{}); return err },
		"block order": func(p *parts) error {
			slices.Reverse(p.blocks[0].Peers)
			_, err := EncodeBlock(p.blocks[0])
			return err
		},
		"group index": func(p *parts) error {
			p.seal(t)
			p.class.Rules[0].From.Groups[0] = 2
			_, err := EncodeClass(p.class)
			return err
		},
		"group order": func(p *parts) error {
			p.seal(t)
			p.class.Rules[1].To.Groups = []uint32{1, 0}
			_, err := EncodeClass(p.class)
			return err
		},
		"group empty": func(p *parts) error { p.class.Groups = []Group{{}, {}}; _, err := EncodeClass(p.class); return err },
		"rule order": func(p *parts) error {
			p.seal(t)
			slices.Reverse(p.class.Rules)
			_, err := EncodeClass(p.class)
			return err
		},
		"rule hook": func(p *parts) error { p.seal(t); p.class.Rules[2].Hook = 4; _, err := EncodeClass(p.class); return err },
		"input with to": func(p *parts) error {
			p.seal(t)
			p.class.Rules[0].To = p.class.Rules[0].From
			_, err := EncodeClass(p.class)
			return err
		},
		"port reversed": func(p *parts) error {
			p.seal(t)
			p.class.Rules[0].Ports[0].First = 90
			_, err := EncodeClass(p.class)
			return err
		},
		"ports touch": func(p *parts) error {
			p.seal(t)
			p.class.Rules[0].Ports = []PortRange{{Protocol: TCP, First: 1, Last: 2}, {Protocol: TCP, First: 3, Last: 4}}
			_, err := EncodeClass(p.class)
			return err
		},
		"unknown protocol": func(p *parts) error {
			p.seal(t)
			p.class.Rules[0].Ports[0].Protocol = 47
			_, err := EncodeClass(p.class)
			return err
		},
		"vias overlap": func(p *parts) error {
			p.seal(t)
			p.class.Vias = append(p.class.Vias, Via{Prefix: prefix("172.16.1.0/24"), Peer: "gw"})
			_, err := EncodeClass(p.class)
			return err
		},
	} {
		if err := encode(sample()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDecodeTakesOneEncoding spoils canonical bytes in the ways CBOR allows.
func TestDecodeTakesOneEncoding(t *testing.T) {
	block, err := EncodeBlock(Block{Peers: []Peer{peer("gw", "10.0.0.3")}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "8581626777" + "5820"; !strings.HasPrefix(fmt.Sprintf("%x", block), want) || !bytes.HasSuffix(block, []byte{0x81, 0x80, 0x81, 0}) {
		t.Fatalf("block is %x", block)
	}
	edit := func(old, new string) []byte {
		if !bytes.Contains(block, []byte(old)) {
			t.Fatalf("block has no %x", old)
		}
		return bytes.Replace(block, []byte(old), []byte(new), 1)
	}
	k := keyOf("gw")
	cut := func(n int, tail ...byte) []byte { return append(bytes.Clone(block[:len(block)-n]), tail...) }
	for name, b := range map[string][]byte{
		"empty":             {},
		"trailing byte":     append(bytes.Clone(block), 0),
		"cut short":         cut(1),
		"long length":       append([]byte{0x98, 5}, block[1:]...),
		"indefinite array":  append(append([]byte{0x9f}, block[1:]...), 0xff),
		"tag":               append([]byte{0xc1}, block...),
		"null":              {0xf6},
		"map":               {0xa0},
		"extra element":     append(append([]byte{0x86}, block[1:]...), 0),
		"missing element":   append([]byte{0x84}, block[1:len(block)-2]...),
		"long integer":      cut(1, 0x18, 0),
		"float for integer": cut(1, 0xf9, 0, 0),
		"null for integer":  cut(1, 0xf6),
		"null for list":     cut(3, 0xf6, 0x81, 0),
		"bytes for text":    edit("\x62gw", "\x42gw"),
		"bad UTF-8":         edit("\x62gw", "\x62g\xff"),
		"chunked bytes":     edit("\x58\x20"+string(k[:]), "\x5f\x58\x20"+string(k[:])+"\xff"),
	} {
		if _, err := DecodeBlock(b); !errors.Is(err, ErrNotCanonical) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"short key column": edit("\x58\x20"+string(k[:]), "\x58\x1f"+string(k[:31])),
		"more notAfter":    cut(2, 0x82, 0, 0),
		"no endpoints":     cut(4, 0x80, 0x81, 0),
		"endpoint form":    cut(3, 0x81, 0x42, 5, 5, 0x81, 0),
		"endpoint as text": cut(3, append(append([]byte{0x81, 0x4c, 0}, "1.2.3.4:500"...), 0x81, 0)...),
		"no peers":         {0x85, 0x80, 0x40, 0x80, 0x80, 0x80},
	} {
		if _, err := DecodeBlock(b); !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNotCanonical) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeBlock(make([]byte, MaxBlockBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("oversized: %v", err)
	}
}

func TestEndpointsKeepTheirText(t *testing.T) {
	p := peer("a", "10.0.0.1")
	p.Endpoints = []string{"192.0.2.1:51820", "[2001:db8::1]:1", "[2001:DB8::1]:1", "vpn.example.org:443", "0.0.0.1:1", "Host:5"}
	b, err := EncodeBlock(Block{Peers: []Peer{p}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeBlock(b)
	if err != nil || !slices.Equal(got.Peers[0].Endpoints, p.Endpoints) {
		t.Errorf("%+v, %v", got.Peers, err)
	}
}

func manifest() Manifest {
	return Manifest{
		Type: ManifestType, Network: "net", Zone: "prod", Epoch: 1, Serial: 7, Commit: strings.Repeat("0a", 20), AsOf: 100,
		Compiler: "1", RootVersion: 2, ViewsRoot: DigestOf([]byte("v")), Views: 3, Expires: 200,
	}
}

func timestamp() Timestamp {
	return Timestamp{Type: TimestampType, Network: "net", Zone: "prod", Epoch: 1, Serial: 7, Manifest: DigestOf([]byte("m")), Issued: 100, Expires: 200}
}

func TestJSONTakesOneEncoding(t *testing.T) {
	good, err := manifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ParseManifest(good); err != nil || m != manifest() {
		t.Fatalf("%+v, %v", m, err)
	}
	edit := func(old, new string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("manifest has no %q: %s", old, good)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "null": []byte("null"), "array": []byte("[]"), "newline": append(bytes.Clone(good), '\n'),
		"second value":   append(bytes.Clone(good), "{}"...),
		"space":          edit(`"serial":7`, `"serial": 7`),
		"duplicate key":  edit(`"serial":7`, `"serial":6,"serial":7`),
		"case":           edit(`"serial":7`, `"Serial":7`),
		"duplicate case": edit(`"serial":7`, `"serial":7,"SERIAL":7`),
		"unknown":        edit(`"serial":7`, `"serial":7,"x":1`),
		"missing":        edit(`"serial":7,`, ``),
		"null field":     edit(`"suspended":false`, `"suspended":null`),
		"float":          edit(`"serial":7`, `"serial":7.0`),
		"exponent":       edit(`"serial":7`, `"serial":7e0`),
		"string number":  edit(`"serial":7`, `"serial":"7"`),
		"negative":       edit(`"serial":7`, `"serial":-7`),
		"escape":         edit(`"zone":"prod"`, `"zone":"pro\u0064"`),
		"upper hex":      edit(`"commit":"0a`, `"commit":"0A`),
		"order":          edit(`"epoch":1,"serial":7`, `"serial":7,"epoch":1`),
	} {
		if m, err := ParseManifest(b); !errors.Is(err, ErrNotCanonical) && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: accepted as %+v, %v", name, m, err)
		}
	}
	if _, err := ParseManifest(make([]byte, MaxManifestBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("oversized: %v", err)
	}
	ts, err := timestamp().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseManifest(ts); err == nil {
		t.Error("a timestamp passes for a manifest")
	}
	if _, err := ParseTimestamp(good); err == nil {
		t.Error("a manifest passes for a timestamp")
	}
}

func TestChunk(t *testing.T) {
	type item struct {
		name string
		hash Digest
	}
	var items []*item
	for i := range 5000 {
		name := fmt.Sprintf("node-%d", i)
		items = append(items, &item{name, NameHash(name)})
	}
	cut := func(items []*item) map[string]bool {
		out := map[string]bool{}
		seen := 0
		for _, leaf := range Chunk(slices.Clone(items), func(i *item) *Digest { return &i.hash }, func(i *item) string { return i.name }) {
			if len(leaf) == 0 || len(leaf) > MaxBlockPeers || !slices.IsSortedFunc(leaf, func(a, b *item) int { return strings.Compare(a.name, b.name) }) {
				t.Fatalf("leaf of %d is empty, too large or unsorted", len(leaf))
			}
			var b strings.Builder
			for _, i := range leaf {
				b.WriteString(i.name + " ")
			}
			out[b.String()] = true
			seen += len(leaf)
		}
		if seen != len(items) {
			t.Fatalf("%d items of %d", seen, len(items))
		}
		return out
	}
	all := cut(items)
	slices.Reverse(items)
	if again := cut(items); len(again) != len(all) {
		t.Error("the order of items matters")
	} else {
		for leaf := range all {
			if !again[leaf] {
				t.Error("the order of items matters")
			}
		}
	}
	less := cut(items[1:])
	changed := 0
	for leaf := range less {
		if !all[leaf] {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("taking one item away changes %d leaves", changed)
	}
}
