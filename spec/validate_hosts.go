package spec

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/diag"
)

// maxMemberships bounds the zones of one host: one interface each.
const maxMemberships = 64

// checkHosts reports what one host cannot be at once: a node of zones whose prefixes overlap, or one that listens twice
// on the same port. The hosts with the same zones are judged together.
func (c *checker) checkHosts() {
	memberships := map[string][]*Document[Node]{} // by host, in order of zones
	for _, n := range c.repo.Nodes {
		if c.zones[n.Value.Metadata.Zone] != nil {
			name := n.Value.Metadata.Name
			memberships[name] = append(memberships[name], n)
		}
	}
	groups := map[string][][]*Document[Node]{} // hosts by their zones
	for _, host := range slices.Sorted(maps.Keys(memberships)) {
		nodes := memberships[host]
		if len(nodes) < 2 {
			continue
		}
		if len(nodes) > maxMemberships {
			c.errorf(nodes[maxMemberships], "metadata.zone", diag.TooManyDocuments, "",
				"host %s is in %d zones; at most %d are possible", host, len(nodes), maxMemberships)
			continue
		}
		c.checkPorts(nodes)
		var zones []string
		for _, n := range nodes {
			zones = append(zones, n.Value.Metadata.Zone)
		}
		key := strings.Join(zones, " ")
		groups[key] = append(groups[key], nodes)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		c.checkZonesApart(strings.Fields(key), groups[key])
	}
}

// checkPorts reports two memberships of one host that listen on the same port.
func (c *checker) checkPorts(nodes []*Document[Node]) {
	taken := map[uint16]string{}
	for _, n := range nodes {
		m := n.Value.Metadata
		port := cmp.Or(n.Value.Spec.ListenPort, c.zones[m.Zone].doc.Value.Spec.ListenPort, DefaultListenPort)
		if other, ok := taken[port]; ok {
			c.errorf(n, "spec.listenPort", diag.PortClash, "give this node, or its zone, another listenPort",
				"host %s would listen on port %d in zone %s and in zone %s", m.Name, port, other, m.Zone)
			continue
		}
		taken[port] = m.Zone
	}
}

// checkZonesApart reports prefixes of zones that overlap, given the hosts that are in all of them. A prefix that the one
// host carries itself in both zones is no conflict: it knows the way.
func (c *checker) checkZonesApart(zones []string, hosts [][]*Document[Node]) {
	var claims []claim
	for _, name := range zones {
		z := c.zones[name]
		for i, p := range z.doc.Value.Spec.Ranges {
			claims = append(claims, claim{prefix: p, zone: name, doc: z.doc, path: indexed("spec.ranges", i)})
		}
		for _, n := range z.nodes {
			for i, route := range n.Value.Spec.Routes {
				claims = append(claims, claim{prefix: route.Prefix, zone: name, node: n.Value.Metadata.Name, doc: n,
					path: indexed("spec.routes", i) + ".prefix"})
			}
		}
	}
	reported := map[[2]string]bool{}
	sweep(claims, func(outer, inner *claim) bool {
		return outer.zone != inner.zone && victim(outer, inner, hosts) != nil && !reported[zonePair(outer, inner)]
	}, twoPerZone, func(outer, inner *claim) {
		reported[zonePair(outer, inner)] = true
		c.reportZonesOverlap(outer, inner, victim(outer, inner, hosts), len(hosts))
	})
}

// twoPerZone keeps two claims of a zone to one prefix: should one be the host's own, the other still hurts it.
func twoPerZone(equal []*claim, next *claim) bool {
	return fewerThan(2, equal, func(c *claim) bool { return c.zone == next.zone })
}

// victim gives the memberships of the first host that two overlapping claims hurt, or nil.
func victim(a, b *claim, hosts [][]*Document[Node]) []*Document[Node] {
	for _, nodes := range hosts[:min(len(hosts), 2)] {
		if host := nodes[0].Value.Metadata.Name; a.node != host || b.node != host {
			return nodes
		}
	}
	return nil
}

func zonePair(a, b *claim) [2]string { return [2]string{min(a.zone, b.zone), max(a.zone, b.zone)} }

func (c *checker) reportZonesOverlap(a, b *claim, nodes []*Document[Node], hosts int) {
	if a.zone > b.zone {
		a, b = b, a
	}
	at := nodes[slices.IndexFunc(nodes, func(n *Document[Node]) bool { return n.Value.Metadata.Zone == b.zone })]
	others := ""
	if hosts > 1 {
		others = fmt.Sprintf(" (and %d more such hosts)", hosts-1)
	}
	c.errorf(at, "metadata.zone", diag.ZonesOverlap, "give one zone other prefixes, or take the host out of one",
		"host %s%s is in zones %s and %s, which overlap there: %s and %s", at.Value.Metadata.Name, others, a.zone, b.zone, a.describe(), b.describe())
}

// describe says "10.0.0.0/16 (range of zone a)" or "10.0.0.0/16 (behind node n of zone a)".
func (c *claim) describe() string {
	if c.node == "" {
		return fmt.Sprintf("%s (range of zone %s)", c.prefix, c.zone)
	}
	return fmt.Sprintf("%s (behind node %s of zone %s)", c.prefix, c.node, c.zone)
}
