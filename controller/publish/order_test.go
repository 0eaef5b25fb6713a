package publish_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/compile"
)

// follower is an agent's trust in the zone, which raises an alarm over every rollback and fork.
type follower struct {
	*fixture
	state signer.State
}

func (f *fixture) follower() *follower {
	f.t.Helper()
	env, err := signer.SignEd25519(signer.RootType, must(f.root.Encode()), f.key)
	if err != nil {
		f.t.Fatal(err)
	}
	state, err := signer.NewState("acme", "prod", f.root.Digest()).WithRoot(must(env.Encode()), f.now)
	if err != nil {
		f.t.Fatal(err)
	}
	return &follower{f, state}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// take accepts what p serves, or fails.
func (f *follower) take(p *publish.Publisher) {
	f.t.Helper()
	s := current(f.t, p)
	if s == nil || s.Timestamp == nil {
		f.t.Fatal("nothing is served")
	}
	state, err := f.state.WithTimestamp(s.Timestamp, f.now)
	if err == nil {
		if _, missing := state.Wanted(); missing {
			state, err = state.WithManifest(s.Envelope, f.now)
		}
	}
	if err != nil {
		f.t.Fatalf("serial %d after %d: %v", s.Manifest.Serial, f.state.Serial(), err)
	}
	f.state = state
}

func (f *fixture) maintain(p *publish.Publisher) {
	f.t.Helper()
	if _, err := p.Maintain(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) damage(serial uint64) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "prod", fmt.Sprintf("1-%d.gen", serial)), nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func TestDamageAndOldCopiesAlarmNobody(t *testing.T) {
	for name, lose := range map[string]func(f *fixture, newest uint64){
		"the newest file is damaged": func(f *fixture, newest uint64) { f.damage(newest) },
		"the folder is an old copy": func(f *fixture, newest uint64) {
			if err := os.Remove(filepath.Join(f.dir, "prod", fmt.Sprintf("1-%d.gen", newest))); err != nil {
				f.t.Fatal(err)
			}
		},
		"the folder is lost": func(f *fixture, _ uint64) {
			if err := os.RemoveAll(f.dir); err != nil {
				f.t.Fatal(err)
			}
		},
	} {
		for _, same := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, same commit %t", name, same), func(t *testing.T) {
				f := newFixture(t)
				a := f.follower()
				p := f.open()
				f.publish(p, 2, 1)
				a.take(p)
				newest := f.publish(p, 3, 2)
				if same { // the newest says what the one before it says
					f.now = f.now.Add(signer.DefaultManifestValidity * 3 / 4)
					f.maintain(p)
					newest = current(t, p)
				}
				a.take(p)
				lose(f, newest.Manifest.Serial)
				p = f.open()
				f.maintain(p)
				if z, ok := p.Zone("prod"); ok {
					if s, _ := z.Snapshot(); s.Timestamp != nil {
						a.take(p)
					}
				}
				commit := 3
				if same {
					commit = 2
				}
				f.publish(p, 3, commit)
				a.take(p)
				f.now = f.now.Add(time.Hour)
				f.maintain(p)
				a.take(p)
			})
		}
	}
}

func TestZoneThatComesBackIsNoFork(t *testing.T) {
	f := newFixture(t)
	a := f.follower()
	p := f.open()
	for commit := 1; commit <= 4; commit++ {
		f.publish(p, 2, commit)
		a.take(p)
		if err := p.Publish(t.Context(), map[string]*compile.Zone{}, f.root); err != nil {
			t.Fatal(err)
		}
	}
}
