package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgpecdsa "github.com/ProtonMail/go-crypto/openpgp/ecdsa"
	pgped25519 "github.com/ProtonMail/go-crypto/openpgp/ed25519"
	"github.com/ProtonMail/go-crypto/openpgp/eddsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const (
	pgpBegin = "-----BEGIN PGP SIGNATURE-----"
	pgpEnd   = "-----END PGP SIGNATURE-----"
	pgpKey0  = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	pgpKey1  = "-----END PGP PUBLIC KEY BLOCK-----"
)

// pgpKey is one OpenPGP certificate with the key ids that may sign data.
type pgpKey struct {
	entity  *openpgp.Entity
	signing map[uint64]*packet.PublicKey
}

func (k *pgpKey) fingerprint() string { return hex.EncodeToString(k.entity.PrimaryKey.Fingerprint) }

// ParseOpenPGPKey reads one ASCII-armoured public key (RFC 9580) with nothing around it. Keys that are revoked, or that
// could sign with anything but Ed25519, ECDSA on a NIST curve or RSA of 2048 to 8192 bits, are refused. Errors: ErrFormat,
// ErrWeakKey, ErrTooLarge.
func ParseOpenPGPKey(armoured string) (PublicKey, error) {
	if len(armoured) > MaxKeyBytes {
		return PublicKey{}, fmt.Errorf("openpgp key: %w: at most %d bytes are read", ErrTooLarge, MaxKeyBytes)
	}
	body, err := unarmorPGP("openpgp key", []byte(armoured), pgpKey0, pgpKey1, openpgp.PublicKeyType)
	if err != nil {
		return PublicKey{}, err
	}
	return newOpenPGP(body)
}

// newOpenPGP reads one binary transferable public key.
func newOpenPGP(body []byte) (PublicKey, error) {
	list, err := openpgp.ReadKeyRing(bytes.NewReader(body))
	if err != nil {
		return PublicKey{}, fmt.Errorf("openpgp key: %w: %w", ErrFormat, err)
	}
	if len(list) != 1 {
		return PublicKey{}, fmt.Errorf("openpgp key: %w: want one key, found %d; list each under its own name", ErrFormat, len(list))
	}
	e := list[0]
	if e.PrivateKey != nil {
		return PublicKey{}, fmt.Errorf("openpgp key: %w: this is a private key; export the public one (gpg --export --armor)", ErrFormat)
	}
	if len(e.Revocations) > 0 {
		return PublicKey{}, fmt.Errorf("openpgp key: %w: %X is revoked", ErrWeakKey, e.PrimaryKey.Fingerprint)
	}
	primary, err := pgpMaterial(e.PrimaryKey)
	if err != nil {
		return PublicKey{}, err
	}
	k := &pgpKey{entity: e, signing: map[uint64]*packet.PublicKey{e.PrimaryKey.KeyId: e.PrimaryKey}}
	ids := []string{primary}
	for _, sub := range e.Subkeys {
		if !sub.Sig.FlagsValid || !sub.Sig.FlagSign || len(sub.Revocations) > 0 {
			continue
		}
		id, err := pgpMaterial(sub.PublicKey)
		if err != nil {
			return PublicKey{}, err
		}
		ids = append(ids, id)
		k.signing[sub.PublicKey.KeyId] = sub.PublicKey
	}
	return PublicKey{kind: KindOpenPGP, text: base64.StdEncoding.EncodeToString(body), ids: ids, pgp: k}, nil
}

// verifyPGP checks an armoured detached signature over msg. It asks no clock: a key must be valid at the moment the
// signature names, and whether a key still counts is for the trust root to say.
func verifyPGP(key PublicKey, msg, sig []byte) error {
	if key.kind != KindOpenPGP {
		return fmt.Errorf("%w: an OpenPGP signature cannot be checked with a %s key", ErrSignature, key.kind)
	}
	body, parsed, err := parsePGPSignature(sig)
	if err != nil {
		return err
	}
	if _, ok := key.pgp.signing[*parsed.IssuerKeyId]; !ok {
		return fmt.Errorf("%w: signed by OpenPGP key %016X, not by a signing key of %s", ErrUnknownKey,
			*parsed.IssuerKeyId, key.Fingerprint())
	}
	config := &packet.Config{Time: func() time.Time { return parsed.CreationTime }}
	_, err = openpgp.CheckDetachedSignatureAndHash(openpgp.EntityList{key.pgp.entity}, bytes.NewReader(msg),
		bytes.NewReader(body), []crypto.Hash{parsed.Hash}, config)
	if err != nil {
		return fmt.Errorf("%w: the OpenPGP signature of %s does not fit: %w", ErrSignature, key.Fingerprint(), err)
	}
	return nil
}

// parsePGPSignature reads one armour block that holds exactly one binary-document signature by a strong hash.
func parsePGPSignature(sig []byte) ([]byte, *packet.Signature, error) {
	if len(sig) > MaxSignatureBytes {
		return nil, nil, fmt.Errorf("openpgp signature: %w: at most %d bytes are read", ErrTooLarge, MaxSignatureBytes)
	}
	body, err := unarmorPGP("openpgp signature", sig, pgpBegin, pgpEnd, openpgp.SignatureType)
	if err != nil {
		return nil, nil, err
	}
	fail := func(format string, args ...any) ([]byte, *packet.Signature, error) {
		return nil, nil, fmt.Errorf("openpgp signature: %w: %s", ErrSignature, fmt.Sprintf(format, args...))
	}
	packets := packet.NewReader(bytes.NewReader(body))
	first, err := packets.Next()
	if err != nil {
		return nil, nil, fmt.Errorf("openpgp signature: %w: %w", ErrFormat, err)
	}
	s, ok := first.(*packet.Signature)
	if !ok {
		return fail("the block holds a %T, not a signature", first)
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return fail("the block holds more than one signature")
	}
	switch {
	case s.SigType != packet.SigTypeBinary:
		return fail("signature type %#x is not over a binary document", int(s.SigType))
	case s.Hash != crypto.SHA256 && s.Hash != crypto.SHA384 && s.Hash != crypto.SHA512:
		return fail("hash %s is too weak; use SHA-256, SHA-384 or SHA-512", s.Hash)
	case s.IssuerKeyId == nil:
		return fail("it does not say which key made it")
	case s.SigLifetimeSecs != nil && *s.SigLifetimeSecs != 0:
		return fail("it carries an expiry of its own; sign without --default-sig-expire")
	}
	return body, s, nil
}

// unarmorPGP decodes text that is one armour block and nothing else.
func unarmorPGP(what string, text []byte, begin, end, blockType string) ([]byte, error) {
	text = bytes.TrimSpace(text)
	if bytes.Count(text, []byte("-----BEGIN ")) != 1 || bytes.Count(text, []byte("-----END ")) != 1 ||
		!bytes.HasPrefix(text, []byte(begin)) || !bytes.HasSuffix(text, []byte(end)) {
		return nil, fmt.Errorf("%s: %w: want exactly one block from %q to %q and nothing around it", what, ErrFormat, begin, end)
	}
	block, err := armor.Decode(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", what, ErrFormat, err)
	}
	if block.Type != blockType {
		return nil, fmt.Errorf("%s: %w: armour of type %.40q", what, ErrFormat, block.Type)
	}
	body, err := io.ReadAll(io.LimitReader(block.Body, MaxKeyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", what, ErrFormat, err)
	}
	if len(body) > MaxKeyBytes {
		return nil, fmt.Errorf("%s: %w: at most %d bytes are read", what, ErrTooLarge, MaxKeyBytes)
	}
	return body, nil
}

// pgpMaterial gives the ID of an OpenPGP key packet, or says why it may not count.
func pgpMaterial(pk *packet.PublicKey) (string, error) {
	var key any = pk.PublicKey
	switch k := pk.PublicKey.(type) {
	case *pgped25519.PublicKey: // algorithm 27, RFC 9580
		key = ed25519.PublicKey(k.Point)
	case *eddsa.PublicKey: // algorithm 22, a point with the prefix 0x40
		point := k.MarshalPoint()
		if k.GetCurve().GetCurveName() != "ed25519" || len(point) != 33 || point[0] != 0x40 {
			return "", fmt.Errorf("openpgp key: %w: EdDSA on %s; use Ed25519", ErrWeakKey, k.GetCurve().GetCurveName())
		}
		key = ed25519.PublicKey(point[1:])
	case *pgpecdsa.PublicKey:
		curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.GetCurve().GetCurveName()]
		if !ok {
			return "", fmt.Errorf("openpgp key: %w: ECDSA on %s; use P-256, P-384 or P-521", ErrWeakKey, k.GetCurve().GetCurveName())
		}
		parsed, err := ecdsa.ParseUncompressedPublicKey(curve, k.MarshalPoint())
		if err != nil {
			return "", fmt.Errorf("openpgp key: %w: %w", ErrWeakKey, err)
		}
		key = parsed
	}
	id, err := keyMaterial(key)
	if err != nil {
		return "", fmt.Errorf("openpgp key %X: %w", pk.Fingerprint, err)
	}
	return id, nil
}
