package spec

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/spec/diag"
)

// minRSABits is the shortest RSA modulus that counts.
const minRSABits = 2048

// keyForm is how a trust key signs.
type keyForm string

const (
	sshKey     keyForm = "ssh"
	openpgpKey keyForm = "openpgp"
	rawKey     keyForm = "ed25519"
)

// identify reads a trust key: its form, and an identity that is the same for every spelling of one public key.
func identify(k TrustKey) (keyForm, string, *fault) {
	switch {
	case k.SSH != "":
		id, f := identifySSH(k.SSH)
		return sshKey, id, f
	case k.OpenPGP != "":
		id, f := identifyOpenPGP(k.OpenPGP)
		return openpgpKey, id, f
	}
	if isLowOrderEd25519(k.Ed25519) {
		return rawKey, "", faultf(diag.TrustWeakKey, "make a new key", "the key is a point of low order, for which anyone can sign")
	}
	return rawKey, identity("ed25519", k.Ed25519[:]), nil
}

func identity(algorithm string, public []byte) string {
	return fmt.Sprintf("%s %x", algorithm, sha256.Sum256(public))
}

func identifySSH(line string) (string, *fault) {
	if strings.Contains(line, "PRIVATE KEY") {
		return "", privateFault()
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(options) > 0 || len(rest) > 0 {
		return "", faultf(diag.TrustBadKey, "paste one line of a .pub file", "ssh is not an authorized_keys line without options")
	}
	weak := faultf(diag.TrustWeakKey, "use ed25519, ecdsa, their sk- forms, or RSA from 2048 bits", "SSH key type %s is not allowed", key.Type())
	switch key.Type() {
	case ssh.KeyAlgoED25519:
		if public, ok := cryptoKey(key).(ed25519.PublicKey); ok {
			if isLowOrderEd25519(Key(public)) {
				return "", faultf(diag.TrustWeakKey, "make a new key", "the key is a point of low order, for which anyone can sign")
			}
			return identity("ed25519", public), nil
		}
		return "", weak
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		public, ok := cryptoKey(key).(*rsa.PublicKey)
		if !ok || public.N.BitLen() < minRSABits {
			return "", faultf(diag.TrustWeakKey, "use ed25519, or RSA from 2048 bits", "the RSA key is shorter than %d bits", minRSABits)
		}
	default:
		return "", weak
	}
	return identity(key.Type(), key.Marshal()), nil
}

// cryptoKey gives the key as the standard library knows it, or nil.
func cryptoKey(key ssh.PublicKey) any {
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		return k.CryptoPublicKey()
	}
	return nil
}

func privateFault() *fault {
	return faultf(diag.TrustBadKey, "make a new key: this one is no longer secret", "this is a private key")
}

func identifyOpenPGP(armour string) (string, *fault) {
	if strings.Contains(armour, "PRIVATE KEY") {
		return "", privateFault()
	}
	bad := faultf(diag.TrustBadKey, "paste the output of `gpg --export --armor KEY`", "openpgp is not one armoured public key")
	if strings.Count(armour, "-----BEGIN PGP") != 1 {
		return "", bad
	}
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(armour))
	if err != nil || len(ring) != 1 || ring[0].PrivateKey != nil {
		return "", bad
	}
	public := ring[0].PrimaryKey
	switch public.PubKeyAlgo {
	case packet.PubKeyAlgoEdDSA, packet.PubKeyAlgoECDSA, packet.PubKeyAlgoEd25519, packet.PubKeyAlgoEd448:
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		if bits, err := public.BitLength(); err != nil || bits < minRSABits {
			return "", faultf(diag.TrustWeakKey, "use ed25519, or RSA from 2048 bits", "the RSA key is shorter than %d bits", minRSABits)
		}
	default:
		return "", faultf(diag.TrustWeakKey, "use ed25519, ecdsa, or RSA from 2048 bits", "OpenPGP algorithm %d is not allowed", public.PubKeyAlgo)
	}
	return identity("openpgp", public.Fingerprint), nil
}
