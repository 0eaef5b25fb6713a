package peermap

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// ErrNotCanonical says that bytes are not the one canonical encoding of what they decode to. ErrTooLarge says that they
// exceed the cap of limits.go for their type.
var (
	ErrNotCanonical = errors.New("not in canonical encoding")
	ErrTooLarge     = errors.New("larger than its limit")
)

// mode bundles the two halves of the codec so that both come from one place.
type mode struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newMode() (mode, error) {
	opts := cbor.CoreDetEncOptions()
	opts.TextMarshaler = cbor.TextMarshalerNone
	opts.BinaryMarshaler = cbor.BinaryMarshalerByteString
	opts.IndefLength = cbor.IndefLengthForbidden
	opts.TagsMd = cbor.TagsForbidden
	enc, err := opts.EncMode()
	if err != nil {
		return mode{}, fmt.Errorf("cbor encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: 1 << 16,
		MaxMapPairs:      16,
		UTF8:             cbor.UTF8RejectInvalid,
		BinaryUnmarshaler: cbor.BinaryUnmarshalerByteString,
	}.DecMode()
	if err != nil {
		return mode{}, fmt.Errorf("cbor decoder: %w", err)
	}
	return mode{enc, dec}, nil
}
