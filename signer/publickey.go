package signer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
)

// Kind is how a public key makes signatures.
type Kind string

// The kinds. KindEd25519 signs PAE directly (controllers, witnesses, nodes); KindSSH signs inside an SSHSIG (people:
// commits, trust roots, apply requests); KindOpenPGP signs commits only.
const (
	KindEd25519 Kind = "ed25519"
	KindSSH     Kind = "ssh"
	KindOpenPGP Kind = "openpgp"
)

// PublicKey is a key that this package lets count: Ed25519, ECDSA on P-256, P-384 or P-521, FIDO (sk-*) variants of both,
// or RSA of 2048 to 8192 bits. The zero value verifies nothing.
type PublicKey struct {
	kind Kind
	text string
	// ids are the IDs of every key that can make this key's signatures; the first is its own. OpenPGP has subkeys.
	ids []string
	raw ed25519.PublicKey // KindEd25519
	ssh ssh.PublicKey     // KindSSH
	pgp *pgpKey           // KindOpenPGP
}

// Ed25519Key takes the 32 bytes of a raw key. Errors: ErrWeakKey.
func Ed25519Key(raw [32]byte) (PublicKey, error) { return newEd25519(raw[:]) }

// ParsePublicKey reads a key as trust roots store it (see Text): the raw key in base64, an authorized_keys line, or the
// binary OpenPGP key in base64. Errors: ErrFormat, ErrWeakKey, ErrTooLarge.
func ParsePublicKey(kind Kind, text string) (PublicKey, error) {
	if len(text) > MaxKeyBytes {
		return PublicKey{}, fmt.Errorf("public key: %w: at most %d bytes are read", ErrTooLarge, MaxKeyBytes)
	}
	switch kind {
	case KindSSH:
		return ParseSSHKey(text)
	case KindEd25519, KindOpenPGP:
		b, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || base64.StdEncoding.EncodeToString(b) != text {
			return PublicKey{}, fmt.Errorf("%s key: %w: want standard base64", kind, ErrFormat)
		}
		if kind == KindEd25519 {
			return newEd25519(b)
		}
		return newOpenPGP(b)
	}
	return PublicKey{}, fmt.Errorf("public key: %w: kind %.20q is none of ed25519, ssh, openpgp", ErrFormat, kind)
}

func newEd25519(raw []byte) (PublicKey, error) {
	if err := checkEd25519(raw); err != nil {
		return PublicKey{}, err
	}
	return wrapEd25519(slices.Clone(raw)), nil
}

// wrapEd25519 takes bytes that are known to be an honest key.
func wrapEd25519(raw []byte) PublicKey {
	return PublicKey{
		kind: KindEd25519,
		text: base64.StdEncoding.EncodeToString(raw),
		ids:  []string{materialID("ed25519", raw)},
		raw:  raw,
	}
}

// ID is the SHA-256, in hex, of what makes the key this key: its algorithm and point or modulus. The name, comment,
// container (raw, SSH, OpenPGP), RSA exponent, FIDO application and OpenPGP creation time do not enter, so one key has
// one ID in whatever dress it comes and can never count twice.
func (k PublicKey) ID() string {
	if len(k.ids) == 0 {
		return ""
	}
	return k.ids[0]
}

// Kind says how the key signs.
func (k PublicKey) Kind() Kind { return k.kind }

// Text is the canonical text that ParsePublicKey reads back.
func (k PublicKey) Text() string { return k.text }

// Fingerprint is what people compare: SHA256:… as ssh-keygen -l prints it, or the OpenPGP fingerprint in hex.
func (k PublicKey) Fingerprint() string {
	switch k.kind {
	case KindSSH:
		return ssh.FingerprintSHA256(k.ssh)
	case KindOpenPGP:
		return k.pgp.fingerprint()
	}
	return k.ID()
}

func (k PublicKey) String() string { return string(k.kind) + " key " + k.Fingerprint() }

// verifyPAE checks an envelope signature: raw for Ed25519 keys; for SSH keys an SSHSIG, which only trust roots take.
func (k PublicKey) verifyPAE(pae, sig []byte) error {
	switch k.kind {
	case KindEd25519:
		if !ed25519.Verify(k.raw, pae, sig) {
			return fmt.Errorf("%w: the signature of %s does not fit these bytes", ErrSignature, k)
		}
		return nil
	case KindSSH:
		return verifySSHBlob(k, NamespaceRoot, pae, sig)
	}
	return fmt.Errorf("%w: a %s key cannot sign envelopes", ErrSignature, k.kind)
}

// keyMaterial gives the ID of a standard library public key and refuses those that are not on the allow-list.
func keyMaterial(key any) (string, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if err := checkEd25519(k); err != nil {
			return "", err
		}
		return materialID("ed25519", k), nil
	case *ecdsa.PublicKey:
		name := k.Curve.Params().Name
		if name != "P-256" && name != "P-384" && name != "P-521" {
			return "", fmt.Errorf("%w: ECDSA on %s; use P-256, P-384 or P-521", ErrWeakKey, name)
		}
		point, err := k.Bytes()
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrWeakKey, err)
		}
		return materialID("ecdsa "+name, point), nil
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < MinRSABits || bits > MaxRSABits {
			return "", fmt.Errorf("%w: RSA with %d bits; %d to %d bits count", ErrWeakKey, bits, MinRSABits, MaxRSABits)
		}
		return materialID("rsa", k.N.Bytes()), nil
	}
	return "", fmt.Errorf("%w: %T; use Ed25519, ECDSA or RSA", ErrWeakKey, key)
}

func materialID(algorithm string, material []byte) string {
	sum := sha256.Sum256(bytes.Join([][]byte{[]byte(algorithm), material}, []byte{0}))
	return hex.EncodeToString(sum[:])
}
