package publish

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

// empty is a generation of a zone without nodes, with that list of bindings.
func empty(t *testing.T, list []byte) *Generation {
	t.Helper()
	z := &compile.Zone{Network: "acme", Zone: "prod", Tree: peermap.NewTree(nil), Bindings: list, Facts: compile.Facts{Commit: "0123456789012345678901234567890123456789", AsOf: time.Unix(1_800_000_000, 0), RootVersion: 1}}
	if len(list) > 0 {
		z.BindingsDigest = peermap.DigestOf(list)
	}
	body, err := fromCompile(z, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := z.Manifest(1, 1, peermap.Digest{}, time.Unix(1_900_000_000, 0))
	payload, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	key, err := signer.GenerateKey(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		t.Fatal(err)
	}
	env, err := signer.SignEd25519(peermap.ManifestType, payload, key)
	if err != nil {
		t.Fatal(err)
	}
	g := &Generation{Manifest: m, Digest: peermap.DigestOf(payload), Published: time.Unix(1_800_000_000, 0), content: body}
	if g.Envelope, err = env.Encode(); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestBindingsAreKeptWithTheGeneration(t *testing.T) {
	list := binding.List([]binding.Entry{{Digest: peermap.Digest{1}, Node: "h1"}, {Digest: peermap.Digest{2}, Node: "h2"}})
	g := empty(t, list)
	dir := t.TempDir()
	if err := g.save(dir); err != nil {
		t.Fatal(err)
	}
	back, err := load(dir+"/"+g.mark().file(), nil)
	if err != nil || !bytes.Equal(back.Bindings(), list) {
		t.Fatalf("%v %q", err, back.Bindings())
	}
	if d, ok := back.Enrolled("h2"); !ok || d != (peermap.Digest{2}) || back.EnrolledCount() != 2 {
		t.Fatal(d, ok)
	}
	if got, ok := (&Snapshot{Generation: back}).Bindings(peermap.DigestOf(list)); !ok || !bytes.Equal(got, list) {
		t.Fatal("not found by its digest")
	}
	if _, ok := (&Snapshot{Generation: empty(t, nil)}).Bindings(peermap.Digest{}); ok {
		t.Fatal("a generation without bindings has a list")
	}
	other := *back
	other.bindings = binding.List([]binding.Entry{{Digest: peermap.Digest{3}, Node: "h1"}})
	if err := other.save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := load(dir+"/"+g.mark().file(), nil); err == nil {
		t.Fatal("a list that the manifest does not name was taken")
	}
}

// A generation of a controller that knew no bindings is served after an upgrade.
func TestFilesWithTheOldMagicLoad(t *testing.T) {
	g := empty(t, nil)
	body, err := cbor.Marshal(oldRecord{Envelope: g.Envelope, Published: g.Published.Unix(), Inputs: g.inputs})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	path := t.TempDir() + "/" + g.mark().file()
	if err := writeFile(path, []byte(oldMagic), sum[:], body); err != nil {
		t.Fatal(err)
	}
	back, err := load(path, nil)
	if err != nil || back.Digest != g.Digest || back.EnrolledCount() != 0 {
		t.Fatal(err)
	}
}
