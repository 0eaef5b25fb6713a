package spec

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

// Validate checks what must hold between the documents of a repository: references, addresses, keys, routes, policy and
// the trust root. Now decides only which rules and roots have expired. The list is sorted. Policy tests are not run
// here: that is policy.RunTests.
//
// It is meant to follow Load, also when that reported errors: fields that could not be read are passed over in silence.
// The cost is O(n log n) in the number of documents and of items in them.
func (r *Repository) Validate(now time.Time) diag.List {
	c := checker{repo: r, now: now, zones: make(map[string]*zoneFacts, len(r.Zones)), names: r.IdentityNames(), hints: maxHints}
	for _, z := range r.Zones {
		c.zones[z.Value.Metadata.Name] = newZoneFacts(r, z)
	}
	c.checkReferences()
	c.checkZones()
	c.checkNodes()
	c.checkKeys()
	c.checkIssuers()
	c.checkMembers()
	c.checkRoutes()
	c.checkHosts()
	c.checkPolicies()
	c.checkTests()
	c.checkTrust()
	c.list.Sort()
	return c.list
}

// maxHints bounds how many names are searched for a near one: each search looks at every candidate.
const maxHints = 50

// checker carries one run of Validate.
type checker struct {
	repo  *Repository
	now   time.Time
	list  diag.List
	zones map[string]*zoneFacts
	names IdentityNames
	hints int // searches for near names that are left
}

// located is a Document of any kind.
type located interface {
	At(path string) diag.Position
	metadata() *Metadata
}

// metadata gives the metadata of the document.
func (d *Document[T]) metadata() *Metadata { return metadataOf(&d.Value) }

func (c *checker) add(severity diag.Severity, doc located, path, code, hint, format string, args ...any) {
	c.list = append(c.list, diag.Diagnostic{Code: code, Severity: severity, Position: doc.At(path), Path: path,
		Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (c *checker) errorf(doc located, path, code, hint, format string, args ...any) {
	c.add(diag.Error, doc, path, code, hint, format, args...)
}

func (c *checker) warnf(doc located, path, code, hint, format string, args ...any) {
	c.add(diag.Warning, doc, path, code, hint, format, args...)
}

// near gives a hint with the name nearest to s among those that candidates yields, while searches are left.
func (c *checker) near(s string, candidates func() []string) string {
	if c.hints == 0 {
		return ""
	}
	c.hints--
	return didYouMean(s, candidates())
}

// indexed writes the path of an item of a list.
func indexed(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// zoneFacts is what the checks need to know of one zone.
type zoneFacts struct {
	doc    *Document[Zone]
	nodes  []*Document[Node]
	routes prefixSet           // every prefix behind a node of the zone
	claims prefixSet           // what the trust root lets the zone's nodes carry
	labels map[string]postings // by label key
	// memberRoutes is what member rules let enrolled nodes carry.
	memberRoutes prefixSet
	// named are the users and groups that the zone's rules and policies name, filled in by identitiesNamed.
	named map[identityKind]map[string]bool
	// holders are the nodes by address, filled in by holder.
	holders map[netip.Addr]string
}

// identityKind is the users, or the groups, of an issuer.
type identityKind struct {
	issuer string
	users  bool
}

// postings are the nodes (indexes into zoneFacts.nodes, ascending) by label value.
type postings map[string][]int32

func newZoneFacts(r *Repository, doc *Document[Zone]) *zoneFacts {
	name := doc.Value.Metadata.Name
	z := &zoneFacts{doc: doc, nodes: r.ZoneNodes(name), labels: map[string]postings{}}
	for i, n := range z.nodes {
		for _, route := range n.Value.Spec.Routes {
			z.routes.add(route.Prefix)
		}
		for k, v := range n.Value.Metadata.Labels {
			if z.labels[k] == nil {
				z.labels[k] = postings{}
			}
			z.labels[k][v] = append(z.labels[k][v], int32(i))
		}
	}
	for _, m := range doc.Value.Spec.Members {
		for _, p := range m.Routes {
			z.memberRoutes.add(p)
		}
	}
	if r.TrustRoot != nil {
		for _, claim := range r.TrustRoot.Value.Spec.Routes {
			if claim.Zone == name {
				for _, p := range claim.Prefixes {
					z.claims.add(p)
				}
			}
		}
	}
	return z
}

// checkReferences reports documents of zones that do not exist, and zones with too many nodes.
func (c *checker) checkReferences() {
	missing := map[string]string{} // hint by zone
	check := func(doc located) {
		zone := doc.metadata().Zone
		if c.zones[zone] != nil || c.repo.incomplete {
			return
		}
		hint, known := missing[zone]
		if !known {
			hint = c.near(zone, c.zoneNames)
			missing[zone] = hint
		}
		c.errorf(doc, "metadata.zone", diag.UnknownZone, hint, "there is no zone %q", zone)
	}
	for _, d := range c.repo.Nodes {
		check(d)
	}
	for _, d := range c.repo.Policies {
		check(d)
	}
	for _, d := range c.repo.Tests {
		check(d)
	}
	for _, z := range c.repo.Zones {
		if n := len(c.zones[z.Value.Metadata.Name].nodes); n > peermap.MaxZonePeers {
			c.errorf(z, "metadata.name", diag.TooManyDocuments, "split the zone", "zone %s has %d nodes; at most %d are possible",
				z.Value.Metadata.Name, n, peermap.MaxZonePeers)
		}
	}
}

func (c *checker) zoneNames() []string {
	names := make([]string, 0, len(c.repo.Zones))
	for _, z := range c.repo.Zones {
		names = append(names, z.Value.Metadata.Name)
	}
	return names
}

// nodeNames lists the names of a zone's nodes.
func (z *zoneFacts) nodeNames() []string {
	names := make([]string, 0, len(z.nodes))
	for _, n := range z.nodes {
		names = append(names, n.Value.Metadata.Name)
	}
	return names
}
