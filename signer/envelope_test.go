package signer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
)

// The test vector of the DSSE protocol document: PAE, and a signature made over it by its reference implementation.
func TestDSSEVector(t *testing.T) {
	pae := PAE("http://example.com/HelloWorld", []byte("hello world"))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; string(pae) != want {
		t.Fatalf("PAE %q, want %q", pae, want)
	}
	decimal := func(s string) []byte {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			t.Fatal(s)
		}
		return n.FillBytes(make([]byte, 32))
	}
	point := append([]byte{4}, decimal("46950820868899156662930047687818585632848591499744589407958293238635476079160")...)
	point = append(point, decimal("5640078356564379163099075877009565129882514886557779369047442380624545832820")...)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(pae)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Error("the reference signature does not verify over our PAE")
	}
}

func TestPAECountsBytes(t *testing.T) {
	if got, want := string(PAE("é", []byte{0, ' ', '9'})), "DSSEv1 2 é 3 \x00 9"; got != want {
		t.Errorf("PAE %q, want %q", got, want)
	}
	if got, want := string(PAE("", nil)), "DSSEv1 0  0 "; got != want {
		t.Errorf("PAE %q, want %q", got, want)
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		e := NewEnvelope("a/b<&>\u2028", []byte{0, 0xff, '<'})
		for i := range n {
			e = must(e.AddEd25519(testKey(string(rune('a' + i)))))(t)
		}
		b := must(e.Encode())(t)
		got := must(ParseEnvelope(b, len(b)))(t)
		if again := must(got.Encode())(t); !bytes.Equal(again, b) {
			t.Errorf("%d signatures: %s became %s", n, b, again)
		}
		if _, err := ParseEnvelope(b, len(b)-1); err == nil {
			t.Error("one byte above the cap was read")
		} else {
			wantErr(t, err, ErrTooLarge)
		}
	}
}

func TestEnvelopeStrictness(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	sig := func(id string) string { return `{"keyid":"` + id + `","sig":"AAAA"}` }
	env := func(sigs string) string {
		return `{"payloadType":"t","payload":"aGk=","signatures":[` + sigs + `]}`
	}
	many := make([]string, 0, MaxSignatures+1)
	for i := range MaxSignatures + 1 {
		many = append(many, sig(materialID("x", []byte{byte(i)})))
	}
	for _, good := range []string{env(""), env(sig(a)), env(sig(a) + "," + sig(b))} {
		if _, err := ParseEnvelope([]byte(good), 1000); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	bad := map[string]string{
		"empty input":               ``,
		"null":                      `null`,
		"array":                     `[]`,
		"number":                    `1`,
		"unknown field":             `{"payloadType":"t","payload":"aGk=","signatures":[],"more":1}`,
		"unknown field inside":      env(`{"keyid":"` + a + `","sig":"AAAA","cert":"x"}`),
		"duplicate key":             `{"payloadType":"t","payload":"aGk=","payload":"aGk=","signatures":[]}`,
		"duplicate, other value":    `{"payloadType":"t","payload":"aGk=","payload":"aG8=","signatures":[]}`,
		"duplicate key inside":      env(`{"keyid":"` + a + `","keyid":"` + a + `","sig":"AAAA"}`),
		"case-folded key":           `{"PayloadType":"t","payload":"aGk=","signatures":[]}`,
		"case-folded and plain":     `{"payloadType":"t","payload":"aGk=","signatures":[],"Payload":"aG8="}`,
		"other field order":         `{"payload":"aGk=","payloadType":"t","signatures":[]}`,
		"missing payload":           `{"payloadType":"t","signatures":[]}`,
		"missing signatures":        `{"payloadType":"t","payload":"aGk="}`,
		"null payload":              `{"payloadType":"t","payload":null,"signatures":[]}`,
		"null type":                 `{"payloadType":null,"payload":"aGk=","signatures":[]}`,
		"null signatures":           `{"payloadType":"t","payload":"aGk=","signatures":null}`,
		"null signature":            env(`null`),
		"null sig":                  env(`{"keyid":"` + a + `","sig":null}`),
		"empty sig":                 env(`{"keyid":"` + a + `","sig":""}`),
		"empty type":                `{"payloadType":"","payload":"aGk=","signatures":[]}`,
		"long type":                 `{"payloadType":"` + strings.Repeat("t", MaxPayloadType+1) + `","payload":"aGk=","signatures":[]}`,
		"trailing data":             env("") + `{}`,
		"trailing newline":          env("") + "\n",
		"leading space":             " " + env(""),
		"inner space":               `{"payloadType": "t","payload":"aGk=","signatures":[]}`,
		"byte order mark":           "\ufeff" + env(""),
		"escaped letters":           `{"payloadType":"\u0074","payload":"aGk=","signatures":[]}`,
		"invalid UTF-8":             `{"payloadType":"` + "\xff" + `","payload":"aGk=","signatures":[]}`,
		"base64 without padding":    `{"payloadType":"t","payload":"aGk","signatures":[]}`,
		"base64 with loose bits":    `{"payloadType":"t","payload":"aGl=","signatures":[]}`,
		"base64 with a newline":     `{"payloadType":"t","payload":"aG\nk=","signatures":[]}`,
		"URL base64":                `{"payloadType":"t","payload":"_-8=","signatures":[]}`,
		"payload as array":          `{"payloadType":"t","payload":[104],"signatures":[]}`,
		"unsorted key ids":          env(sig(b) + "," + sig(a)),
		"duplicate key ids":         env(sig(a) + "," + sig(a)),
		"upper-case key id":         env(sig(strings.ToUpper(a))),
		"short key id":              env(sig("ab")),
		"no key id":                 env(`{"sig":"AAAA"}`),
		"too many signatures":       env(strings.Join(many, ",")),
		"deep nesting":              strings.Repeat("[", 10000),
		"signature of 16 KiB and 1": env(`{"keyid":"` + a + `","sig":"` + base64.StdEncoding.EncodeToString(make([]byte, MaxSignatureBytes+1)) + `"}`),
	}
	for name, text := range bad {
		if e, err := ParseEnvelope([]byte(text), 1<<20); err == nil {
			t.Errorf("%s: accepted as %+v", name, e)
		}
	}
}

func TestEncodeRefusesWhatParseRefuses(t *testing.T) {
	id := strings.Repeat("a", 64)
	for name, e := range map[string]*Envelope{
		"nil payload":    {PayloadType: "t", Signatures: []Signature{}},
		"nil signatures": {PayloadType: "t", Payload: []byte{}},
		"no type":        {Payload: []byte{}, Signatures: []Signature{}},
		"twice one key":  {PayloadType: "t", Payload: []byte{}, Signatures: []Signature{{id, []byte{1}}, {id, []byte{2}}}},
	} {
		if _, err := e.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestMergeKeepsEverySignature(t *testing.T) {
	base := NewEnvelope(RootType, []byte("x"))
	left, right := must(base.AddSSH(testSSH("ada")))(t), must(base.AddSSH(testSSH("bob")))(t)
	both := must(left.Merge(right))(t)
	if len(both.Signatures) != 2 || len(left.Signatures) != 1 {
		t.Errorf("merged %d signatures, left has %d", len(both.Signatures), len(left.Signatures))
	}
	if _, err := left.Merge(NewEnvelope(RootType, []byte("y"))); err == nil {
		t.Error("merged signatures over different payloads")
	}
}
