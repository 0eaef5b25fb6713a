package compile

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// claims says who holds what may be held once.
type claims struct {
	public, identity map[peermap.Key]*record
	addresses        map[netip.Addr]*record
}

// check holds the zone against what no host may ever see broken: names, keys and addresses once and in their ranges,
// routes claimed, shared where they overlap, and apart from node addresses, every cidr selector routed.
func (b *builder) check(records []*record) error {
	var faults faults
	zone := b.src.doc.Value.Metadata.Name
	if len(records) > peermap.MaxZonePeers {
		faults.addf("zone %s: %d nodes, limit %d; split the zone", zone, len(records), peermap.MaxZonePeers)
	}
	for i := 1; i < len(records); i++ {
		if records[i].name == records[i-1].name {
			faults.addf("%s: node %s exists twice in zone %s (also at %s); remove one", records[i].doc.Pos, records[i].name,
				zone, records[i-1].doc.Pos)
		}
	}
	for i := 1; i < len(b.policies); i++ {
		if p, q := b.policies[i], b.policies[i-1]; p.Value.Metadata.Name == q.Value.Metadata.Name {
			faults.addf("%s: policy %s exists twice in zone %s (also at %s); remove one", p.Pos, p.Value.Metadata.Name, zone, q.Pos)
		}
	}
	b.checkClaims(records, &faults)
	b.checkRoutes(records, &faults)
	for _, u := range b.rules.Unrouted {
		if b.mayEnrol(u.CIDR) {
			continue // a router that leaves must not keep a commit from being published
		}
		faults.addf("%s: rule %s of zone %s: cidr %s lies in no node's routes; declare it as a route of the node it is behind",
			u.Pos, u.Rule, zone, u.CIDR)
	}
	return faults.err()
}

// checkClaims walks the records that are not known from prev. The claims of prev, which were found unique, are copied
// and carried on; records that are gone give theirs up first.
func (b *builder) checkClaims(records []*record, faults *faults) {
	zone := b.src.doc.Value.Metadata.Name
	old := b.prev.members
	same := b.head == b.prev.head
	if same && len(old) == len(records) && sameRecords(records, old) {
		b.checked = b.prev.checked
		return
	}
	gone, fresh := difference(old, records)
	if !same || b.prev.checked == nil {
		gone, fresh = nil, records
		b.checked = &claims{
			public:    make(map[peermap.Key]*record, len(records)),
			identity:  make(map[peermap.Key]*record, len(records)),
			addresses: make(map[netip.Addr]*record, len(records)),
		}
	} else {
		p := b.prev.checked
		b.checked = &claims{maps.Clone(p.public), maps.Clone(p.identity), maps.Clone(p.addresses)}
	}
	for _, r := range gone {
		delete(b.checked.public, r.peer.PublicKey)
		delete(b.checked.identity, peermap.Key(r.doc.Value.Spec.IdentityKey))
		for _, a := range r.peer.Addresses {
			delete(b.checked.addresses, a)
		}
	}
	for _, r := range fresh {
		once(b.checked.public, r.peer.PublicKey, r, zone, "public key", faults)
		id := peermap.Key(r.doc.Value.Spec.IdentityKey)
		if id == (peermap.Key{}) {
			faults.addf("%s: node %s of zone %s has no identityKey; run `apex node init` on the host", r.doc.Pos, r.name, zone)
			continue
		}
		once(b.checked.identity, id, r, zone, "identity key", faults)
		for _, a := range r.peer.Addresses {
			once(b.checked.addresses, a, r, zone, "address "+a.String(), faults)
			b.checkAddress(a, r, faults)
		}
	}
}

// once enters what r holds and faults it if another record holds it.
func once[K comparable](held map[K]*record, k K, r *record, zone, what string, faults *faults) {
	if o := held[k]; o != nil {
		faults.addf("%s: node %s of zone %s has the same %s as node %s at %s; each may be used once", r.doc.Pos, r.name, zone,
			what, o.name, o.doc.Pos)
	}
	held[k] = r
}

func (b *builder) checkAddress(a netip.Addr, r *record, faults *faults) {
	contains := func(p netip.Prefix) bool { return p.Contains(a) }
	if !slices.ContainsFunc(b.head.ranges, contains) {
		faults.addf("%s: node %s: address %s lies outside the ranges of zone %s", r.doc.Pos, r.name, a, b.head.zone)
	}
	switch dynamic := slices.ContainsFunc(b.head.dynamic, contains); {
	case r.doc.Value.Enrolled != nil && !dynamic:
		faults.addf("%s: enrolled node %s: address %s lies outside the dynamic range of zone %s", r.doc.Pos, r.name, a, b.head.zone)
	case r.doc.Value.Enrolled == nil && dynamic:
		faults.addf("%s: node %s: address %s lies in the dynamic range of zone %s, which is for enrolled nodes", r.doc.Pos,
			r.name, a, b.head.zone)
	}
}

// mayEnrol reports whether some member rule lets enrolled nodes carry p, so that a rule about it waits for them.
func (b *builder) mayEnrol(p netip.Prefix) bool {
	return slices.ContainsFunc(b.src.doc.Value.Spec.Members, func(m spec.MemberRule) bool { return policy.Within(p, m.Routes) })
}

// checkBindings faults a list of bindings that is not that of the zone's enrolled nodes.
func checkBindings(src *source, list []byte) error {
	var entries []binding.Entry
	var faults faults
	for _, n := range src.nodes {
		e := n.Value.Enrolled
		if e == nil {
			continue
		}
		entry := binding.Entry{Node: n.Value.Metadata.Name}
		if err := entry.Digest.UnmarshalText([]byte(e.Binding)); err != nil {
			faults.addf("%s: enrolled node %s: %v", n.Pos, entry.Node, err)
		}
		entries = append(entries, entry)
	}
	if !bytes.Equal(binding.List(entries), list) {
		faults.addf("zone %s: the list of bindings is not that of its %d enrolled nodes", src.doc.Value.Metadata.Name, len(entries))
	}
	return faults.err()
}

// difference gives the records of old that are not in records, and those of records that are not in old; both are sorted
// by name.
func difference(old []*member, records []*record) (gone, fresh []*record) {
	i, j := 0, 0
	for i < len(old) || j < len(records) {
		switch {
		case j == len(records) || i < len(old) && old[i].name < records[j].name:
			gone = append(gone, old[i].record)
			i++
		case i == len(old) || records[j].name < old[i].name:
			fresh = append(fresh, records[j])
			j++
		default:
			if old[i].record != records[j] {
				gone, fresh = append(gone, old[i].record), append(fresh, records[j])
			}
			i, j = i+1, j+1
		}
	}
	return gone, fresh
}

func (b *builder) checkRoutes(records []*record, faults *faults) {
	zone := b.src.doc.Value.Metadata.Name
	if len(b.routes.List) == 0 {
		return
	}
	for _, r := range records {
		for _, route := range r.routes {
			p := route.Prefix
			if !p.IsValid() || p.Addr().Is4In6() {
				faults.addf("%s: node %s: route %s is not a plain IPv4 or IPv6 prefix", r.doc.Pos, r.name, p)
				continue
			}
			for _, own := range b.head.ranges {
				if own.Overlaps(p) {
					faults.addf("%s: node %s: route %s overlaps the range %s of zone %s; node addresses would lie behind another node",
						r.doc.Pos, r.name, p, own, zone)
				}
			}
			if b.src.judged && !policy.Within(p, b.src.claims) {
				faults.addf("%s: node %s: route %s: the trust root lets zone %s claim no such prefix; add it to the root's routes",
					r.doc.Pos, r.name, p, zone)
			}
		}
	}
	for _, c := range b.routes.Clashes() {
		faults.addf("zone %s: route %s of node %s overlaps route %s of node %s; set shared on both, or narrow one", zone,
			c.A.Prefix, c.A.Node, c.B.Prefix, c.B.Node)
	}
}

// checkHosts faults zones with overlapping ranges that meet on one host: it could not tell their addresses apart.
func checkHosts(sources []*source) error {
	var faults faults
	for i, a := range sources {
		for _, b := range sources[:i] {
			x, y, overlap := overlapping(a.doc.Value.Spec.Ranges, b.doc.Value.Spec.Ranges)
			if !overlap {
				continue
			}
			for _, host := range inBoth(b.nodes, a.nodes) {
				if !oneHost(&host.a.Value, &host.b.Value) {
					continue
				}
				faults.addf("%s: host %s is in zone %s and in zone %s (%s), whose ranges %s and %s overlap on it", host.a.Pos,
					host.a.Value.Metadata.Name, host.a.Value.Metadata.Zone, host.b.Value.Metadata.Zone, host.b.Pos, y, x)
			}
		}
	}
	return faults.err()
}

func overlapping(as, bs []netip.Prefix) (a, b netip.Prefix, found bool) {
	for _, a := range as {
		for _, b := range bs {
			if a.Overlaps(b) {
				return a, b, true
			}
		}
	}
	return netip.Prefix{}, netip.Prefix{}, false
}

// oneHost reports whether two nodes of one name are one host. In git they always are; who enrols may choose a name that is
// taken in a zone of which they know nothing, so there the identity key decides.
func oneHost(a, b *spec.Node) bool {
	return a.Enrolled == nil && b.Enrolled == nil || a.Spec.IdentityKey == b.Spec.IdentityKey
}

type pair struct{ a, b *spec.Document[spec.Node] }

// inBoth walks two lists sorted by name.
func inBoth(as, bs []*spec.Document[spec.Node]) []pair {
	var out []pair
	for len(as) > 0 && len(bs) > 0 {
		switch c := strings.Compare(as[0].Value.Metadata.Name, bs[0].Value.Metadata.Name); {
		case c < 0:
			as = as[1:]
		case c > 0:
			bs = bs[1:]
		default:
			out = append(out, pair{as[0], bs[0]})
			as, bs = as[1:], bs[1:]
		}
	}
	return out
}
