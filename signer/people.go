package signer

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// Signer is a key of a trust root that made a signature.
type Signer struct {
	// Name is the key's name in the trust root.
	Name string
	Key  PublicKey
}

// VerifyCommit says which of the root's keys signed a git commit: payload is the stored commit without its gpgsig header,
// signature the value of that header, one armour block of SSH (namespace git) or OpenPGP. What the signer may do is for
// MayChange and HasRole to say. No clock enters: see the trust root for whether a key still counts. Errors: ErrFormat,
// ErrTooLarge, ErrUnknownKey, ErrWeakKey, ErrSignature.
func (r *Root) VerifyCommit(payload, signature []byte) (Signer, error) {
	if bytes.HasPrefix(bytes.TrimSpace(signature), []byte(pgpBegin)) {
		return r.verifyCommitPGP(payload, signature)
	}
	return r.verifySSH(NamespaceGit, payload, signature)
}

// VerifyCommit checks a commit signature against one key, like Root.VerifyCommit.
func VerifyCommit(key PublicKey, payload, signature []byte) error {
	if key.Kind() == KindOpenPGP {
		return verifyPGP(key, payload, signature)
	}
	return SSHVerify(key, NamespaceGit, payload, signature)
}

// VerifyRequest says which of the root's keys signed a request (an apply, namespace apex-apply@v1), and demands that it
// holds one of the roles. The request's age and nonce are for the receiver to check. Errors like VerifyCommit.
func (r *Root) VerifyRequest(namespace string, msg, armoured []byte, roles ...RoleName) (Signer, error) {
	s, err := r.verifySSH(namespace, msg, armoured)
	if err != nil {
		return Signer{}, err
	}
	for _, role := range roles {
		if r.HasRole(s.Key.ID(), role) {
			return s, nil
		}
	}
	return Signer{}, fmt.Errorf("%w: key %s holds none of the roles %v in trust root version %d", ErrUnknownKey, s.Name, roles, r.Version)
}

// verifySSH finds the key that an armoured SSH signature names and checks the signature with it.
func (r *Root) verifySSH(namespace string, msg, armoured []byte) (Signer, error) {
	blob, err := unarmorSSH(armoured)
	if err != nil {
		return Signer{}, err
	}
	sig, err := parseSSHBlob(blob)
	if err != nil {
		return Signer{}, err
	}
	claimed, err := SSHKey(sig.PublicKey)
	if err != nil {
		return Signer{}, err
	}
	name, key, ok := r.KeyByID(claimed.ID())
	if !ok || key.Kind() != KindSSH {
		return Signer{}, fmt.Errorf("%w: signed by %s, which trust root version %d does not list", ErrUnknownKey,
			ssh.FingerprintSHA256(sig.PublicKey), r.Version)
	}
	if err := verifySSHBlob(key, namespace, msg, blob); err != nil {
		return Signer{}, fmt.Errorf("key %s: %w", name, err)
	}
	return Signer{Name: name, Key: key}, nil
}

// verifyCommitPGP tries the OpenPGP keys that own the key id named in the signature; ids are short, so several may.
func (r *Root) verifyCommitPGP(payload, signature []byte) (Signer, error) {
	_, sig, err := parsePGPSignature(signature)
	if err != nil {
		return Signer{}, err
	}
	failed := fmt.Errorf("%w: signed by OpenPGP key %016X, which trust root version %d does not list", ErrUnknownKey,
		*sig.IssuerKeyId, r.Version)
	index := r.indexed()
	for _, k := range r.Keys {
		key, ok := index.keys[k.Name]
		if !ok || key.kind != KindOpenPGP || key.pgp.signing[*sig.IssuerKeyId] == nil {
			continue
		}
		if err := verifyPGP(key, payload, signature); err != nil {
			failed = fmt.Errorf("key %s: %w", k.Name, err)
			continue
		}
		return Signer{Name: k.Name, Key: key}, nil
	}
	return Signer{}, failed
}
