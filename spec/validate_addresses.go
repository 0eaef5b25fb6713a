package spec

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/diag"
)

// checkZones reports what is wrong with the zones' own prefixes.
func (c *checker) checkZones() {
	for _, z := range c.repo.Zones {
		c.checkRanges(z, "spec.ranges", z.Value.Spec.Ranges)
		c.checkRanges(z, "spec.dynamic", z.Value.Spec.Dynamic)
		for i, p := range z.Value.Spec.Dynamic {
			if p.IsValid() && !slices.ContainsFunc(z.Value.Spec.Ranges, func(r netip.Prefix) bool { return contains(r, p) }) {
				c.errorf(z, indexed("spec.dynamic", i), diag.DynamicOutside, "", "dynamic range %s lies in none of the zone's ranges", p)
			}
		}
	}
}

// contains reports whether p equals or lies inside outer.
func contains(outer, p netip.Prefix) bool {
	return outer.IsValid() && outer.Bits() <= p.Bits() && outer.Contains(p.Addr())
}

func (c *checker) checkRanges(z *Document[Zone], path string, ranges []netip.Prefix) {
	for i, p := range ranges {
		if !p.IsValid() {
			continue
		}
		if what := unusable(p); what != "" {
			c.errorf(z, indexed(path, i), diag.RangeUnusable, "use private space such as 10.0.0.0/8, 100.64.0.0/10 or fd00::/8", "%s %s", p, what)
		}
		for j, q := range ranges[:i] { // at most 16 by schema
			if q.IsValid() && q.Overlaps(p) {
				c.errorf(z, indexed(path, i), diag.RangesOverlap, "keep the larger", "%s overlaps %s of %s", p, q, indexed(path, j))
				break
			}
		}
	}
}

// unusable says why hosts cannot hold addresses of p, or "".
func unusable(p netip.Prefix) string {
	for _, special := range []struct{ prefix, why string }{
		{"224.0.0.0/4", "is multicast"},
		{"240.0.0.0/4", "is reserved"},
		{"127.0.0.0/8", "is loopback"},
		{"169.254.0.0/16", "is link-local"},
		{"0.0.0.0/8", "means \"this network\""},
		{"ff00::/8", "is multicast"},
		{"fe80::/10", "is link-local"},
		{"::/127", "is unspecified or loopback"},
		{"::ffff:0:0/96", "is IPv4 dressed as IPv6"},
	} {
		q := netip.MustParsePrefix(special.prefix)
		if contains(q, p) {
			return special.why
		}
		if q.Overlaps(p) {
			return "takes in " + special.prefix + ", which " + special.why
		}
	}
	return ""
}

// checkNodes reports addresses and endpoints that a node cannot have.
func (c *checker) checkNodes() {
	taken := map[netip.Addr]*Document[Node]{}
	for i, n := range c.repo.Nodes {
		if i == 0 || c.repo.Nodes[i-1].Value.Metadata.Zone != n.Value.Metadata.Zone {
			clear(taken)
		}
		z := c.zones[n.Value.Metadata.Zone]
		for i, a := range n.Value.Spec.Addresses {
			if !a.IsValid() {
				continue
			}
			if first := taken[a]; first != nil {
				c.errorf(n, indexed("spec.addresses", i), diag.DuplicateAddress, "`apex node add` picks a free one",
					"%s is the address of node %s already, at %s", a, first.Value.Metadata.Name, first.Pos)
				continue
			}
			taken[a] = n
			if z != nil {
				c.checkAddress(n, indexed("spec.addresses", i), a, z)
			}
		}
		if z != nil {
			c.checkEndpoints(n, z)
		}
	}
}

func (c *checker) checkAddress(n *Document[Node], path string, a netip.Addr, z *zoneFacts) {
	ranges := z.doc.Value.Spec.Ranges
	at := slices.IndexFunc(ranges, func(r netip.Prefix) bool { return r.IsValid() && r.Contains(a) })
	switch {
	case at < 0:
		if !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return !p.IsValid() }) {
			c.errorf(n, path, diag.AddressOutside, "the ranges are "+joinPrefixes(ranges), "%s lies in none of the ranges of zone %s", a, z.doc.Value.Metadata.Name)
		}
	case isReserved(ranges[at], a):
		c.errorf(n, path, diag.AddressReserved, "take another address", "%s is the network or broadcast address of %s", a, ranges[at])
	default:
		for _, p := range z.doc.Value.Spec.Dynamic {
			if p.IsValid() && p.Contains(a) {
				c.errorf(n, path, diag.AddressDynamic, "take an address outside of "+p.String(), "%s lies in the dynamic range %s, which is kept for enrolled nodes", a, p)
				return
			}
		}
	}
}

// IsReserved reports whether no host can hold an address of a zone's range: the first names the network, the last of an IPv4
// range is its broadcast address.
func IsReserved(p netip.Prefix, a netip.Addr) bool { return isReserved(p, a) }

// isReserved reports the network address of a range, and the broadcast address of an IPv4 one. Ranges of one or two
// addresses have neither (RFC 3021, RFC 6164).
func isReserved(p netip.Prefix, a netip.Addr) bool {
	if p.Addr().BitLen()-p.Bits() < 2 {
		return false
	}
	return a == p.Addr() || a.Is4() && !p.Contains(a.Next())
}

func joinPrefixes(list []netip.Prefix) string {
	var texts []string
	for _, p := range list {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// checkEndpoints reports endpoints inside the zone: packets to them would need the tunnel they are to build.
func (c *checker) checkEndpoints(n *Document[Node], z *zoneFacts) {
	for i, e := range n.Value.Spec.Endpoints {
		ap, err := netip.ParseAddrPort(e)
		if err != nil {
			continue
		}
		for _, p := range z.doc.Value.Spec.Ranges {
			if p.IsValid() && p.Contains(ap.Addr()) {
				c.errorf(n, indexed("spec.endpoints", i), diag.BadEndpoint, "give an address of the network that carries the tunnel",
					"endpoint %s lies in the zone's own range %s", e, p)
				break
			}
		}
	}
}
