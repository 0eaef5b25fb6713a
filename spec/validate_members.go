package spec

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/diag"
)

// maxIssuerClaims bounds the distinct claims that the rules for one issuer match on; bindings keep no more.
const maxIssuerClaims = 32

// checkIssuers judges the network's issuers and revocations.
func (c *checker) checkIssuers() {
	if c.repo.Network == nil {
		return
	}
	doc := c.repo.Network
	seen := map[string]bool{}
	for i := range doc.Value.Spec.Issuers {
		issuer, path := &doc.Value.Spec.Issuers[i], indexed("spec.issuers", i)
		c.checkIssuerGranted(doc, path, issuer)
		if issuer.Name != "" && seen[issuer.Name] {
			c.errorf(doc, path+".name", diag.DuplicateItem, "rename one", "two issuers are named %q", issuer.Name)
		}
		seen[issuer.Name] = true
		if err := claims.CheckIssuer(issuer.URL); issuer.URL != "" && err != nil {
			c.errorf(doc, path+".url", diag.BadIssuer, "write the issuer as its tokens carry it in iss", "%s", err)
		}
		for field, word := range map[string]string{
			".audience": issuer.Audience, ".clientID": issuer.ClientID, ".clientSecret": issuer.ClientSecret,
		} {
			if !isWord(word) && word != "" {
				c.errorf(doc, path+field, diag.BadIssuer, "", "%q has a space or a character that is not ASCII", clip(word))
			}
		}
		if issuer.ClientSecret != "" && issuer.ClientID == "" {
			c.errorf(doc, path+".clientSecret", diag.BadIssuer, "add clientID", "clientSecret belongs to a client, and there is no clientID")
		}
		for j, scope := range issuer.Scopes {
			if !isWord(scope) || strings.ContainsAny(scope, `"\\`) {
				c.errorf(doc, indexed(path+".scopes", j), diag.BadIssuer, "write one scope per item", "%q is not a scope", clip(scope))
			}
		}
		for field, name := range map[string]string{".claims.username": issuer.Claims.Username, ".claims.groups": issuer.Claims.Groups} {
			if name != "" {
				c.checkClaimName(doc, path+field, name)
			}
		}
		if n := len(c.claimsMatched(issuer.Name)); n > maxIssuerClaims {
			c.errorf(doc, path+".name", diag.ItemCount, "match on fewer claims", "member rules match on %d claims of issuer %s; at most %d are kept",
				n, issuer.Name, maxIssuerClaims)
		}
	}
	c.checkTwins(doc)
	c.checkApart(doc)
	for i := range doc.Value.Spec.Revoked {
		c.checkRevocation(doc, indexed("spec.revoked", i), &doc.Value.Spec.Revoked[i])
	}
}

// checkIssuerGranted holds an issuer against those that the trust root lists, if it lists any.
func (c *checker) checkIssuerGranted(doc *Document[Network], path string, i *Issuer) {
	if c.repo.TrustRoot == nil || len(c.repo.TrustRoot.Value.Spec.Issuers) == 0 || i.URL == "" {
		return
	}
	const hint = "the root keys can grant it in spec.issuers of " + TrustRootPath
	given := TrustedIssuer{URL: i.URL, Audience: TokenAudience(i.Audience, i.ClientID), ClientID: i.ClientID}
	other := ""
	for _, t := range c.repo.TrustRoot.Value.Spec.Issuers {
		t.Audience = TokenAudience(t.Audience, t.ClientID)
		if t == given {
			return
		}
		if t.URL == given.URL {
			other = fmt.Sprintf("; of this url it grants audience %q and clientID %q", clip(t.Audience), clip(t.ClientID))
		}
	}
	c.errorf(doc, path+".url", diag.IssuerUngranted, hint, "the trust root grants no issuer %s with audience %q and clientID %q%s",
		clip(given.URL), clip(given.Audience), clip(given.ClientID), other)
}

// checkTwins compares issuers that are one provider. Of two that take the same tokens whoever enrols chooses, and so what is
// asked of the token and which revocations reach them.
func (c *checker) checkTwins(doc *Document[Network]) {
	issuers := doc.Value.Spec.Issuers
	audience := func(i *Issuer) string { return TokenAudience(i.Audience, i.ClientID) }
	for i := range issuers {
		for j := range i {
			one, other, path := &issuers[i], &issuers[j], indexed("spec.issuers", i)+".url"
			switch {
			case one.URL == "" || one.URL != other.URL || one.Name == other.Name:
			case audience(one) == audience(other):
				c.errorf(doc, path, diag.BadIssuer, "give each an audience of its own, or keep one",
					"issuers %q and %q take the same tokens", other.Name, one.Name)
			default:
				c.warnf(doc, path, diag.BadIssuer, "revoke people under both names",
					"issuers %q and %q are one provider: what revokes an identity of one does not reach the other", other.Name, one.Name)
			}
		}
	}
}

// checkApart keeps the tokens that apply from enrolling: a job shows them to a controller and leaves them in its own memory and
// logs, as something that is worth one look at a commit.
func (c *checker) checkApart(doc *Document[Network]) {
	if c.repo.TrustRoot == nil {
		return
	}
	for i := range doc.Value.Spec.Issuers {
		issuer := &doc.Value.Spec.Issuers[i]
		if issuer.TokenBinding != TokenBindingOptional || issuer.URL == "" {
			continue
		}
		audience := TokenAudience(issuer.Audience, issuer.ClientID)
		for _, a := range c.repo.TrustRoot.Value.Spec.Appliers.Identities {
			if a.Issuer == issuer.URL && TokenAudience(a.Audience, "") == audience {
				c.errorf(doc, indexed("spec.issuers", i)+".audience", diag.ApplyTokensEnrol, "give the issuer another audience, such as "+audience+"-join",
					"issuer %q takes tokens that commit to no keys, and those that applier %q applies with are such: both have audience %q",
					issuer.Name, a.Name, clip(audience))
				break
			}
		}
	}
}

// isWord reports visible ASCII without spaces.
func isWord(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func (c *checker) claimsMatched(issuer string) map[string]bool {
	names := map[string]bool{}
	for _, z := range c.repo.Zones {
		for _, r := range z.Value.Spec.Members {
			if r.Issuer == issuer {
				for name := range r.Match {
					names[name] = true
				}
			}
		}
	}
	return names
}

func (c *checker) checkClaimName(doc located, path, name string) {
	if err := claims.CheckName(name); err != nil {
		c.errorf(doc, path, diag.BadClaim, "", "%s", err)
	}
}

// checkRevocation reports an entry that ends nothing, or more than it seems to.
func (c *checker) checkRevocation(doc *Document[Network], path string, r *Revocation) {
	const hint = "name a binding; an issuer with a user or subject; or a zone with a node"
	switch {
	case r.Binding != "" && (len(r.Binding) != 64 || strings.Trim(r.Binding, "0123456789abcdef") != ""):
		c.errorf(doc, path+".binding", diag.BadRevocation, "copy the digest from `apex enrol list`", "%q is not a digest of 64 hex digits", clip(r.Binding))
	case r.Binding == "" && r.User == "" && r.Subject == "" && r.Node == "":
		c.errorf(doc, path, diag.BadRevocation, hint, "the entry names nothing")
	case r.Issuer == "" && (r.User != "" || r.Subject != ""):
		c.errorf(doc, path, diag.BadRevocation, hint, "the entry does not say of which issuer the identity is")
	case r.Zone == "" && r.Node != "":
		c.errorf(doc, path, diag.BadRevocation, hint, "the entry does not say in which zone the node is")
	}
	if r.Issuer != "" && !slices.Contains(c.names.Issuers(), r.Issuer) {
		c.warnf(doc, path+".issuer", diag.UnknownIssuer, c.near(r.Issuer, c.names.Issuers), "the network has no issuer %q", r.Issuer)
	}
	if r.Zone != "" && c.zones[r.Zone] == nil && !c.repo.incomplete {
		c.warnf(doc, path+".zone", diag.UnknownZone, c.near(r.Zone, c.zoneNames), "there is no zone %q", r.Zone)
	}
}

// checkMembers judges who may enrol in each zone.
func (c *checker) checkMembers() {
	for _, doc := range c.repo.Zones {
		z := c.zones[doc.Value.Metadata.Name]
		s := &doc.Value.Spec
		if len(s.Members) > 0 && len(s.Dynamic) == 0 && !doc.places.has("spec.dynamic") {
			c.errorf(doc, "spec.members", diag.MembersNowhere, "keep a part of spec.ranges for them in spec.dynamic",
				"zone %s has no dynamic range for enrolled nodes", doc.Value.Metadata.Name)
		}
		if len(s.Members) > 0 && c.repo.TrustRoot != nil && len(c.repo.TrustRoot.Value.Spec.Enrolment.Keys) == 0 {
			c.warnf(doc, "spec.members", diag.NoEnrolmentKey, "`apex trust rotate` adds one", "nobody can enrol: the trust root has no enrolment key")
		}
		seen := map[string]bool{}
		for i := range s.Members {
			rule, path := &s.Members[i], indexed("spec.members", i)
			if rule.Name != "" && seen[rule.Name] {
				c.errorf(doc, path+".name", diag.DuplicateItem, "rename one", "two member rules are named %q", rule.Name)
			}
			seen[rule.Name] = true
			c.checkMember(doc, path, rule)
			for j, p := range rule.Routes {
				if p.IsValid() {
					c.checkMemberRoute(doc, indexed(path+".routes", j), p, z)
				}
			}
		}
		c.checkApprovals(doc)
	}
}

func (c *checker) checkMember(doc *Document[Zone], path string, r *MemberRule) {
	if r.Issuer != "" && !slices.Contains(c.names.Issuers(), r.Issuer) && !c.repo.incomplete && c.repo.Network != nil {
		c.errorf(doc, path+".issuer", diag.UnknownIssuer, c.near(r.Issuer, c.names.Issuers), "the network has no issuer %q", r.Issuer)
	}
	named := len(r.Users)+len(r.Groups) > 0
	if !named && len(r.Match) == 0 {
		for _, field := range []string{".users", ".groups", ".match"} {
			if at := path + field; doc.places.has(at) && !doc.places.empty(at) {
				return // it could not be read, which is reported
			}
		}
		c.errorf(doc, path, diag.MemberNobody, "set users, groups or match", "rule %s names nobody", r.Name)
		return
	}
	open, sound := !named, true
	for _, name := range slices.Sorted(maps.Keys(r.Match)) {
		at := joinPath(path+".match", name)
		err := errors.Join(claims.CheckName(name), claims.CheckPattern(r.Match[name]))
		if err != nil {
			sound = false
			c.errorf(doc, at, diag.BadClaim, "", "claim %q: %s", clip(name), strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		open = open && !claims.Narrows(name, r.Match[name])
	}
	if open && sound && r.Approval != ApprovalReview {
		c.warnf(doc, path, diag.MemberAnybody, "name users, groups or a claim that only your people have, or say approval: review",
			"rule %s admits every identity of issuer %s", r.Name, r.Issuer)
	}
}

// checkMemberRoute judges a prefix that enrolled nodes may carry as checkRoute does those of a node.
func (c *checker) checkMemberRoute(doc *Document[Zone], path string, p netip.Prefix, z *zoneFacts) {
	zone := doc.Value.Metadata.Name
	for _, r := range doc.Value.Spec.Ranges {
		if r.IsValid() && r.Overlaps(p) {
			c.errorf(doc, path, diag.RouteInZone, "a route leads to what lies behind a node, outside of the zone's ranges",
				"route %s overlaps %s, a range of zone %s", p, r, zone)
			return
		}
	}
	if what := unusable(p); what != "" {
		c.errorf(doc, path, diag.RouteUnusable, "", "route %s %s", p, what)
		return
	}
	if c.repo.TrustRoot != nil && !z.claims.covers(p) {
		c.errorf(doc, path, diag.RouteUnclaimed, "the root keys can grant it in spec.routes of "+TrustRootPath,
			"the trust root does not let zone %s carry %s", zone, p)
	}
}

// checkApprovals reports approvals that nothing asks for, and keys that protect nothing.
func (c *checker) checkApprovals(doc *Document[Zone]) {
	list := doc.Value.Spec.Approved
	seen := make(map[Key][]int, len(list)) // by public key
	for i, a := range list {
		path := indexed("spec.approved", i)
		asked := func(r MemberRule) bool {
			return r.Name == a.Rule && r.Issuer == a.Issuer && r.Approval == ApprovalReview
		}
		switch {
		case slices.ContainsFunc(seen[a.PublicKey], func(j int) bool { return list[j].Equal(a) }):
			c.errorf(doc, path, diag.DuplicateItem, "remove one", "node %s is approved twice for the same", a.Node)
		case !slices.ContainsFunc(doc.Value.Spec.Members, asked):
			c.warnf(doc, path, diag.ApprovalUnused, "remove it, or name the rule with approval: review that is meant",
				"no member rule %q of issuer %q asks for a review", a.Rule, a.Issuer)
		}
		seen[a.PublicKey] = append(seen[a.PublicKey], i)
		if !a.PublicKey.IsZero() && a.PublicKey.IsWeak(false) {
			c.errorf(doc, path+".publicKey", diag.WeakKey, "", "the key is a point of low order, which protects nothing")
		}
		if !a.IdentityKey.IsZero() && a.IdentityKey.IsWeak(true) {
			c.errorf(doc, path+".identityKey", diag.WeakKey, "", "the key is a point of low order, which protects nothing")
		}
	}
}
