package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// asOf is the now of the tests.
func asOf() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

func facts() Facts {
	return Facts{Commit: "0123456789abcdef0123456789abcdef01234567", AsOf: asOf(), RootVersion: 1}
}

// key derives a key that is as incompressible as a real one.
func key(parts ...any) spec.Key { return spec.Key(sha256.Sum256([]byte(fmt.Sprint(parts...)))) }

func doc[T any](v T) *spec.Document[T] { return &spec.Document[T]{Value: v} }

func newRepo(zones ...spec.Zone) *spec.Repository {
	r := &spec.Repository{Network: doc(spec.Network{Metadata: spec.Metadata{Name: "net"}})}
	for _, z := range zones {
		r.Zones = append(r.Zones, doc(z))
	}
	return r
}

func newZone(name string, def spec.Default, ranges ...string) spec.Zone {
	z := spec.Zone{Metadata: spec.Metadata{Name: name}, Spec: spec.ZoneSpec{Default: def}}
	for _, r := range ranges {
		z.Spec.Ranges = append(z.Spec.Ranges, netip.MustParsePrefix(r))
	}
	return z
}

func newNode(zone, name, addr string, labels map[string]string, routes ...spec.NodeRoute) spec.Node {
	return spec.Node{
		Metadata: spec.Metadata{Name: name, Zone: zone, Labels: labels},
		Spec: spec.NodeSpec{
			Addresses: []netip.Addr{netip.MustParseAddr(addr)}, PublicKey: key("wg", zone, name),
			IdentityKey: key("id", zone, name), Routes: routes,
		},
	}
}

func route(prefix string) spec.NodeRoute {
	return spec.NodeRoute{Prefix: netip.MustParsePrefix(prefix)}
}

func newPolicy(zone, name string, rules ...spec.Rule) spec.Policy {
	return spec.Policy{Metadata: spec.Metadata{Name: name, Zone: zone}, Spec: spec.PolicySpec{Allow: rules}}
}

func anyone() spec.Selector                  { return spec.Selector{Any: true} }
func byName(n string) spec.Selector          { return spec.Selector{Node: n} }
func byLabel(k, v string) spec.Selector      { return spec.Selector{Labels: map[string]string{k: v}} }
func byCIDR(p string) spec.Selector          { return spec.Selector{CIDR: netip.MustParsePrefix(p)} }
func sel(s ...spec.Selector) []spec.Selector { return s }

func tcp(port uint16) spec.Port { return spec.Port{Protocol: peermap.TCP, First: port, Last: port} }

// fleet is one zone of n nodes in 200 label groups. With mesh every node sees every node; otherwise each group sees
// itself, and everybody sees and is seen by group 0 (monitoring).
func fleet(n int, def spec.Default) *spec.Repository {
	r := newRepo(newZone("prod", def, "10.0.0.0/8"))
	for i := range n {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 10<<24|uint32(i+1))
		node := newNode("prod", fmt.Sprintf("node-%05d", i), netip.AddrFrom4(b).String(),
			map[string]string{"group": fmt.Sprintf("g%03d", i%200)})
		sum := sha256.Sum256([]byte(node.Metadata.Name))
		node.Spec.Endpoints = []string{fmt.Sprintf("%d.%d.%d.%d:51820", 1+sum[0]%200, sum[1], sum[2], sum[3])}
		r.Nodes = append(r.Nodes, doc(node))
	}
	if def == spec.DefaultMesh {
		return r
	}
	for g := range min(200, n) {
		name := fmt.Sprintf("g%03d", g)
		r.Policies = append(r.Policies, doc(newPolicy("prod", name,
			spec.Rule{From: sel(byLabel("group", name)), To: sel(byLabel("group", name)), Ports: []spec.Port{tcp(443)}},
			spec.Rule{From: sel(byLabel("group", "g000")), To: sel(byLabel("group", name)), Ports: []spec.Port{tcp(9100)}})))
	}
	return r
}

// touched gives a copy of r in which node i is another document with another key.
func touched(r *spec.Repository, i int, salt any) *spec.Repository {
	out := *r
	out.Nodes = slices.Clone(r.Nodes)
	n := r.Nodes[i].Value
	n.Spec.PublicKey = key("wg", n.Metadata.Name, salt)
	out.Nodes[i] = doc(n)
	return &out
}

func mustCompile(t testing.TB, r *spec.Repository) map[string]*Zone {
	t.Helper()
	z, err := Compile(Input{Repo: r, Facts: facts()})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// assemble gives what a node may know, checked as an agent would.
func assemble(t testing.TB, z *Zone, node string) *peermap.Map {
	t.Helper()
	v, ok := z.View(node)
	if !ok {
		t.Fatalf("zone %s has no view of %s", z.Zone, node)
	}
	if err := peermap.VerifyInclusion(z.Tree.Root(), v.Index, z.Tree.Size(), v.Leaf, z.Tree.Proof(v.Index)); err != nil {
		t.Fatal(err)
	}
	m, err := peermap.Assemble(z.Network, z.Zone, node, v.Leaf, z.Artefact)
	if err != nil {
		t.Fatalf("assemble %s: %v", node, err)
	}
	return m
}
