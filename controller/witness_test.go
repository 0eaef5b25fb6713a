package controller_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/witness"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// twoSigners asks for a witness beside the controller.
func twoSigners(t *testing.T, key *signer.PrivateKey) func(*world) {
	return func(w *world) {
		var err error
		if *key, err = signer.GenerateKey(rand.Reader); err != nil {
			t.Fatal(err)
		}
		w.root.Spec.Keys = append(w.root.Spec.Keys, spec.TrustKey{Name: "witness", Ed25519: key.Raw()})
		w.root.Spec.Witnesses = spec.WitnessRole{Keys: []string{"witness"}}
		w.root.Spec.Manifest.Threshold = 2
	}
}

// witness runs one until the test ends or stop is called.
func (w *world) witness(key signer.PrivateKey, dir string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	var log *slog.Logger
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(testWriter{w.t}, nil))
	}
	go func() {
		ended <- witness.Run(ctx, witness.Config{
			Network: w.name, TrustRoot: w.root.Pin(), Remote: gitsource.Remote{URL: w.bare, Branch: "main"}, Dir: dir,
			Controller: w.url(""), Client: w.client, Key: key, Now: w.clock.Now, Logger: log,
		})
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				w.t.Errorf("witness: %v", err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

func TestThresholdOfTwoPublishesNothingAlone(t *testing.T) {
	var key signer.PrivateKey
	w := newWorld(t, twoSigners(t, &key))
	first := w.repo.Head()
	w.start()
	f := w.await("a pending generation", func(f protocol.FleetStatus) bool {
		z := zoneOf(f, "prod")
		return z != nil && z.Pending != nil
	})
	z := zoneOf(f, "prod")
	if z.Current != nil || z.Pending.Have != 1 || z.Pending.Threshold != 2 || !strings.Contains(z.Pending.Missing, "witness") {
		t.Fatalf("%+v", z)
	}
	if resp, _ := w.do(w.as("a", call{path: protocol.TimestampPath(w.name, "prod")})); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("something is served: %d", resp.StatusCode)
	}

	dir := t.TempDir()
	stop := w.witness(key, dir)
	w.published("prod", first)
	a := w.agent("prod", "a")
	s := a.open()
	a.take(s.next(t))

	// With the witness away, the old generation stays and is kept fresh.
	stop()
	w.node("prod", "d", "10.1.0.4")
	second := w.push("Add d")
	w.mustApply(second)
	if z := zoneOf(w.fleet(), "prod"); z.Current.Commit != first || z.Pending == nil || z.Pending.Commit != second {
		t.Fatalf("%+v", z)
	}
	stop = w.witness(key, dir)
	w.published("prod", second)
	if m := a.take(s.next(t)); peerNames(m) != "b c d" {
		t.Fatalf("a sees %s", peerNames(m))
	}
	stop()
}

func TestWitnessRefusesWhatTheBranchDoesNotSay(t *testing.T) {
	var key signer.PrivateKey
	w := newWorld(t, twoSigners(t, &key))
	first := w.repo.Head()
	w.start()
	dir := t.TempDir()
	stop := w.witness(key, dir)
	w.published("prod", first)
	stop()

	// The controller now follows another repository than the witness, with a commit the witness's lacks.
	honest := w.bare
	w.repo.Write("README.md", "unseen by the witness")
	w.repo.Git("clone", "-q", "--bare", honest, w.dir+"/forked.git")
	w.stop()
	w.bare = w.dir + "/forked.git"
	w.writeConfig("")
	w.start()
	unseen := w.push("Only in the fork")
	w.mustApply(unseen)
	w.bare = honest
	w.witness(key, dir)
	f := w.await("a refusal", func(f protocol.FleetStatus) bool {
		z := zoneOf(f, "prod")
		return z != nil && z.Pending != nil && strings.Contains(z.Pending.Missing, "refused")
	})
	if z := zoneOf(f, "prod"); z.Current.Commit != first || !strings.Contains(z.Pending.Missing, "not on the branch") {
		t.Fatalf("%+v", z.Pending)
	}
}

func TestOnlyWitnessesCosign(t *testing.T) {
	var key signer.PrivateKey
	w := newWorld(t, twoSigners(t, &key))
	w.start()
	f := w.await("a pending generation", func(f protocol.FleetStatus) bool { z := zoneOf(f, "prod"); return z != nil && z.Pending != nil })
	digest := zoneOf(f, "prod").Pending.Manifest
	stranger, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pending := call{path: protocol.PendingPath(w.name)}
	for name, c := range map[string]call{
		"stranger":   w.prove(pending, protocol.WitnessSubject(stranger.Public().ID()), stranger),
		"node":       w.as("a", pending),
		"wrong key":  w.prove(pending, protocol.WitnessSubject(key.Public().ID()), stranger),
		"no proof":   pending,
		"no network": w.prove(call{path: protocol.PendingPath("ghost")}, protocol.WitnessSubject(key.Public().ID()), key),
	} {
		if resp, _ := w.do(c); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	send := func(c protocol.Cosign) (*http.Response, []byte) {
		body, err := protocol.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		return w.do(w.prove(call{method: http.MethodPost, path: protocol.CosignPath(w.name), body: body}, protocol.WitnessSubject(key.Public().ID()), key))
	}
	id := key.Public().ID()
	if resp, body := send(protocol.Cosign{Zone: "prod", Digest: digest, KeyID: id, Signature: make([]byte, 64)}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong signature: %d %s", resp.StatusCode, body)
	}
	if resp, body := send(protocol.Cosign{Zone: "prod", Digest: peermap.Digest{1}, KeyID: id, Signature: make([]byte, 64)}); resp.StatusCode != http.StatusConflict {
		t.Errorf("another generation: %d %s", resp.StatusCode, body)
	}
	if resp, body := send(protocol.Cosign{Zone: "prod", Digest: digest, KeyID: stranger.Public().ID(), Signature: make([]byte, 64)}); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("for another key: %d %s", resp.StatusCode, body)
	}
	if z := zoneOf(w.fleet(), "prod"); z.Current != nil {
		t.Fatal("published")
	}
}

func TestPendingSerialsAreNotUsedTwice(t *testing.T) {
	var key signer.PrivateKey
	w := newWorld(t, twoSigners(t, &key))
	pending := func(commit string) protocol.PendingStatus {
		f := w.await("pending", func(f protocol.FleetStatus) bool {
			z := zoneOf(f, "prod")
			return z != nil && z.Pending != nil && z.Pending.Commit == commit
		})
		return *zoneOf(f, "prod").Pending
	}
	w.start()
	one := pending(w.repo.Head())
	w.repo.Write("README.md", "x")
	second := w.push("Second")
	w.mustApply(second)
	two := pending(second)
	w.stop()
	w.clock.Advance(time.Second)
	w.start()
	three := pending(second)
	if one.Serial >= two.Serial || two.Serial >= three.Serial {
		t.Fatalf("serials %d, %d, %d", one.Serial, two.Serial, three.Serial)
	}
}

func TestWitnessSignsASuspension(t *testing.T) {
	var key signer.PrivateKey
	w := newWorld(t, twoSigners(t, &key))
	first := w.repo.Head()
	w.start()
	w.witness(key, t.TempDir())
	w.published("prod", first)
	w.zone("prod", "10.1.0.0/24", "  suspend: true\n")
	w.node("prod", "d", "10.1.0.4")
	w.mustApply(w.push("Suspend"))
	a := w.agent("prod", "a")
	s := a.open()
	for {
		a.take(s.next(t))
		if m, _ := a.state.Manifest(); m.Suspended {
			if m.Commit != first || m.Serial != 2 {
				t.Fatalf("%+v", m)
			}
			break
		}
	}
	w.zone("prod", "10.1.0.0/24", "")
	thawed := w.push("Go on")
	w.mustApply(thawed)
	w.published("prod", thawed)
}

// A stolen controller may want to keep the network as it was: the witness must not help it beyond the manifest's life.
func TestWitnessDoesNotHelpToFreeze(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*world)
		signs  bool
	}{
		"the head is good":       {func(w *world) { w.node("prod", "d", "10.1.0.4") }, false},
		"the head cannot be":     {func(w *world) { w.node("prod", "d", "10.99.0.4") }, true},
		"the head shrinks":       {func(w *world) { w.repo.Git("rm", "-q", "zones/prod/b.yaml", "zones/prod/c.yaml") }, true},
		"the head suspends":      {func(w *world) { w.zone("prod", "10.1.0.0/24", "  suspend: true\n") }, true},
		"the head says the same": {func(*world) {}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var key signer.PrivateKey
			w := newWorld(t, twoSigners(t, &key))
			first := w.repo.Head()
			w.start()
			dir := t.TempDir()
			stop := w.witness(key, dir)
			before := w.published("prod", first)
			stop()
			w.stop()

			// The controller is shown an old copy of the branch, the witness the branch.
			honest := w.bare
			stale := w.dir + "/stale.git"
			w.repo.Git("clone", "-q", "--bare", honest, stale)
			row.change(w)
			if name != "the head says the same" {
				w.push("Go on")
			}
			w.bare = stale
			w.writeConfig("")
			w.clock.Advance(signer.DefaultManifestValidity * 3 / 4)
			w.start()
			w.await("a renewal that waits", func(f protocol.FleetStatus) bool { return zoneOf(f, "prod").Pending != nil })
			w.bare = honest
			w.witness(key, dir)
			f := w.await("a verdict", func(f protocol.FleetStatus) bool {
				z := zoneOf(f, "prod")
				return z.Current.Serial > before.Serial || z.Pending != nil && strings.Contains(z.Pending.Missing, "refused")
			})
			z := zoneOf(f, "prod")
			if signed := z.Current.Serial > before.Serial; signed != row.signs {
				t.Fatalf("signed %t, want %t: %+v", signed, row.signs, z.Pending)
			}
			if !row.signs && !strings.Contains(z.Pending.Missing, "moved on") {
				t.Fatal(z.Pending.Missing)
			}
		})
	}
}

// deaf loses the first verdict on its way to the controller.
type deaf struct {
	http.RoundTripper
	lost atomic.Bool
}

func (d *deaf) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/cosign") && d.lost.CompareAndSwap(false, true) {
		return nil, errors.New("connection lost")
	}
	return d.RoundTripper.RoundTrip(r)
}

// A signature that never arrived is given again: the witness has it on its record already.
func TestLostSignatureIsGivenAgain(t *testing.T) {
	var key signer.PrivateKey
	w := newWorld(t, twoSigners(t, &key))
	w.start()
	d := &deaf{RoundTripper: w.client.Transport}
	w.witnessAs(key, t.TempDir(), func(c *witness.Config) { c.Client = &http.Client{Transport: d} })
	w.published("prod", w.repo.Head())
	if !d.lost.Load() {
		t.Fatal("nothing was lost")
	}
}
