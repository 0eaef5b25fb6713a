package spec

import (
	"net/netip"

	"github.com/apex-network/apex/spec/diag"
)

// checkRoutes reports prefixes that nodes cannot carry.
func (c *checker) checkRoutes() {
	for _, zone := range c.repo.Zones {
		z := c.zones[zone.Value.Metadata.Name]
		var all, exclusive []claim
		for _, n := range z.nodes {
			own := map[netip.Prefix]bool{}
			for i, route := range n.Value.Spec.Routes {
				path := indexed("spec.routes", i) + ".prefix"
				if !route.Prefix.IsValid() {
					continue
				}
				if own[route.Prefix] {
					c.errorf(n, path, diag.DuplicateItem, "remove one", "%s stands twice among the node's routes", route.Prefix)
					continue
				}
				own[route.Prefix] = true
				if !c.checkRoute(n, path, route.Prefix, z) {
					continue
				}
				cl := claim{prefix: route.Prefix, zone: zone.Value.Metadata.Name, node: n.Value.Metadata.Name,
					shared: route.Shared, doc: n, path: path}
				if all = append(all, cl); !route.Shared {
					exclusive = append(exclusive, cl)
				}
			}
		}
		if len(exclusive) > 0 {
			c.checkRouteOverlap(all)
		}
	}
}

// checkRoute judges one route by itself. It gives false if the route makes no sense, so that what overlaps it does not
// matter.
func (c *checker) checkRoute(n *Document[Node], path string, p netip.Prefix, z *zoneFacts) bool {
	zone := z.doc.Value.Metadata.Name
	for _, r := range z.doc.Value.Spec.Ranges {
		if r.IsValid() && r.Overlaps(p) {
			c.errorf(n, path, diag.RouteInZone, "a route leads to what lies behind a node, outside of the zone's ranges",
				"route %s overlaps %s, a range of zone %s", p, r, zone)
			return false
		}
	}
	if what := unusable(p); what != "" {
		c.errorf(n, path, diag.RouteUnusable, "", "route %s %s", p, what)
		return false
	}
	if c.repo.TrustRoot != nil && !z.claims.covers(p) {
		c.errorf(n, path, diag.RouteUnclaimed, "the root keys can grant it in spec.routes of "+TrustRootPath,
			"the trust root does not let zone %s carry %s", zone, p)
	}
	return true
}

// checkRouteOverlap reports routes of different nodes that overlap unless both are shared.
func (c *checker) checkRouteOverlap(claims []claim) {
	sweep(claims, func(outer, inner *claim) bool {
		return outer.node != inner.node && !(outer.shared && inner.shared)
	}, func(equal []*claim, next *claim) bool {
		// Two, of different nodes by now: a later claim can be of the same node as one of them only.
		return fewerThan(2, equal, func(c *claim) bool { return c.shared == next.shared })
	}, func(outer, inner *claim) {
		hint := "say shared: true on both, or let one node carry it"
		if outer.shared != inner.shared {
			hint = "say shared: true on the other one too, or let one node carry it"
		}
		c.errorf(inner.doc, inner.path, diag.RouteOverlap, hint, "route %s overlaps %s of node %s, at %s",
			inner.prefix, outer.prefix, outer.node, outer.doc.At(outer.path))
	})
}
