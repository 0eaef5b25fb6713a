package bench

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/apex-network/apex/internal/gittest"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
)

const (
	networkName = "acme"
	zoneName    = "prod"
)

// shape is a network of one zone to measure with.
type shape struct {
	nodes, groups int
	// segmented: each group reaches itself, and group 0 (monitoring) reaches everybody. Otherwise everybody reaches everybody.
	segmented bool
}

func (s shape) String() string {
	if s.segmented {
		return fmt.Sprintf("segmented/%d", s.nodes)
	}
	return fmt.Sprintf("allow-all/%d", s.nodes)
}

// network is a signed repository of that shape with a bare remote beside it.
type network struct {
	shape
	tb     testing.TB
	env    *gittest.Env
	repo   *gittest.Repo
	owner  *gittest.SSHKey
	root   *gittest.TrustRoot
	remote string
	ids    []signer.PrivateKey
	keys   []reconciler.PrivateKey
	edits  int
	// enrols is set where hosts may join by an identity.
	enrols *enrols
}

func newNetwork(tb testing.TB, s shape) *network {
	tb.Helper()
	n := beginNetwork(tb, s)
	n.root.Write(n.repo, n.owner)
	n.repo.Write("network.yaml", "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: "+networkName+"}\n")
	n.repo.Write("zone.yaml", "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: "+zoneName+"}\nspec:\n  ranges: [10.0.0.0/8]\n")
	for i := range s.nodes {
		n.newKeys()
		n.writeNode(i, 51820)
	}
	n.writePolicy(9100)
	n.repo.Commit(n.owner, "Begin")
	n.remote = n.repo.Bare()
	return n
}

// beginNetwork makes keys and a trust root, which is not written yet.
func beginNetwork(tb testing.TB, s shape) *network {
	tb.Helper()
	env := gittest.New(tb)
	n := &network{shape: s, tb: tb, env: env, repo: env.Repo("net"), owner: env.SSHKey("owner")}
	n.root = env.TrustRoot(networkName, 1, n.owner)
	n.root.Maintainer("all", n.owner, []string{"**"})
	return n
}

func (n *network) newKeys() {
	id, key := newKeyPair(n.tb)
	n.ids, n.keys = append(n.ids, id), append(n.keys, key)
}

func newKeyPair(tb testing.TB) (signer.PrivateKey, reconciler.PrivateKey) {
	tb.Helper()
	id, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	var key reconciler.PrivateKey
	if _, err := rand.Read(key[:]); err != nil {
		tb.Fatal(err)
	}
	return id, key
}

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

func address(first byte, i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(first)<<24|uint32(i+1))
	return netip.AddrFrom4(b)
}

// writeNode writes the document of node i; port is that of its endpoint.
func (n *network) writeNode(i, port int) {
	n.tb.Helper()
	public, err := n.keys[i].Public()
	if err != nil {
		n.tb.Fatal(err)
	}
	n.repo.Write(fmt.Sprintf("nodes/%02d/%s.yaml", i/1000, nodeName(i)), fmt.Sprintf(`apiVersion: apex/v1alpha1
kind: Node
metadata: {name: %s, zone: %s, labels: {group: g%03d}}
spec:
  addresses: [%s]
  publicKey: %s
  identityKey: %s
  endpoints: ["%s:%d"]
`, nodeName(i), zoneName, i%n.groups, address(10, i), spec.Key(public), spec.Key(n.ids[i].Raw()), address(203, i), port))
}

// writePolicy writes the zone's policy; port stands in one rule that concerns every node.
func (n *network) writePolicy(port int) {
	n.tb.Helper()
	var b strings.Builder
	b.WriteString("apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: all, zone: " + zoneName + "}\nspec:\n  allow:\n")
	if !n.segmented {
		fmt.Fprintf(&b, "    - {from: [{any: true}], to: [{any: true}], ports: [tcp/22]}\n")
		fmt.Fprintf(&b, "    - {from: [{any: true}], to: [{any: true}], ports: [tcp/%d]}\n", port)
	} else {
		for g := range n.groups {
			fmt.Fprintf(&b, "    - {from: [{labels: {group: g%03d}}], to: [{labels: {group: g%03d}}], ports: [tcp/443]}\n", g, g)
		}
		fmt.Fprintf(&b, "    - {from: [{labels: {group: g000}}], to: [{any: true}], ports: [tcp/%d]}\n", port)
	}
	n.repo.Write("policy.yaml", b.String())
}

// edit is a change that people merge.
type edit string

const (
	policyLine edit = "policyLine" // one line of one rule that concerns every node
	oneNode    edit = "oneNode"    // the endpoint of one node of the last group
	noEffect   edit = "noEffect"   // a file that is no document
)

// push makes an edit, commits it signed and pushes it.
func (n *network) push(e edit) string {
	n.tb.Helper()
	n.edits++
	switch e {
	case policyLine:
		n.writePolicy(10_000 + n.edits)
	case oneNode:
		n.writeNode(n.edited(), 20_000+n.edits)
	case noEffect:
		n.repo.Write("README.md", fmt.Sprintf("Edit %d\n", n.edits))
	}
	return n.merge(string(e))
}

// merge commits what stands in the clone, signed, and pushes it.
func (n *network) merge(message string) string {
	n.tb.Helper()
	commit := n.repo.Commit(n.owner, message)
	n.repo.Git("push", "-q", n.remote, "HEAD:main")
	return commit
}

// edited is the node that oneNode changes.
func (n *network) edited() int { return n.nodes - 1 }

// affected lists the nodes on whose hosts an edit changes something.
func (n *network) affected(e edit) (list []int) {
	for i := range n.nodes {
		group, last := i%n.groups, n.edited()%n.groups
		switch {
		case e == policyLine,
			e == oneNode && i != n.edited() && (!n.segmented || group == last || group == 0):
			list = append(list, i)
		}
	}
	return list
}
