// Package compile turns a repository into what is served: for each zone the views, classes and blocks of a generation
// and the Merkle tree over the views. It is a pure, deterministic function: the same documents and facts give the same
// bytes on any machine, in whatever order the documents came, so that a witness can recompute and co-sign.
//
// The work follows rules and classes, never pairs of nodes:
//
//	Node documents ─▶ records (what peers may know)
//	                     │ which rule sides select the node, which prefixes it carries (policy.Rules, policy.Routes)
//	                     ▼
//	                  classes: nodes that no rule tells apart        units: nodes with the same selectors ─▶ blocks
//	                     │ rules × classes                              │
//	                     ▼                                              ▼
//	                  layouts: which units a class sees, in which groups, under which rules
//	                     │ blocks filled in
//	                     ▼
//	                  Class artefacts ─▶ views ─▶ tree
//
// Each arrow is a function of what stands left of it. Incremental keeps the results of the previous compile and takes
// one over wherever its inputs are the same; Compile is Incremental without a past, so both give the same bytes.
package compile

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// Version names the output format and the semantics of this compiler. Witnesses compare only equal versions.
const Version = "2"

// ErrInvalid says that a repository breaks a rule that no host may ever see broken. What wraps it names every object.
var ErrInvalid = errors.New("the repository does not compile")

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
	// Repo holds the documents. Its trust root says which routes a zone may claim; without one no claim is judged.
	Repo *spec.Repository
	// Files are the repository's files in any order, each path once.
	Files []Blob
	// Bindings are the lists of bindings (binding.List) by which the repository's enrolled nodes are members, by zone, as
	// identity.Admit gives both. Each must say exactly what the documents of its zone say.
	Bindings map[string][]byte
	Facts    Facts
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
	// Inputs is the Inputs artefact: one line per file, sorted by path, in the format of sha256sum
	// ("<hex digest>  <path>\n"). InputsDigest is its digest, which goes into the manifest.
	Inputs       []byte
	InputsDigest peermap.Digest
	// Bindings is the zone's list of bindings, empty if no node has enrolled; BindingsDigest is its digest, which goes into
	// the manifest, zero for the empty list.
	Bindings       []byte
	BindingsDigest peermap.Digest
	Facts          Facts
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

// Stats says what a compile built anew, for metrics and tests.
type Stats struct {
	Zones, Records, Blocks, Classes, Views int
}

func (s *Stats) add(o Stats) {
	s.Zones += o.Zones
	s.Records += o.Records
	s.Blocks += o.Blocks
	s.Classes += o.Classes
	s.Views += o.Views
}

// Compile compiles every zone of the repository, by zone name. It fails with ErrInvalid as a whole: one zone that breaks
// a rule keeps the commit from being published.
func Compile(in Input) (map[string]*Zone, error) {
	zones, _, err := NewIncremental().Compile(in)
	return zones, err
}

// Incremental compiles successive states of a repository, building anew only what changed. It tells unchanged documents
// by their pointers, so a caller should keep parsed documents (spec.Parse) by the digest of their file; documents must not
// be changed after they were given in. Not for use by several goroutines at once.
type Incremental struct {
	states map[string]*state
	files  []Blob
	inputs inputs
}

// NewIncremental gives a compiler that knows no previous state.
func NewIncremental() *Incremental { return &Incremental{} }

// Compile gives exactly what the function Compile gives for in, and counts what it built. After an error the previous
// state is still the one it compares with.
func (c *Incremental) Compile(in Input) (map[string]*Zone, Stats, error) {
	var stats Stats
	made, err := c.makeInputs(in.Files)
	if err != nil {
		return nil, stats, err
	}
	sources, err := split(in.Repo)
	if err != nil {
		return nil, stats, err
	}
	states := make(map[string]*state, len(sources))
	zones := make(map[string]*Zone, len(sources))
	var faults faults
	for _, src := range sources {
		name := src.doc.Value.Metadata.Name
		st, did, err := build(src, in.Facts.AsOf, c.states[name])
		if err != nil {
			faults.add(err)
			continue
		}
		stats.add(did)
		states[name] = st
		zone := st.zone
		zone.Inputs, zone.InputsDigest, zone.Facts = made.text, made.digest, in.Facts
		if zone.Bindings = in.Bindings[name]; len(zone.Bindings) > 0 {
			zone.BindingsDigest = peermap.DigestOf(zone.Bindings)
		}
		faults.add(checkBindings(src, zone.Bindings))
		zones[name] = &zone
	}
	faults.add(checkHosts(sources))
	if err := faults.err(); err != nil {
		return nil, stats, err
	}
	c.states, c.inputs, c.files = states, made, slices.Clone(in.Files)
	return zones, stats, nil
}

// Manifest is the manifest of the zone as the generation (epoch, serial).
func (z *Zone) Manifest(epoch, serial uint64, previous peermap.Digest, expires time.Time) peermap.Manifest {
	return peermap.Manifest{
		Type: peermap.ManifestType, Network: z.Network, Zone: z.Zone, Epoch: epoch, Serial: serial, Previous: previous,
		Commit: z.Facts.Commit, AsOf: z.Facts.AsOf.Unix(), Inputs: z.InputsDigest, Bindings: z.BindingsDigest, Compiler: Version,
		RootVersion: z.Facts.RootVersion, ViewsRoot: z.Tree.Root(), Views: z.Tree.Size(), Suspended: z.Suspended,
		Expires: expires.Unix(),
	}
}

// View gives the view of a node.
func (z *Zone) View(node string) (NodeView, bool) {
	i, ok := slices.BinarySearchFunc(z.Views, node, func(v NodeView, name string) int {
		return strings.Compare(v.Node, name)
	})
	if !ok {
		return NodeView{}, false
	}
	return z.Views[i], true
}

// Artefact gives the bytes of a class or block.
func (z *Zone) Artefact(d peermap.Digest) ([]byte, bool) {
	if b, ok := z.Classes[d]; ok {
		return b, true
	}
	b, ok := z.Blocks[d]
	return b, ok
}
