package binding

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/apex-network/apex/spec/peermap"
)

func sample() Binding {
	return Binding{
		Type: Type, Network: "acme", Zone: "prod", Node: "eva-laptop",
		Identity: Identity{Issuer: "corp", URL: "https://login.acme.example", Subject: "7f3", Username: "eva@acme.example",
			Groups: []string{"dev", "ops"}, Claims: []Claim{{Name: "hd", Values: []string{"acme.example"}}}},
		PublicKey: peermap.Key{1}, IdentityKey: peermap.Key{2}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.128.7")},
		Labels: []Pair{{"role", "laptop"}}, Routes: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/24")},
		Rule: Rule{Name: "staff", File: "zones/prod.yaml", Line: 12}, Commit: strings.Repeat("a", 40),
		Issued: 1_800_000_000, Expires: 1_800_086_400, Evidence: peermap.Digest{9},
	}
}

func TestRoundTrip(t *testing.T) {
	b := sample()
	payload, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := NewSigned(payload, []byte("envelope"))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := b.Digest()
	if err != nil || digest != signed.Digest {
		t.Fatalf("digests differ: %v", err)
	}
	again, err := signed.Binding.Encode()
	if err != nil || !bytes.Equal(again, payload) {
		t.Fatalf("%s\nbecame\n%s %v", payload, again, err)
	}
	if !bytes.Contains(payload, []byte(`"publicKey":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="`)) {
		t.Errorf("the key is not written as text: %s", payload)
	}
}

func TestParseRefusesOtherSpellings(t *testing.T) {
	payload, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"space":         {`{"_type"`, `{ "_type"`},
		"case":          {`"node"`, `"Node"`},
		"duplicate":     {`"relay":false`, `"relay":true,"relay":false`},
		"unknown":       {`"relay":false`, `"relay":false,"admin":true`},
		"null list":     {`"groups":["dev","ops"]`, `"groups":null`},
		"unsorted":      {`"groups":["dev","ops"]`, `"groups":["ops","dev"]`},
		"twice":         {`"groups":["dev","ops"]`, `"groups":["dev","dev"]`},
		"host bits":     {`192.168.0.0/24`, `192.168.0.1/24`},
		"mapped":        {`10.0.128.7`, `::ffff:10.0.128.7`},
		"no end":        {`"expires":1800086400`, `"expires":1800000000`},
		"control":       {`eva@acme.example`, `eva\u0007`},
		"type":          {`binding.v1`, `binding.v2`},
		"name":          {`eva-laptop`, `Eva`},
		"same keys":     {`AgAAAA`, `AQAAAA`},
		"escaped":       {`"role"`, `"r\u006fle"`},
		"key with bits": {`AAAAAAA="`, `AAAAAAB="`},
	} {
		if !bytes.Contains(payload, []byte(change[0])) {
			t.Fatalf("%s: nothing to change", name)
		}
		bad := bytes.Replace(payload, []byte(change[0]), []byte(change[1]), 1)
		if _, err := Parse(bad); !errors.Is(err, peermap.ErrNotCanonical) && !errors.Is(err, peermap.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(make([]byte, MaxBytes+1)); !errors.Is(err, peermap.ErrTooLarge) {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	entries := []Entry{{peermap.Digest{2}, "b"}, {peermap.Digest{1}, "a"}, {peermap.Digest{3}, "c"}}
	list := List(entries)
	got, err := ParseList(list)
	if err != nil || len(got) != 3 || got[0] != entries[1] {
		t.Fatalf("%v %v", got, err)
	}
	slices.Reverse(entries)
	if !bytes.Equal(list, List(entries)) {
		t.Error("the order of entries matters")
	}
	if List(nil) != nil {
		t.Error("no bindings give a list")
	}
	line := string(List(entries[:1]))
	for _, bad := range []string{line + line, strings.TrimSuffix(line, "\n"), "\n", strings.ToUpper(line), strings.Replace(line, "  ", " ", 1),
		strings.Replace(line, "  ", "   ", 1), line + "\n", strings.Replace(line, "\n", "\r\n", 1)} {
		if _, err := ParseList([]byte(bad)); !errors.Is(err, peermap.ErrNotCanonical) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	payload, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Add([]byte(`{"_type":"application/vnd.apex.binding.v1+json"}`))
	f.Add(bytes.Replace(payload, []byte("dev"), []byte("d\xff"), 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		b, err := Parse(in)
		if err != nil {
			return
		}
		out, err := b.Encode()
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%q became %q: %v", in, out, err)
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add(List([]Entry{{peermap.Digest{2}, "b"}, {peermap.Digest{1}, "a"}}))
	f.Fuzz(func(t *testing.T, in []byte) {
		entries, err := ParseList(in)
		if err == nil && !bytes.Equal(in, List(entries)) {
			t.Fatalf("%q became %q", in, List(entries))
		}
	})
}
