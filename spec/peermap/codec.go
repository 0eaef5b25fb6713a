package peermap

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/fxamacker/cbor/v2"
)

// ErrNotCanonical says that bytes are not the one canonical encoding of what they decode to. ErrTooLarge says that they
// exceed the cap of limits.go for their type. ErrInvalid says that the bytes decode, but what they say breaks a rule of
// this package (order, range, limit, overlap).
var (
	ErrNotCanonical = errors.New("not in canonical encoding")
	ErrTooLarge     = errors.New("larger than its limit")
	ErrInvalid      = errors.New("breaks an invariant")
)

// mode bundles the two halves of the codec so that both come from one place.
type mode struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

// codec is built once from constants and never changes.
var codec = sync.OnceValues(newMode)

func newMode() (mode, error) {
	opts := cbor.CoreDetEncOptions()
	opts.TextMarshaler = cbor.TextMarshalerNone
	opts.BinaryMarshaler = cbor.BinaryMarshalerByteString
	opts.IndefLength = cbor.IndefLengthForbidden
	opts.TagsMd = cbor.TagsForbidden
	// A nil slice and an empty one are the same value, so they must be the same bytes.
	opts.NilContainers = cbor.NilContainerAsEmpty
	enc, err := opts.EncMode()
	if err != nil {
		return mode{}, fmt.Errorf("cbor encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   8,
		MaxArrayElements:  1 << 16,
		MaxMapPairs:       16,
		UTF8:              cbor.UTF8RejectInvalid,
		BinaryUnmarshaler: cbor.BinaryUnmarshalerByteString,
	}.DecMode()
	if err != nil {
		return mode{}, fmt.Errorf("cbor decoder: %w", err)
	}
	return mode{enc, dec}, nil
}

// checked is a value that can judge itself without looking at others.
type checked interface{ check() error }

// encode refuses what check refuses, so that nothing is published which a reader would reject.
func encode(what string, v checked, limit int) ([]byte, error) {
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	m, err := codec()
	if err != nil {
		return nil, err
	}
	b, err := m.enc.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("encode %s: %d bytes, limit %d: %w", what, len(b), limit, ErrTooLarge)
	}
	return b, nil
}

// decode applies the cap before it looks at a byte, and accepts only the canonical encoding of a valid value.
func decode[T checked](what string, b []byte, limit int) (T, error) {
	var v, zero T
	if len(b) > limit {
		return zero, fmt.Errorf("decode %s: %d bytes, limit %d: %w", what, len(b), limit, ErrTooLarge)
	}
	m, err := codec()
	if err != nil {
		return zero, err
	}
	if err := m.dec.Unmarshal(b, &v); err != nil {
		return zero, fmt.Errorf("decode %s: %w: %w", what, ErrNotCanonical, err)
	}
	again, err := m.enc.Marshal(v)
	if err != nil {
		return zero, fmt.Errorf("decode %s: %w: %w", what, ErrNotCanonical, err)
	}
	if !bytes.Equal(again, b) {
		return zero, fmt.Errorf("decode %s: %w", what, ErrNotCanonical)
	}
	if err := v.check(); err != nil {
		return zero, fmt.Errorf("decode %s: %w", what, err)
	}
	return v, nil
}

// EncodeView gives the canonical bytes of v, at most MaxViewBytes. It fails with ErrInvalid if v breaks a rule.
func EncodeView(v View) ([]byte, error) { return encode("view", v, MaxViewBytes) }

// DecodeView takes only the canonical bytes of a valid view: ErrTooLarge, ErrNotCanonical or ErrInvalid otherwise.
func DecodeView(b []byte) (View, error) { return decode[View]("view", b, MaxViewBytes) }

// EncodeClass gives the canonical bytes of c, at most MaxClassBytes. It fails with ErrInvalid if c breaks a rule.
func EncodeClass(c Class) ([]byte, error) { return encode("class", c, MaxClassBytes) }

// DecodeClass takes only the canonical bytes of a valid class: ErrTooLarge, ErrNotCanonical or ErrInvalid otherwise.
func DecodeClass(b []byte) (Class, error) { return decode[Class]("class", b, MaxClassBytes) }
