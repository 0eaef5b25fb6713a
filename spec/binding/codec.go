package binding

import "github.com/apex-network/apex/spec/peermap"

// Encode gives the canonical JSON of b: the fields in declared order, no white space, no final newline. Errors:
// peermap.ErrInvalid, peermap.ErrTooLarge.
func (b Binding) Encode() ([]byte, error) { return peermap.EncodeJSON("binding", b, b.Check, MaxBytes) }

// Parse takes only what Encode gives. Errors: peermap.ErrNotCanonical, peermap.ErrInvalid, peermap.ErrTooLarge.
func Parse(payload []byte) (Binding, error) {
	return peermap.ParseJSON("binding", payload, MaxBytes, Binding.Check)
}

// Digest is the digest of b's payload, by which lists and revocations name it.
func (b Binding) Digest() (peermap.Digest, error) {
	payload, err := b.Encode()
	if err != nil {
		return peermap.Digest{}, err
	}
	return peermap.DigestOf(payload), nil
}

// Signed is a binding whose signature was verified, ready to enter a compile. It is immutable: compiles tell bindings
// apart by Digest alone.
type Signed struct {
	Binding Binding
	// Digest is of the payload.
	Digest peermap.Digest
	// Envelope is the payload with its signature.
	Envelope []byte
}

// NewSigned reads the payload of an envelope whose signature the caller has verified. Errors: those of Parse.
func NewSigned(payload, envelope []byte) (*Signed, error) {
	b, err := Parse(payload)
	if err != nil {
		return nil, err
	}
	return &Signed{Binding: b, Digest: peermap.DigestOf(payload), Envelope: envelope}, nil
}
