package publish

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// A zone's folder holds one file per kept generation, <epoch>-<serial>.gen, written once and never changed:
//
//	"APEXGEN2" | SHA-256 of the rest | CBOR of record
//
// A file with the magic "APEXGEN1", of controllers that knew no bindings, holds a record without the last field.
//
// A file is complete or it is not there: it is written beside, flushed, and renamed. Its artefacts are named by their
// digests when it is read, and the Merkle root is computed again, so a flipped bit costs a generation, never a wrong one.
const (
	fileMagic  = "APEXGEN2"
	oldMagic   = "APEXGEN1"
	fileSuffix = ".gen"
	// maxFileBytes bounds what is read back: 60 000 views with as many peers in blocks, ten times over.
	maxFileBytes = 1 << 30
)

// ErrCorrupt says that a file is not what was written.
var ErrCorrupt = errors.New("generation file is damaged")

type record struct {
	_         struct{} `cbor:",toarray"`
	Envelope  []byte
	Published int64
	Inputs    []byte
	Nodes     []nodeRecord
	Classes   [][]byte
	Blocks    [][]byte
	Bindings  []byte
}

// oldRecord is what a file with oldMagic holds.
type oldRecord struct {
	_         struct{} `cbor:",toarray"`
	Envelope  []byte
	Published int64
	Inputs    []byte
	Nodes     []nodeRecord
	Classes   [][]byte
	Blocks    [][]byte
}

type nodeRecord struct {
	_        struct{} `cbor:",toarray"`
	Name     string
	Identity []byte
	View     []byte
}

// mark is a place in the order of generations.
type mark struct{ epoch, serial uint64 }

func (m mark) compare(o mark) int {
	return cmp.Or(cmp.Compare(m.epoch, o.epoch), cmp.Compare(m.serial, o.serial))
}

func (m mark) file() string { return fmt.Sprintf("%d-%d%s", m.epoch, m.serial, fileSuffix) }

func parseMark(name string) (mark, bool) {
	base, ok := strings.CutSuffix(name, fileSuffix)
	epoch, serial, dash := strings.Cut(base, "-")
	if !ok || !dash {
		return mark{}, false
	}
	var m mark
	var err1, err2 error
	m.epoch, err1 = strconv.ParseUint(epoch, 10, 64)
	m.serial, err2 = strconv.ParseUint(serial, 10, 64)
	return m, err1 == nil && err2 == nil && m.file() == name
}

func (g *Generation) mark() mark { return mark{g.Manifest.Epoch, g.Manifest.Serial} }

// save makes g durable in dir.
func (g *Generation) save(dir string) error {
	r := record{Envelope: g.Envelope, Published: g.Published.Unix(), Inputs: g.inputs, Bindings: g.bindings}
	for _, n := range g.Nodes {
		r.Nodes = append(r.Nodes, nodeRecord{Name: n.Name, Identity: n.Identity[:], View: n.View})
	}
	for _, d := range sorted(g.classes) {
		r.Classes = append(r.Classes, g.classes[d].Bytes)
	}
	for _, d := range sorted(g.blocks) {
		r.Blocks = append(r.Blocks, g.blocks[d])
	}
	body, err := cbor.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode generation: %w", err)
	}
	sum := sha256.Sum256(body)
	return writeFile(filepath.Join(dir, g.mark().file()), []byte(fileMagic), sum[:], body)
}

func sorted[T any](m map[peermap.Digest]T) []peermap.Digest {
	out := make([]peermap.Digest, 0, len(m))
	for d := range m {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b peermap.Digest) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// load reads a generation back; old lends what it shares with it.
func load(path string, old *Generation) (*Generation, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s: %w: %d bytes", path, ErrCorrupt, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	head := len(fileMagic) + sha256.Size
	if len(data) < head || string(data[:len(fileMagic)]) != fileMagic && string(data[:len(oldMagic)]) != oldMagic {
		return nil, fmt.Errorf("%s: %w: no generation", path, ErrCorrupt)
	}
	if sum := sha256.Sum256(data[head:]); !bytes.Equal(sum[:], data[len(fileMagic):head]) {
		return nil, fmt.Errorf("%s: %w: checksum differs", path, ErrCorrupt)
	}
	r, err := decodeRecord(string(data[:len(fileMagic)]), data[head:])
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	}
	g, err := r.generation(old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	}
	if g.mark().file() != filepath.Base(path) {
		return nil, fmt.Errorf("%s: %w: holds generation %d-%d", path, ErrCorrupt, g.Manifest.Epoch, g.Manifest.Serial)
	}
	return g, nil
}

func decodeRecord(magic string, body []byte) (record, error) {
	mode, err := cbor.DecOptions{MaxArrayElements: 1 << 20}.DecMode()
	if err != nil {
		return record{}, err
	}
	if magic == oldMagic {
		var o oldRecord
		err := mode.Unmarshal(body, &o)
		return record{
			Envelope: o.Envelope, Published: o.Published, Inputs: o.Inputs, Nodes: o.Nodes, Classes: o.Classes, Blocks: o.Blocks,
		}, err
	}
	var r record
	return r, mode.Unmarshal(body, &r)
}

// generation makes what r describes; old lends what it shares with it.
func (r record) generation(old *Generation) (*Generation, error) {
	env, err := signer.ParseEnvelope(r.Envelope, peermap.MaxManifestBytes)
	if err != nil {
		return nil, err
	}
	g := &Generation{Envelope: r.Envelope, Digest: peermap.DigestOf(env.Payload), Published: time.Unix(r.Published, 0)}
	if g.Manifest, err = peermap.ParseManifest(env.Payload); err != nil {
		return nil, err
	}
	g.inputs = r.Inputs
	if err := g.takeBindings(r.Bindings, g.Manifest.Bindings); err != nil {
		return nil, err
	}
	if err := g.readArtefacts(r, old); err != nil {
		return nil, err
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	if g.Tree.Root() != g.Manifest.ViewsRoot || g.Tree.Size() != g.Manifest.Views {
		return nil, errors.New("views are not those of the manifest")
	}
	return g, nil
}

func (g *Generation) readArtefacts(r record, old *Generation) error {
	g.blocks = make(map[peermap.Digest][]byte, len(r.Blocks))
	for _, b := range r.Blocks {
		d := peermap.DigestOf(b)
		if old != nil {
			if same, ok := old.blocks[d]; ok {
				b = same
			}
		}
		g.blocks[d] = b
	}
	g.classes = make(map[peermap.Digest]*Class, len(r.Classes))
	for _, b := range r.Classes {
		if err := g.addClass(peermap.DigestOf(b), b, old); err != nil {
			return err
		}
	}
	leaves := make([]peermap.Digest, len(r.Nodes))
	for i, n := range r.Nodes {
		node := Node{Name: n.Name, View: n.View, Digest: peermap.DigestOf(n.View)}
		if copy(node.Identity[:], n.Identity) != len(node.Identity) {
			return fmt.Errorf("identity key of %s", n.Name)
		}
		if err := node.readClass(old); err != nil {
			return err
		}
		g.Nodes = append(g.Nodes, node)
		leaves[i] = peermap.LeafHash(n.View)
	}
	var base peermap.Tree
	if old != nil {
		base = *old.Tree
	}
	g.Tree = base.With(leaves)
	return nil
}

// listZone gives the marks of a zone's files, oldest first.
func listZone(dir string) ([]mark, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var marks []mark
	for _, e := range entries {
		if m, ok := parseMark(e.Name()); ok {
			marks = append(marks, m)
		}
	}
	slices.SortFunc(marks, mark.compare)
	return marks, nil
}

// writeFile writes the parts to path so that after a crash there is the old file or the whole new one.
func writeFile(path string, parts ...[]byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(err, removeIfThere(f.Name())))
		}
	}()
	for _, p := range parts {
		if _, err := f.Write(p); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes dir and clears what an interrupted write left in it.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := removeIfThere(path); err != nil {
			return err
		}
	}
	return nil
}
