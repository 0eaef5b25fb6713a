package protocol

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

func wireguardPair(t testing.TB) ([32]byte, peermap.Key) {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(k.Bytes()), peermap.Key(k.PublicKey().Bytes())
}

func enrolRequest(public peermap.Key) EnrolRequest {
	return NewEnrol(EnrolRequest{
		Network: "acme", Zone: "prod", Node: "laptop", PublicKey: public, IdentityKey: peermap.Key{7}, Mac: make([]byte, 32),
		Issuer: "corp", Token: "a.b.c",
		Routes: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16"), netip.MustParsePrefix("10.1.0.0/16")},
	})
}

func TestBothSidesArriveAtTheSameMac(t *testing.T) {
	node, public := wireguardPair(t)
	controller, challenge := wireguardPair(t)
	r := enrolRequest(public)
	made, err := EnrolMac(node, challenge, r)
	if err != nil {
		t.Fatal(err)
	}
	r.Mac = made // what stands in the field does not enter
	seen, err := EnrolMac(controller, public, r)
	if err != nil || !EqualMac(made, seen) {
		t.Fatalf("the controller arrives at another mac (%v)", err)
	}
	changed := r
	changed.Node = "other"
	if other, _ := EnrolMac(controller, public, changed); EqualMac(made, other) {
		t.Error("the mac does not cover the node's name")
	}
	changed = r
	changed.Token = "d.e.f"
	if other, _ := EnrolMac(controller, public, changed); EqualMac(made, other) {
		t.Error("the mac does not cover the token")
	}
	thief, _ := wireguardPair(t)
	if other, _ := EnrolMac(thief, challenge, r); EqualMac(made, other) {
		t.Error("another private key makes the same mac")
	}
	rotate := RotateRequest{PublicKey: public, IdentityKey: peermap.Key{7}}
	a, err := RotateMac(node, challenge, "acme", "prod", "laptop", rotate)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := RotateMac(controller, public, "acme", "prod", "laptop", rotate)
	c, _ := RotateMac(controller, public, "acme", "prod", "other", rotate)
	if !EqualMac(a, b) || EqualMac(a, c) {
		t.Error("the mac of a rotation must be of its node")
	}
}

func TestMacOfAKeyThatProvesNothingIsRefused(t *testing.T) {
	private, _ := wireguardPair(t)
	for _, low := range []peermap.Key{{}, {1}} {
		if _, err := EnrolMac(private, low, enrolRequest(low)); !errors.Is(err, ErrMac) {
			t.Errorf("low-order key %x: %v", low[:2], err)
		}
	}
}

func TestEnrolBounds(t *testing.T) {
	_, public := wireguardPair(t)
	good, err := Encode(enrolRequest(public))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeEnrol(good, "acme", "prod"); err != nil {
		t.Fatal(err)
	}
	if _, err := DecodeEnrol(good, "acme", "dev"); !errors.Is(err, ErrMalformed) {
		t.Errorf("another zone: %v", err)
	}
	for name, change := range map[string]func(*EnrolRequest){
		"no token":        func(r *EnrolRequest) { r.Token = "" },
		"long token":      func(r *EnrolRequest) { r.Token = strings.Repeat("x", MaxTokenBytes+1) },
		"name":            func(r *EnrolRequest) { r.Node = "../x" },
		"dots":            func(r *EnrolRequest) { r.Node = "a.b" },
		"long name":       func(r *EnrolRequest) { r.Node = strings.Repeat("a", 64) },
		"issuer":          func(r *EnrolRequest) { r.Issuer = "" },
		"no key":          func(r *EnrolRequest) { r.PublicKey = peermap.Key{} },
		"one key":         func(r *EnrolRequest) { r.IdentityKey = r.PublicKey },
		"short mac":       func(r *EnrolRequest) { r.Mac = r.Mac[:31] },
		"null routes":     func(r *EnrolRequest) { r.Routes = nil },
		"null address":    func(r *EnrolRequest) { r.Address = nil },
		"unsorted routes": func(r *EnrolRequest) { r.Routes[0], r.Routes[1] = r.Routes[1], r.Routes[0] },
		"host bits":       func(r *EnrolRequest) { r.Routes = []netip.Prefix{netip.MustParsePrefix("10.1.2.3/16")} },
		"many addresses":  func(r *EnrolRequest) { r.Address = make([]netip.Addr, MaxEnrolAddresses+1) },
		"mapped address":  func(r *EnrolRequest) { r.Address = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1")} },
		"invalid address": func(r *EnrolRequest) { r.Address = []netip.Addr{{}} },
	} {
		r := enrolRequest(public)
		change(&r)
		data, err := Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeEnrol(data, "acme", "prod"); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), r.Token) && r.Token != "" {
			t.Errorf("%s: the error shows the token", name)
		}
	}
}

func TestDecisionsAreForOneNetworkAndRecent(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	payload, err := NewDecision("acme", Waiting{Zone: "prod", Node: "a", PublicKey: peermap.Key{1}, IdentityKey: peermap.Key{2}}, true, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseDecision(payload, "acme", now.Add(RequestSkew)); err != nil {
		t.Error(err)
	}
	if _, err := ParseDecision(payload, "other", now); !errors.Is(err, ErrRequest) {
		t.Errorf("another network: %v", err)
	}
	if _, err := ParseDecision(payload, "acme", now.Add(RequestSkew+time.Second)); !errors.Is(err, ErrRequest) {
		t.Errorf("too old: %v", err)
	}
	if _, err := DecodeDecision(payload); err != nil {
		t.Errorf("kept as evidence: %v", err)
	}
}

func FuzzEnrol(f *testing.F) {
	_, public := wireguardPair(f)
	seed, err := Encode(enrolRequest(public))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"network":"acme","zone":"prod"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeEnrol(data, "acme", "prod")
		if err != nil {
			return
		}
		again, err := Encode(r)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted what Encode would not write: %v", err)
		}
		if normal, _ := Encode(NewEnrol(r)); !bytes.Equal(normal, data) {
			t.Fatal("accepted what is not in normal form")
		}
	})
}

func FuzzRotate(f *testing.F) {
	seed, err := Encode(RotateRequest{PublicKey: peermap.Key{1}, IdentityKey: peermap.Key{2}, Mac: make([]byte, 32), Proof: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRotate(data)
		if err != nil {
			return
		}
		if again, err := Encode(r); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted what Encode would not write: %v", err)
		}
	})
}

// FuzzDecision reads what maintainers sign: of what is accepted, at any age or fresh, there is one spelling.
func FuzzDecision(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	decision, err := NewDecision("acme", Waiting{Zone: "prod", Node: "laptop", PublicKey: peermap.Key{1}, IdentityKey: peermap.Key{2}}, true, now)
	if err != nil {
		f.Fatal(err)
	}
	query, err := NewEnrolQuery("acme", now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(decision)
	f.Add(query)
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := DecodeDecision(data)
		if err == nil {
			if again, err := Encode(d); err != nil || !bytes.Equal(again, data) {
				t.Fatalf("two spellings of one decision: %s, %s", data, again)
			}
		}
		if _, fresh := ParseDecision(data, "acme", now); fresh == nil && (err != nil || d.Network != "acme") {
			t.Fatalf("fresh, but not one at all: %v", err)
		}
		if q, err := ParseEnrolQuery(data, "acme", now); err == nil && q.Network != "acme" {
			t.Fatal("a query of another network")
		}
	})
}
