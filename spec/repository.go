package spec

import (
	"cmp"
	"slices"
	"strings"
)

// TrustRootPath is the one place of the TrustRoot.
const TrustRootPath = "trust/root.yaml"

// Repository is everything a network repository says, sorted by (zone, name) whatever files it stood in. Names are
// distinct within a kind (and zone).
type Repository struct {
	Network   *Document[Network]   // nil if missing
	TrustRoot *Document[TrustRoot] // nil if missing
	Zones     []*Document[Zone]
	Nodes     []*Document[Node]
	Policies  []*Document[Policy]
	Tests     []*Document[PolicyTest]

	// incomplete says that some document could not be read, so that a reference that leads nowhere may be right.
	incomplete bool
}

// Zone gives the zone with a name, or nil.
func (r *Repository) Zone(name string) *Document[Zone] {
	i, ok := slices.BinarySearchFunc(r.Zones, name, func(d *Document[Zone], name string) int {
		return strings.Compare(d.Value.Metadata.Name, name)
	})
	if !ok {
		return nil
	}
	return r.Zones[i]
}

// Node gives a node of a zone by name, or nil.
func (r *Repository) Node(zone, name string) *Document[Node] {
	i, ok := slices.BinarySearchFunc(r.Nodes, name, func(d *Document[Node], name string) int {
		m := &d.Value.Metadata
		return cmp.Or(strings.Compare(m.Zone, zone), strings.Compare(m.Name, name))
	})
	if !ok {
		return nil
	}
	return r.Nodes[i]
}

// ZoneNodes gives the nodes of a zone, sorted by name: a part of r.Nodes.
func (r *Repository) ZoneNodes(zone string) []*Document[Node] {
	return inZone(r.Nodes, zone, func(n *Node) string { return n.Metadata.Zone })
}

// ZonePolicies gives the policies of a zone, sorted by name: a part of r.Policies.
func (r *Repository) ZonePolicies(zone string) []*Document[Policy] {
	return inZone(r.Policies, zone, func(p *Policy) string { return p.Metadata.Zone })
}

// ZoneTests gives the policy tests of a zone, sorted by name: a part of r.Tests.
func (r *Repository) ZoneTests(zone string) []*Document[PolicyTest] {
	return inZone(r.Tests, zone, func(t *PolicyTest) string { return t.Metadata.Zone })
}

// inZone cuts the part of a slice sorted by zone that is of one zone.
func inZone[T any](docs []*Document[T], zone string, of func(*T) string) []*Document[T] {
	first, _ := slices.BinarySearchFunc(docs, zone, func(d *Document[T], zone string) int {
		return strings.Compare(of(&d.Value), zone)
	})
	last := first
	for last < len(docs) && of(&docs[last].Value) == zone {
		last++
	}
	return docs[first:last:last]
}
