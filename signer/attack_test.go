package signer

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// One test per row of the attack list on artefacts. Each shows that the attack is refused, that the state does not move,
// and that the network's honest continuation is still accepted.

// refuse runs one step that must fail with want and must leave the state alone.
func refuse(t *testing.T, s State, want error, step func(State) (State, error)) {
	t.Helper()
	after, err := step(s)
	wantErr(t, err, want)
	unchanged(t, s, after)
	if err != nil {
		t.Log(err)
	}
}

func stamp(env []byte, at time.Time) func(State) (State, error) {
	return func(s State) (State, error) { return s.WithTimestamp(env, at) }
}

func manifest(env []byte, at time.Time) func(State) (State, error) {
	return func(s State) (State, error) { return s.WithManifest(env, at) }
}

func root(env []byte) func(State) (State, error) {
	return func(s State) (State, error) { return s.WithRoot(env, now) }
}

func TestAttackArbitraryInstall(t *testing.T) {
	s, g := current(t)
	next := newGeneration(t, 1, 6, g.digest, nil)

	// The attacker signs with keys of its own.
	evil := must(must(ParseEnvelope(next.stampEnv, 1<<20))(t).AddEd25519(testKey("mallory")))(t)
	evil.Signatures = evil.Signatures[:0:0]
	evil = must(evil.AddEd25519(testKey("mallory")))(t)
	refuse(t, s, ErrThreshold, stamp(must(evil.Encode())(t), now))

	// It puts the honest key's id on its signature.
	forged := NewEnvelope(peermap.TimestampType, evil.Payload).
		With(Signature{KeyID: testKey("clock").Public().ID(), Sig: testKey("mallory").Sign(evil.PAE())})
	refuse(t, s, ErrSignature, stamp(must(forged.Encode())(t), now))

	// It changes one byte of an honest payload.
	honest := must(ParseEnvelope(next.stampEnv, 1<<20))(t)
	honest.Payload = bytes.Replace(honest.Payload, []byte(`"serial":6`), []byte(`"serial":7`), 1)
	refuse(t, s, ErrSignature, stamp(must(honest.Encode())(t), now))

	// It has stolen the timestamp key but no manifest key.
	s = must(s.WithTimestamp(next.stampEnv, now))(t)
	stolen := must(SignEd25519(peermap.ManifestType, must(next.manifest.Encode())(t), testKey("clock")))(t)
	refuse(t, s, ErrThreshold, manifest(must(stolen.Encode())(t), now))

	// It has stolen the controller, but the witness does not sign.
	alone := must(SignEd25519(peermap.ManifestType, must(next.manifest.Encode())(t), testKey("controller")))(t)
	refuse(t, s, ErrThreshold, manifest(must(alone.Encode())(t), now))

	// It passes a manifest off as a timestamp and the other way round.
	refuse(t, s, ErrType, stamp(next.env, now))
	refuse(t, s, ErrType, manifest(next.stampEnv, now))

	if _, err := s.WithManifest(next.env, now); err != nil {
		t.Errorf("the honest manifest: %v", err)
	}
}

func TestAttackRollback(t *testing.T) {
	s, g := current(t)
	older := newGeneration(t, 1, 4, peermap.Digest{}, func(_ *peermap.Manifest, ts *peermap.Timestamp) { ts.Issued = now.Unix() + 30 })
	refuse(t, s, ErrRollback, stamp(older.stampEnv, now))
	refuse(t, s, ErrMismatch, manifest(older.env, now))

	// A newer timestamp without its manifest already counts: the agent cannot be held between the two.
	next := newGeneration(t, 1, 7, g.digest, nil)
	s = must(s.WithTimestamp(next.stampEnv, now))(t)
	between := newGeneration(t, 1, 6, g.digest, nil)
	refuse(t, s, ErrRollback, stamp(between.stampEnv, now))
	refuse(t, s, ErrRollback, stamp(g.stampEnv, now))

	// An older timestamp of the same generation changes nothing and is no alarm.
	earlier := newGeneration(t, 1, 7, g.digest, func(_ *peermap.Manifest, ts *peermap.Timestamp) { ts.Issued-- })
	refuse(t, s, ErrOlder, stamp(earlier.stampEnv, now))

	// The state survives being stored: the mark is not forgotten.
	s = must(ParseState(must(s.MarshalJSON())(t)))(t)
	refuse(t, s, ErrRollback, stamp(between.stampEnv, now))
}

func TestAttackFreeze(t *testing.T) {
	s, g := current(t)
	later := now.Add(time.Hour)
	refuse(t, s, ErrExpired, stamp(g.stampEnv, later))
	if f := s.Freshness(later); !f.Stale || !strings.Contains(f.Reason, "expired") || f.TimestampAge != time.Hour {
		t.Errorf("freshness an hour later: %+v", f)
	}
	if m, ok := s.Manifest(); !ok || m.Serial != 5 {
		t.Error("the last good manifest did not stay in force")
	}

	// A stolen timestamp key cannot make one that lives for ever, nor issue in the future.
	forever := newGeneration(t, 1, 5, g.manifest.Previous, func(_ *peermap.Manifest, ts *peermap.Timestamp) {
		ts.Expires = now.Add(365 * 24 * time.Hour).Unix()
	})
	refuse(t, s, ErrValidity, stamp(forever.stampEnv, now))
	future := newGeneration(t, 1, 5, g.manifest.Previous, func(_ *peermap.Manifest, ts *peermap.Timestamp) {
		ts.Issued, ts.Expires = now.Add(time.Hour).Unix(), now.Add(time.Hour+time.Minute).Unix()
	})
	refuse(t, s, ErrFuture, stamp(future.stampEnv, now))

	// The manifest of a fresh timestamp can be expired, or meant to live longer than the root allows.
	dead := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, _ *peermap.Timestamp) {
		m.AsOf, m.Expires = now.Unix()-10, now.Unix()
	})
	refuse(t, must(s.WithTimestamp(dead.stampEnv, now))(t), ErrExpired, manifest(dead.env, now))
	old := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.Expires = now.Add(200 * time.Hour).Unix() })
	refuse(t, must(s.WithTimestamp(old.stampEnv, now))(t), ErrValidity, manifest(old.env, now))

	// Withholding the manifest until its timestamp has expired gains nothing.
	next := newGeneration(t, 1, 6, g.digest, nil)
	refuse(t, must(s.WithTimestamp(next.stampEnv, now))(t), ErrExpired, manifest(next.env, later))
}

func TestAttackFastForwardAndRecovery(t *testing.T) {
	s, _ := current(t)
	// With every online key stolen the attacker runs the serial to its end.
	ahead := newGeneration(t, 1, 1<<64-1, peermap.Digest{}, nil)
	s = accept(t, s, ahead)
	honest := newGeneration(t, 1, 6, peermap.Digest{}, nil)
	refuse(t, s, ErrRollback, stamp(honest.stampEnv, now))

	// The root holders replace the keys and raise the epoch.
	r2 := testRoot(t).Clone()
	r2.Version, r2.Epoch = 2, 2
	r2.Keys = append(r2.Keys, NewRootKey("clock-2", testKey("clock-2").Public()))
	r2.Timestamp = Role{Keys: []string{"clock-2"}, Threshold: 1}
	s = must(s.WithRoot(signRoot(t, r2, "ada", "cleo"), now))(t)
	if s.Serial() != 1<<64-1 || s.Epoch() != 1 {
		t.Error("the bump itself must not take the manifest in force away")
	}
	if f := s.Freshness(now); !f.Stale || !strings.Contains(f.Reason, "epoch 2") {
		t.Errorf("freshness after the bump: %+v", f)
	}
	// What the stolen keys sign no longer counts, in the old epoch or the new.
	refuse(t, s, ErrThreshold, stamp(ahead.stampEnv, now))
	stolen := newGeneration(t, 2, 9, peermap.Digest{}, nil)
	refuse(t, s, ErrThreshold, stamp(stolen.stampEnv, now))
	refuse(t, s, ErrRollback, manifest(ahead.env, now))

	// The honest controller goes on from serial 1.
	fresh := newGeneration(t, 2, 1, peermap.Digest{}, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.RootVersion = 2 })
	fresh.stampEnv = must(SignTimestamp(fresh.stamp, testKey("clock-2")))(t)
	for range 2 { // also after the state was stored in between
		s = must(ParseState(must(s.MarshalJSON())(t)))(t)
		s = accept(t, s, fresh)
	}
	if s.Epoch() != 2 || s.Serial() != 1 || s.Freshness(now).Stale {
		t.Errorf("at %d.%d, %+v", s.Epoch(), s.Serial(), s.Freshness(now))
	}
	// And the old epoch never comes back, even signed by keys that count.
	back := newGeneration(t, 1, 1<<64-1, peermap.Digest{}, nil)
	back.stampEnv = must(SignTimestamp(back.stamp, testKey("clock-2")))(t)
	refuse(t, s, ErrRollback, stamp(back.stampEnv, now))
}

// With the timestamp key alone a thief can announce a serial that does not exist. Taking the key away is enough: no epoch
// need be raised, and what is in force is still protected.
func TestAttackFastForwardByTheTimestampKeyAlone(t *testing.T) {
	s, g := current(t)
	serial := s.Serial()
	ahead := newGeneration(t, 1, 1<<64-1, peermap.Digest{}, nil)
	ahead.sign(t, "clock") // nobody signs its manifest
	s = must(s.WithTimestamp(ahead.stampEnv, now))(t)
	next := newGeneration(t, 1, serial+1, g.digest, nil)
	refuse(t, s, ErrRollback, stamp(next.stampEnv, now))

	r2 := testRoot(t).Clone()
	r2.Version = 2
	r2.Keys = append(r2.Keys, NewRootKey("clock-2", testKey("clock-2").Public()))
	r2.Timestamp = Role{Keys: []string{"clock-2"}, Threshold: 1}
	s = must(s.WithRoot(signRoot(t, r2, "ada", "cleo"), now))(t)
	s = must(ParseState(must(s.MarshalJSON())(t)))(t)
	back := newGeneration(t, 1, serial-1, peermap.Digest{}, nil)
	back.stampEnv = must(SignTimestamp(back.stamp, testKey("clock-2")))(t)
	refuse(t, s, ErrRollback, stamp(back.stampEnv, now))
	refuse(t, s, ErrThreshold, stamp(ahead.stampEnv, now))
	next.stampEnv = must(SignTimestamp(next.stamp, testKey("clock-2")))(t)
	if s = accept(t, s, next); s.Serial() != serial+1 || s.Freshness(now).Stale {
		t.Errorf("at %d.%d, %+v", s.Epoch(), s.Serial(), s.Freshness(now))
	}
}

func TestAttackMixAndMatch(t *testing.T) {
	s, g := current(t)
	next := newGeneration(t, 1, 6, g.digest, nil)
	variant := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.AsOf++ })
	s6 := must(s.WithTimestamp(next.stampEnv, now))(t)
	refuse(t, s6, ErrMismatch, manifest(variant.env, now))
	refuse(t, s6, ErrMismatch, manifest(g.env, now))

	// A timestamp that calls a manifest by another number.
	lying := newGeneration(t, 1, 8, g.digest, func(_ *peermap.Manifest, ts *peermap.Timestamp) { ts.Manifest = next.digest })
	s8 := must(s.WithTimestamp(lying.stampEnv, now))(t)
	refuse(t, s8, ErrMismatch, manifest(next.env, now))

	// Artefacts of another zone and of another network, signed by the very same keys.
	for want, change := range map[error]func(*peermap.Manifest, *peermap.Timestamp){
		ErrWrongZone:    func(m *peermap.Manifest, ts *peermap.Timestamp) { m.Zone, ts.Zone = "dev", "dev" },
		ErrWrongNetwork: func(m *peermap.Manifest, ts *peermap.Timestamp) { m.Network, ts.Network = "evil", "evil" },
	} {
		other := newGeneration(t, 1, 6, g.digest, change)
		refuse(t, s, want, stamp(other.stampEnv, now))
		named := newGeneration(t, 1, 6, g.digest, func(_ *peermap.Manifest, ts *peermap.Timestamp) { ts.Manifest = other.digest })
		refuse(t, must(s.WithTimestamp(named.stampEnv, now))(t), want, manifest(other.env, now))
	}

	// A manifest of an epoch to come, or of a root the agent has not seen: it fetches the root first.
	early := newGeneration(t, 2, 1, peermap.Digest{}, nil)
	refuse(t, s, ErrNewerRoot, stamp(early.stampEnv, now))
	unseen := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.RootVersion = 2 })
	refuse(t, must(s.WithTimestamp(unseen.stampEnv, now))(t), ErrNewerRoot, manifest(unseen.env, now))

	// A view of one generation under the manifest of another.
	if err := s.CheckView(0, g.tree.Size(), next.views[0], next.tree.Proof(0)); err == nil {
		t.Error("the view of another generation was accepted")
	} else {
		wantErr(t, err, ErrProof)
	}
}

func TestAttackEndlessData(t *testing.T) {
	s, g := current(t)
	pad := func(limit int) []byte { return bytes.Repeat([]byte(" "), limit+1) }
	refuse(t, s, ErrTooLarge, root(pad(peermap.MaxRootBytes)))
	refuse(t, s, ErrTooLarge, stamp(pad(peermap.MaxTimestampBytes), now))
	refuse(t, s, ErrTooLarge, manifest(pad(peermap.MaxManifestBytes), now))
	wantErr(t, s.CheckView(0, g.tree.Size(), make([]byte, peermap.MaxViewBytes+1), nil), ErrTooLarge)
	wantErr(t, s.CheckView(0, g.tree.Size(), g.views[0], make([]peermap.Digest, peermap.MaxProofHashes+1)), ErrTooLarge)
	_, err := ParseState(make([]byte, MaxStateBytes+1))
	wantErr(t, err, ErrTooLarge)
	_, err = ParseRoot(make([]byte, peermap.MaxRootBytes+1))
	wantErr(t, err, ErrTooLarge)
}

func TestAttackSameSerialOtherDigest(t *testing.T) {
	s, g := current(t)
	twin := newGeneration(t, 1, 5, g.manifest.Previous, func(m *peermap.Manifest, ts *peermap.Timestamp) {
		m.Commit = strings.Repeat("f", 40)
		ts.Issued++
	})
	refuse(t, s, ErrFork, stamp(twin.stampEnv, now))

	// The same against a serial that is announced but not yet held.
	next := newGeneration(t, 1, 6, g.digest, nil)
	other := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, ts *peermap.Timestamp) { m.AsOf++; ts.Issued++ })
	s6 := must(s.WithTimestamp(next.stampEnv, now))(t)
	refuse(t, s6, ErrFork, stamp(other.stampEnv, now))

	// A direct successor that does not continue the manifest in force.
	torn := newGeneration(t, 1, 6, peermap.DigestOf([]byte("another past")), nil)
	refuse(t, must(s.WithTimestamp(torn.stampEnv, now))(t), ErrFork, manifest(torn.env, now))

	// Over a gap the link cannot be seen; ten generations missed are no obstacle.
	far := newGeneration(t, 1, 15, peermap.DigestOf([]byte("14")), nil)
	if got := accept(t, s, far); got.Serial() != 15 {
		t.Error("a gap stops the agent")
	}
}

func TestAttackRootSkip(t *testing.T) {
	s, _ := current(t)
	for version, want := range map[uint64]error{3: ErrRootSkip, 100: ErrRootSkip} {
		r := testRoot(t).Clone()
		r.Version = version
		refuse(t, s, want, root(signRoot(t, r, "ada", "bob", "cleo")))
	}
	changed := testRoot(t).Clone()
	changed.Manifest.Threshold = 1
	refuse(t, s, ErrRollback, root(signRoot(t, changed, "ada", "bob")))

	r2 := testRoot(t).Clone()
	r2.Version = 2
	s2 := must(s.WithRoot(signRoot(t, r2, "ada", "bob"), now))(t)
	refuse(t, s2, ErrRollback, root(signRoot(t, testRoot(t), "ada", "bob")))
	if again := must(s2.WithRoot(signRoot(t, r2, "bob", "cleo"), now))(t); again.RootVersion() != 2 {
		t.Error("the very root that is held must be accepted without effect")
	}
}

func TestAttackDuplicateKeyUnderTwoIDs(t *testing.T) {
	// A root that lists one key under two names does not even encode (TestRootContradictions), so the attacker writes the
	// bytes by hand: the reader must see it too.
	r := testRoot(t).Clone()
	payload := string(must(r.Encode())(t))
	var bob string
	for _, k := range r.Keys {
		if k.Name == "bob" {
			bob = k.Public
		}
	}
	ada := sshPublic(t, testSSH("ada")).Text()
	twin := strings.Replace(payload, bob, ada, 1)
	if twin == payload {
		t.Fatal("nothing replaced")
	}
	_, err := ParseRoot([]byte(twin))
	wantErr(t, err, ErrInvalidRoot)
	_, err = ParseRoot([]byte(strings.Replace(payload, bob, ada+" bob@laptop", 1)))
	if err == nil {
		t.Error("a comment hides the twin")
	}

	// One signature under two made-up ids: an id that is not the key's own counts for nothing.
	e := must(NewEnvelope(RootType, []byte(payload)).AddSSH(testSSH("ada")))(t)
	e = e.With(Signature{KeyID: strings.Repeat("0", 64), Sig: e.Signatures[0].Sig})
	_, err = VerifyFirstRoot(must(e.Encode())(t), r.Digest(), "acme")
	wantErr(t, err, ErrThreshold)

	// One key's signature under another holder's id.
	e = e.With(Signature{KeyID: sshPublic(t, testSSH("bob")).ID(), Sig: e.Signatures[len(e.Signatures)-1].Sig})
	_, err = VerifyFirstRoot(must(e.Encode())(t), r.Digest(), "acme")
	if err == nil {
		t.Error("ada signed for bob")
	}
}

func TestAttackThresholdWithOneKeyTwice(t *testing.T) {
	g := newGeneration(t, 1, 6, peermap.Digest{}, nil)
	s := must(rooted(t).WithTimestamp(g.stampEnv, now))(t)
	id, sig := testKey("controller").Public().ID(), testKey("controller").Sign(PAE(peermap.ManifestType, must(g.manifest.Encode())(t)))
	twice := &Envelope{PayloadType: peermap.ManifestType, Payload: must(g.manifest.Encode())(t), Signatures: []Signature{{id, sig}, {id, sig}}}
	raw := must(encodeCanonical(twice))(t)
	refuse(t, s, ErrFormat, manifest(raw, now))
	upper := bytes.Replace(raw, []byte(id), []byte(strings.ToUpper(id)), 1)
	refuse(t, s, ErrFormat, manifest(upper, now))
	if _, err := s.Root().CheckManifest(twice); !errors.Is(err, ErrFormat) {
		t.Errorf("an envelope built in memory: %v", err)
	}
	// The same key signing as controller and under the witness's id.
	twice.Signatures = nil
	forged := NewEnvelope(twice.PayloadType, twice.Payload).With(Signature{id, sig}).
		With(Signature{testKey("witness-a").Public().ID(), sig})
	refuse(t, s, ErrSignature, manifest(must(forged.Encode())(t), now))
}

// The signatures are good here: a signer with a careless encoder must not open a second reading of its bytes.
func TestAttackNullAndDuplicateJSONKeys(t *testing.T) {
	s, g := current(t)
	next := newGeneration(t, 1, 6, g.digest, nil)
	payload := string(must(next.stamp.Encode())(t))
	for name, text := range map[string]string{
		"null":            strings.Replace(payload, `"serial":6`, `"serial":null`, 1),
		"null manifest":   strings.Replace(payload, `"manifest":"`+next.digest.String()+`"`, `"manifest":null`, 1),
		"duplicate":       strings.Replace(payload, `"serial":6`, `"serial":5,"serial":6`, 1),
		"duplicate same":  strings.Replace(payload, `"serial":6`, `"serial":6,"serial":6`, 1),
		"case-folded":     strings.Replace(payload, `"serial":6`, `"serial":6,"Serial":9`, 1),
		"unknown":         strings.Replace(payload, `"serial":6`, `"serial":6,"more":1`, 1),
		"trailing":        payload + payload,
		"only null":       "null",
		"space":           payload + " ",
		"escaped letters": strings.Replace(payload, `"acme"`, `"\u0061cme"`, 1),
	} {
		if text == payload {
			t.Fatal(name)
		}
		e := must(SignEd25519(peermap.TimestampType, []byte(text), testKey("clock")))(t)
		refuse(t, s, ErrFormat, stamp(must(e.Encode())(t), now))
	}
	s = must(s.WithTimestamp(next.stampEnv, now))(t)
	payload = string(must(next.manifest.Encode())(t))
	for _, old := range []string{`"suspended":false`, `"views":5`} {
		for _, bad := range []string{old + "," + old, strings.Split(old, ":")[0] + ":null"} {
			text := strings.Replace(payload, old, bad, 1)
			e := must(SignEd25519(peermap.ManifestType, []byte(text), testKey("controller"), testKey("witness-a")))(t)
			refuse(t, s, ErrFormat, manifest(must(e.Encode())(t), now))
		}
	}
}

func TestAttackViewForAnotherNode(t *testing.T) {
	s, g := current(t)
	size := g.tree.Size()
	for i := range size {
		if err := s.CheckView(i, size, g.views[i], g.tree.Proof(i)); err != nil {
			t.Errorf("view %d: %v", i, err)
		}
	}
	// Another node's leaf with my proof, my leaf with another's proof, and with another index or size.
	for _, err := range []error{
		s.CheckView(1, size, g.views[2], g.tree.Proof(1)),
		s.CheckView(1, size, g.views[1], g.tree.Proof(2)),
		s.CheckView(2, size, g.views[1], g.tree.Proof(1)),
		s.CheckView(1, size+1, g.views[1], g.tree.Proof(1)),
		s.CheckView(size, size, g.views[1], g.tree.Proof(1)),
		s.CheckView(1<<63, size, g.views[1], g.tree.Proof(1)),
		s.CheckView(1, size, nil, g.tree.Proof(1)),
		s.CheckView(1, size, g.views[1], nil),
		s.CheckView(1, size, g.views[1], append(g.tree.Proof(1), peermap.Digest{})),
		s.CheckView(1, size, append(bytes.Clone(g.views[1]), 0), g.tree.Proof(1)),
	} {
		wantErr(t, err, ErrProof)
	}
	// Another node's leaf with its own good proof.
	_, err := s.CheckNodeView("node-1", 2, size, g.views[2], g.tree.Proof(2))
	wantErr(t, err, ErrWrongNode)
	v, err := s.CheckNodeView("node-1", 1, size, g.views[1], g.tree.Proof(1))
	if err != nil || v.Node != "node-1" {
		t.Errorf("my own view: %q, %v", v.Node, err)
	}
	// A leaf that a careless compiler put under the wrong zone, network, or not as a view at all.
	for want, leaf := range map[error][]byte{
		ErrWrongZone:    testView(t, "acme", "dev", "node-1", 1),
		ErrWrongNetwork: testView(t, "evil", "prod", "node-1", 1),
		ErrFormat:       []byte("no view"),
	} {
		tree := peermap.NewTree([][]byte{leaf})
		odd := newGeneration(t, 1, 6, g.digest, func(m *peermap.Manifest, _ *peermap.Timestamp) { m.ViewsRoot, m.Views = tree.Root(), 1 })
		_, err := accept(t, s, odd).CheckNodeView("node-1", 0, 1, leaf, nil)
		wantErr(t, err, want)
	}
	wantErr(t, rooted(t).CheckView(0, 1, g.views[0], nil), ErrNoManifest)
}
