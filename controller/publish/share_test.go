package publish_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/signer"
)

// replica opens a Publisher with a folder of its own over the fixture's store.
func (f *fixture) replica(name string, root *signer.Root) *publish.Publisher {
	f.t.Helper()
	ledger := must(f.store.Bucket(f.t.Context(), publish.LedgerBucket()))
	blobs := must(f.store.Blobs(f.t.Context(), publish.BlobFolder()))
	p, err := publish.Open(publish.Options{
		Network: "acme", Dir: filepath.Join(f.dir, name), Keep: 3,
		Keys:   publish.Keys{Manifest: []signer.PrivateKey{f.key}, Timestamp: []signer.PrivateKey{f.key}},
		Ledger: ledger, Share: &publish.Share{Blobs: blobs, Confirm: func(context.Context) error { return nil }},
		Now: func() time.Time { return f.now }, Logger: slog.New(slog.DiscardHandler),
	}, root)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// followed lets p follow until the test ends.
func (f *fixture) followed(p *publish.Publisher) *publish.Publisher {
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Follow(ctx)
	}()
	f.t.Cleanup(func() { cancel(); <-done })
	return p
}

// serves waits until p serves what leader does, with its timestamp.
func (f *fixture) serves(p, leader *publish.Publisher) {
	f.t.Helper()
	want := current(f.t, leader)
	deadline := time.Now().Add(2 * time.Minute) // only for what hangs
	for time.Now().Before(deadline) {
		if z, ok := p.Zone("prod"); ok {
			if s, _ := z.Snapshot(); s != nil && bytes.Equal(s.Envelope, want.Envelope) && bytes.Equal(s.Timestamp, want.Timestamp) {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatalf("serial %d is not served by the follower", want.Manifest.Serial)
}

// problem waits until p says why it does not follow.
func (f *fixture) problem(p *publish.Publisher, words string) {
	f.t.Helper()
	deadline := time.Now().Add(2 * time.Minute) // only for what hangs
	for time.Now().Before(deadline) {
		if z, ok := p.Zone("prod"); ok {
			if err := z.State().Problem; err != nil && strings.Contains(err.Error(), words) {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
	f.t.Fatalf("no problem with %q", words)
}

func (f *fixture) lead(p *publish.Publisher, term uint64) {
	f.t.Helper()
	if err := p.Lead(f.t.Context(), term); err != nil {
		f.t.Fatal(err)
	}
}

func TestFollowersServeWhatTheLeaderSigned(t *testing.T) {
	f := newFixture(t)
	a, b := f.replica("a", f.root), f.followed(f.replica("b", f.root))
	if err := a.Publish(t.Context(), f.zones(3, 1), f.root); !errors.Is(err, publish.ErrFollowing) {
		t.Fatalf("published without leading: %v", err)
	}
	f.lead(a, 1)
	for commit := 1; commit <= 6; commit++ {
		f.publish(a, 3+commit, commit)
		f.serves(b, a)
	}
	f.now = f.now.Add(f.third())
	f.maintain(a)
	f.serves(b, a) // the new timestamp too
	if err := a.Publish(t.Context(), nil, f.root); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute) // only for what hangs
	for current(t, b) != nil {
		if time.Now().After(deadline) {
			t.Fatal("a retired zone is still served by the follower")
		}
		time.Sleep(time.Millisecond)
	}
	names, err := must(f.store.Blobs(t.Context(), publish.BlobFolder())).Names(t.Context(), "")
	if err != nil || len(names) > 3 {
		t.Errorf("%d generations in the store: %v", len(names), err)
	}
}

func (f *fixture) third() time.Duration {
	return time.Duration(f.root.Validity.Timestamp) * time.Second / 3
}

func TestDeposedLeaderPublishesNothing(t *testing.T) {
	f := newFixture(t)
	a, b := f.replica("a", f.root), f.replica("b", f.root)
	agent := f.follower()
	f.lead(a, 1)
	f.publish(a, 3, 1)
	agent.take(a)
	before := current(t, a)

	f.lead(b, 2) // a sleeps and does not know
	f.now = f.now.Add(f.third())
	if err := a.Publish(t.Context(), f.zones(4, 2), f.root); !errors.Is(err, publish.ErrDeposed) {
		t.Fatalf("published by a deposed leader: %v", err)
	}
	if _, err := a.Maintain(t.Context()); !errors.Is(err, publish.ErrDeposed) {
		t.Fatalf("signed by a deposed leader: %v", err)
	}
	if now := current(t, a); now != before {
		t.Fatal("a deposed leader serves something new")
	}
	if err := a.Lead(t.Context(), 1); !errors.Is(err, publish.ErrDeposed) {
		t.Fatalf("an old term begins again: %v", err)
	}
	f.publish(b, 4, 2)
	agent.take(b)
	f.followed(a)
	f.serves(a, b)
	agent.take(a)
}

func TestTakeoverGoesOnWithTheSerials(t *testing.T) {
	f := newFixture(t)
	agent := f.follower()
	all := []*publish.Publisher{f.replica("a", f.root), f.replica("b", f.root), f.replica("c", f.root)}
	for _, p := range all {
		f.followed(p)
	}
	for i := range 9 {
		p := all[i%3]
		f.lead(p, uint64(i+1))
		f.publish(p, 3, i)
		agent.take(p)
		if serial := current(t, p).Manifest.Serial; serial != uint64(i+1) {
			t.Fatalf("generation %d has serial %d", i+1, serial)
		}
		p.StepDown()
	}
}

func TestLeaderThatDiedBetweenNumberAndGenerationLeavesAGap(t *testing.T) {
	f := newFixture(t)
	agent := f.follower()
	a, b := f.replica("a", f.root), f.replica("b", f.root)
	f.lead(a, 1)
	f.publish(a, 3, 1)
	agent.take(a)
	ctx, die := context.WithCancel(t.Context())
	f.lead(b, 2)
	b.StepDown()
	if err := a.Lead(ctx, 3); err != nil {
		t.Fatal(err)
	}
	die() // what it hands over fails; the number is taken
	if err := a.Publish(t.Context(), f.zones(4, 2), f.root); err == nil {
		t.Fatal("published after its end")
	}
	f.lead(b, 4)
	f.publish(b, 4, 2)
	if serial := current(t, b).Manifest.Serial; serial <= 2 {
		t.Fatalf("serial %d was given out before", serial)
	}
	agent.take(b)
}

func TestSingleControllerBecomesOneOfSeveral(t *testing.T) {
	f := newFixture(t)
	agent := f.follower()
	dir := f.dir
	f.dir = filepath.Join(dir, "a")
	alone := f.open()
	f.publish(alone, 3, 1)
	agent.take(alone)
	f.dir = dir
	f.store = store.NewMemory(func() time.Time { return f.now }) // a new one, outside
	a, b := f.replica("a", f.root), f.followed(f.replica("b", f.root))
	f.lead(a, 1)
	f.maintain(a)
	f.serves(b, a)
	agent.take(b)
	if current(t, b).Manifest.Serial != 1 {
		t.Error("the old generation was not handed over as it is")
	}
}

// A follower trusts signatures, not the store.
func TestFollowerRefusesWhatNoQuorumSigned(t *testing.T) {
	f := newFixture(t)
	stranger := newFixture(t)
	stranger.store, stranger.dir = f.store, filepath.Join(f.dir, "thief")
	thief := stranger.replica("x", stranger.root)
	b := f.replica("b", f.root)
	a := f.replica("a", f.root)
	f.lead(a, 1)
	f.publish(a, 3, 1)
	f.followed(b)
	f.serves(b, a)
	good := current(t, b)

	// Whoever has the store's credentials writes generations under keys of their own.
	ledger := must(f.store.Bucket(t.Context(), publish.LedgerBucket()))
	ok(t, ledger.Delete(t.Context(), "acme.prod"))
	stranger.lead(thief, 9)
	for commit := range 3 {
		stranger.publish(thief, 5, 7+commit)
	}
	f.problem(b, "generation 1-3")
	if now := current(t, b); now.Manifest.Serial != good.Manifest.Serial || now.Digest != good.Digest {
		t.Fatalf("serial %d of a stranger is served", now.Manifest.Serial)
	}
	if files, _ := filepath.Glob(filepath.Join(f.dir, "b", "prod", "*-3.gen")); len(files) != 0 {
		t.Fatalf("kept on disk: %v", files)
	}
	// The next leader goes on above the numbers that were taken, from what it has.
	f.lead(b, 10)
	f.publish(b, 4, 2)
	if s := current(t, b); s.Manifest.Serial <= 3 || len(s.Nodes) != 4 {
		t.Fatalf("serial %d with %d nodes", s.Manifest.Serial, len(s.Nodes))
	}
}

func TestFollowerRefusesRollbackAndFork(t *testing.T) {
	f := newFixture(t)
	a, b := f.replica("a", f.root), f.followed(f.replica("b", f.root))
	f.lead(a, 1)
	f.publish(a, 3, 1)
	f.serves(b, a)
	ledger := must(f.store.Bucket(t.Context(), publish.LedgerBucket()))
	old := must(ledger.Get(t.Context(), "acme.prod"))
	f.publish(a, 4, 2)
	f.serves(b, a)
	good := current(t, b)
	ok(t, ledger.Put(t.Context(), "acme.prod", old))
	f.problem(b, "older than what is served")
	if current(t, b).Digest != good.Digest {
		t.Fatal("an older generation is served")
	}

	// The same key signs another manifest under the same serial, as a leader would whose memory was wound back.
	c := f.replica("c", f.root)
	f.lead(c, 2)
	f.publish(c, 5, 3)
	f.problem(b, "the serial of what is served and other content")
	if current(t, b).Digest != good.Digest {
		t.Fatal("a fork is served")
	}
}

func TestFollowerRefusesDamage(t *testing.T) {
	f := newFixture(t)
	a := f.replica("a", f.root)
	f.lead(a, 1)
	f.publish(a, 3, 1)
	blobs := must(f.store.Blobs(t.Context(), publish.BlobFolder()))
	names := must(blobs.Names(t.Context(), ""))
	data := must(blobs.Get(t.Context(), names[0], 1<<20))
	data[len(data)/2] ^= 1
	ok(t, blobs.Delete(t.Context(), names[0]))
	ok(t, blobs.Put(t.Context(), names[0], data))
	b := f.followed(f.replica("b", f.root))
	f.problem(b, "damaged")
	// It serves the next good one, and has kept nothing of the bad one.
	f.publish(a, 4, 2)
	f.serves(b, a)
	if _, err := os.Stat(filepath.Join(f.dir, "b", "prod", "1-1.gen")); err == nil {
		t.Error("the damaged generation was kept")
	}
}
