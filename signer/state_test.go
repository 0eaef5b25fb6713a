package signer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

func TestStateWalksItsDiagram(t *testing.T) {
	r := testRoot(t)
	g := newGeneration(t, 1, 5, peermap.Digest{}, nil)
	s := NewState("acme", "prod", r.Digest())

	// Pinned: nothing but the pinned root is taken.
	refuse(t, s, ErrNoRoot, stamp(g.stampEnv, now))
	refuse(t, s, ErrNoRoot, manifest(g.env, now))
	if f := s.Freshness(now); !f.Stale || f.Reason == "" || s.RootVersion() != 0 || s.Root() != nil {
		t.Errorf("pinned: %+v", f)
	}

	// Rooted.
	s = must(s.WithRoot(signRoot(t, r, "ada", "bob"), now))(t)
	refuse(t, s, ErrNoTimestamp, manifest(g.env, now))
	if _, want := s.Wanted(); want || s.RootVersion() != 1 || !s.Freshness(now).Stale {
		t.Error("rooted: wants a manifest that nothing names")
	}

	// Announced.
	s = must(s.WithTimestamp(g.stampEnv, now))(t)
	if d, want := s.Wanted(); !want || d != g.digest {
		t.Error("announced: does not want the manifest")
	}
	if _, ok := s.Manifest(); ok || !s.ManifestDigest().IsZero() || s.Serial() != 0 {
		t.Error("announced: has a manifest")
	}

	// Current.
	s = must(s.WithManifest(g.env, now))(t)
	if _, want := s.Wanted(); want || s.ManifestDigest() != g.digest || s.Epoch() != 1 || s.Serial() != 5 {
		t.Error("current: wrong manifest")
	}
	if f := s.Freshness(now); f.Stale || f.Reason != "" || f.Warning != "" || f.ManifestExpiresIn != 100*time.Hour ||
		f.TimestampExpiresIn != 10*time.Minute || f.TimestampAge != 0 {
		t.Errorf("current: %+v", f)
	}
	again := must(s.WithTimestamp(g.stampEnv, now))(t)
	unchanged(t, s, must(again.WithManifest(g.env, now))(t))

	// Announced again: the old manifest stays in force.
	next := newGeneration(t, 1, 6, g.digest, nil)
	s = must(s.WithTimestamp(next.stampEnv, now))(t)
	if d, want := s.Wanted(); !want || d != next.digest || s.Serial() != 5 || !s.Freshness(now).Stale {
		t.Error("announced again")
	}
	if err := s.CheckView(0, g.tree.Size(), g.views[0], g.tree.Proof(0)); err != nil {
		t.Error("the views of the manifest in force stay good: ", err)
	}
	if s = must(s.WithManifest(next.env, now))(t); s.Serial() != 6 || s.Freshness(now).Stale {
		t.Error("current again")
	}
}

func TestExpiryBoundaries(t *testing.T) {
	g := newGeneration(t, 1, 5, peermap.Digest{}, nil)
	s := rooted(t)
	end := time.Unix(g.stamp.Expires, 0)
	if _, err := s.WithTimestamp(g.stampEnv, end.Add(-time.Second)); err != nil {
		t.Error("a second before its expiry: ", err)
	}
	_, err := s.WithTimestamp(g.stampEnv, end)
	wantErr(t, err, ErrExpired)
	begin := time.Unix(g.stamp.Issued, 0).Add(-MaxClockSkew)
	if _, err := s.WithTimestamp(g.stampEnv, begin); err != nil {
		t.Error("at the edge of the clock skew: ", err)
	}
	_, err = s.WithTimestamp(g.stampEnv, begin.Add(-time.Second))
	wantErr(t, err, ErrFuture)
	_, err = s.WithTimestamp(g.stampEnv, time.Unix(0, 0)) // a board without a battery
	wantErr(t, err, ErrFuture)
}

func TestFreshnessNamesTheReason(t *testing.T) {
	s, g := current(t)
	if ts, ok := s.Timestamp(); !ok || ts.Manifest != g.digest {
		t.Error("no timestamp")
	}
	short := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.Expires = now.Unix() + 60 })
	s = accept(t, s, short)
	if f := s.Freshness(now.Add(2 * time.Minute)); !f.Stale || !strings.Contains(f.Reason, "manifest of generation 1.6 expired") {
		t.Errorf("%+v", f)
	}
	if f := s.Freshness(now.Add(20 * time.Minute)); !f.Stale || !strings.Contains(f.Reason, "timestamp expired") {
		t.Errorf("%+v", f)
	}
}

func TestVerifyManifestAlone(t *testing.T) {
	r, g := testRoot(t), newGeneration(t, 1, 5, peermap.Digest{}, nil)
	if m := must(r.VerifyManifest(g.env))(t); m != g.manifest {
		t.Errorf("%+v", m)
	}
	_, err := r.VerifyManifest(g.stampEnv)
	wantErr(t, err, ErrType)
	_, err = r.VerifyManifest(nil)
	wantErr(t, err, ErrFormat)
}

// A replica with a slow clock may announce a new generation; only within one generation must time not run backwards.
func TestNewGenerationFromASlowClock(t *testing.T) {
	s, g := current(t)
	next := newGeneration(t, 1, 6, g.digest, func(_ *peermap.Manifest, ts *peermap.Timestamp) {
		ts.Issued, ts.Expires = ts.Issued-90, ts.Expires-90
	})
	if got := accept(t, s, next); got.Serial() != 6 {
		t.Error("refused")
	}
}

// After a rotation that retires keys, what they signed stays in force but is fetched again with signatures that count.
func TestRotatedKeysAreAskedAgain(t *testing.T) {
	s, g := current(t)
	r2 := testRoot(t).Clone()
	r2.Version = 2
	r2.Keys = append(r2.Keys, NewRootKey("controller-2", testKey("controller-2").Public()), NewRootKey("clock-2", testKey("clock-2").Public()))
	r2.Manifest.Keys, r2.Timestamp.Keys = []string{"controller-2"}, []string{"clock-2"}
	s = must(s.WithRoot(signRoot(t, r2, "ada", "bob"), now))(t)
	if f := s.Freshness(now); !f.Stale || !strings.Contains(f.Reason, "no longer counts") || s.Serial() != 5 {
		t.Errorf("%+v at serial %d", f, s.Serial())
	}
	refuse(t, s, ErrThreshold, stamp(g.stampEnv, now))
	refuse(t, s, ErrThreshold, manifest(g.env, now))
	s = must(s.WithTimestamp(must(SignTimestamp(g.stamp, testKey("clock-2")))(t), now))(t)
	if d, want := s.Wanted(); !want || d != g.digest {
		t.Error("does not ask for the manifest with signatures that count")
	}
	if f := s.Freshness(now); !f.Stale || !strings.Contains(f.Reason, "generation 1.5") {
		t.Errorf("%+v", f)
	}
	s = must(ParseState(must(s.MarshalJSON())(t)))(t)
	env, digest, err := SignManifest(g.manifest, testKey("controller-2"), testKey("witness-b"))
	if err != nil || digest != g.digest {
		t.Fatal(err)
	}
	s = must(s.WithManifest(env, now))(t)
	if _, want := s.Wanted(); want || s.Freshness(now).Stale {
		t.Errorf("%+v", s.Freshness(now))
	}
}

func TestExpiredRootWarnsOnly(t *testing.T) {
	s, g := current(t)
	r2 := testRoot(t).Clone()
	r2.Version, r2.Expires = 2, now.Add(-time.Hour).Unix()
	s = must(s.WithRoot(signRoot(t, r2, "ada", "bob"), now))(t)
	f := s.Freshness(now)
	if f.Stale || !strings.Contains(f.Warning, "rotate") || f.RootExpiresIn != -time.Hour {
		t.Errorf("%+v", f)
	}
	next := newGeneration(t, 1, 6, g.digest, nil)
	if got := accept(t, s, next); got.Serial() != 6 {
		t.Error("an expired root stops the network")
	}
	r2.Expires, r2.Version = 0, 3
	s = must(s.WithRoot(signRoot(t, r2, "ada", "bob"), now))(t)
	if f := s.Freshness(now); f.Warning != "" || f.RootExpiresIn != 0 {
		t.Errorf("a root without end: %+v", f)
	}
}

func TestStateSurvivesStorage(t *testing.T) {
	s, g := current(t)
	for version := uint64(2); version < 5; version++ {
		r := s.Root().Clone()
		r.Version = version
		s = must(s.WithRoot(signRoot(t, r, "ada", "bob"), now))(t)
	}
	next := newGeneration(t, 1, 6, g.digest, nil)
	for name, s := range map[string]State{
		"pinned": NewState("acme", "prod", peermap.Digest{7}), "rooted": rooted(t), "current": s,
		"announced": must(s.WithTimestamp(next.stampEnv, now))(t),
		"first":     must(rooted(t).WithTimestamp(g.stampEnv, now))(t),
	} {
		stored := must(json.Marshal(s))(t)
		var back State
		if err := json.Unmarshal(append(stored, '\n'), &back); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		unchanged(t, s, back)
		if back.Network() != s.Network() || back.Zone() != s.Zone() || back.Pin() != s.Pin() || back.RootVersion() != s.RootVersion() ||
			back.ManifestDigest() != s.ManifestDigest() || !reflect.DeepEqual(back.Freshness(now), s.Freshness(now)) {
			t.Errorf("%s: came back as another state", name)
		}
		// Storage outlives every expiry.
		if _, err := ParseState(stored); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStoredStateIsVerifiedAgain(t *testing.T) {
	s, g := current(t)
	r2 := testRoot(t).Clone()
	r2.Version, r2.Epoch = 2, 2
	s = must(s.WithRoot(signRoot(t, r2, "ada", "bob"), now))(t)
	fresh := newGeneration(t, 2, 1, peermap.Digest{}, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.RootVersion = 2 })
	s = accept(t, s, fresh)
	var good storedState
	stored := must(s.MarshalJSON())(t)
	if err := json.Unmarshal(stored, &good); err != nil {
		t.Fatal(err)
	}
	evilRoot := testRoot(t).Clone()
	evilRoot.Version, evilRoot.Epoch = 2, 2
	evilRoot.Manifest.Threshold = 1
	other := newGeneration(t, 2, 1, peermap.Digest{}, func(m *peermap.Manifest, ts *peermap.Timestamp) { m.Zone, ts.Zone = "dev", "dev" })
	twin := newGeneration(t, 2, 1, peermap.Digest{}, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.RootVersion, m.AsOf = 2, m.AsOf+1 })
	ahead := newGeneration(t, 2, 9, peermap.Digest{}, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.RootVersion = 2 })
	for name, c := range map[string]struct {
		change func(*storedState)
		want   error
	}{
		"type":                     {func(s *storedState) { s.Type = RootType }, ErrType},
		"pin":                      {func(s *storedState) { s.Pin[0]++ }, ErrPin},
		"network":                  {func(s *storedState) { s.Network = "evil" }, ErrWrongNetwork},
		"zone":                     {func(s *storedState) { s.Zone = "dev" }, ErrWrongZone},
		"no roots":                 {func(s *storedState) { s.Roots = [][]byte{} }, ErrMismatch},
		"first root missing":       {func(s *storedState) { s.Roots = s.Roots[1:] }, ErrPin},
		"root cut off":             {func(s *storedState) { s.Roots = s.Roots[:1] }, ErrMismatch},
		"root of an attacker":      {func(s *storedState) { s.Roots[1] = signRoot(t, evilRoot, "mallory") }, ErrThreshold},
		"timestamp altered":        {func(s *storedState) { s.Timestamp[40] ^= 1 }, nil},
		"manifest altered":         {func(s *storedState) { s.Manifest[len(s.Manifest)-20] ^= 1 }, nil},
		"timestamp under old root": {func(s *storedState) { s.TimestampRoot = 1 }, ErrMismatch},
		"manifest under old root":  {func(s *storedState) { s.ManifestRoot = 1 }, ErrMismatch},
		"root of nowhere":          {func(s *storedState) { s.ManifestRoot = 9 }, ErrMismatch},
		"root 0 with a manifest":   {func(s *storedState) { s.ManifestRoot = 0 }, ErrMismatch},
		"timestamp taken away":     {func(s *storedState) { s.Timestamp, s.TimestampRoot = []byte{}, 0 }, ErrNoTimestamp},
		"timestamp of the past":    {func(s *storedState) { s.Timestamp, s.TimestampRoot = g.stampEnv, 1 }, ErrRollback},
		"timestamp of a zone":      {func(s *storedState) { s.Timestamp = other.stampEnv }, ErrWrongZone},
		"timestamp of a twin":      {func(s *storedState) { s.Timestamp = twin.stampEnv }, ErrFork},
		"manifest of a zone":       {func(s *storedState) { s.Manifest = other.env }, ErrWrongZone},
		"manifest ahead of it":     {func(s *storedState) { s.Manifest = ahead.env }, ErrRollback},
		"null roots":               {func(s *storedState) { s.Roots = nil }, ErrFormat},
		"null root":                {func(s *storedState) { s.Roots = [][]byte{nil} }, ErrFormat},
		"null manifest":            {func(s *storedState) { s.Manifest = nil }, ErrFormat},
	} {
		var bad storedState
		if err := json.Unmarshal(stored, &bad); err != nil {
			t.Fatal(err)
		}
		c.change(&bad)
		_, err := ParseState(must(encodeCanonical(bad))(t))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if c.want != nil {
			wantErr(t, err, c.want)
		}
	}
	for name, text := range map[string]string{
		"trailing":  string(stored) + "{}",
		"unknown":   strings.Replace(string(stored), `"zone"`, `"more":1,"zone"`, 1),
		"duplicate": strings.Replace(string(stored), `"zone":"prod"`, `"zone":"prod","zone":"prod"`, 1),
		"cut":       string(stored[:len(stored)/2]),
		"empty":     "",
	} {
		if _, err := ParseState([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The caller keeps its buffers: what it writes into them later must not reach the state.
func TestStateKeepsItsOwnBytes(t *testing.T) {
	r, g := testRoot(t), newGeneration(t, 1, 5, peermap.Digest{}, nil)
	env := signRoot(t, r, "ada", "bob")
	s := accept(t, must(NewState("acme", "prod", r.Digest()).WithRoot(env, now))(t), g)
	before := must(s.MarshalJSON())(t)
	for _, b := range [][]byte{env, g.env, g.stampEnv, s.TimestampEnvelope(), s.ManifestEnvelope()} {
		clear(b)
	}
	if !bytes.Equal(before, must(s.MarshalJSON())(t)) {
		t.Error("a caller's buffer is part of the state")
	}
	if m, _ := s.Manifest(); true {
		m.Serial = 99
	}
	if s.Serial() != 5 {
		t.Error("a caller changed the manifest")
	}
}

// Over random sequences of honest, old and hostile steps: (epoch, serial) never goes back, an error changes nothing, and
// storing in between makes no difference.
func TestRandomHistories(t *testing.T) {
	steps := randomSteps(t)
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := NewState("acme", "prod", testRoot(t).Digest())
		var log []string
		for range 40 {
			name := steps.names[rng.IntN(len(steps.names))]
			log = append(log, name)
			before := s
			after, err := steps.run[name](s)
			if err != nil {
				if !reflect.DeepEqual(before, after) {
					t.Fatalf("seed %d: %v: an error changed the state", seed, log)
				}
				continue
			}
			if after.Epoch() < s.Epoch() || (after.Epoch() == s.Epoch() && after.Serial() < s.Serial()) || after.RootVersion() < s.RootVersion() {
				t.Fatalf("seed %d: %v: from %d.%d under %d to %d.%d under %d", seed, log, s.Epoch(), s.Serial(), s.RootVersion(),
					after.Epoch(), after.Serial(), after.RootVersion())
			}
			s = after
			stored, err := ParseState(must(s.MarshalJSON())(t))
			if err != nil {
				t.Fatalf("seed %d: %v: stored state: %v", seed, log, err)
			}
			unchanged(t, s, stored)
			if stored.Freshness(now) != s.Freshness(now) {
				t.Fatalf("seed %d: %v: %+v became %+v", seed, log, s.Freshness(now), stored.Freshness(now))
			}
			if rng.IntN(2) == 0 {
				s = stored
			}
		}
	}
}

type stepPool struct {
	names []string
	run   map[string]func(State) (State, error)
}

func randomSteps(t *testing.T) stepPool {
	p := stepPool{run: map[string]func(State) (State, error){}}
	add := func(name string, f func(State) (State, error)) { p.names, p.run[name] = append(p.names, name), f }
	for version := uint64(1); version <= 3; version++ {
		r := testRoot(t).Clone()
		r.Version, r.Epoch = version, (version+1)/2 // epochs 1, 1, 2
		env := signRoot(t, r, "ada", "bob")
		for i := range 2 { // twice as likely
			add(fmt.Sprintf("root %d (%d)", version, i), root(env))
		}
	}
	for epoch := uint64(1); epoch <= 2; epoch++ {
		var previous peermap.Digest
		for serial := uint64(1); serial <= 3; serial++ {
			for variant := range int64(2) {
				g := newGeneration(t, epoch, serial, previous, func(m *peermap.Manifest, ts *peermap.Timestamp) {
					m.AsOf += variant
					ts.Issued += variant
				})
				add(fmt.Sprintf("timestamp %d.%d/%d", epoch, serial, variant), stamp(g.stampEnv, now))
				add(fmt.Sprintf("manifest %d.%d/%d", epoch, serial, variant), manifest(g.env, now))
				if variant == 0 {
					previous = g.digest
				}
			}
		}
	}
	return p
}
