package jwk

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// TestAgainstJose reads keys that another implementation wrote, and checks signatures that it would accept.
func TestAgainstJose(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, private := range map[string]crypto.Signer{RS256: rsaKey, ES256: ecKey, EdDSA: edKey} {
		text, err := jose.JSONWebKey{Key: private.Public(), KeyID: "k1", Algorithm: alg, Use: "sig"}.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		k, err := Parse(text)
		if err != nil || k.ID != "k1" || k.Algorithm != alg {
			t.Fatalf("%s: %+v, %v", alg, k, err)
		}
		again, err := Parse([]byte(k.Line()))
		if err != nil || again.Line() != k.Line() {
			t.Errorf("%s: %q reads back as %q, %v", alg, k.Line(), again.Line(), err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(alg), Key: private}, nil)
		if err != nil {
			t.Fatal(err)
		}
		object, err := signer.Sign([]byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		compact, err := object.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		cut := len(compact) - len(encode(object.Signatures[0].Signature)) - 1
		if err := k.Verify([]byte(compact[:cut]), object.Signatures[0].Signature); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		if err := k.Verify([]byte(compact[:cut]+"x"), object.Signatures[0].Signature); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: other bytes: %v", alg, err)
		}
		if err := k.Verify([]byte(compact[:cut]), nil); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: no signature: %v", alg, err)
		}
	}
	// The signature that ecdsa alone takes, ASN.1, is no JWS.
	sum := sha256.Sum256([]byte("m"))
	sig, err := ecdsa.SignASN1(rand.Reader, ecKey, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if (Key{Algorithm: ES256, public: &ecKey.PublicKey}).Verify([]byte("m"), sig) == nil {
		t.Error("an ASN.1 signature passes")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":     ``,
		"no object":   `[]`,
		"trailing":    `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"} {}`,
		"symmetric":   `{"kty":"oct","k":"AAAA"}`,
		"private":     `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"AAAA"}`,
		"encryption":  `{"kty":"OKP","crv":"Ed25519","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"algorithm":   `{"kty":"OKP","crv":"Ed25519","alg":"HS256","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`,
		"short RSA":   `{"kty":"RSA","n":"AQAB","e":"AQAB"}`,
		"P-384":       `{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}`,
		"off curve":   `{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`,
		"short point": `{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`,
	} {
		if k, err := Parse([]byte(text)); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse([]byte(k.Line()))
		if err != nil || again.Line() != k.Line() {
			t.Errorf("%q: %q does not read back: %v", text, k.Line(), err)
		}
	})
}
