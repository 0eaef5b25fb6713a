package reconciler

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// Our routes carry this protocol number (`ip route show proto 161`) and metric, so that they are told from others'.
const (
	RouteProtocol = 161
	RouteMetric   = 4242
)

// HostRoute is a route of the main table.
type HostRoute struct {
	Prefix netip.Prefix
	Link   string // name of the outgoing interface, empty for special routes
	// Ours: carries our protocol number and metric.
	Ours bool
	// Kernel: made by the kernel for an address.
	Kernel bool
	Metric int
}

// Routes edits the main routing table.
type Routes interface {
	// Routes lists the main table. An interrupted dump is an error, never a partial list.
	Routes(ctx context.Context) ([]HostRoute, error)
	// Add makes our route through link; it never replaces one.
	Add(ctx context.Context, link string, p netip.Prefix) error
	// Remove deletes our route on link.
	Remove(ctx context.Context, link string, p netip.Prefix) error
	// Egress is the name of the interface through which the host reaches addr; empty if none.
	Egress(ctx context.Context, addr netip.Addr) (string, error)
}

// diffRoutes gives the routes to add and to remove. A foreign route with the same prefix, whatever its metric, is a
// conflict: one of the two would shadow the other, so ours is not made (and taken back if it stands).
func diffRoutes(link string, want []Route, got []HostRoute) (add, remove []netip.Prefix, conflicts []Conflict) {
	var ours []netip.Prefix
	foreign := make(map[netip.Prefix]HostRoute)
	wanted := make(map[netip.Prefix]bool, len(want))
	for _, r := range want {
		wanted[r.Prefix] = true
	}
	for _, r := range got {
		switch {
		case r.Ours && r.Link == link:
			ours = append(ours, r.Prefix)
		case r.Link == link && r.Kernel:
			// the connected route of our own address
		case wanted[r.Prefix]:
			foreign[r.Prefix] = r
		}
	}
	slices.SortFunc(ours, comparePrefix)
	var allowed []netip.Prefix
	for _, r := range want {
		if f, clash := foreign[r.Prefix]; clash {
			conflicts = append(conflicts, Conflict{SubsystemRoute, r.Prefix.String(), clashReason(f)})
			continue
		}
		allowed = append(allowed, r.Prefix)
	}
	add, remove = diffSorted(allowed, ours, comparePrefix)
	return add, remove, conflicts
}

func clashReason(f HostRoute) string {
	via := "without an interface"
	if f.Link != "" {
		via = "through " + f.Link
	}
	if f.Ours {
		return "another Apex zone on this host routes it " + via + "; the two zones overlap"
	}
	return "a foreign route " + via + " has this destination; delete it to use the zone's, or keep it and drop the prefix from the zone"
}

// loops finds peers whose endpoint lies inside what we route into the tunnel: packets to them would loop.
func loops(peers []Peer, routes []Route) []Conflict {
	if len(routes) == 0 {
		return nil
	}
	byBits := make(map[netip.Prefix]bool, len(routes))
	lengths := make(map[[2]int]bool)
	for _, r := range routes {
		byBits[r.Prefix] = true
		lengths[[2]int{r.Prefix.Addr().BitLen(), r.Prefix.Bits()}] = true
	}
	var out []Conflict
	for i := range peers {
		ep := peers[i].Endpoint.Addr()
		if !ep.IsValid() {
			continue
		}
		for l := range lengths {
			if l[0] != ep.BitLen() {
				continue
			}
			if p, err := ep.Prefix(l[1]); err == nil && byBits[p] {
				out = append(out, Conflict{SubsystemRoute, p.String(), fmt.Sprintf(
					"the endpoint %s of peer %s lies inside this route, so its packets would go into their own tunnel; use an endpoint outside",
					peers[i].Endpoint, peers[i].label())})
				break
			}
		}
	}
	return out
}
