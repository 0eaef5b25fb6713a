package signer

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespaces of SSHSIG signatures (OpenSSH, PROTOCOL.sshsig): a signature made for one purpose counts for no other.
const (
	NamespaceGit   = "git"
	NamespaceRoot  = "apex-root@v1"
	NamespaceApply = "apex-apply@v1"
)

const (
	sshBegin = "-----BEGIN SSH SIGNATURE-----"
	sshEnd   = "-----END SSH SIGNATURE-----"
)

// ParseSSHKey reads one line of authorized_keys form without options: type, base64, optional comment. Errors: ErrFormat,
// ErrWeakKey, ErrTooLarge.
func ParseSSHKey(line string) (PublicKey, error) {
	if len(line) > MaxKeyBytes {
		return PublicKey{}, fmt.Errorf("ssh key: %w: at most %d bytes are read", ErrTooLarge, MaxKeyBytes)
	}
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\r\n") {
		return PublicKey{}, fmt.Errorf("ssh key: %w: want one line", ErrFormat)
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return PublicKey{}, fmt.Errorf("ssh key: %w: want a line such as `ssh-ed25519 AAAA… name`: %w", ErrFormat, err)
	}
	if len(options) > 0 || len(rest) > 0 {
		return PublicKey{}, fmt.Errorf("ssh key: %w: options such as %.20q have no meaning here; remove them", ErrFormat, options)
	}
	return SSHKey(key)
}

// SSHKey takes a parsed SSH public key. Errors: ErrWeakKey.
func SSHKey(key ssh.PublicKey) (PublicKey, error) {
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSA,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
	default:
		return PublicKey{}, fmt.Errorf("ssh key: %w: type %.60q; use ssh-ed25519, ecdsa, sk-* or RSA of at least %d bits",
			ErrWeakKey, key.Type(), MinRSABits)
	}
	inner, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("ssh key: %w: type %.60q", ErrWeakKey, key.Type())
	}
	id, err := keyMaterial(inner.CryptoPublicKey())
	if err != nil {
		return PublicKey{}, fmt.Errorf("ssh key: %w", err)
	}
	text := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	return PublicKey{kind: KindSSH, text: text, ids: []string{id}, ssh: key}, nil
}

// SSHSign signs msg in namespace and gives the armoured signature, as `ssh-keygen -Y sign -n namespace` would.
func SSHSign(signer ssh.Signer, namespace string, msg []byte) ([]byte, error) {
	sig, err := sshSign(signer, namespace, msg)
	if err != nil {
		return nil, err
	}
	return sshsig.Armor(sig), nil
}

// SSHVerify checks an armoured signature over msg by key in namespace: exactly one armour block with nothing around it,
// hash SHA-256 or SHA-512, RSA only with SHA-2, FIDO keys only with the touch. Errors: ErrFormat, ErrTooLarge,
// ErrSignature, ErrUnknownKey (made by another key), ErrWeakKey.
func SSHVerify(key PublicKey, namespace string, msg, sig []byte) error {
	blob, err := unarmorSSH(sig)
	if err != nil {
		return err
	}
	return verifySSHBlob(key, namespace, msg, blob)
}

func sshSign(signer ssh.Signer, namespace string, msg []byte) (*sshsig.Signature, error) {
	if _, err := SSHKey(signer.PublicKey()); err != nil {
		return nil, fmt.Errorf("ssh sign: %w", err)
	}
	sig, err := sshsig.Sign(bytes.NewReader(msg), signer, sshsig.HashSHA512, namespace)
	if err != nil {
		return nil, fmt.Errorf("ssh sign with %s: %w", ssh.FingerprintSHA256(signer.PublicKey()), err)
	}
	return sig, nil
}

// unarmorSSH gives the binary blob of text that is one armour block and nothing else.
func unarmorSSH(sig []byte) ([]byte, error) {
	if len(sig) > MaxSignatureBytes {
		return nil, fmt.Errorf("ssh signature: %w: at most %d bytes are read", ErrTooLarge, MaxSignatureBytes)
	}
	text := bytes.TrimSpace(sig)
	if bytes.Count(text, []byte("-----BEGIN ")) != 1 || bytes.Count(text, []byte("-----END ")) != 1 ||
		!bytes.HasPrefix(text, []byte(sshBegin)) || !bytes.HasSuffix(text, []byte(sshEnd)) {
		return nil, fmt.Errorf("ssh signature: %w: want exactly one block from %q to %q and nothing around it",
			ErrFormat, sshBegin, sshEnd)
	}
	block, rest := pem.Decode(append(bytes.Clone(text), '\n'))
	if block == nil || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("ssh signature: %w: the armour block does not decode", ErrFormat)
	}
	return block.Bytes, nil
}

// parseSSHBlob reads a binary SSHSIG that encodes back to itself, so that no byte of it goes unread.
func parseSSHBlob(blob []byte) (*sshsig.Signature, error) {
	if len(blob) > MaxSignatureBytes {
		return nil, fmt.Errorf("ssh signature: %w: at most %d bytes are read", ErrTooLarge, MaxSignatureBytes)
	}
	sig, err := sshsig.ParseSignature(blob)
	if err != nil {
		return nil, fmt.Errorf("ssh signature: %w: %w", ErrFormat, err)
	}
	if !bytes.Equal(sig.Marshal(), blob) {
		return nil, fmt.Errorf("ssh signature: %w: not in canonical form", ErrFormat)
	}
	fido := strings.HasPrefix(sig.PublicKey.Type(), "sk-")
	if !fido && len(sig.Signature.Rest) > 0 {
		return nil, fmt.Errorf("ssh signature: %w: %d bytes after the signature", ErrFormat, len(sig.Signature.Rest))
	}
	return sig, nil
}

func verifySSHBlob(key PublicKey, namespace string, msg, blob []byte) error {
	if key.kind != KindSSH {
		return fmt.Errorf("%w: an SSH signature cannot be checked with a %s key", ErrSignature, key.kind)
	}
	sig, err := parseSSHBlob(blob)
	if err != nil {
		return err
	}
	if !bytes.Equal(sig.PublicKey.Marshal(), key.ssh.Marshal()) {
		return fmt.Errorf("%w: signed by %s, not by %s", ErrUnknownKey,
			ssh.FingerprintSHA256(sig.PublicKey), key.Fingerprint())
	}
	if sig.Namespace != namespace {
		return fmt.Errorf("%w: made for namespace %.60q, not %q", ErrSignature, sig.Namespace, namespace)
	}
	if err := sshsig.Verify(bytes.NewReader(msg), sig, key.ssh, sig.HashAlgorithm, namespace); err != nil {
		return fmt.Errorf("%w: the SSH signature of %s does not fit these bytes: %w", ErrSignature, key.Fingerprint(), err)
	}
	return nil
}
