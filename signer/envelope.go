package signer

import (
	"encoding/hex"
	"fmt"
	"sort"
	"strconv"
)

// Envelope is a DSSE envelope (Dead Simple Signing Envelope, v1): a typed payload with signatures over PAE of both. An
// envelope is a claim until a quorum of a trust root accepts it (see Root).
type Envelope struct {
	PayloadType string `json:"payloadType"`
	// Payload is the raw signed bytes; base64 in JSON.
	Payload []byte `json:"payload"`
	// Signatures are sorted by KeyID; no KeyID stands twice.
	Signatures []Signature `json:"signatures"`
}

// Signature is one key's signature over an envelope: 64 raw bytes for an Ed25519 key, a binary SSHSIG blob for an SSH key.
type Signature struct {
	// KeyID is PublicKey.ID of the signer.
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// PAE is DSSE's pre-authentication encoding, the exact bytes that keys sign.
func PAE(payloadType string, payload []byte) []byte {
	out := make([]byte, 0, len("DSSEv1 ")+len(payloadType)+len(payload)+24)
	out = append(out, "DSSEv1 "...)
	out = strconv.AppendInt(out, int64(len(payloadType)), 10)
	out = append(out, ' ')
	out = append(out, payloadType...)
	out = append(out, ' ')
	out = strconv.AppendInt(out, int64(len(payload)), 10)
	out = append(out, ' ')
	return append(out, payload...)
}

// NewEnvelope wraps payload without any signature.
func NewEnvelope(payloadType string, payload []byte) *Envelope {
	return &Envelope{PayloadType: payloadType, Payload: payload, Signatures: []Signature{}}
}

// ParseEnvelope reads the canonical JSON of an envelope of at most limit bytes. Nothing in it is verified yet. Errors:
// ErrTooLarge, ErrFormat.
func ParseEnvelope(b []byte, limit int) (*Envelope, error) {
	var e Envelope
	if err := decodeCanonical("envelope", b, limit, &e); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return &e, nil
}

// Encode gives the canonical JSON. It refuses what ParseEnvelope would refuse, but for the size.
func (e *Envelope) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	return encodeCanonical(e)
}

// PAE gives the bytes that a signature on e covers. Writing them to a file and running
// `ssh-keygen -Y sign -n apex-root@v1` over it gives a signature for AttachSSH.
func (e *Envelope) PAE() []byte { return PAE(e.PayloadType, e.Payload) }

// With gives a copy of e that carries sig too, sorted in; a second signature of a key replaces the first. It verifies
// nothing: Root's Check… methods do.
func (e *Envelope) With(sig Signature) *Envelope {
	out := &Envelope{PayloadType: e.PayloadType, Payload: e.Payload, Signatures: make([]Signature, 0, len(e.Signatures)+1)}
	for _, s := range e.Signatures {
		if s.KeyID != sig.KeyID {
			out.Signatures = append(out.Signatures, s)
		}
	}
	out.Signatures = append(out.Signatures, sig)
	sort.Slice(out.Signatures, func(i, j int) bool { return out.Signatures[i].KeyID < out.Signatures[j].KeyID })
	return out
}

// check enforces the shape that JSON alone does not.
func (e *Envelope) check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("envelope: %w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	if e.PayloadType == "" || len(e.PayloadType) > MaxPayloadType {
		return fail("payloadType must have 1 to %d bytes", MaxPayloadType)
	}
	if e.Payload == nil || e.Signatures == nil {
		return fail("payload and signatures must not be null")
	}
	if len(e.Signatures) > MaxSignatures {
		return fmt.Errorf("envelope: %w: %d signatures, at most %d are read", ErrTooLarge, len(e.Signatures), MaxSignatures)
	}
	for i, s := range e.Signatures {
		if !isKeyID(s.KeyID) {
			return fail("signature %d: keyid must be 64 lower-case hex digits", i)
		}
		if len(s.Sig) == 0 || len(s.Sig) > MaxSignatureBytes {
			return fail("signature %d: must have 1 to %d bytes", i, MaxSignatureBytes)
		}
		if i > 0 && e.Signatures[i-1].KeyID >= s.KeyID {
			return fail("signature %d: key ids must ascend, each at most once", i)
		}
	}
	return nil
}

func isKeyID(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && hex.EncodeToString(raw) == s
}
