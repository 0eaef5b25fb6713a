// Package keyfile keeps private keys in files that only their owner can read: Ed25519 keys as PKCS#8 PEM, WireGuard keys
// as base64 like `wg genkey` prints them.
//
// It promises never to overwrite a key, never to load one that another account could have read or replaced (mode wider
// than 0600, or another owner), and never to quote a key in an error.
package keyfile

import (
	"bytes"
	"crypto/ecdh"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// The reasons for a refusal, besides those of os (errors.Is with fs.ErrNotExist and fs.ErrExist works).
var (
	// ErrPermissions: others may read or write the file; the message says which chmod mends it.
	ErrPermissions = errors.New("key file is open to others")
	// ErrOwner: the file belongs to another account than the one this process runs as.
	ErrOwner = errors.New("key file belongs to another account")
	// ErrContent: the file does not hold one key of the wanted kind.
	ErrContent = errors.New("not a key file of this kind")
)

// WireGuardKey is a Curve25519 private key. It never prints itself.
type WireGuardKey [32]byte

// NewEd25519 draws a key from rand (crypto/rand.Reader outside of tests) and writes it to a new file.
func NewEd25519(path string, rand io.Reader) (signer.PrivateKey, error) {
	key, err := signer.GenerateKey(rand)
	if err != nil {
		return signer.PrivateKey{}, err
	}
	text, err := signer.MarshalPrivate(key)
	if err != nil {
		return signer.PrivateKey{}, err
	}
	if err := Create(path, text); err != nil {
		return signer.PrivateKey{}, err
	}
	return key, nil
}

// LoadEd25519 reads a key that NewEd25519 or `openssl genpkey -algorithm ed25519` wrote.
func LoadEd25519(path string) (signer.PrivateKey, error) {
	text, err := Load(path)
	if err != nil {
		return signer.PrivateKey{}, err
	}
	key, err := signer.ParsePrivate(text)
	if err != nil {
		return signer.PrivateKey{}, fmt.Errorf("key file %s: %w: %w", path, ErrContent, err)
	}
	return key, nil
}

// NewWireGuard draws a key from rand and writes it to a new file.
func NewWireGuard(path string, rand io.Reader) (WireGuardKey, error) {
	var k WireGuardKey
	if _, err := io.ReadFull(rand, k[:]); err != nil {
		return WireGuardKey{}, fmt.Errorf("draw a WireGuard key: %w", err)
	}
	k.clamp()
	if err := Create(path, []byte(base64.StdEncoding.EncodeToString(k[:])+"\n")); err != nil {
		return WireGuardKey{}, err
	}
	return k, nil
}

// LoadWireGuard reads a key that NewWireGuard or `wg genkey` wrote.
func LoadWireGuard(path string) (WireGuardKey, error) {
	text, err := Load(path)
	if err != nil {
		return WireGuardKey{}, err
	}
	text = bytes.TrimSpace(text)
	raw, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(raw) != len(WireGuardKey{}) {
		return WireGuardKey{}, fmt.Errorf("key file %s: %w: want 32 bytes of base64, as `wg genkey` prints them", path, ErrContent)
	}
	k := WireGuardKey(raw)
	k.clamp()
	return k, nil
}

// clamp sets the bits that every Curve25519 private key has (RFC 7748, section 5).
func (k *WireGuardKey) clamp() {
	k[0] &= 248
	k[31] = k[31]&127 | 64
}

// Public gives the public half.
func (k WireGuardKey) Public() peermap.Key {
	private, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("keyfile: X25519 takes any 32 bytes: " + err.Error())
	}
	return peermap.Key(private.PublicKey().Bytes())
}

const redacted = "[private key]"

// String, Format, LogValue and MarshalText keep the key out of logs and dumps.
func (k WireGuardKey) String() string { return redacted }

// Format hides the key from every verb, %x and %#v too.
func (k WireGuardKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the key from slog.
func (k WireGuardKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the key from encoders.
func (k WireGuardKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Create writes a new file with mode 0600 and makes it last through a power cut. A file that exists is never touched:
// fs.ErrExist.
func Create(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key file %s: %w; a key is never overwritten, move the old one away first", path, err)
	}
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("key file %s: %w", path, err), os.Remove(path))
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// Load reads a small private file after it has passed the checks of the package comment, made on the opened file so that
// it cannot be exchanged in between.
func Load(path string) (text []byte, err error) {
	f, err := openKey(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("key file %s: %w: it is no regular file", path, ErrContent)
	}
	if err := checkAccess(path, info); err != nil {
		return nil, err
	}
	text, err = io.ReadAll(io.LimitReader(f, signer.MaxPrivateKeyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if len(text) > signer.MaxPrivateKeyBytes {
		return nil, fmt.Errorf("key file %s: %w: larger than %d bytes", path, ErrContent, signer.MaxPrivateKeyBytes)
	}
	return text, nil
}
