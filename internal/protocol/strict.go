package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrTooLarge says that a message exceeds its cap; ErrMalformed that it is not what Encode would have written.
var (
	ErrTooLarge  = errors.New("message larger than its limit")
	ErrMalformed = errors.New("malformed message")
)

// Encode gives the one JSON encoding of a message: struct order, no white space, no HTML escapes, no final newline.
func Encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Decode reads one message of at most limit bytes into v and refuses what Encode would not have written for it, so that
// no two readers can understand the same bytes differently. v is a pointer to a zero value; its content is not to be
// used after an error.
func Decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, len(data), limit)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := Encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("%w: not in canonical form (duplicate, reordered or unusually written fields)", ErrMalformed)
	}
	return nil
}

// ReadAll reads at most limit bytes and fails with ErrTooLarge rather than cut a longer message short.
func ReadAll(r io.Reader, limit int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return data, nil
}

// Read reads and decodes one message of at most limit bytes.
func Read(r io.Reader, limit int, v any) error {
	data, err := ReadAll(r, limit)
	if err != nil {
		return err
	}
	return Decode(data, limit, v)
}
