package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/apex-network/apex/signer"
)

// NextPath is where the successor of a key waits: wireguard.key becomes wireguard.next.key.
func NextPath(path string) string {
	ext := filepath.Ext(path)
	return path[:len(path)-len(ext)] + ".next" + ext
}

// Move gives the key file at one path another, in place of the key that stands there, in one step that lasts through a power
// cut: there is always one of the two. No file at from is fs.ErrNotExist.
func Move(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("put the next key into force: %w", err)
	}
	return syncFolder(filepath.Dir(to))
}

// EnsureEd25519 loads the key at path, or makes it, and its folder (0700), if there is none.
func EnsureEd25519(path string, rand io.Reader) (signer.PrivateKey, error) {
	return ensure(path, LoadEd25519, func(path string) (signer.PrivateKey, error) { return NewEd25519(path, rand) })
}

// EnsureWireGuard is EnsureEd25519 for a WireGuard key.
func EnsureWireGuard(path string, rand io.Reader) (WireGuardKey, error) {
	return ensure(path, LoadWireGuard, func(path string) (WireGuardKey, error) { return NewWireGuard(path, rand) })
}

func ensure[K any](path string, load, create func(string) (K, error)) (K, error) {
	key, err := load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return key, fmt.Errorf("key file: %w", err)
	}
	if key, err = create(path); errors.Is(err, fs.ErrExist) {
		return load(path) // somebody else was faster
	}
	return key, err
}
