// Package compile turns a repository into what is served: for each zone the views, classes and blocks of a generation
// and the Merkle tree over the views. It is a pure, deterministic function: the same documents and facts give the same
// bytes on any machine, in whatever order the documents came, so that a witness can recompute and co-sign.
package compile

import (
	"errors"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// Version names the output format and the semantics of this compiler. Witnesses compare only equal versions.
const Version = "1"

// Facts is what a compile knows besides the documents.
type Facts struct {
	// Commit is the full object name in lower-case hex.
	Commit string
	// AsOf is the compile's now, to the second: rules whose notAfter is not later are left out.
	AsOf time.Time
	// RootVersion is the version of the trust root the commit was judged by.
	RootVersion uint64
}

// Blob is one input file with the digest of its content.
type Blob struct {
	Path   string
	Digest peermap.Digest
}

// Input is everything that enters a compile.
type Input struct {
	Repo *spec.Repository
	// Files are the repository's files in any order, each path once.
	Files []Blob
	Facts Facts
}

// Zone is a compiled zone: everything of a generation but epoch, serial, previous manifest and expiry. It is immutable;
// zones of successive compiles share what did not change.
type Zone struct {
	Network string
	Zone    string
	// Views are sorted by node; a view's index here is its leaf index in Tree.
	Views []NodeView
	// Classes and Blocks are the artefacts the views refer to, by digest.
	Classes map[peermap.Digest][]byte
	Blocks  map[peermap.Digest][]byte
	// Tree is the Merkle tree over the views' bytes.
	Tree *peermap.Tree
	// Inputs is the Inputs artefact, whose digest goes into the manifest: one line per file, sorted by path, in the
	// format of sha256sum ("<hex digest>  <path>\n").
	Inputs []byte
	Facts  Facts
	// Suspended says that the zone asks to keep its published generation; the controller acts on it.
	Suspended bool
}

// NodeView is the view of one node.
type NodeView struct {
	Node   string
	Leaf   []byte         // the view's canonical bytes
	Digest peermap.Digest // of Leaf
	Index  uint64         // leaf index in the zone's tree
	// IdentityKey is the Ed25519 key with which the node proves itself to the controller.
	IdentityKey peermap.Key
}

// Stats says what an incremental compile rebuilt, for metrics and tests.
type Stats struct {
	Zones, Classes, Blocks, Views int
}

// Compile compiles every zone of the repository, by zone name.
func Compile(in Input) (map[string]*Zone, error) { return nil, errors.New("compile: being built") }

// Incremental compiles successive states of a repository, rebuilding only what changed.
type Incremental struct{}

// NewIncremental gives a compiler that knows no previous state.
func NewIncremental() *Incremental { return &Incremental{} }

// Compile gives exactly what the function Compile gives for in.
func (c *Incremental) Compile(in Input) (map[string]*Zone, Stats, error) {
	z, err := Compile(in)
	return z, Stats{}, err
}

// Manifest is the manifest of the zone as the generation (epoch, serial).
func (z *Zone) Manifest(epoch, serial uint64, previous peermap.Digest, expires time.Time) peermap.Manifest {
	return peermap.Manifest{
		Type: peermap.ManifestType, Network: z.Network, Zone: z.Zone, Epoch: epoch, Serial: serial, Previous: previous,
		Commit: z.Facts.Commit, AsOf: z.Facts.AsOf.Unix(), Inputs: peermap.DigestOf(z.Inputs), Compiler: Version,
		RootVersion: z.Facts.RootVersion, ViewsRoot: z.Tree.Root(), Views: z.Tree.Size(), Suspended: z.Suspended,
		Expires: expires.Unix(),
	}
}

// View gives the view of a node.
func (z *Zone) View(node string) (NodeView, bool) { return NodeView{}, false }

// Artefact gives the bytes of a class or block.
func (z *Zone) Artefact(d peermap.Digest) ([]byte, bool) {
	if b, ok := z.Classes[d]; ok {
		return b, true
	}
	b, ok := z.Blocks[d]
	return b, ok
}

// Shrinkage is how many nodes a zone has before and after a change.
type Shrinkage struct {
	Zone          string
	Before, After int
	// Percent is the share of the nodes before that are gone, rounded up: a renamed node counts as gone.
	Percent int
	Emptied bool
}

// Shrink lists the zones of old that lose nodes, sorted by name.
func Shrink(old, new *spec.Repository) []Shrinkage { return nil }
