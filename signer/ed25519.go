package signer

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"
)

// PrivateKey is an Ed25519 signing key: of a controller, a witness or a node's identity. It never prints itself.
type PrivateKey struct{ key ed25519.PrivateKey }

// GenerateKey draws a new key from rand (crypto/rand.Reader outside of tests).
func GenerateKey(rand io.Reader) (PrivateKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return PrivateKey{}, fmt.Errorf("draw an Ed25519 key: %w", err)
	}
	return PrivateKey{ed25519.NewKeyFromSeed(seed)}, nil
}

// Public gives the public half; that of an unset key is the zero PublicKey, which verifies nothing.
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	raw := k.Raw()
	return wrapEd25519(raw[:])
}

// Raw gives the 32 bytes of the public half, as Node documents and trust roots carry them.
func (k PrivateKey) Raw() [32]byte {
	var out [32]byte
	if len(k.key) == ed25519.PrivateKeySize {
		copy(out[:], k.key[32:])
	}
	return out
}

// IsZero reports whether k is unset.
func (k PrivateKey) IsZero() bool { return len(k.key) == 0 }

// Sign gives the 64-byte signature over msg (for envelopes: over PAE).
func (k PrivateKey) Sign(msg []byte) []byte { return ed25519.Sign(k.key, msg) }

// MarshalPrivate gives the key as PKCS#8 in PEM (RFC 5958, RFC 8410).
func MarshalPrivate(k PrivateKey) ([]byte, error) {
	if k.IsZero() {
		return nil, errors.New("marshal private key: the key is unset")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("marshal private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePrivate reads one PKCS#8 PEM block that holds an Ed25519 key, and nothing else. Its errors never quote the input.
func ParsePrivate(b []byte) (PrivateKey, error) {
	if len(b) > MaxPrivateKeyBytes {
		return PrivateKey{}, fmt.Errorf("private key: %w: at most %d bytes are read", ErrTooLarge, MaxPrivateKeyBytes)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(block.Headers) > 0 ||
		!bytes.HasPrefix(b, []byte("-----BEGIN PRIVATE KEY-----")) || len(bytes.TrimSpace(rest)) > 0 {
		return PrivateKey{}, fmt.Errorf("private key: %w: want exactly one PEM block PRIVATE KEY (PKCS#8)", ErrFormat)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("private key: %w: the PEM block does not hold PKCS#8", ErrFormat)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return PrivateKey{}, fmt.Errorf("private key: %w: want Ed25519, got %T", ErrWeakKey, parsed)
	}
	return PrivateKey{key}, nil
}

const redacted = "[private key]"

// String, Format, LogValue and MarshalText keep the key out of logs and dumps.
func (k PrivateKey) String() string { return redacted }

// Format hides the key from every verb, %x and %#v too.
func (k PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the key from slog.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the key from JSON and YAML encoders; MarshalPrivate is the way to store it.
func (k PrivateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// checkEd25519 refuses public keys that are no honest key's: bytes that are not the one encoding of a point on the curve
// (a second spelling would be a second ID for one key), and points of small order (for which anyone can make signatures).
func checkEd25519(raw []byte) error {
	if len(raw) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: an Ed25519 key has 32 bytes, not %d", ErrFormat, len(raw))
	}
	le := slices.Clone(raw)
	le[31] &= 0x7f
	slices.Reverse(le)
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	y := new(big.Int).SetBytes(le)
	if y.Cmp(p) >= 0 {
		return fmt.Errorf("%w: Ed25519 key in non-canonical encoding", ErrWeakKey)
	}
	// On the curve -x²+y² = 1+dx²y² iff (y²-1)/(dy²+1) is a square; d = -121665/121666.
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	y2 := new(big.Int).Mul(y, y)
	den := new(big.Int).Mul(d, y2)
	den.Add(den, one).Mod(den, p)
	num := new(big.Int).Sub(y2, one)
	num.Mul(num, den).Mod(num, p) // num/den is a square iff num*den is
	if big.Jacobi(num, p) < 0 {
		return fmt.Errorf("%w: Ed25519 key is not a point of the curve", ErrWeakKey)
	}
	if smallOrder(y, p) {
		return fmt.Errorf("%w: Ed25519 key has small order, anyone could sign with it", ErrWeakKey)
	}
	return nil
}

// smallOrder maps the point to Curve25519, u = (1+y)/(1-y), where X25519 with any clamped scalar (a multiple of 8) gives
// zero for exactly the points of small order, and crypto/ecdh reports it.
func smallOrder(y, p *big.Int) bool {
	one := big.NewInt(1)
	den := new(big.Int).Sub(one, y)
	den.Mod(den, p)
	if den.Sign() == 0 {
		return true // y = 1, the neutral element
	}
	u := new(big.Int).Add(one, y)
	u.Mul(u, den.ModInverse(den, p)).Mod(u, p)
	le := u.FillBytes(make([]byte, 32))
	slices.Reverse(le)
	remote, err := ecdh.X25519().NewPublicKey(le)
	if err != nil {
		return true
	}
	scalar, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		return true
	}
	_, err = scalar.ECDH(remote)
	return err != nil
}
