// Package jwk reads public JSON Web Keys (RFC 7517) of OpenID providers and checks signatures with them (RFC 7515). It is
// pure and imports the standard library alone, because agents verify with pinned keys, offline. A key has one algorithm,
// given by its type: nothing is negotiated with whoever made a token.
package jwk

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// MaxBytes is the longest key that is read; an RSA key of 8192 bits has less than 2 KiB.
const MaxBytes = 4 << 10

// The algorithms: RSA (2048 to 8192 bits) signs RS256, P-256 signs ES256, Ed25519 signs EdDSA.
const (
	RS256 = "RS256"
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

var (
	// ErrKey says that a key cannot be used: malformed, private, symmetric, weak or meant for something else.
	ErrKey = errors.New("issuer key not usable")
	// ErrSignature says that a signature does not fit.
	ErrSignature = errors.New("bad token signature")
)

// Key is a public signing key of an issuer.
type Key struct {
	// ID is the `kid`, Algorithm the only `alg` that this key verifies.
	ID        string
	Algorithm string
	public    crypto.PublicKey
}

// members are what a key may have; those of private and symmetric keys are named to be refused.
type members struct {
	Algorithm string          `json:"alg,omitempty"`
	Curve     string          `json:"crv,omitempty"`
	Exponent  string          `json:"e,omitempty"`
	ID        string          `json:"kid,omitempty"`
	Type      string          `json:"kty"`
	Modulus   string          `json:"n,omitempty"`
	X         string          `json:"x,omitempty"`
	Y         string          `json:"y,omitempty"`
	Use       string          `json:"use,omitempty"`
	Secret    json.RawMessage `json:"k,omitempty"`
	Private   json.RawMessage `json:"d,omitempty"`
}

// Parse reads one key. Members that only carry certificates are passed over. Errors: ErrKey.
func Parse(text []byte) (Key, error) {
	if len(text) > MaxBytes {
		return Key{}, fmt.Errorf("%w: %d bytes, at most %d are read", ErrKey, len(text), MaxBytes)
	}
	var m members
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&m); err != nil {
		return Key{}, fmt.Errorf("%w: want a JSON Web Key on one line", ErrKey)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Key{}, fmt.Errorf("%w: something follows the key", ErrKey)
	}
	switch {
	case m.Private != nil || m.Secret != nil || m.Type == "oct":
		return Key{}, fmt.Errorf("%w: it is a private or symmetric key, and no longer secret", ErrKey)
	case m.Use != "" && m.Use != "sig":
		return Key{}, fmt.Errorf("%w: its use is %.20q, want sig", ErrKey, m.Use)
	}
	k, err := m.key()
	if err != nil {
		return Key{}, err
	}
	if m.Algorithm != "" && m.Algorithm != k.Algorithm {
		return Key{}, fmt.Errorf("%w: alg %.20q; a key of type %s signs with %s here", ErrKey, m.Algorithm, m.Type, k.Algorithm)
	}
	k.ID = m.ID
	return k, nil
}

func (m members) key() (Key, error) {
	switch m.Type + " " + m.Curve {
	case "RSA ":
		n, errN := number(m.Modulus)
		e, errE := number(m.Exponent)
		if errN != nil || errE != nil {
			return Key{}, fmt.Errorf("%w: n and e must be base64url numbers", ErrKey)
		}
		if bits := n.BitLen(); bits < 2048 || bits > 8192 {
			return Key{}, fmt.Errorf("%w: RSA with %d bits; 2048 to 8192 count", ErrKey, bits)
		}
		if !e.IsInt64() || e.Int64() < 3 || e.Int64() >= 1<<31 || e.Bit(0) == 0 || n.Bit(0) == 0 {
			return Key{}, fmt.Errorf("%w: RSA with an exponent or modulus that no honest key has", ErrKey)
		}
		return Key{Algorithm: RS256, public: &rsa.PublicKey{N: n, E: int(e.Int64())}}, nil
	case "EC P-256":
		x, errX := octets(m.X, 32)
		y, errY := octets(m.Y, 32)
		if errX != nil || errY != nil {
			return Key{}, fmt.Errorf("%w: x and y must be 32 bytes of base64url", ErrKey)
		}
		point := append(append([]byte{4}, x...), y...)
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
		if err != nil {
			return Key{}, fmt.Errorf("%w: not a point of P-256", ErrKey)
		}
		return Key{Algorithm: ES256, public: public}, nil
	case "OKP Ed25519":
		x, err := octets(m.X, ed25519.PublicKeySize)
		if err != nil {
			return Key{}, fmt.Errorf("%w: x must be 32 bytes of base64url", ErrKey)
		}
		return Key{Algorithm: EdDSA, public: ed25519.PublicKey(x)}, nil
	}
	return Key{}, fmt.Errorf("%w: type %.20q on %.20q; use RSA (RS256), EC on P-256 (ES256) or OKP Ed25519 (EdDSA)", ErrKey, m.Type, m.Curve)
}

// Line gives the one spelling of the key: its public members, sorted, without white space. Parse reads it back.
func (k Key) Line() string {
	m := members{Algorithm: k.Algorithm, ID: k.ID}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		m.Type, m.Modulus, m.Exponent = "RSA", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return "" // Parse gives no such key
		}
		m.Type, m.Curve, m.X, m.Y = "EC", "P-256", encode(point[1:33]), encode(point[33:])
	case ed25519.PublicKey:
		m.Type, m.Curve, m.X = "OKP", "Ed25519", encode(public)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b.Bytes()))
}

// Public is the key as the standard library knows it: *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
func (k Key) Public() crypto.PublicKey { return k.public }

// Verify checks a JWS signature over signed, the first two segments of a compact token with the dot. Errors: ErrSignature.
func (k Key) Verify(signed, sig []byte) error {
	sum := sha256.Sum256(signed)
	ok := false
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], sig) == nil
	case *ecdsa.PublicKey:
		ok = len(sig) == 64 && ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case ed25519.PublicKey:
		ok = ed25519.Verify(public, signed, sig)
	}
	if !ok {
		return fmt.Errorf("%w: not by key %.64q (%s)", ErrSignature, k.ID, k.Algorithm)
	}
	return nil
}

func number(s string) (*big.Int, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, ErrKey
	}
	return new(big.Int).SetBytes(b), nil
}

func octets(s string, size int) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != size {
		return nil, ErrKey
	}
	return b, nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
