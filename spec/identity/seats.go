package identity

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// seats is who has what only one node can have. Nodes in git sit before any binding does.
type seats struct {
	zones  map[string]*zoneSeats
	keys   map[spec.Key]keyHolder
	hosts  map[string][]membership // of the names that bindings want
	counts map[counted]int
}

// zoneSeats is what nodes of one zone have.
type zoneSeats struct {
	doc       *spec.Document[spec.Zone]
	nodes     int
	addresses map[netip.Addr]string
	routes    routeSeats
}

// keyHolder is the host that has a key, and what for.
type keyHolder struct {
	host     string
	identity bool
}

// membership is a host's place in one zone.
type membership struct {
	zone     *spec.Document[spec.Zone]
	identity spec.Key
	port     uint16
	enrolled bool
}

// counted is an identity under one rule.
type counted struct{ zone, rule, url, subject string }

// newSeats seats what nodes in git have of that which the entries want. Static nodes have no address in a dynamic range, so
// only names, keys and routes can clash.
func newSeats(repo *spec.Repository, wanted []*entry) *seats {
	n := len(wanted)
	s := &seats{zones: map[string]*zoneSeats{}, keys: make(map[spec.Key]keyHolder, 2*n),
		hosts: make(map[string][]membership, n), counts: make(map[counted]int, n)}
	if n == 0 {
		return s
	}
	keys, names, perZone := make(map[spec.Key]bool, 2*n), make(map[string]bool, n), map[string]int{}
	for _, e := range wanted {
		n := &e.doc.Value
		keys[n.Spec.PublicKey], keys[n.Spec.IdentityKey], names[n.Metadata.Name] = true, true, true
		perZone[n.Metadata.Zone]++
	}
	for _, z := range repo.Zones {
		name := z.Value.Metadata.Name
		s.zones[name] = &zoneSeats{doc: z, addresses: make(map[netip.Addr]string, perZone[name])}
	}
	for _, doc := range repo.Nodes {
		n := &doc.Value
		z := s.zones[n.Metadata.Zone]
		if z == nil {
			continue
		}
		z.nodes++
		if keys[n.Spec.PublicKey] {
			s.keys[n.Spec.PublicKey] = keyHolder{host: n.Metadata.Name}
		}
		if keys[n.Spec.IdentityKey] {
			s.keys[n.Spec.IdentityKey] = keyHolder{host: n.Metadata.Name, identity: true}
		}
		for _, r := range n.Spec.Routes {
			z.routes.add(r.Prefix.Masked(), n.Metadata.Name)
		}
		if names[n.Metadata.Name] {
			s.hosts[n.Metadata.Name] = append(s.hosts[n.Metadata.Name], membershipOf(n, z.doc))
		}
	}
	for _, z := range s.zones {
		z.routes.sort()
	}
	return s
}

func membershipOf(n *spec.Node, zone *spec.Document[spec.Zone]) membership {
	return membership{zone: zone, identity: n.Spec.IdentityKey, enrolled: n.Enrolled != nil,
		port: cmp.Or(n.Spec.ListenPort, zone.Value.Spec.ListenPort, spec.DefaultListenPort)}
}

// take seats an entry, or says why it cannot be.
func (s *seats) take(e *entry) (Reason, string) {
	n, b := &e.doc.Value, &e.signed.Binding
	z := s.zones[b.Zone]
	if why := s.clash(n, z); why != "" {
		return Clash, why
	}
	count := counted{b.Zone, e.grant.Rule.Name, b.Identity.URL, b.Identity.Subject}
	if s.counts[count] >= e.grant.MaxNodes {
		return OverMax, fmt.Sprintf("rule %s (%s) gives an identity at most %d nodes", e.grant.Rule.Name, e.grant.Pos, e.grant.MaxNodes)
	}
	if z.nodes >= peermap.MaxZonePeers {
		return OverMax, fmt.Sprintf("zone %s has the most nodes a zone can have, %d", b.Zone, peermap.MaxZonePeers)
	}
	z.nodes++
	s.counts[count]++
	s.keys[n.Spec.PublicKey] = keyHolder{host: b.Node}
	s.keys[n.Spec.IdentityKey] = keyHolder{host: b.Node, identity: true}
	s.hosts[b.Node] = append(s.hosts[b.Node], membershipOf(n, z.doc))
	for _, a := range b.Addresses {
		z.addresses[a] = b.Node
	}
	for _, p := range b.Routes {
		z.routes.insert(p, b.Node)
	}
	return "", ""
}

// clash says what of a node another has; "" if nothing.
func (s *seats) clash(n *spec.Node, z *zoneSeats) string {
	name, zone := n.Metadata.Name, n.Metadata.Zone
	mine := membershipOf(n, z.doc)
	for _, m := range s.hosts[name] {
		other := m.zone.Value.Metadata.Name
		switch {
		case other == zone && m.enrolled:
			return fmt.Sprintf("zone %s has another enrolled node named %s", zone, name)
		case other == zone:
			return fmt.Sprintf("git has a node named %s in zone %s", name, zone)
		case m.identity != mine.identity: // two hosts that are called alike
		case m.port == mine.port:
			return fmt.Sprintf("host %s would listen on port %d in zone %s and in zone %s; give one zone another listenPort",
				name, m.port, other, zone)
		default:
			for _, p := range m.zone.Value.Spec.Ranges {
				if slices.ContainsFunc(z.doc.Value.Spec.Ranges, p.Overlaps) {
					return fmt.Sprintf("host %s is in zone %s already, whose range %s overlaps zone %s", name, other, p, zone)
				}
			}
		}
	}
	for _, k := range []struct {
		key      spec.Key
		identity bool
	}{{n.Spec.PublicKey, false}, {n.Spec.IdentityKey, true}} {
		if h, held := s.keys[k.key]; held && h != (keyHolder{name, k.identity}) {
			return fmt.Sprintf("node %s has the same key", h.host)
		}
	}
	for _, a := range n.Spec.Addresses {
		if other, held := z.addresses[a]; held {
			return fmt.Sprintf("node %s has the address %s", other, a)
		}
	}
	for _, r := range n.Spec.Routes {
		if p, other, held := z.routes.overlaps(r.Prefix); held {
			return fmt.Sprintf("the route %s overlaps %s of node %s", r.Prefix, p, other)
		}
	}
	return ""
}

// routeSeats are the routes of a zone, sorted by prefix.
type routeSeats struct {
	list []routeSeat
	by   map[netip.Prefix]string
}

type routeSeat struct {
	prefix netip.Prefix
	node   string
}

func (r *routeSeats) add(p netip.Prefix, node string) {
	if r.by == nil {
		r.by = map[netip.Prefix]string{}
	}
	r.list, r.by[p] = append(r.list, routeSeat{p, node}), node
}

func (r *routeSeats) sort() {
	slices.SortFunc(r.list, func(a, b routeSeat) int { return peermap.ComparePrefixes(a.prefix, b.prefix) })
}

func (r *routeSeats) at(p netip.Prefix) int {
	i, _ := slices.BinarySearchFunc(r.list, p, func(s routeSeat, p netip.Prefix) int { return peermap.ComparePrefixes(s.prefix, p) })
	return i
}

func (r *routeSeats) insert(p netip.Prefix, node string) {
	if r.by == nil {
		r.by = map[netip.Prefix]string{}
	}
	r.list, r.by[p] = slices.Insert(r.list, r.at(p), routeSeat{p, node}), node
}

// overlaps finds a route that overlaps p: one around it, by its shorter prefixes, or one inside it, which stands where p
// would.
func (r *routeSeats) overlaps(p netip.Prefix) (netip.Prefix, string, bool) {
	for bits := range p.Bits() + 1 {
		outer, err := p.Addr().Prefix(bits)
		if node, held := r.by[outer]; err == nil && held {
			return outer, node, true
		}
	}
	if i := r.at(p); i < len(r.list) && p.Overlaps(r.list[i].prefix) {
		return r.list[i].prefix, r.list[i].node, true
	}
	return netip.Prefix{}, "", false
}
