// Package publish turns compiled zones into signed generations and keeps them: it numbers and signs manifests, waits for
// witnesses where the trust root asks for more signatures than the controller can give, writes what is published to disk
// before anybody sees it, and re-signs timestamps and manifests before they expire.
//
// It promises that nothing it was given replaces a good generation unless it is complete, signed by a quorum and durable;
// that no two manifests ever leave the process under one (epoch, serial); and that after a restart the last generation
// is served from disk without compiling anything.
//
//	          Publish                    enough signatures
//	empty ───────────────▶ pending ───────────────────────────▶ published ◀─┐ Maintain: new timestamp
//	                          ▲                                      │  │   ─┘
//	                          └──── Publish, or Maintain near expiry ┘  │ Publish of a suspended zone
//	                                (published stays served)            ▼
//	                                                                 frozen: as published, signed again as suspended
package publish

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

// Generation is one signed state of a zone. It is immutable and shares bytes with its neighbours.
type Generation struct {
	Manifest peermap.Manifest
	// Digest is that of the manifest's payload; Envelope carries the payload and its signatures.
	Digest    peermap.Digest
	Envelope  []byte
	Published time.Time
	content
}

// content is what a generation says, whoever signed it and under whatever number.
type content struct {
	// Nodes are sorted by name; a node's index is its leaf index in Tree.
	Nodes []Node
	Tree  *peermap.Tree
	// inputs is the artefact whose digest the manifest carries.
	inputs []byte
	// bindings is the list of the enrolled nodes' bindings, whose digest the manifest carries; empty if there are none.
	bindings []byte
	enrolled map[string]peermap.Digest // node → digest of its binding
	classes  map[peermap.Digest]*Class
	blocks   map[peermap.Digest][]byte
}

// Node is one member of a generation.
type Node struct {
	Name string
	// Identity is the Ed25519 key with which the node proves itself.
	Identity peermap.Key
	// View is the leaf, Digest its digest, Class the digest of the class it points to.
	View   []byte
	Digest peermap.Digest
	Class  peermap.Digest
}

// Class is a class with the blocks it refers to.
type Class struct {
	Bytes  []byte
	Blocks []peermap.Digest // in the order of the class, each once
	set    map[peermap.Digest]struct{}
}

// Has reports whether the class refers to a block.
func (c *Class) Has(block peermap.Digest) bool {
	_, ok := c.set[block]
	return ok
}

// Node finds a member by name.
func (c *content) Node(name string) (node *Node, index uint64, ok bool) {
	i, ok := slices.BinarySearchFunc(c.Nodes, name, func(n Node, name string) int { return strings.Compare(n.Name, name) })
	if !ok {
		return nil, 0, false
	}
	return &c.Nodes[i], uint64(i), true
}

// Class finds a class by digest.
func (c *content) Class(d peermap.Digest) (*Class, bool) {
	class, ok := c.classes[d]
	return class, ok
}

// Block finds a block's bytes by digest.
func (c *content) Block(d peermap.Digest) ([]byte, bool) {
	b, ok := c.blocks[d]
	return b, ok
}

// Bindings is the list of the bindings that entered the compile (package binding); empty if there were none.
func (c *content) Bindings() []byte { return c.bindings }

// Enrolled gives the digest of the binding by which a node is a member; false for a node of git.
func (c *content) Enrolled(node string) (peermap.Digest, bool) {
	d, ok := c.enrolled[node]
	return d, ok
}

// EnrolledCount counts the members that are not of git.
func (c *content) EnrolledCount() int { return len(c.enrolled) }

// Members tells the nodes of git from the enrolled ones, both sorted by name.
func (c *content) Members() (static, enrolled []string) {
	for _, n := range c.Nodes {
		if _, ok := c.enrolled[n.Name]; ok {
			enrolled = append(enrolled, n.Name)
		} else {
			static = append(static, n.Name)
		}
	}
	return static, enrolled
}

// takeBindings takes over a list whose digest the manifest carries: zero for the empty list.
func (c *content) takeBindings(list []byte, want peermap.Digest) error {
	if len(list) == 0 {
		if want != (peermap.Digest{}) {
			return errors.New("the list of bindings is missing")
		}
		return nil
	}
	if peermap.DigestOf(list) != want {
		return errors.New("the list of bindings is not that of the manifest")
	}
	entries, err := binding.ParseList(list)
	if err != nil {
		return err
	}
	c.bindings, c.enrolled = list, make(map[string]peermap.Digest, len(entries))
	for _, e := range entries {
		c.enrolled[e.Node] = e.Digest
	}
	return nil
}

// Artefacts counts the classes and blocks.
func (c *content) Artefacts() int { return len(c.classes) + len(c.blocks) }

// Artefact gives the bytes of a class or block if node may see it: its own class, or a block of that.
func (c *content) Artefact(node *Node, d peermap.Digest) ([]byte, bool) {
	class, ok := c.classes[node.Class]
	if !ok {
		return nil, false
	}
	if d == node.Class {
		return class.Bytes, true
	}
	if !class.Has(d) {
		return nil, false
	}
	return c.Block(d)
}

// fromCompile takes over a compiled zone; old lends what it has decoded already.
func fromCompile(z *compile.Zone, old *Generation) (content, error) {
	c := content{Tree: z.Tree, inputs: z.Inputs, blocks: z.Blocks, classes: make(map[peermap.Digest]*Class, len(z.Classes))}
	if err := c.takeBindings(z.Bindings, z.BindingsDigest); err != nil {
		return content{}, err
	}
	for d, b := range z.Classes {
		if err := c.addClass(d, b, old); err != nil {
			return content{}, err
		}
	}
	c.Nodes = make([]Node, len(z.Views))
	for i, v := range z.Views {
		n := Node{Name: v.Node, Identity: v.IdentityKey, View: v.Leaf, Digest: v.Digest}
		if err := n.readClass(old); err != nil {
			return content{}, err
		}
		c.Nodes[i] = n
	}
	return c, c.check()
}

// readClass fills in Class, from the same view of old if there is one, else by decoding.
func (n *Node) readClass(old *Generation) error {
	if old != nil {
		if o, _, ok := old.Node(n.Name); ok && o.Digest == n.Digest {
			n.Class = o.Class
			return nil
		}
	}
	v, err := peermap.DecodeView(n.View)
	if err != nil {
		return fmt.Errorf("view of %s: %w", n.Name, err)
	}
	n.Class = v.Class
	return nil
}

func (c *content) addClass(d peermap.Digest, b []byte, old *Generation) error {
	if old != nil {
		if class, ok := old.classes[d]; ok {
			c.classes[d] = class
			return nil
		}
	}
	decoded, err := peermap.DecodeClass(b)
	if err != nil {
		return fmt.Errorf("class %s: %w", d, err)
	}
	class := &Class{Bytes: b, set: map[peermap.Digest]struct{}{}}
	for _, block := range decoded.Blocks() {
		if !class.Has(block) {
			class.set[block] = struct{}{}
			class.Blocks = append(class.Blocks, block)
		}
	}
	c.classes[d] = class
	return nil
}

// check demands that every reference leads somewhere, so that serving cannot run into a hole.
func (c *content) check() error {
	for d, class := range c.classes {
		for _, b := range class.Blocks {
			if _, ok := c.blocks[b]; !ok {
				return fmt.Errorf("class %s: block %s is missing", d, b)
			}
		}
	}
	for i, n := range c.Nodes {
		if _, ok := c.classes[n.Class]; !ok {
			return fmt.Errorf("view of %s: class %s is missing", n.Name, n.Class)
		}
		if i > 0 && c.Nodes[i-1].Name >= n.Name {
			return fmt.Errorf("view of %s: nodes are not in order", n.Name)
		}
	}
	if c.Tree.Size() != uint64(len(c.Nodes)) {
		return fmt.Errorf("%d nodes in a tree of %d leaves", len(c.Nodes), c.Tree.Size())
	}
	return nil
}

// sameAs reports whether publishing z would say nothing that g does not say: the same commit under the same root with
// the same result. When the compile took place does not matter.
func (g *Generation) sameAs(z *compile.Zone, epoch uint64) bool {
	m := g.Manifest
	return m.Epoch == epoch && m.Commit == z.Facts.Commit && m.RootVersion == z.Facts.RootVersion && m.Compiler == compile.Version &&
		m.Inputs == peermap.DigestOf(z.Inputs) && m.Bindings == z.BindingsDigest && m.ViewsRoot == z.Tree.Root() && m.Suspended == z.Suspended
}
