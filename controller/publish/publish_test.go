package publish_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

type fixture struct {
	t     *testing.T
	dir   string
	key   signer.PrivateKey
	root  *signer.Root
	store store.Store
	now   time.Time
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, dir: t.TempDir(), now: time.Unix(1_800_000_000, 0)}
	f.store = store.NewMemory(func() time.Time { return f.now })
	f.key = newKey(t)
	f.setRoot(1, nil)
	return f
}

func newKey(t *testing.T) signer.PrivateKey {
	t.Helper()
	k, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (f *fixture) setRoot(epoch uint64, change func(*signer.Root)) {
	f.t.Helper()
	r := &signer.Root{
		Network: "acme", Version: 1, Epoch: epoch, Keys: []signer.RootKey{signer.NewRootKey("k", f.key.Public())},
		Root: signer.Role{Keys: []string{"k"}}, Manifest: signer.Role{Keys: []string{"k"}}, Timestamp: signer.Role{Keys: []string{"k"}},
	}
	if change != nil {
		change(r)
	}
	var err error
	if f.root, err = r.Canonical(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) open() *publish.Publisher {
	f.t.Helper()
	ledger, err := f.store.Bucket(f.t.Context(), publish.LedgerBucket())
	if err != nil {
		f.t.Fatal(err)
	}
	p, err := publish.Open(publish.Options{
		Network: "acme", Dir: f.dir, Keep: 3, Keys: publish.Keys{Manifest: []signer.PrivateKey{f.key}, Timestamp: []signer.PrivateKey{f.key}},
		Ledger: ledger, Now: func() time.Time { return f.now }, Logger: slog.New(slog.DiscardHandler),
	}, f.root)
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// zones compiles a mesh zone of n nodes.
func (f *fixture) zones(n, commit int) map[string]*compile.Zone {
	f.t.Helper()
	docs := map[string]string{
		"net.yaml":  "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: acme}\n",
		"zone.yaml": "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: prod}\nspec: {ranges: [10.0.0.0/16], default: mesh}\n",
	}
	for i := range n {
		key := spec.Key(peermap.DigestOf(fmt.Append(nil, "wg", i)))
		id := f.identity(i)
		docs[fmt.Sprintf("n%d.yaml", i)] = fmt.Sprintf("apiVersion: apex/v1alpha1\nkind: Node\nmetadata: {name: n%d, zone: prod}\nspec: {addresses: [10.0.0.%d], publicKey: %s, identityKey: %s}\n", i, i+1, key, id)
	}
	var files []spec.File
	for path, text := range docs {
		files = append(files, spec.File{Path: path, Data: []byte(text)})
	}
	repo, problems := spec.Load(files)
	if problems.HasErrors() {
		f.t.Fatal(problems.Err())
	}
	zones, err := compile.Compile(compile.Input{Repo: repo, Facts: compile.Facts{Commit: fmt.Sprintf("%040x", commit), AsOf: f.now, RootVersion: 1}})
	if err != nil {
		f.t.Fatal(err)
	}
	return zones
}

// identity gives the same valid Ed25519 key for the same number.
func (f *fixture) identity(i int) spec.Key {
	f.t.Helper()
	seed := peermap.DigestOf(fmt.Append(nil, "id", i))
	k, err := signer.GenerateKey(bytes.NewReader(seed[:]))
	if err != nil {
		f.t.Fatal(err)
	}
	return spec.Key(k.Raw())
}

func (f *fixture) publish(p *publish.Publisher, n, commit int) *publish.Snapshot {
	f.t.Helper()
	if err := p.Publish(f.t.Context(), f.zones(n, commit), f.root); err != nil {
		f.t.Fatal(err)
	}
	return current(f.t, p)
}

func current(t *testing.T, p *publish.Publisher) *publish.Snapshot {
	t.Helper()
	z, ok := p.Zone("prod")
	if !ok {
		t.Fatal("no zone")
	}
	s, _ := z.Snapshot()
	return s
}

func TestDiskGivesBackWhatWasPublished(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	for i := 1; i <= 5; i++ {
		f.publish(p, i, i)
	}
	want := current(t, p)
	got := current(t, f.open())
	if got.Digest != want.Digest || !bytes.Equal(got.Envelope, want.Envelope) || len(got.Nodes) != 5 || got.Tree.Root() != want.Tree.Root() {
		t.Fatalf("%+v\nwant %+v", got.Manifest, want.Manifest)
	}
	if len(got.Older) != 2 {
		t.Fatalf("%d older generations, 3 are kept in all", len(got.Older))
	}
	for i, n := range want.Nodes {
		if g := got.Nodes[i]; g.Name != n.Name || g.Identity != n.Identity || !bytes.Equal(g.View, n.View) || g.Class != n.Class {
			t.Fatalf("node %s differs", n.Name)
		}
	}
}

func TestDamagedFileCostsAGenerationNotTheOrder(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	f.publish(p, 2, 1)
	good := f.publish(p, 3, 2)
	bad := f.publish(p, 4, 3)
	path := filepath.Join(f.dir, "prod", fmt.Sprintf("1-%d.gen", bad.Manifest.Serial))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func([]byte) []byte{
		func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		func(b []byte) []byte { return b[:len(b)-1] },
		func([]byte) []byte { return nil },
	} {
		if err := os.WriteFile(path, damage(bytes.Clone(data)), 0o600); err != nil {
			t.Fatal(err)
		}
		p = f.open()
		if got := current(t, p); got.Digest != good.Digest {
			t.Fatalf("serves %+v", got.Manifest)
		}
	}
	if next := f.publish(p, 4, 4); next.Manifest.Serial <= bad.Manifest.Serial+1 { // a direct successor must name the lost one
		t.Fatalf("serial %d after the damaged %d", next.Manifest.Serial, bad.Manifest.Serial)
	}
}

func TestNothingIsPublishedTwiceForOneCommit(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	one := f.publish(p, 2, 1)
	f.now = f.now.Add(time.Minute)
	if two := f.publish(p, 2, 1); two.Digest != one.Digest {
		t.Fatalf("another generation for the same commit: %+v", two.Manifest)
	}
}

func TestKeyWithoutTheRoleKeepsTheOldGeneration(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	one := f.publish(p, 2, 1)
	other := newKey(t)
	f.setRoot(1, func(r *signer.Root) {
		r.Keys = append(r.Keys, signer.NewRootKey("other", other.Public()))
		r.Manifest.Keys = []string{"other"}
	})
	if err := p.Publish(t.Context(), f.zones(3, 2), f.root); err == nil {
		t.Fatal("published without a key")
	}
	if s := current(t, p); s.Digest != one.Digest {
		t.Fatal("the good generation is gone")
	}
	z, _ := p.Zone("prod")
	if z.State().Problem == nil {
		t.Fatal("nobody is told")
	}
}

func TestLowerEpochIsRefused(t *testing.T) {
	f := newFixture(t)
	f.setRoot(5, nil)
	p := f.open()
	f.publish(p, 2, 1)
	f.setRoot(4, nil)
	if err := p.Publish(t.Context(), f.zones(2, 2), f.root); err == nil {
		t.Fatal("an older epoch was published")
	}
}

func TestRetiredZoneStaysGoneAndKeepsItsNumbers(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	one := f.publish(p, 2, 1)
	if err := p.Publish(t.Context(), map[string]*compile.Zone{}, f.root); err != nil {
		t.Fatal(err)
	}
	if s := current(t, p); s != nil {
		t.Fatal("a zone that is gone is served")
	}
	p = f.open()
	if s := current(t, p); s != nil {
		t.Fatal("after a restart a zone that is gone is served")
	}
	if two := f.publish(p, 2, 2); two.Manifest.Serial <= one.Manifest.Serial {
		t.Fatalf("serial %d again", two.Manifest.Serial)
	}
}

func TestCosignOfWhatDoesNotWait(t *testing.T) {
	f := newFixture(t)
	p := f.open()
	s := f.publish(p, 2, 1)
	if err := p.Cosign("prod", s.Digest, f.key.Public().ID(), make([]byte, 64)); !errors.Is(err, publish.ErrNotPending) {
		t.Fatal(err)
	}
	if err := p.Cosign("prod", s.Digest, newKey(t).Public().ID(), make([]byte, 64)); !errors.Is(err, publish.ErrNotWitness) {
		t.Fatal(err)
	}
}

func FuzzGenerationFile(f *testing.F) {
	f.Add([]byte("APEXGEN1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fx := newFixture(t)
		dir := filepath.Join(fx.dir, "prod")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "1-1.gen"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if s := current(t, fx.open()); s != nil {
			t.Fatal("rubbish is served")
		}
	})
}
