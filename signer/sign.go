package signer

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/spec/peermap"
)

// SignEd25519 wraps payload and signs it with each key.
func SignEd25519(payloadType string, payload []byte, keys ...PrivateKey) (*Envelope, error) {
	return NewEnvelope(payloadType, payload).AddEd25519(keys...)
}

// SignManifest gives the encoded envelope of m, signed with each key, and the digest by which timestamps name it.
func SignManifest(m peermap.Manifest, keys ...PrivateKey) ([]byte, peermap.Digest, error) {
	payload, err := m.Encode()
	if err != nil {
		return nil, peermap.Digest{}, fmt.Errorf("sign manifest: %w", err)
	}
	env, err := signAndEncode(peermap.ManifestType, payload, peermap.MaxManifestBytes, keys)
	return env, peermap.DigestOf(payload), err
}

// SignTimestamp gives the encoded envelope of t, signed with each key.
func SignTimestamp(t peermap.Timestamp, keys ...PrivateKey) ([]byte, error) {
	payload, err := t.Encode()
	if err != nil {
		return nil, fmt.Errorf("sign timestamp: %w", err)
	}
	return signAndEncode(peermap.TimestampType, payload, peermap.MaxTimestampBytes, keys)
}

func signAndEncode(payloadType string, payload []byte, limit int, keys []PrivateKey) ([]byte, error) {
	e, err := SignEd25519(payloadType, payload, keys...)
	if err != nil {
		return nil, err
	}
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("sign %s: %w: %d bytes, nobody reads more than %d", payloadType, ErrTooLarge, len(b), limit)
	}
	return b, nil
}

// AddEd25519 gives a copy of e that the keys have signed too: a witness, a second controller.
func (e *Envelope) AddEd25519(keys ...PrivateKey) (*Envelope, error) {
	out := e
	pae := e.PAE()
	for _, k := range keys {
		if k.IsZero() {
			return nil, fmt.Errorf("sign %.80s: the private key is unset", e.PayloadType)
		}
		out = out.With(Signature{KeyID: k.Public().ID(), Sig: k.Sign(pae)})
	}
	return out, nil
}

// AddSSH gives a copy of a trust root envelope that an SSH key (a file, an agent, a FIDO token) has signed too, in
// namespace apex-root@v1. Errors: ErrType for other envelopes, ErrWeakKey.
func (e *Envelope) AddSSH(signer ssh.Signer) (*Envelope, error) {
	if err := e.wantRoot(); err != nil {
		return nil, err
	}
	key, err := SSHKey(signer.PublicKey())
	if err != nil {
		return nil, err
	}
	sig, err := sshSign(signer, NamespaceRoot, e.PAE())
	if err != nil {
		return nil, err
	}
	return e.With(Signature{KeyID: key.ID(), Sig: sig.Marshal()}), nil
}

// AttachSSH gives a copy of a trust root envelope with a signature made elsewhere: the armoured output of
// `ssh-keygen -Y sign -n apex-root@v1` over the bytes of e.PAE(). The key is the one named in the signature; whether it
// holds the root role is for Root.CheckRoot to say. Errors: ErrType, ErrFormat, ErrTooLarge, ErrSignature, ErrWeakKey.
func (e *Envelope) AttachSSH(armoured []byte) (*Envelope, error) {
	if err := e.wantRoot(); err != nil {
		return nil, err
	}
	blob, err := unarmorSSH(armoured)
	if err != nil {
		return nil, err
	}
	sig, err := parseSSHBlob(blob)
	if err != nil {
		return nil, err
	}
	key, err := SSHKey(sig.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := verifySSHBlob(key, NamespaceRoot, e.PAE(), blob); err != nil {
		return nil, err
	}
	return e.With(Signature{KeyID: key.ID(), Sig: blob}), nil
}

func (e *Envelope) wantRoot() error {
	if e.PayloadType != RootType {
		return fmt.Errorf("%w: SSH keys sign trust roots, this is %.80q", ErrType, e.PayloadType)
	}
	return nil
}

// Merge gives the signatures of both envelopes of one payload, as when root keys signed in different places. Where both
// carry one of the same key, that of other is taken. Errors: ErrMismatch.
func (e *Envelope) Merge(other *Envelope) (*Envelope, error) {
	if e.PayloadType != other.PayloadType || !bytes.Equal(e.Payload, other.Payload) {
		return nil, fmt.Errorf("merge signatures: %w: the envelopes hold different payloads (%s and %s)", ErrMismatch,
			peermap.DigestOf(e.Payload), peermap.DigestOf(other.Payload))
	}
	out := e
	for _, s := range other.Signatures {
		out = out.With(s)
	}
	return out, nil
}
