package signer

import (
	"fmt"

	"github.com/apex-network/apex/spec/peermap"
)

// VerifyFirstRoot reads the envelope of the root an agent joined with: its payload must have the pinned digest, name the
// network, and carry the threshold of its own root role. Errors: ErrTooLarge, ErrFormat, ErrType, ErrPin, ErrInvalidRoot,
// ErrWrongNetwork, ErrSignature, ErrThreshold.
func VerifyFirstRoot(env []byte, pin peermap.Digest, network string) (*Root, error) {
	e, err := ParseEnvelope(env, peermap.MaxRootBytes)
	if err != nil {
		return nil, fmt.Errorf("first trust root: %w", err)
	}
	if e.PayloadType != RootType {
		return nil, fmt.Errorf("first trust root: %w: %.80q, want %q", ErrType, e.PayloadType, RootType)
	}
	if got := peermap.DigestOf(e.Payload); got != pin {
		return nil, fmt.Errorf("%w: got %s, pinned %s; check the pin with whoever keeps the root keys", ErrPin, got, pin)
	}
	r, err := ParseRoot(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("first trust root: %w", err)
	}
	if r.Network != network {
		return nil, fmt.Errorf("first trust root: %w: it is of %q, this is %q", ErrWrongNetwork, r.Network, network)
	}
	if err := r.acceptRoot(e); err != nil {
		return nil, err
	}
	return r, nil
}

// VerifyNextRoot reads the envelope of the version after current: signed by the threshold of current and by its own, same
// network, version exactly one more, epoch not less. Errors: those of VerifyFirstRoot but ErrPin, and ErrRootSkip,
// ErrRollback.
func VerifyNextRoot(current *Root, env []byte) (*Root, error) {
	e, err := ParseEnvelope(env, peermap.MaxRootBytes)
	if err != nil {
		return nil, fmt.Errorf("trust root after version %d: %w", current.Version, err)
	}
	if err := current.acceptRoot(e); err != nil {
		return nil, err
	}
	next, err := ParseRoot(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("trust root after version %d: %w", current.Version, err)
	}
	if err := checkSuccession(current, next); err != nil {
		return nil, err
	}
	if err := next.acceptRoot(e); err != nil {
		return nil, err
	}
	return next, nil
}

// CheckSuccession says whether next may follow current, signatures aside: for tools that prepare a rotation. Errors:
// ErrInvalidRoot, ErrWrongNetwork, ErrRootSkip, ErrRollback.
func CheckSuccession(current, next *Root) error {
	canonical, err := next.Canonical()
	if err != nil {
		return err
	}
	return checkSuccession(current, canonical)
}

func checkSuccession(current, next *Root) error {
	switch {
	case next.Network != current.Network:
		return fmt.Errorf("trust root version %d: %w: it is of %q, this is %q", next.Version, ErrWrongNetwork, next.Network, current.Network)
	case next.Version <= current.Version:
		return fmt.Errorf("trust root: %w: version %d is held, version %d was offered", ErrRollback, current.Version, next.Version)
	case next.Version-current.Version > 1:
		return fmt.Errorf("%w: version %d is held, version %d was offered; every version between must be walked through",
			ErrRootSkip, current.Version, next.Version)
	case next.Epoch < current.Epoch:
		return fmt.Errorf("trust root version %d: %w: its epoch %d is less than %d", next.Version, ErrRollback, next.Epoch, current.Epoch)
	}
	return nil
}

// acceptRoot demands r's root threshold on e.
func (r *Root) acceptRoot(e *Envelope) error {
	q, err := r.CheckRoot(e)
	if err != nil {
		return err
	}
	return q.Err()
}

// VerifyManifest reads a manifest envelope that r's quorum has signed; it must name r's network. It says nothing about
// time or order: State does. Errors: ErrTooLarge, ErrFormat, ErrType, ErrSignature, ErrThreshold, ErrWrongNetwork.
func (r *Root) VerifyManifest(env []byte) (peermap.Manifest, error) {
	e, err := ParseEnvelope(env, peermap.MaxManifestBytes)
	if err != nil {
		return peermap.Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	return r.openManifest(e)
}

func (r *Root) openManifest(e *Envelope) (peermap.Manifest, error) {
	q, err := r.CheckManifest(e)
	if err == nil {
		err = q.Err()
	}
	if err != nil {
		return peermap.Manifest{}, err
	}
	m, err := peermap.ParseManifest(e.Payload)
	if err != nil {
		return peermap.Manifest{}, fmt.Errorf("manifest: %w: %w", ErrFormat, err)
	}
	if m.Network != r.Network {
		return peermap.Manifest{}, fmt.Errorf("manifest: %w: it is of %q, this is %q", ErrWrongNetwork, m.Network, r.Network)
	}
	return m, nil
}

// VerifyTimestamp reads a timestamp envelope that r's timestamp role has signed, like VerifyManifest.
func (r *Root) VerifyTimestamp(env []byte) (peermap.Timestamp, error) {
	e, err := ParseEnvelope(env, peermap.MaxTimestampBytes)
	if err != nil {
		return peermap.Timestamp{}, fmt.Errorf("timestamp: %w", err)
	}
	q, err := r.CheckTimestamp(e)
	if err == nil {
		err = q.Err()
	}
	if err != nil {
		return peermap.Timestamp{}, err
	}
	t, err := peermap.ParseTimestamp(e.Payload)
	if err != nil {
		return peermap.Timestamp{}, fmt.Errorf("timestamp: %w: %w", ErrFormat, err)
	}
	if t.Network != r.Network {
		return peermap.Timestamp{}, fmt.Errorf("timestamp: %w: it is of %q, this is %q", ErrWrongNetwork, t.Network, r.Network)
	}
	return t, nil
}
