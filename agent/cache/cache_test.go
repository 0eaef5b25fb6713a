package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/apex-network/apex/spec/peermap"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "zone"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, text string) peermap.Digest {
	t.Helper()
	if err := s.PutArtefact([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return peermap.DigestOf([]byte(text))
}

func TestArtefacts(t *testing.T) {
	s := open(t)
	a, b := put(t, s, "first"), put(t, s, "second")
	put(t, s, "first") // again
	if got, ok := s.Artefact(a, 100); !ok || string(got) != "first" {
		t.Errorf("got %q, %t", got, ok)
	}
	if _, ok := s.Artefact(a, 4); ok {
		t.Error("an artefact above its limit was read")
	}
	if err := s.Retain(func(d peermap.Digest) bool { return d == b }); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Artefact(a, 100); ok {
		t.Error("an artefact that is not retained is there")
	}
	if _, ok := s.Artefact(b, 100); !ok {
		t.Error("a retained artefact is gone")
	}
}

func TestPrivate(t *testing.T) {
	s := open(t)
	put(t, s, "first")
	if err := s.Save("record", 1); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	s := open(t)
	d := put(t, s, "first")
	if err := os.WriteFile(s.artefactPath(d), []byte("fIrst"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Artefact(d, 100); ok {
		t.Error("an altered artefact was given out")
	}
	if s.Damaged() != 1 {
		t.Errorf("damaged is %d", s.Damaged())
	}
	put(t, s, "first")
	if _, ok := s.Artefact(d, 100); !ok {
		t.Error("a damaged artefact cannot be replaced")
	}

	var out struct{ A int }
	for _, bad := range []string{"", "{", `{"A":1`, `{"B":1}`, `{"A":1}{"A":2}`, `{"A":"x"}`} {
		if err := os.WriteFile(s.recordPath("r"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if ok, err := s.Load("r", &out); ok || !errors.Is(err, ErrDamaged) {
			t.Errorf("record %q: %t, %v; want ErrDamaged", bad, ok, err)
		}
		if ok, err := s.Load("r", &out); ok || err != nil {
			t.Errorf("record %q was not put aside: %t, %v", bad, ok, err)
		}
	}
}

func TestLinksAreNotFollowed(t *testing.T) {
	s := open(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := peermap.DigestOf([]byte("first"))
	if err := os.Symlink(secret, s.artefactPath(d)); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Artefact(d, 100); ok {
		t.Error("a symbolic link was followed")
	}
}

func TestHalfWrittenFilesGo(t *testing.T) {
	s := open(t)
	left := filepath.Join(s.dir, blobDir, unfinished+"123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
}
