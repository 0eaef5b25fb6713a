// Package agenttest makes small signed networks and a controller that serves them, honestly or not: the other side of an
// agent under test. Keys come from a seed, so that the same calls give the same artefacts.
package agenttest

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// Network has one root key, one manifest key and one timestamp key. Its methods end the test on an error.
type Network struct {
	t    testing.TB
	Name string
	Root *signer.Root // the newest

	mu    sync.Mutex // guards roots: a controller serves them while a test adds to them
	roots [][]byte   // signed; the first has version 1 and is the pin

	rootKey  ssh.Signer
	Manifest signer.PrivateKey
	Stamp    signer.PrivateKey
}

// NewNetwork makes a network with its first trust root.
func NewNetwork(t testing.TB, name string) *Network {
	t.Helper()
	n := &Network{t: t, Name: name, Manifest: Ed25519(t, name+" manifest"), Stamp: Ed25519(t, name+" timestamp")}
	var err error
	n.rootKey, err = ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed(name + " root")))
	check(t, err)
	root := &signer.Root{
		Network: name, Version: 1, Epoch: 1,
		Keys: []signer.RootKey{n.key("manifest", n.Manifest.Public()), n.key("timestamp", n.Stamp.Public()), n.key("root", sshKey(t, n.rootKey)),
			n.key("enrolment", Ed25519(t, "enrolment").Public())},
		Root:      signer.Role{Keys: []string{"root"}, Threshold: 1},
		Manifest:  signer.Role{Keys: []string{"manifest"}, Threshold: 1},
		Timestamp: signer.Role{Keys: []string{"timestamp"}, Threshold: 1},
		Enrolment: signer.Role{Keys: []string{"enrolment"}, Threshold: 1},
		Maintainers: []signer.MaintainerRule{
			{Name: "all", Keys: []string{"root"}, Paths: []string{"**"}},
		},
	}
	n.AddRoot(root)
	return n
}

func (n *Network) key(name string, key signer.PublicKey) signer.RootKey {
	return signer.NewRootKey(name, key)
}

func sshKey(t testing.TB, s ssh.Signer) signer.PublicKey {
	key, err := signer.SSHKey(s.PublicKey())
	check(t, err)
	return key
}

// Pin is the digest of the first root.
func (n *Network) Pin() peermap.Digest {
	first, _ := n.SignedRoot(1)
	env, err := signer.ParseEnvelope(first, peermap.MaxRootBytes)
	check(n.t, err)
	return peermap.DigestOf(env.Payload)
}

// SignRoot signs a root with the root key.
func (n *Network) SignRoot(root *signer.Root) []byte {
	n.t.Helper()
	payload, err := root.Encode()
	check(n.t, err)
	return n.SignRootPayload(payload)
}

// SignRootPayload signs any bytes as a trust root.
func (n *Network) SignRootPayload(payload []byte) []byte {
	n.t.Helper()
	env, err := signer.NewEnvelope(signer.RootType, payload).AddSSH(n.rootKey)
	check(n.t, err)
	out, err := env.Encode()
	check(n.t, err)
	return out
}

// AddRoot signs a root and makes it the newest.
func (n *Network) AddRoot(root *signer.Root) {
	n.t.Helper()
	canonical, err := root.Canonical()
	check(n.t, err)
	signed := n.SignRoot(canonical)
	n.Root = canonical
	n.mu.Lock()
	defer n.mu.Unlock()
	n.roots = append(n.roots, signed)
}

// SignedRoot gives a signed trust root by its version; false above the newest. Any goroutine may call it.
func (n *Network) SignedRoot(version uint64) ([]byte, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if version < 1 || version > uint64(len(n.roots)) {
		return nil, false
	}
	return n.roots[version-1], true
}

// RootVersion is the number of trust roots there are. Any goroutine may call it.
func (n *Network) RootVersion() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return uint64(len(n.roots))
}

// NextRoot adds the successor of the newest root, changed by edit.
func (n *Network) NextRoot(edit func(*signer.Root)) {
	n.t.Helper()
	next := n.Root.Clone()
	next.Version++
	edit(next)
	n.AddRoot(next)
}

// Node is a member of a zone.
type Node struct {
	peermap.Peer
	Private  reconciler.PrivateKey
	Identity signer.PrivateKey
	// IdentityKey, if set, is known to the controller in place of Identity's: of a node that made its own keys.
	IdentityKey peermap.Key
	Routes      []netip.Prefix
}

func (n Node) identityKey() peermap.Key {
	if n.IdentityKey != (peermap.Key{}) {
		return n.IdentityKey
	}
	return n.Identity.Raw()
}

// Enrolled makes the node that a binding is for.
func Enrolled(b binding.Binding) Node {
	return Node{
		Peer:        peermap.Peer{Name: b.Node, PublicKey: b.PublicKey, Addresses: b.Addresses, NotAfter: b.Expires},
		IdentityKey: b.IdentityKey, Routes: b.Routes,
	}
}

// NewNode makes a node with one IPv4 address in 10.1.0.0/16.
func (n *Network) NewNode(name string, index int) Node {
	n.t.Helper()
	private := WireGuard(n.t, n.Name+" "+name)
	public, err := private.Public()
	check(n.t, err)
	return Node{
		Peer: peermap.Peer{
			Name: name, PublicKey: peermap.Key(public),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(index >> 8), byte(index)})},
		},
		Private: private, Identity: Ed25519(n.t, n.Name+" identity "+name),
	}
}

// Zone is what a generation is made from. Every node sees every other.
type Zone struct {
	Name   string
	Ranges []netip.Prefix
	Nodes  []Node
	Rules  []peermap.Rule
	// Epoch, Serial, Previous, Issued and Lifetimes number and date the generation.
	Epoch, Serial uint64
	Previous      peermap.Digest
	Issued        time.Time
	Manifest      time.Duration // 0: 24 h
	Stamp         time.Duration // 0: 5 min
	// Edit changes a view or the class before they are encoded, to make what no compiler would.
	EditView  func(node string, v *peermap.View)
	EditClass func(c *peermap.Class)
	Suspended bool
}

// Generation is a signed zone.
type Generation struct {
	Network   *Network
	Zone      Zone
	Manifest  []byte // envelope
	Timestamp []byte // envelope
	Digest    peermap.Digest
	Views     map[string]View
	Artefacts map[peermap.Digest][]byte // classes and blocks

	stamp signer.PrivateKey // what Timestamp is signed with
}

// View is one node's leaf.
type View struct {
	Index, Size uint64
	Bytes       []byte
	Proof       []peermap.Digest
}

// Group is the index of the one peer group of every class.
const Group = 0

// SSHRule lets every node reach every other on tcp/22: an input and an output rule.
func SSHRule(notAfter int64) []peermap.Rule {
	all := peermap.Set{Groups: []uint32{Group}}
	ports := []peermap.PortRange{{Protocol: peermap.TCP, First: 22, Last: 22}}
	return []peermap.Rule{
		{ID: "ssh/0", Hook: peermap.HookInput, From: all, Ports: ports, NotAfter: notAfter},
		{ID: "ssh/0", Hook: peermap.HookOutput, To: all, Ports: ports, NotAfter: notAfter},
	}
}

// Publish compiles and signs a zone.
func (n *Network) Publish(z Zone) *Generation {
	n.t.Helper()
	if len(z.Ranges) == 0 {
		z.Ranges = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	}
	z.Nodes = slices.Clone(z.Nodes) // the caller may go on editing its own while this generation is served
	g := &Generation{Network: n, Zone: z, Views: map[string]View{}, Artefacts: map[peermap.Digest][]byte{}, stamp: n.Stamp}
	nodes := slices.Clone(z.Nodes)
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	base := peermap.Class{Groups: []peermap.Group{{Blocks: g.blocks(nodes)}}, Rules: z.Rules}
	var leaves [][]byte
	shared := peermap.Digest{}
	for _, node := range nodes {
		class := shared
		if class.IsZero() || slices.ContainsFunc(nodes, func(o Node) bool { return len(o.Routes) > 0 }) {
			class = g.class(base, nodes, node.Name)
			shared = class
		}
		v := peermap.View{
			Network: n.Name, Zone: z.Name, Node: node.Name, PublicKey: node.PublicKey, Addresses: node.Addresses,
			Ranges: z.Ranges, Routes: node.Routes, ListenPort: 51820, MTU: 1420, Class: class,
		}
		if z.EditView != nil {
			z.EditView(node.Name, &v)
		}
		encoded, err := peermap.EncodeView(v)
		check(n.t, err)
		leaves = append(leaves, encoded)
	}
	tree := peermap.NewTree(leaves)
	for i, node := range nodes {
		g.Views[node.Name] = View{uint64(i), tree.Size(), leaves[i], tree.Proof(uint64(i))}
	}
	g.sign(tree)
	return g
}

func (g *Generation) blocks(nodes []Node) []peermap.Digest {
	var out []peermap.Digest
	hashes := make(map[string]*peermap.Digest, len(nodes))
	for _, node := range nodes {
		hash := peermap.NameHash(node.Name)
		hashes[node.Name] = &hash
	}
	chunks := peermap.Chunk(nodes, func(n Node) *peermap.Digest { return hashes[n.Name] }, func(n Node) string { return n.Name })
	for _, chunk := range chunks {
		var block peermap.Block
		for _, node := range chunk {
			block.Peers = append(block.Peers, node.Peer)
		}
		encoded, err := peermap.EncodeBlock(block)
		check(g.Network.t, err)
		out = append(out, g.add(encoded))
	}
	return out
}

// class gives the class of one node: the base and the prefixes behind the others.
func (g *Generation) class(base peermap.Class, nodes []Node, self string) peermap.Digest {
	for _, node := range nodes {
		if node.Name == self {
			continue
		}
		for _, prefix := range node.Routes {
			base.Vias = append(base.Vias, peermap.Via{Prefix: prefix, Peer: node.Name})
		}
	}
	slices.SortFunc(base.Vias, func(a, b peermap.Via) int { return peermap.ComparePrefixes(a.Prefix, b.Prefix) })
	if g.Zone.EditClass != nil {
		g.Zone.EditClass(&base)
	}
	encoded, err := peermap.EncodeClass(base)
	check(g.Network.t, err)
	return g.add(encoded)
}

func (g *Generation) add(artefact []byte) peermap.Digest {
	d := peermap.DigestOf(artefact)
	g.Artefacts[d] = artefact
	return d
}

func (g *Generation) sign(tree *peermap.Tree) {
	z, n := g.Zone, g.Network
	lifetime := z.Manifest
	if lifetime == 0 {
		lifetime = 24 * time.Hour
	}
	m := peermap.Manifest{
		Type: peermap.ManifestType, Network: n.Name, Zone: z.Name, Epoch: z.Epoch, Serial: z.Serial, Previous: z.Previous,
		Commit: fmt.Sprintf("%040x", z.Serial), AsOf: z.Issued.Unix(), Inputs: peermap.DigestOf([]byte("inputs")), Compiler: "1",
		RootVersion: n.Root.Version, ViewsRoot: tree.Root(), Views: tree.Size(), Suspended: z.Suspended,
		Expires: z.Issued.Add(lifetime).Unix(),
	}
	payload, err := m.Encode()
	check(n.t, err)
	g.Digest = peermap.DigestOf(payload)
	g.Manifest = Sign(n.t, peermap.ManifestType, payload, n.Manifest)
	g.Timestamp = n.Timestamp(z, g.Digest)
}

// Timestamp signs that a manifest is current, dated z.Issued.
func (n *Network) Timestamp(z Zone, manifest peermap.Digest) []byte {
	n.t.Helper()
	return n.timestamp(z, manifest, n.Stamp)
}

func (n *Network) timestamp(z Zone, manifest peermap.Digest, key signer.PrivateKey) []byte {
	n.t.Helper()
	t := peermap.Timestamp{
		Type: peermap.TimestampType, Network: n.Name, Zone: z.Name, Epoch: z.Epoch, Serial: z.Serial, Manifest: manifest,
		Issued: z.Issued.Unix(), Expires: z.Issued.Add(z.stampLife()).Unix(),
	}
	payload, err := t.Encode()
	check(n.t, err)
	return Sign(n.t, peermap.TimestampType, payload, key)
}

func (z Zone) stampLife() time.Duration {
	if z.Stamp == 0 {
		return 5 * time.Minute
	}
	return z.Stamp
}

// isFresh says whether the timestamp has more than half of its life before it.
func (g *Generation) isFresh(now time.Time) bool {
	age := now.Sub(g.Zone.Issued)
	return age >= 0 && age < g.Zone.stampLife()/2
}

// renewed is the same generation under a new timestamp.
func (g *Generation) renewed(now time.Time) *Generation {
	next := *g
	next.Zone.Issued = now
	next.Timestamp = g.Network.timestamp(next.Zone, g.Digest, g.stamp)
	return &next
}

// Sign makes an envelope.
func Sign(t testing.TB, payloadType string, payload []byte, keys ...signer.PrivateKey) []byte {
	t.Helper()
	env, err := signer.SignEd25519(payloadType, payload, keys...)
	check(t, err)
	out, err := env.Encode()
	check(t, err)
	return out
}

// Ed25519 gives the key that belongs to a text.
func Ed25519(t testing.TB, text string) signer.PrivateKey {
	s := sha256.Sum256([]byte(text))
	key, err := signer.GenerateKey(rand.NewChaCha8(s))
	check(t, err)
	return key
}

// WireGuard gives the private key that belongs to a text.
func WireGuard(t testing.TB, text string) reconciler.PrivateKey {
	key, err := ecdh.X25519().NewPrivateKey(seed("wireguard " + text))
	check(t, err)
	raw := reconciler.PrivateKey(key.Bytes())
	raw[0] &= 248
	raw[31] = raw[31]&127 | 64
	return raw
}

func seed(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:]
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
