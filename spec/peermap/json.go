package peermap

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Encode gives the canonical JSON of m: the fields in declared order, no white space, no final newline.
func (m Manifest) Encode() ([]byte, error) { return encodeJSON("manifest", m, MaxManifestBytes) }

// ParseManifest takes only what Encode gives: unknown, duplicate, missing or case-folded fields, null, white space and
// foreign escapes are ErrNotCanonical; a payload above MaxManifestBytes is ErrTooLarge.
func ParseManifest(b []byte) (Manifest, error) {
	return parseJSON[Manifest]("manifest", b, MaxManifestBytes)
}

// Digest is the digest of m's canonical bytes, by which timestamps and successors name it.
func (m Manifest) Digest() (Digest, error) {
	b, err := m.Encode()
	if err != nil {
		return Digest{}, err
	}
	return DigestOf(b), nil
}

// Encode gives the canonical JSON of t, like Manifest.Encode.
func (t Timestamp) Encode() ([]byte, error) { return encodeJSON("timestamp", t, MaxTimestampBytes) }

// ParseTimestamp takes only what Timestamp.Encode gives, like ParseManifest.
func ParseTimestamp(b []byte) (Timestamp, error) {
	return parseJSON[Timestamp]("timestamp", b, MaxTimestampBytes)
}

func encodeJSON(what string, v checked, limit int) ([]byte, error) {
	return EncodeJSON(what, v, v.check, limit)
}

func parseJSON[T checked](what string, b []byte, limit int) (T, error) {
	return ParseJSON(what, b, limit, T.check)
}

// EncodeJSON gives the canonical JSON of a struct that holds no maps and no floats: the fields in declared order, no
// white space. What breaks check is refused, and so is what is longer than limit (ErrTooLarge).
func EncodeJSON(what string, v any, check func() error, limit int) ([]byte, error) {
	if err := check(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("encode %s: %d bytes, limit %d: %w", what, len(b), limit, ErrTooLarge)
	}
	return b, nil
}

// ParseJSON takes only what EncodeJSON gives. It leans on re-encoding: encoding/json alone accepts duplicate and
// case-folded keys, null and trailing spaces. A null for a list encodes back to itself, so check has to refuse nil lists.
func ParseJSON[T any](what string, b []byte, limit int, check func(T) error) (T, error) {
	var v, zero T
	if len(b) > limit {
		return zero, fmt.Errorf("parse %s: %d bytes, limit %d: %w", what, len(b), limit, ErrTooLarge)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return zero, fmt.Errorf("parse %s: %w: %w", what, ErrNotCanonical, err)
	}
	again, err := json.Marshal(v)
	if err != nil {
		return zero, fmt.Errorf("parse %s: %w: %w", what, ErrNotCanonical, err)
	}
	if !bytes.Equal(again, b) {
		return zero, fmt.Errorf("parse %s: %w", what, ErrNotCanonical)
	}
	if err := check(v); err != nil {
		return zero, fmt.Errorf("parse %s: %w", what, err)
	}
	return v, nil
}

func (m Manifest) check() error {
	if m.Type != ManifestType {
		return invalid("type %.80q, want %q", m.Type, ManifestType)
	}
	if err := checkScope(m.Network, m.Zone); err != nil {
		return err
	}
	if err := checkCommit(m.Commit); err != nil {
		return err
	}
	if m.Compiler == "" || len(m.Compiler) > MaxName {
		return invalid("compiler version %.80q: want 1 to %d characters", m.Compiler, MaxName)
	}
	if m.Serial == 0 || m.RootVersion == 0 {
		return invalid("serial %d and root version %d start at 1", m.Serial, m.RootVersion)
	}
	if m.Views > MaxZonePeers {
		return invalid("%d views, limit %d", m.Views, MaxZonePeers)
	}
	if m.Views == 0 && m.ViewsRoot != DigestOf(nil) {
		return invalid("no views, but a root other than that of the empty tree")
	}
	if m.AsOf <= 0 || m.Expires <= m.AsOf {
		return invalid("asOf %d and expires %d: want two instants in order", m.AsOf, m.Expires)
	}
	return nil
}

func (t Timestamp) check() error {
	if t.Type != TimestampType {
		return invalid("type %.80q, want %q", t.Type, TimestampType)
	}
	if err := checkScope(t.Network, t.Zone); err != nil {
		return err
	}
	if t.Serial == 0 || t.Manifest.IsZero() {
		return invalid("serial or manifest is unset")
	}
	if t.Issued <= 0 || t.Expires <= t.Issued {
		return invalid("issued %d and expires %d: want two instants in order", t.Issued, t.Expires)
	}
	return nil
}

func checkScope(network, zone string) error {
	if err := checkName("network", network); err != nil {
		return err
	}
	return checkName("zone", zone)
}

// checkCommit takes a full SHA-1 or SHA-256 object name in lower-case hex.
func checkCommit(s string) error {
	if len(s) != 40 && len(s) != 64 {
		return invalid("commit %.80q: want 40 or 64 hex digits", s)
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return invalid("commit %.80q: want lower-case hex", s)
		}
	}
	return nil
}
