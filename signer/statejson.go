package signer

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/apex-network/apex/spec/peermap"
)

// storedState is the JSON form of a State: nothing but what was signed, so that reading it verifies it all again.
type storedState struct {
	Type    string         `json:"_type"` // StateType
	Network string         `json:"network"`
	Zone    string         `json:"zone"`
	Pin     peermap.Digest `json:"pin"`
	// Roots are the root envelopes from the pinned one to the newest.
	Roots [][]byte `json:"roots"`
	// TimestampRoot and ManifestRoot are the versions of the roots that Timestamp and Manifest (envelopes, empty if there
	// are none) were accepted under.
	TimestampRoot uint64 `json:"timestampRoot"`
	Timestamp     []byte `json:"timestamp"`
	ManifestRoot  uint64 `json:"manifestRoot"`
	Manifest      []byte `json:"manifest"`
}

// MarshalJSON gives the canonical JSON that ParseState reads.
func (s State) MarshalJSON() ([]byte, error) {
	return encodeCanonical(storedState{
		Type: StateType, Network: s.network, Zone: s.zone, Pin: s.pin,
		Roots:         cloneList(s.roots),
		TimestampRoot: s.timestamp.root, Timestamp: cloneList(s.timestamp.envelope),
		ManifestRoot: s.manifest.root, Manifest: cloneList(s.manifest.envelope),
	})
}

// UnmarshalJSON is ParseState for encoding/json; surrounding white space is allowed.
func (s *State) UnmarshalJSON(b []byte) error {
	parsed, err := ParseState(bytes.TrimSpace(b))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// ParseState reads a persisted state and verifies the whole of it again from the pin: the chain of roots, the timestamp and
// the manifest under the roots they were accepted under. It does not ask whether they have expired, because the last good
// state must survive any outage; Freshness tells. A file can thus be damaged or old, but never say what was not signed;
// compare Pin, Network and Zone with the configuration. Errors: those of the With… methods, ErrMismatch.
func ParseState(b []byte) (State, error) {
	var in storedState
	if err := decodeCanonical("stored state", b, MaxStateBytes, &in); err != nil {
		return State{}, err
	}
	if in.Type != StateType {
		return State{}, fmt.Errorf("stored state: %w: %.80q, want %q", ErrType, in.Type, StateType)
	}
	if in.Roots == nil || in.Timestamp == nil || in.Manifest == nil || slices.ContainsFunc(in.Roots, func(r []byte) bool { return len(r) == 0 }) {
		return State{}, fmt.Errorf("stored state: %w: null or empty list", ErrFormat)
	}
	s := NewState(in.Network, in.Zone, in.Pin)
	roots, err := s.walk(in.Roots)
	if err != nil {
		return State{}, fmt.Errorf("stored state: %w", err)
	}
	if s.timestamp, err = restoreTimestamp(&s, roots, in.Timestamp, in.TimestampRoot); err != nil {
		return State{}, fmt.Errorf("stored state: %w", err)
	}
	if s.manifest, err = restoreManifest(&s, roots, in.Manifest, in.ManifestRoot); err != nil {
		return State{}, fmt.Errorf("stored state: %w", err)
	}
	if err := s.consistent(); err != nil {
		return State{}, fmt.Errorf("stored state: %w", err)
	}
	return s, nil
}

// walk verifies the chain, sets it in s and gives every root in it.
func (s *State) walk(envelopes [][]byte) ([]*Root, error) {
	var roots []*Root
	for i, env := range envelopes {
		var r *Root
		var err error
		if i == 0 {
			r, err = VerifyFirstRoot(env, s.pin, s.network)
		} else {
			r, err = VerifyNextRoot(s.root, env)
		}
		if err != nil {
			return nil, err
		}
		if i == 0 {
			s.first = r.Version
		}
		s.root = r
		roots = append(roots, r)
	}
	s.roots = envelopes
	return roots, nil
}

// rootOf gives the root of a version in the chain.
func rootOf(s *State, roots []*Root, what string, version uint64) (*Root, error) {
	if version < s.first || version-s.first >= uint64(len(roots)) {
		return nil, fmt.Errorf("%s: %w: accepted under trust root version %d, which is not in the chain", what, ErrMismatch, version)
	}
	return roots[version-s.first], nil
}

func restoreTimestamp(s *State, roots []*Root, env []byte, version uint64) (accepted[peermap.Timestamp], error) {
	var out accepted[peermap.Timestamp]
	if len(env) == 0 && version == 0 {
		return out, nil
	}
	r, err := rootOf(s, roots, "timestamp", version)
	if err != nil {
		return out, err
	}
	t, err := r.VerifyTimestamp(env)
	if err != nil {
		return out, err
	}
	if t.Zone != s.zone {
		return out, fmt.Errorf("timestamp: %w: it is of %q, this is %q", ErrWrongZone, t.Zone, s.zone)
	}
	if t.Epoch != r.Epoch {
		return out, fmt.Errorf("timestamp: %w: epoch %d under a trust root of epoch %d", ErrMismatch, t.Epoch, r.Epoch)
	}
	current := r == s.root || stillSigned(env, peermap.MaxTimestampBytes, s.root.CheckTimestamp)
	return accepted[peermap.Timestamp]{doc: &t, envelope: env, root: version, current: current}, nil
}

func restoreManifest(s *State, roots []*Root, env []byte, version uint64) (accepted[peermap.Manifest], error) {
	var out accepted[peermap.Manifest]
	if len(env) == 0 && version == 0 {
		return out, nil
	}
	r, err := rootOf(s, roots, "manifest", version)
	if err != nil {
		return out, err
	}
	e, err := ParseEnvelope(env, peermap.MaxManifestBytes)
	if err != nil {
		return out, fmt.Errorf("manifest: %w", err)
	}
	m, err := r.openManifest(e)
	if err != nil {
		return out, err
	}
	if m.Zone != s.zone {
		return out, fmt.Errorf("manifest: %w: it is of %q, this is %q", ErrWrongZone, m.Zone, s.zone)
	}
	if m.Epoch != r.Epoch || m.RootVersion > version {
		return out, fmt.Errorf("manifest: %w: epoch %d and root version %d under trust root version %d of epoch %d", ErrMismatch,
			m.Epoch, m.RootVersion, version, r.Epoch)
	}
	current := r == s.root || stillSigned(env, peermap.MaxManifestBytes, s.root.CheckManifest)
	return accepted[peermap.Manifest]{doc: &m, envelope: env, digest: peermap.DigestOf(e.Payload), root: version, current: current}, nil
}

// consistent demands what every path through the diagram keeps: a manifest was named by a timestamp, and the timestamp is
// not behind the manifest.
func (s State) consistent() error {
	t, m := s.timestamp.doc, s.manifest.doc
	if m == nil {
		return nil
	}
	if t == nil {
		return fmt.Errorf("manifest: %w", ErrNoTimestamp)
	}
	return s.checkHeld(*t)
}
