package spec

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/spec/diag"
)

// at is the instant at which these tests validate.
var at = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// TestLowOrderX25519 holds the list of weak keys against the standard library, which refuses their shared secret.
func TestLowOrderX25519(t *testing.T) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak := []Key{{}, {0: 1}, orderEightA, orderEightB, fieldPrime(-1), fieldPrime(0), fieldPrime(1)}
	for _, k := range weak {
		for _, top := range []byte{0, 0x80} {
			k[31] |= top
			public, err := ecdh.X25519().NewPublicKey(k[:])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := private.ECDH(public); err == nil {
				t.Errorf("%x is not weak", k)
			}
			if !isLowOrderX25519(k) {
				t.Errorf("%x passes", k)
			}
		}
	}
	if isLowOrderX25519(Key(private.PublicKey().Bytes())) {
		t.Error("a good key is refused")
	}
}

// TestLowOrderEd25519 shows that for each listed key someone without a private key signs some message: with S = 0 and R
// a point of low order, a signature holds for one message in at most eight.
func TestLowOrderEd25519(t *testing.T) {
	points := []Key{{}, {0: 1}, edwardsEightA, edwardsEightB, fieldPrime(-1)}
	for _, k := range points {
		for _, sign := range []byte{0, 0x80} {
			k[31] |= sign
			if !isLowOrderEd25519(k) {
				t.Errorf("%x passes", k)
			}
			if !forgeable(k, points) && sign == 0 {
				t.Errorf("no signature was forged for %x", k)
			}
		}
	}
	for _, k := range []Key{fieldPrime(0), fieldPrime(1)} {
		if !isLowOrderEd25519(k) {
			t.Errorf("%x passes", k)
		}
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil || isLowOrderEd25519(Key(public)) {
		t.Error("a good key is refused", err)
	}
}

func forgeable(public Key, points []Key) bool {
	for i := range 64 {
		for _, r := range points {
			for _, sign := range []byte{0, 0x80} {
				r[31] |= sign
				sig := append(bytes.Clone(r[:]), make([]byte, 32)...)
				if ed25519.Verify(public[:], fmt.Appendf(nil, "message %d", i), sig) {
					return true
				}
			}
		}
	}
	return false
}

// randomPrefix picks a small space in which prefixes overlap often.
func randomPrefix(r *mathrand.Rand) netip.Prefix {
	bits := 24 + r.IntN(9)
	p, err := netip.AddrFrom4([4]byte{192, 168, byte(r.IntN(2)), byte(r.IntN(256))}).Prefix(bits)
	if err != nil {
		panic(err)
	}
	if r.IntN(4) == 0 {
		p = netip.MustParsePrefix(fmt.Sprintf("2001:db8::%x:0/%d", r.IntN(4), 112+4*r.IntN(2)))
	}
	return p.Masked()
}

func document[T any](value T) *Document[T] { return &Document[T]{Value: value} }

// TestRouteOverlapAgainstPairs holds the sweep against the pair scan that it stands for, on random routes.
func TestRouteOverlapAgainstPairs(t *testing.T) {
	for seed := range uint64(2000) {
		r := mathrand.New(mathrand.NewPCG(seed, 1))
		repo := &Repository{Zones: []*Document[Zone]{document(Zone{Metadata: Metadata{Name: "z"}})}}
		for i := range 2 + r.IntN(6) {
			n := Node{Metadata: Metadata{Name: fmt.Sprintf("n%d", i), Zone: "z"}}
			for range r.IntN(4) {
				p := randomPrefix(r)
				if !slices.ContainsFunc(n.Spec.Routes, func(x NodeRoute) bool { return x.Prefix == p }) {
					n.Spec.Routes = append(n.Spec.Routes, NodeRoute{Prefix: p, Shared: r.IntN(2) == 0})
				}
			}
			repo.Nodes = append(repo.Nodes, document(n))
		}
		want := false
		for i, a := range repo.Nodes {
			for _, b := range repo.Nodes[i+1:] {
				for _, x := range a.Value.Spec.Routes {
					for _, y := range b.Value.Spec.Routes {
						want = want || x.Prefix.Overlaps(y.Prefix) && !(x.Shared && y.Shared)
					}
				}
			}
		}
		got := slices.ContainsFunc(repo.Validate(at), func(d diag.Diagnostic) bool { return d.Code == diag.RouteOverlap })
		if got != want {
			t.Fatalf("seed %d: sweep %v, pairs %v", seed, got, want)
		}
	}
}

// TestZonesApartAgainstPairs does the same for hosts in two zones.
func TestZonesApartAgainstPairs(t *testing.T) {
	for seed := range uint64(2000) {
		r := mathrand.New(mathrand.NewPCG(seed, 2))
		repo := &Repository{}
		for z := range 3 {
			zone := Zone{Metadata: Metadata{Name: fmt.Sprintf("z%d", z)}}
			zone.Spec.Ranges, zone.Spec.ListenPort = []netip.Prefix{randomPrefix(r)}, uint16(z+1)
			repo.Zones = append(repo.Zones, document(zone))
			for i := range 3 {
				if r.IntN(2) == 0 {
					continue
				}
				n := Node{Metadata: Metadata{Name: fmt.Sprintf("n%d", i), Zone: zone.Metadata.Name}}
				for range r.IntN(3) {
					n.Spec.Routes = append(n.Spec.Routes, NodeRoute{Prefix: randomPrefix(r), Shared: true})
				}
				repo.Nodes = append(repo.Nodes, document(n))
			}
		}
		got := slices.ContainsFunc(repo.Validate(at), func(d diag.Diagnostic) bool { return d.Code == diag.ZonesOverlap })
		if want := zonesOverlapByPairs(repo); got != want {
			t.Fatalf("seed %d: sweep %v, pairs %v", seed, got, want)
		}
	}
}

// zonesOverlapByPairs asks of every host, every two of its zones and every two prefixes of theirs.
func zonesOverlapByPairs(repo *Repository) bool {
	type owned struct {
		prefix netip.Prefix
		node   string
	}
	prefixes := map[string][]owned{}
	for _, z := range repo.Zones {
		for _, p := range z.Value.Spec.Ranges {
			prefixes[z.Value.Metadata.Name] = append(prefixes[z.Value.Metadata.Name], owned{p, ""})
		}
	}
	for _, n := range repo.Nodes {
		for _, route := range n.Value.Spec.Routes {
			m := n.Value.Metadata
			prefixes[m.Zone] = append(prefixes[m.Zone], owned{route.Prefix, m.Name})
		}
	}
	for i, a := range repo.Nodes {
		for _, b := range repo.Nodes[i+1:] {
			host := a.Value.Metadata.Name
			if b.Value.Metadata.Name != host {
				continue
			}
			for _, x := range prefixes[a.Value.Metadata.Zone] {
				for _, y := range prefixes[b.Value.Metadata.Zone] {
					if x.prefix.Overlaps(y.prefix) && !(x.node == host && y.node == host) {
						return true
					}
				}
			}
		}
	}
	return false
}

// TestPrefixSet holds covers against a scan.
func TestPrefixSet(t *testing.T) {
	for seed := range uint64(500) {
		r := mathrand.New(mathrand.NewPCG(seed, 3))
		var set prefixSet
		var list []netip.Prefix
		for range r.IntN(8) {
			p := randomPrefix(r)
			set.add(p)
			list = append(list, p)
		}
		for range 20 {
			p := randomPrefix(r)
			want := slices.ContainsFunc(list, func(o netip.Prefix) bool { return contains(o, p) })
			if got := set.covers(p); got != want {
				t.Fatalf("seed %d: %v in %v: %v", seed, p, list, got)
			}
		}
	}
}

// TestValidateScales gives Validate what would be quadratic in a pair scan; each must end in a few seconds even on a slow
// machine (a pair scan takes minutes).
func TestValidateScales(t *testing.T) {
	const n = 20000
	zone := func(name string, ranges ...string) *Document[Zone] {
		z := Zone{Metadata: Metadata{Name: name}}
		for _, r := range ranges {
			z.Spec.Ranges = append(z.Spec.Ranges, netip.MustParsePrefix(r))
		}
		return document(z)
	}
	node := func(i int, zone string) *Document[Node] {
		return document(Node{Metadata: Metadata{Name: fmt.Sprintf("n%05d", i), Zone: zone}})
	}
	for name, build := range map[string]func(r *Repository){
		"one prefix shared by all": func(r *Repository) {
			r.Zones = append(r.Zones, zone("a", "10.0.0.0/8"))
			for i := range n {
				d := node(i, "a")
				d.Value.Spec.Routes = []NodeRoute{{Prefix: netip.MustParsePrefix("192.168.0.0/16"), Shared: i > 0}}
				r.Nodes = append(r.Nodes, d)
			}
		},
		"one key for all": func(r *Repository) {
			r.Zones = append(r.Zones, zone("a", "10.0.0.0/8"))
			for i := range n {
				d := node(i, "a")
				d.Value.Spec.PublicKey = Key{9}
				r.Nodes = append(r.Nodes, d)
			}
		},
		"all hosts in two zones that overlap": func(r *Repository) {
			r.Zones = append(r.Zones, zone("a", "10.0.0.0/8"), zone("b", "10.0.0.0/8"))
			for _, z := range []string{"a", "b"} {
				for i := range n {
					r.Nodes = append(r.Nodes, node(i, z))
				}
			}
		},
		"unknown names everywhere": func(r *Repository) {
			r.Zones = append(r.Zones, zone("a", "10.0.0.0/8"))
			p, x := Policy{Metadata: Metadata{Name: "p", Zone: "a"}}, PolicyTest{Metadata: Metadata{Name: "t", Zone: "a"}}
			for i := range n {
				r.Nodes = append(r.Nodes, node(i, "a"))
				from := []Selector{{Node: fmt.Sprintf("m%05d", i)}}
				p.Spec.Allow = append(p.Spec.Allow, Rule{From: from, To: from})
				x.Spec.Deny = append(x.Spec.Deny, Assertion{From: from[0].Node, To: from[0].Node})
			}
			r.Policies, r.Tests = []*Document[Policy]{document(p)}, []*Document[PolicyTest]{document(x)}
		},
		"two frequent labels": func(r *Repository) {
			r.Zones = append(r.Zones, zone("a", "10.0.0.0/8"))
			p := Policy{Metadata: Metadata{Name: "p", Zone: "a"}}
			for i := range n {
				d := node(i, "a")
				d.Value.Metadata.Labels = map[string]string{"x": "1", "y": "1"}
				r.Nodes = append(r.Nodes, d)
				sel := []Selector{{Labels: map[string]string{"x": "1", "y": "1"}}}
				p.Spec.Allow = append(p.Spec.Allow, Rule{From: sel, To: sel})
			}
			r.Policies = []*Document[Policy]{document(p)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Repository{}
			build(r)
			Spends(t, 10*time.Second, func() { r.Validate(at) })
		})
	}
}

// TestHostileTrustKeys feeds key texts that are nearly right.
func TestHostileTrustKeys(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []TrustKey{
		{SSH: "ssh-ed25519 " + hex.EncodeToString(public)},
		{SSH: "ssh-ed25519"},
		{SSH: "-----BEGIN OPENSSH PRIVATE KEY-----"},
		{SSH: "# comment\nssh-ed25519 AAAA"},
		{OpenPGP: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n"},
		{OpenPGP: "\x00"},
		{Ed25519: Key{0: 1}},
	} {
		if _, id, f := identify(k); f == nil || id != "" {
			t.Errorf("%+v is a key", k)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ranges", "rnages", 1}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"label", "labels", 1}} {
		if got := editDistance(c.a, c.b, 10); got != c.want {
			t.Errorf("%q %q: %d", c.a, c.b, got)
		}
		if got := editDistance(c.b, c.a, 10); got != c.want {
			t.Errorf("%q %q: %d", c.b, c.a, got)
		}
	}
	if got := didYouMean("PublicKey", []string{"keepalive", "publicKey"}); got != "did you mean publicKey?" {
		t.Error(got)
	}
	if got := didYouMean("zzzzzz", []string{"keepalive", "publicKey"}); got != "" {
		t.Error(got)
	}
}
