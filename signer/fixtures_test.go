package signer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/spec/peermap"
)

// now is the instant at which the tests' world stands.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testKey gives an Ed25519 key that depends on the name alone.
func testKey(name string) PrivateKey {
	seed := sha256.Sum256([]byte("test key " + name))
	k, err := GenerateKey(bytes.NewReader(seed[:]))
	if err != nil {
		panic(err)
	}
	return k
}

// testSSH gives an SSH Ed25519 signer that depends on the name alone.
func testSSH(name string) ssh.Signer {
	seed := sha256.Sum256([]byte("test ssh key " + name))
	s, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		panic(err)
	}
	return s
}

func sshPublic(t testing.TB, s ssh.Signer) PublicKey {
	t.Helper()
	k, err := SSHKey(s.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecdsaSSH(t testing.TB, curve elliptic.Curve) ssh.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func rsaSSH(t testing.TB, bits int) ssh.Signer {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0") // the tests need a key that is too small
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// rootHolders sign the test root, two of three.
var rootHolders = []string{"ada", "bob", "cleo"}

// testRoot is version 1 of network "acme": root 2 of 3 over SSH, manifest threshold 2 with one witness.
func testRoot(t testing.TB) *Root {
	t.Helper()
	r := &Root{
		Network:     "acme",
		Version:     1,
		Epoch:       1,
		Expires:     now.Add(365 * 24 * time.Hour).Unix(),
		Root:        Role{Keys: rootHolders, Threshold: 2},
		Manifest:    Role{Keys: []string{"controller"}, Threshold: 2},
		Witnesses:   Role{Keys: []string{"witness-a", "witness-b"}},
		Timestamp:   Role{Keys: []string{"clock"}},
		Appliers:    Role{Keys: []string{"ada"}},
		Maintainers: []MaintainerRule{{Name: "platform", Keys: []string{"ada"}, Paths: []string{"**"}}},
		Routes:      []RouteClaim{{Zone: "prod", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}},
	}
	for _, name := range rootHolders {
		r.Keys = append(r.Keys, NewRootKey(name, sshPublic(t, testSSH(name))))
	}
	for _, name := range []string{"controller", "witness-a", "witness-b", "clock"} {
		r.Keys = append(r.Keys, NewRootKey(name, testKey(name).Public()))
	}
	return must(r.Canonical())(t)
}

// signRoot wraps r with SSH signatures of the named holders.
func signRoot(t testing.TB, r *Root, holders ...string) []byte {
	t.Helper()
	e := NewEnvelope(RootType, must(r.Encode())(t))
	for _, name := range holders {
		e = must(e.AddSSH(testSSH(name)))(t)
	}
	return must(e.Encode())(t)
}

// must gives a value or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// wantErr demands a refusal by this reason, in words.
func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	} else if len(err.Error()) < len(want.Error())+10 {
		t.Errorf("error %q explains nothing", err)
	}
}

// generation is one generation of a zone with n views.
type generation struct {
	views    [][]byte
	tree     *peermap.Tree
	manifest peermap.Manifest
	digest   peermap.Digest
	env      []byte
	stamp    peermap.Timestamp
	stampEnv []byte
}

// signers of a generation, by key name.
var manifestSigners = []string{"controller", "witness-a"}

// newGeneration makes and signs a generation of zone prod; change may alter manifest and timestamp before signing.
func newGeneration(t testing.TB, epoch, serial uint64, previous peermap.Digest, change func(*peermap.Manifest, *peermap.Timestamp)) *generation {
	t.Helper()
	g := &generation{}
	for i := range 5 {
		g.views = append(g.views, testView(t, "acme", "prod", fmt.Sprintf("node-%d", i), serial))
	}
	g.tree = peermap.NewTree(g.views)
	g.manifest = peermap.Manifest{
		Type: peermap.ManifestType, Network: "acme", Zone: "prod", Epoch: epoch, Serial: serial, Previous: previous,
		Commit: "0123456789abcdef0123456789abcdef01234567", AsOf: now.Add(-time.Minute).Unix(), Compiler: "1", RootVersion: 1,
		Inputs: peermap.DigestOf([]byte("inputs")), ViewsRoot: g.tree.Root(), Views: g.tree.Size(),
		Expires: now.Add(100 * time.Hour).Unix(),
	}
	g.stamp = peermap.Timestamp{
		Type: peermap.TimestampType, Network: "acme", Zone: "prod", Epoch: epoch, Serial: serial,
		Issued: now.Unix(), Expires: now.Add(10 * time.Minute).Unix(),
	}
	if change != nil {
		change(&g.manifest, &g.stamp)
	}
	g.sign(t, manifestSigners...)
	return g
}

// sign signs the manifest with the named keys and has the clock name it.
func (g *generation) sign(t testing.TB, names ...string) {
	t.Helper()
	var keys []PrivateKey
	for _, name := range names {
		keys = append(keys, testKey(name))
	}
	var err error
	if g.env, g.digest, err = SignManifest(g.manifest, keys...); err != nil {
		t.Fatal(err)
	}
	if g.stamp.Manifest.IsZero() {
		g.stamp.Manifest = g.digest
	}
	g.stampEnv = must(SignTimestamp(g.stamp, testKey("clock")))(t)
}

func testView(t testing.TB, network, zone, node string, serial uint64) []byte {
	t.Helper()
	v := peermap.View{
		Network: network, Zone: zone, Node: node, PublicKey: peermap.Key{1, byte(serial)},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		ListenPort: 51820, MTU: 1420, Class: peermap.DigestOf([]byte("class")),
	}
	return must(peermap.EncodeView(v))(t)
}

// rooted is the state of an agent that has accepted version 1.
func rooted(t testing.TB) State {
	t.Helper()
	r := testRoot(t)
	return must(NewState("acme", "prod", r.Digest()).WithRoot(signRoot(t, r, "ada", "bob"), now))(t)
}

// accept takes timestamp and manifest of g.
func accept(t testing.TB, s State, g *generation) State {
	t.Helper()
	s = must(s.WithTimestamp(g.stampEnv, now))(t)
	return must(s.WithManifest(g.env, now))(t)
}

// current is the state of an agent at generation 1.5.
func current(t testing.TB) (State, *generation) {
	t.Helper()
	g := newGeneration(t, 1, 5, peermap.DigestOf([]byte("4")), nil)
	return accept(t, rooted(t), g), g
}

// unchanged demands that a refusal left the state as it was.
func unchanged(t testing.TB, before, after State) {
	t.Helper()
	a, b := must(before.MarshalJSON())(t), must(after.MarshalJSON())(t)
	if !bytes.Equal(a, b) {
		t.Error("the refused input changed the state")
	}
}

func sha256Sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
