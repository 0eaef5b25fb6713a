package signer

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// encodeCanonical gives the one JSON form of v: compact, fields in struct order, no HTML escapes. v holds no maps and no
// floats.
func encodeCanonical(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decodeCanonical reads b into *v and demands that v encodes back to b. That one comparison refuses duplicate and
// case-folded keys, missing fields, other spellings of strings and numbers, non-canonical base64, white space and
// trailing data; unknown fields are named on the way. Only a null for a slice encodes back to itself: callers refuse nil
// slices, or compare with a form that has none.
func decodeCanonical[T any](what string, b []byte, limit int, v *T) error {
	if len(b) > limit {
		return fmt.Errorf("%s: %w: %d bytes, at most %d are read", what, ErrTooLarge, len(b), limit)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrFormat, err)
	}
	again, err := encodeCanonical(v)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%s: %w: not in canonical form (first difference at byte %d of %d)",
			what, ErrFormat, firstDifference(again, b), len(b))
	}
	return nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
