//go:build unix

package keyfile

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/apex-network/apex/signer"
)

func TestEd25519RoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	made, err := NewEd25519(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	got, err := LoadEd25519(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Raw() != made.Raw() {
		t.Error("loaded another key than was written")
	}
}

func TestWireGuardRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wg.key")
	made, err := NewWireGuard(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadWireGuard(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != made || got.Public() != made.Public() {
		t.Error("loaded another key than was written")
	}
	if made[0]&7 != 0 || made[31]&0xc0 != 0x40 {
		t.Error("the key is not clamped")
	}
}

// The key pair of Bob in RFC 7748, section 6.1.
func TestWireGuardPublicKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wg.key")
	text := base64.StdEncoding.EncodeToString(unhex(t, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
	if err := Create(path, []byte(text+"\n")); err != nil {
		t.Fatal(err)
	}
	k, err := LoadWireGuard(path)
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public()
	if want := unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"); !bytes.Equal(public[:], want) {
		t.Errorf("public key %x, want %x", public[:], want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	var out []byte
	if _, err := fmt.Sscanf(s, "%x", &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewEd25519(path, rand.Reader); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want fs.ErrExist", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestRefusesOpenModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity.key")
	if _, err := NewEd25519(path, rand.Reader); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o644, 0o640, 0o660, 0o606, 0o700, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadEd25519(path)
		if !errors.Is(err, ErrPermissions) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: error %v, want ErrPermissions that names the chmod", mode, err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadEd25519(path); err != nil {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

// foreign is a file of another account, for machines where tests may not chown.
type foreign struct{ fs.FileInfo }

func (f foreign) Sys() any {
	st := *f.FileInfo.Sys().(*syscall.Stat_t)
	st.Uid++
	return &st
}

func TestRefusesForeignOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if err := Create(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkAccess(path, foreign{info}); !errors.Is(err, ErrOwner) || !strings.Contains(err.Error(), "chown") {
		t.Errorf("error %v, want ErrOwner that names the chown", err)
	}
	if err := checkAccess(path, info); err != nil {
		t.Error(err)
	}
}

func TestRefusesWhatIsNoKey(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := Create(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := strings.Repeat("c2VjcmV0", 8)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"empty":     write("empty", ""),
		"text":      write("text", secret),
		"truncated": write("truncated", "-----BEGIN PRIVATE KEY-----\n"+secret),
		"huge":      write("huge", strings.Repeat("A", 1<<20)),
		"short":     write("short", "AAAA"),
		"folder":    dir,
		"fifo":      fifo,
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range tests {
		for kind, load := range map[string]func(string) error{
			"ed25519":   func(p string) error { _, err := LoadEd25519(p); return err },
			"wireguard": func(p string) error { _, err := LoadWireGuard(p); return err },
		} {
			err := load(path)
			if !errors.Is(err, ErrContent) && !errors.Is(err, ErrPermissions) {
				t.Errorf("%s as %s: error %v, want ErrContent", name, kind, err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s as %s: the error quotes the file: %v", name, kind, err)
			}
		}
	}
	if _, err := LoadEd25519(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	var wg WireGuardKey
	copy(wg[:], "0123456789abcdef0123456789abcdef")
	ed, err := signer.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{'s'}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("keys", "wg", wg, "ed", ed)
	dump, err := json.Marshal(map[string]any{"wg": wg, "ed": ed})
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		log.WriteString(fmt.Sprintf(verb+" "+verb, wg, ed))
		log.WriteString(fmt.Sprintf(verb, struct {
			W WireGuardKey
			E signer.PrivateKey
		}{wg, ed}))
	}
	text := log.String() + string(dump)
	for _, leak := range []string{"0123456789", "30313233", "ssss", "73737373", "115 115", "48 49"} {
		if strings.Contains(text, leak) {
			t.Errorf("a key printed itself (%s) in %s", leak, text)
		}
	}
}
