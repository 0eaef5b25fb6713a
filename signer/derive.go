package signer

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Derive gives 32 secret bytes that only the holder of k can compute, by HKDF-SHA256 (RFC 5869) over the key's seed: a
// second key for another purpose, the same at every holder of the file. info names the purpose.
func (k PrivateKey) Derive(info string) (out [32]byte, err error) {
	if k.IsZero() {
		return out, errors.New("derive a key: the private key is unset")
	}
	b, err := hkdf.Key(sha256.New, k.key.Seed(), nil, info, len(out))
	if err != nil {
		return out, fmt.Errorf("derive a key: %w", err)
	}
	return [32]byte(b), nil
}
