package idp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Claims is the body of a token. The methods give changed copies.
type Claims map[string]any

// With sets a claim. Times are given as the seconds of time.Time.Unix.
func (c Claims) With(name string, value any) Claims {
	c = maps.Clone(c)
	c[name] = value
	return c
}

// Without leaves claims out.
func (c Claims) Without(names ...string) Claims {
	c = maps.Clone(c)
	for _, n := range names {
		delete(c, n)
	}
	return c
}

// Valid sets iat and nbf, and exp.
func (c Claims) Valid(from, until time.Time) Claims {
	return c.With("iat", from.Unix()).With("nbf", from.Unix()).With("exp", until.Unix())
}

// Claims gives those of a sound token of this provider: iss, sub, aud, a fresh jti, and valid from now for ten minutes.
func (i *Issuer) Claims(audience, subject string, now time.Time) Claims {
	return newClaims(i.issuer, audience, subject, now)
}

func newClaims(issuer, audience, subject string, now time.Time) Claims {
	c := Claims{"iss": issuer, "sub": subject, "aud": audience, "jti": rand.Text()}
	return c.Valid(now, now.Add(10*time.Minute))
}

// key is a signing key and how to sign with it.
type key struct {
	id        string
	algorithm string
	private   crypto.Signer
}

func newKey(id, algorithm string) (*key, error) {
	k := &key{id: id, algorithm: algorithm}
	var err error
	switch algorithm {
	case "RS256", "PS256":
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown algorithm %q: use RS256, PS256, ES256 or EdDSA", algorithm)
	}
	return k, err
}

func (k *key) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: k.algorithm, Use: "sig"}
}

// sign makes a JWS signature (RFC 7518 §3).
func (k *key) sign(input []byte) ([]byte, error) {
	digest := sha256.Sum256(input)
	switch private := k.private.(type) {
	case *rsa.PrivateKey:
		if k.algorithm == "PS256" {
			options := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return rsa.SignPSS(rand.Reader, private, crypto.SHA256, digest[:], options)
		}
		return rsa.SignPKCS1v15(nil, private, crypto.SHA256, digest[:])
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
		if err != nil {
			return nil, err
		}
		signature := make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
		return signature, nil
	default:
		return k.private.Sign(nil, input, crypto.Hash(0))
	}
}

// Rotate makes a new signing key (RS256, PS256, ES256 or EdDSA; "" keeps the algorithm) and withdraws all older ones.
func (i *Issuer) Rotate(algorithm string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	k, err := i.newKey(algorithm)
	if err != nil {
		return err
	}
	i.keys = []*key{k}
	return nil
}

// AddKey makes a new signing key and publishes it beside the older ones, as a well-run provider does before it rotates.
func (i *Issuer) AddKey(algorithm string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	k, err := i.newKey(algorithm)
	if err != nil {
		return err
	}
	i.keys = append(i.keys, k)
	return nil
}

func (i *Issuer) newKey(algorithm string) (*key, error) {
	if algorithm == "" {
		algorithm = i.keys[len(i.keys)-1].algorithm
	}
	k, err := newKey(fmt.Sprintf("key-%d", i.made+1), algorithm)
	if err == nil {
		i.made++
	}
	return k, err
}

func (i *Issuer) signingKey() *key {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.keys[len(i.keys)-1]
}

// Mint signs a token with the newest key. It panics when the claims are no JSON or a defect does not suit the key.
func (i *Issuer) Mint(claims Claims, defects ...Defect) string {
	k := i.signingKey()
	d := &draft{
		key:    k,
		header: object{"alg": k.algorithm, "kid": k.id, "typ": "JWT"},
		sign:   k.sign,
		finish: func(header, payload, signature string) string { return header + "." + payload + "." + signature },
	}
	var err error
	if d.payload, err = json.Marshal(claims); err != nil {
		panic(fmt.Sprintf("idp: claims: %v", err))
	}
	for _, defect := range defects {
		defect(d)
	}
	header, err := json.Marshal(d.header)
	if err != nil {
		panic(fmt.Sprintf("idp: header: %v", err))
	}
	h, p := encode(header), encode(d.payload)
	signature, err := d.sign([]byte(h + "." + p))
	if err != nil {
		panic(fmt.Sprintf("idp: sign: %v", err))
	}
	return d.finish(h, p, encode(signature))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// draft is a token in the making.
type draft struct {
	key     *key
	header  object
	payload []byte
	sign    func(input []byte) ([]byte, error)
	finish  func(header, payload, signature string) string
}

// Defect is something wrong with the envelope of a token, or with its JSON. What is wrong with claims is said with the
// methods of Claims.
type Defect func(*draft)

// AlgNone leaves the signature out. spelling is the algorithm's name: "none", "None", "nOnE".
func AlgNone(spelling string) Defect {
	return func(d *draft) {
		d.header["alg"] = spelling
		d.sign = func([]byte) ([]byte, error) { return nil, nil }
	}
}

// HS256WithPublicPEM signs with HMAC whose secret is the PEM text of the published key: the classic confusion.
func HS256WithPublicPEM() Defect {
	return hs256(func(k *key) ([]byte, error) {
		der, err := x509.MarshalPKIXPublicKey(k.private.Public())
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), err
	})
}

// HS256WithPublicJWK signs with HMAC whose secret is the JSON of the published key.
func HS256WithPublicJWK() Defect {
	return hs256(func(k *key) ([]byte, error) { return k.public().MarshalJSON() })
}

func hs256(secret func(*key) ([]byte, error)) Defect {
	return func(d *draft) {
		d.header["alg"] = "HS256"
		d.sign = func(input []byte) ([]byte, error) {
			s, err := secret(d.key)
			mac := hmac.New(sha256.New, s)
			mac.Write(input)
			return mac.Sum(nil), err
		}
	}
}

// SaysAlg names another algorithm in the header than the one that signed.
func SaysAlg(algorithm string) Defect { return Header("alg", algorithm) }

// Header sets a member of the header: kid, typ, crit, jku, x5u.
func Header(name string, value any) Defect { return func(d *draft) { d.header[name] = value } }

// NoHeader leaves a member of the header out.
func NoHeader(name string) Defect { return func(d *draft) { delete(d.header, name) } }

// WrongKey signs with a key that was never published, under the name of the one that was.
func WrongKey() Defect {
	return func(d *draft) { d.stranger() }
}

// EmbeddedKey signs with a key that was never published and puts it in the header (jwk).
func EmbeddedKey() Defect {
	return func(d *draft) { d.header["jwk"] = d.stranger().public() }
}

func (d *draft) stranger() *key {
	k, err := newKey(d.key.id, d.key.algorithm)
	if err != nil {
		panic(fmt.Sprintf("idp: %v", err))
	}
	d.sign = k.sign
	return k
}

// BadSignature flips a bit of the signature.
func BadSignature() Defect {
	return func(d *draft) {
		sound := d.sign
		d.sign = func(input []byte) ([]byte, error) {
			signature, err := sound(input)
			if len(signature) > 0 {
				signature[len(signature)/2] ^= 1
			}
			return signature, err
		}
	}
}

// Tampered changes a claim after the token was signed.
func Tampered(name string, value any) Defect {
	return func(d *draft) {
		finish := d.finish
		d.finish = func(header, payload, signature string) string {
			b, _ := base64.RawURLEncoding.DecodeString(payload)
			claims := Claims{}
			if err := json.Unmarshal(b, &claims); err != nil {
				panic(fmt.Sprintf("idp: tamper: %v", err))
			}
			b, err := json.Marshal(claims.With(name, value))
			if err != nil {
				panic(fmt.Sprintf("idp: tamper: %v", err))
			}
			return finish(header, encode(b), signature)
		}
	}
}

// Duplicate gives a claim a second time, behind all others: some parsers take the first one, Go's the last.
func Duplicate(name string, value any) Defect {
	return func(d *draft) {
		member, err := json.Marshal(map[string]any{name: value})
		if err != nil {
			panic(fmt.Sprintf("idp: duplicate: %v", err))
		}
		d.payload = append(append(d.payload[:len(d.payload)-1], ','), member[1:]...)
	}
}

// Payload replaces the claims by any bytes, which are signed all the same.
func Payload(raw string) Defect { return func(d *draft) { d.payload = []byte(raw) } }

// AsJSON gives the token in the JSON serialization of JWS (RFC 7515 §7.2.2), which no OpenID token may have.
func AsJSON() Defect {
	return func(d *draft) {
		d.finish = func(header, payload, signature string) string {
			return fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, payload, header, signature)
		}
	}
}

// Spaced surrounds the token with white space.
func Spaced() Defect {
	return func(d *draft) {
		finish := d.finish
		d.finish = func(h, p, s string) string { return " " + strings.TrimSpace(finish(h, p, s)) + "\n" }
	}
}

func tlsConfig(pair tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
}
