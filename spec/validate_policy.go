package spec

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/diag"
)

// checkPolicies reports selectors that cannot be right, and warns of rules that allow nothing.
func (c *checker) checkPolicies() {
	for _, p := range c.repo.Policies {
		z := c.zones[p.Value.Metadata.Zone]
		for i := range p.Value.Spec.Allow {
			rule := &p.Value.Spec.Allow[i]
			path := indexed("spec.allow", i)
			if rule.NotAfter != nil && !rule.NotAfter.IsZero() && !c.now.Before(*rule.NotAfter) {
				c.warnf(p, path+".notAfter", diag.RuleExpired, "remove the rule, or move the date", "the rule expired at %s",
					rule.NotAfter.Format("2006-01-02T15:04:05Z07:00"))
			}
			c.checkSide(p, path+".from", rule.From, z)
			c.checkSide(p, path+".to", rule.To, z)
		}
	}
}

// checkSide judges one side of a rule: each selector by itself, and whether any of them matches something.
func (c *checker) checkSide(p *Document[Policy], path string, side []Selector, z *zoneFacts) {
	matched, identities, sound := false, 0, true
	for i := range side {
		s := &side[i]
		ok := c.checkShape(p, indexed(path, i), s)
		if !ok || z == nil {
			sound = false
			continue
		}
		if len(s.Groups)+len(s.Users) > 0 {
			found, ok := c.identities(p, indexed(path, i), s, z)
			identities++
			matched, sound = matched || found, sound && ok
			continue
		}
		found, ok := c.matches(p, indexed(path, i), s, z)
		matched, sound = matched || found, sound && ok
	}
	switch {
	case matched || !sound || len(side) == 0 || c.repo.incomplete:
	case identities > 0:
		c.warnf(p, path, diag.IdentitySelector, "add a rule to spec.members of the zone", "no member rule of zone %s lets such a user or group enrol",
			z.doc.Value.Metadata.Name)
	default:
		c.warnf(p, path, diag.RuleMatchesNothing, "remove the rule, or make what it selects", "no selector of this side matches anything in zone %s",
			z.doc.Value.Metadata.Name)
	}
}

// checkShape reports a selector that does not set exactly one field.
func (c *checker) checkShape(p *Document[Policy], path string, s *Selector) bool {
	set := 0
	for _, on := range []bool{s.Any, s.Node != "", len(s.Labels) > 0, s.CIDR.IsValid(), len(s.Groups) > 0, len(s.Users) > 0} {
		if on {
			set++
		}
	}
	written, known := p.places.children(path)
	const hint = "set exactly one of any, node, labels, cidr, groups and users; write several selectors for a union"
	switch {
	case known && written > 1 || set > 1:
		c.errorf(p, path, diag.SelectorShape, hint, "the selector sets %d fields", max(written, set))
	case known && written == 0:
		c.errorf(p, path, diag.SelectorShape, hint, "the selector sets no field")
	case set == 1:
		return true
	case p.places.has(path + ".any"):
		c.errorf(p, path+".any", diag.SelectorShape, "write true", "any: false selects nothing")
	case p.places.empty(path + ".labels"):
		c.errorf(p, path+".labels", diag.SelectorShape, "name a label, or write any: true for every node", "the selector names no label")
	case !known:
		c.errorf(p, path, diag.SelectorShape, hint, "the selector sets no field")
	}
	return false
}

// matches reports whether a selector matches something that exists; ok is false if it has been reported as an error.
func (c *checker) matches(p *Document[Policy], path string, s *Selector, z *zoneFacts) (found, ok bool) {
	zone := z.doc.Value.Metadata.Name
	switch {
	case s.Any:
		return len(z.nodes) > 0 || len(z.doc.Value.Spec.Dynamic) > 0, true
	case s.Node != "":
		if c.repo.Node(zone, s.Node) != nil || c.repo.incomplete {
			return true, true
		}
		c.errorf(p, path+".node", diag.UnknownNode, c.near(s.Node, z.nodeNames), "there is no node %q in zone %s", s.Node, zone)
		return false, false
	case s.CIDR.IsValid():
		return z.routes.covers(s.CIDR) || z.memberRoutes.covers(s.CIDR), true
	}
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		if z.labels[key] == nil && !z.memberLabel(key) && !c.repo.incomplete {
			at := joinPath(path+".labels", key)
			c.errorf(p, at, diag.UnknownLabel, c.near(key, func() []string { return slices.Sorted(maps.Keys(z.labels)) }),
				"no node of zone %s has a label %q", zone, key)
			return false, false
		}
	}
	return z.anyLabelled(s.Labels) || z.anyMemberLabelled(s.Labels), true
}

// identities reports users and groups of which it is not clear whose they are, and whether the zone has a member rule for
// the issuer of any of them.
func (c *checker) identities(p *Document[Policy], path string, s *Selector, z *zoneFacts) (found, ok bool) {
	ok = true
	for _, list := range []struct {
		field string
		names []string
	}{{".users", s.Users}, {".groups", s.Groups}} {
		for i, name := range list.names {
			issuer, _, clear := c.names.Split(name)
			if clear {
				found = found || z.hasMembersOf(issuer)
				continue
			}
			if issuers := c.names.Issuers(); len(issuers) > 0 && name != "" {
				ok = false
				c.errorf(p, indexed(path+list.field, i), diag.AmbiguousIdentity, "write "+QualifiedIdentity(issuers[0], name),
					"the network has %d issuers, and %q does not say which", len(issuers), clip(name))
			}
		}
	}
	return found, ok
}

func (z *zoneFacts) hasMembersOf(issuer string) bool {
	return slices.ContainsFunc(z.doc.Value.Spec.Members, func(r MemberRule) bool { return r.Issuer == issuer })
}

// memberLabel reports whether enrolled nodes may carry a label with this key. A zone with a dynamic range and no rule yet may
// come to carry any.
func (z *zoneFacts) memberLabel(key string) bool {
	s := &z.doc.Value.Spec
	if len(s.Members) == 0 {
		return len(s.Dynamic) > 0
	}
	return slices.ContainsFunc(s.Members, func(r MemberRule) bool { _, ok := r.Labels[key]; return ok })
}

// anyMemberLabelled reports whether some member rule gives all labels.
func (z *zoneFacts) anyMemberLabelled(labels map[string]string) bool {
	return slices.ContainsFunc(z.doc.Value.Spec.Members, func(r MemberRule) bool {
		for k, v := range labels {
			if got, ok := r.Labels[k]; !ok || got != v {
				return false
			}
		}
		return true
	})
}

// anyLabelled reports whether some node carries all labels, looking only at those that carry the rarest.
func (z *zoneFacts) anyLabelled(labels map[string]string) bool {
	var rarest []int32
	for k, v := range labels {
		nodes := z.labels[k][v]
		if len(nodes) == 0 {
			return false
		}
		if rarest == nil || len(nodes) < len(rarest) {
			rarest = nodes
		}
	}
	if len(labels) == 1 {
		return true
	}
	return slices.ContainsFunc(rarest, func(i int32) bool {
		has := z.nodes[i].Value.Metadata.Labels
		for k, v := range labels {
			if got, ok := has[k]; !ok || got != v {
				return false
			}
		}
		return true
	})
}

// checkTests reports assertions about what does not exist.
func (c *checker) checkTests() {
	for _, t := range c.repo.Tests {
		if len(t.Value.Spec.Allow)+len(t.Value.Spec.Deny) == 0 && !t.places.has("spec.allow[0]") && !t.places.has("spec.deny[0]") {
			c.errorf(t, "spec", diag.TestEmpty, "add an assertion under allow or deny", "the test asserts nothing")
		}
		z := c.zones[t.Value.Metadata.Zone]
		if z == nil {
			continue
		}
		c.checkAssertions(t, "spec.allow", t.Value.Spec.Allow, z)
		c.checkAssertions(t, "spec.deny", t.Value.Spec.Deny, z)
	}
}

func (c *checker) checkAssertions(t *Document[PolicyTest], path string, list []Assertion, z *zoneFacts) {
	for i, a := range list {
		c.checkTestEndpoint(t, indexed(path, i)+".from", a.From, z)
		c.checkTestEndpoint(t, indexed(path, i)+".to", a.To, z)
	}
}

func (c *checker) checkTestEndpoint(t *Document[PolicyTest], path, endpoint string, z *zoneFacts) {
	zone := z.doc.Value.Metadata.Name
	if endpoint == "" || c.repo.incomplete || c.repo.Node(zone, endpoint) != nil {
		return
	}
	if who, ok := ParseMemberEndpoint(endpoint); ok {
		c.checkMemberEndpoint(t, path, endpoint, who, z)
		return
	}
	prefix, ok := ParseEndpoint(endpoint)
	switch {
	case !ok && strings.ContainsAny(endpoint, ":/") || !ok && strings.Count(endpoint, ".") == 3:
		c.errorf(t, path, diag.TestEndpoint, "write the name of a node, an address, a prefix without host bits, user:NAME or group:NAME", "%q is not an endpoint", clip(endpoint))
	case !ok:
		c.errorf(t, path, diag.UnknownNode, c.near(endpoint, z.nodeNames), "there is no node %q in zone %s", clip(endpoint), zone)
	case z.routes.covers(prefix):
	case prefix.IsSingleIP() && z.holder(prefix.Addr()) != "":
		c.errorf(t, path, diag.TestEndpoint, "write "+z.holder(prefix.Addr()), "%s is a node's own address; tests call nodes by name", endpoint)
	default:
		c.errorf(t, path, diag.TestEndpoint, "name a node, or an address or prefix inside some node's route", "no node of zone %s carries %s", zone, endpoint)
	}
}

// checkMemberEndpoint reports a user or group that no member rule lets enrol.
func (c *checker) checkMemberEndpoint(t *Document[PolicyTest], path, endpoint string, who MemberEndpoint, z *zoneFacts) {
	issuer, name, clear := c.names.Split(who.User + who.Group)
	if issuers := c.names.Issuers(); !clear && len(issuers) > 0 {
		c.errorf(t, path, diag.AmbiguousIdentity, "write "+QualifiedIdentity(issuers[0], name), "the network has %d issuers, and %q does not say which",
			len(issuers), clip(endpoint))
		return
	}
	zone, who := z.doc.Value.Metadata.Name, who.Named(name)
	if len(z.doc.Value.Spec.RulesFor(issuer, who)) == 0 {
		c.errorf(t, path, diag.TestEndpoint, "add a rule to spec.members of the zone", "no member rule of zone %s admits %s", zone, clip(endpoint))
		return
	}
	known := c.identitiesNamed(z, issuer, who.User != "")
	if !known[name] && !c.repo.incomplete {
		c.errorf(t, path, diag.TestEndpoint, c.near(name, func() []string { return slices.Sorted(maps.Keys(known)) }),
			"no member rule and no policy of zone %s names %s", zone, clip(endpoint))
	}
}

// identitiesNamed gives the users, or the groups, of an issuer that member rules and policies of a zone name.
func (c *checker) identitiesNamed(z *zoneFacts, issuer string, users bool) map[string]bool {
	key := identityKind{issuer, users}
	if known := z.named[key]; known != nil {
		return known
	}
	known := map[string]bool{}
	if z.named == nil {
		z.named = map[identityKind]map[string]bool{}
	}
	z.named[key] = known
	for _, r := range z.doc.Value.Spec.Members {
		if r.Issuer == issuer {
			for _, name := range map[bool][]string{true: r.Users, false: r.Groups}[users] {
				known[name] = true
			}
		}
	}
	for _, p := range c.repo.ZonePolicies(z.doc.Value.Metadata.Name) {
		for _, rule := range p.Value.Spec.Allow {
			for _, s := range slices.Concat(rule.From, rule.To) {
				for _, text := range map[bool][]string{true: s.Users, false: s.Groups}[users] {
					if of, name, ok := c.names.Split(text); ok && of == issuer {
						known[name] = true
					}
				}
			}
		}
	}
	return known
}

// ParseEndpoint reads an endpoint of an Assertion that is no node name: an address or a prefix, in canonical form.
func ParseEndpoint(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), a.Zone() == "" && !a.Is4In6() && a.String() == s
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil && p.Masked() == p && !p.Addr().Is4In6() && p.String() == s
}

// holder gives the name of the node with an address, or "".
func (z *zoneFacts) holder(a netip.Addr) string {
	if z.holders == nil {
		z.holders = map[netip.Addr]string{}
		for _, n := range z.nodes {
			for _, own := range n.Value.Spec.Addresses {
				z.holders[own] = n.Value.Metadata.Name
			}
		}
	}
	return z.holders[a]
}
