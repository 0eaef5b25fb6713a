package keys

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/spec/peermap"
)

func files(dir string) Files {
	own, shared := filepath.Join(dir, "own.key"), filepath.Join(dir, "wireguard.key")
	return Files{Identity: filepath.Join(dir, "identity.key"), WireGuard: map[string]string{"prod": shared, "lab": shared, "own": own}}
}

func open(t *testing.T, f Files) *Ring {
	t.Helper()
	r, err := Open(f, true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func public(p Pair) [2]peermap.Key {
	wg, id := p.Public()
	return [2]peermap.Key{wg, id}
}

func TestRotation(t *testing.T) {
	f := files(t.TempDir())
	if _, err := Open(f, false, rand.Reader); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without keys: %v", err)
	}
	r := open(t, f)
	if public(r.Current("prod")) != public(r.Current("lab")) || public(r.Current("prod"))[0] == public(r.Current("own"))[0] {
		t.Error("zones share keys when they share a file, and only then")
	}
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	next, _ := r.Next("prod")
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	r = open(t, f) // a restart takes the rotation up
	if again, ok := r.Next("prod"); !ok || public(again) != public(next) {
		t.Fatal("the next keys did not survive")
	}
	old := r.Current("prod")
	for i, zone := range []string{"prod", "lab", "own"} {
		pair, _ := r.Next(zone)
		promoted, err := r.InForce(zone, public(pair)[0])
		if err != nil || promoted != (i == 2) {
			t.Fatalf("%s in force: %t, %v", zone, promoted, err)
		}
	}
	if _, ok := r.Find("prod", public(old)[0]); ok {
		t.Error("the old key is still held")
	}
	for _, r := range []*Ring{r, open(t, f)} {
		if _, rotating := r.Next("prod"); rotating || public(r.Current("prod")) != public(next) {
			t.Error("the next keys are not the current ones")
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(f.Identity), "*.next.key")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestIdleZonesAreNotWaitedFor: a zone that uses no keys holds no rotation up, and one that is joined meanwhile does.
func TestIdleZonesAreNotWaitedFor(t *testing.T) {
	f := files(t.TempDir())
	r := open(t, f)
	for _, zone := range []string{"lab", "own"} {
		if promoted, err := r.Idle(zone, true); promoted || err != nil {
			t.Fatalf("no rotation is under way: %t, %v", promoted, err)
		}
	}
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	next, _ := r.Next("prod")
	if _, err := r.Idle("own", false); err != nil {
		t.Fatal(err)
	}
	if promoted, err := r.InForce("prod", public(next)[0]); promoted || err != nil {
		t.Fatalf("a zone that is in use runs with the old keys: %t, %v", promoted, err)
	}
	if promoted, err := r.Idle("own", true); !promoted || err != nil {
		t.Fatalf("what was left holds the rotation up: %t, %v", promoted, err)
	}
	for _, r := range []*Ring{r, open(t, f)} {
		if _, rotating := r.Next("prod"); rotating || public(r.Current("prod")) != public(next) {
			t.Error("the next keys are not the current ones")
		}
	}
	if _, err := r.Idle("prod", true); err != nil {
		t.Fatal(err)
	}
	if err := r.Begin(); err != nil || public(r.Current("prod")) == public(next) {
		t.Errorf("with no zone in use new keys are in force at once: %v", err)
	}
}

// TestCrash stops the two sequences of file operations after each step: what is opened then has one of the two sets whole
// in every zone, and the sequence can be gone through to its end.
func TestCrash(t *testing.T) {
	for renamed := range 5 { // before the crash
		f := files(t.TempDir())
		r := open(t, f)
		before := map[string][2]peermap.Key{}
		after := map[string][2]peermap.Key{}
		if err := r.Begin(); err != nil {
			t.Fatal(err)
		}
		for _, zone := range r.Zones() {
			next, _ := r.Next(zone)
			before[zone], after[zone] = public(r.Current(zone)), public(next)
		}
		steps := [][2]string{{keyfile.NextPath(f.Identity), f.last()}}
		for _, path := range f.paths() {
			steps = append(steps, [2]string{keyfile.NextPath(path), path})
		}
		steps = append(steps, [2]string{f.last(), f.Identity})
		for _, step := range steps[:min(renamed, len(steps))] {
			if err := keyfile.Move(step[0], step[1]); err != nil {
				t.Fatal(err)
			}
		}
		again := open(t, f)
		for _, zone := range again.Zones() {
			want := after[zone]
			if renamed == 0 {
				want = before[zone]
			}
			if got := public(again.Current(zone)); got != want {
				t.Errorf("after %d renames zone %s has another pair", renamed, zone)
			}
		}
	}
	for made := range 3 { // next files made before the crash
		f := files(t.TempDir())
		old := public(open(t, f).Current("prod"))
		for _, path := range f.paths()[:made] {
			if _, err := keyfile.NewWireGuard(keyfile.NextPath(path), rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		r := open(t, f)
		if _, rotating := r.Next("prod"); rotating || public(r.Current("prod")) != old {
			t.Errorf("after %d made: half a set counts", made)
		}
		if err := r.Begin(); err != nil {
			t.Errorf("after %d made: %v", made, err)
		}
		if _, rotating := r.Next("prod"); !rotating {
			t.Errorf("after %d made: no next set", made)
		}
	}
}

func TestKeysArePrivate(t *testing.T) {
	f := files(filepath.Join(t.TempDir(), "made"))
	if err := open(t, f).Begin(); err != nil {
		t.Fatal(err)
	}
	all, _ := filepath.Glob(filepath.Join(filepath.Dir(f.Identity), "*"))
	if len(all) != 6 {
		t.Errorf("%d files: %v", len(all), all)
	}
	for _, path := range all {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}
