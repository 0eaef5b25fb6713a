package identity

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// Grant is what a member rule gives an identity that it admits. Defaults are filled in.
type Grant struct {
	Rule *spec.MemberRule
	// Pos is where the rule stands.
	Pos diag.Position
	// TTL is how long a binding lives without renewal, MaxNodes how many nodes one identity may have by the rule.
	TTL      time.Duration
	MaxNodes int
	// Review says that a maintainer has to approve each node.
	Review bool
}

// NoRuleError says that no member rule of a zone admits an identity, and why each does not. It tells nothing that the
// identity's holder could not guess: no names, no patterns.
type NoRuleError struct {
	Zone string
	// Who is "<issuer>:<username or subject>".
	Who string
	// Misses are the rules of the same issuer, in order; empty if there are none.
	Misses []Miss
	// Why is set instead if no rule was looked at.
	Why string
}

// Miss is a rule that does not admit.
type Miss struct {
	Rule string
	Pos  diag.Position
	// Why names what failed: "claim repository_id does not match".
	Why string
}

// shownMisses bounds how many rules an error text names.
const shownMisses = 8

func (e *NoRuleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no member rule of zone %s admits %.120q", e.Zone, e.Who)
	if e.Why != "" {
		return b.String() + ": " + e.Why
	}
	for i, m := range e.Misses {
		if i == shownMisses {
			fmt.Fprintf(&b, "; %d more rules", len(e.Misses)-i)
			break
		}
		fmt.Fprintf(&b, "%s rule %s (%s): %s", map[bool]string{true: ":", false: ";"}[i == 0], m.Rule, m.Pos, m.Why)
	}
	return b.String()
}

// Match finds the first member rule of a zone that admits an identity. The identity must be of the issuer's URL as the
// network names it now: a name that was given to another provider admits nobody of the old. Errors: *NoRuleError.
func Match(repo *spec.Repository, zone string, id binding.Identity) (Grant, error) {
	refusal := &NoRuleError{Zone: zone, Who: Describe(id)}
	doc := repo.Zone(zone)
	if doc == nil {
		refusal.Why = "there is no such zone"
		return Grant{}, refusal
	}
	issuer := IssuerNamed(repo, id.Issuer)
	switch {
	case issuer == nil:
		refusal.Why = "the network has no such issuer"
		return Grant{}, refusal
	case issuer.URL != id.URL:
		refusal.Why = "the network's issuer of this name is another provider"
		return Grant{}, refusal
	}
	for i := range doc.Value.Spec.Members {
		rule := &doc.Value.Spec.Members[i]
		if rule.Issuer != id.Issuer {
			continue
		}
		pos := doc.At(fmt.Sprintf("spec.members[%d]", i))
		why := miss(rule, id)
		if why == "" {
			return grantOf(rule, pos), nil
		}
		refusal.Misses = append(refusal.Misses, Miss{Rule: rule.Name, Pos: pos, Why: why})
	}
	if len(refusal.Misses) == 0 {
		refusal.Why = "the zone has no rule for this issuer"
	}
	return Grant{}, refusal
}

func grantOf(rule *spec.MemberRule, pos diag.Position) Grant {
	g := Grant{Rule: rule, Pos: pos, TTL: time.Duration(rule.TTL), MaxNodes: rule.MaxNodes,
		Review: rule.Approval == spec.ApprovalReview}
	if g.TTL == 0 {
		g.TTL = spec.DefaultMemberTTL
	}
	if g.MaxNodes == 0 {
		g.MaxNodes = spec.DefaultMaxNodes
	}
	return g
}

// miss says why a rule does not admit an identity of its issuer; "" if it does. A rule without any criterion, which
// validation refuses, admits nobody.
func miss(rule *spec.MemberRule, id binding.Identity) string {
	named := len(rule.Users)+len(rule.Groups) > 0
	if !named && len(rule.Match) == 0 {
		return "it names nobody"
	}
	if named && !(id.Username != "" && slices.Contains(rule.Users, id.Username)) &&
		!slices.ContainsFunc(id.Groups, func(g string) bool { return slices.Contains(rule.Groups, g) }) {
		switch {
		case len(rule.Groups) == 0:
			return "the username is not among its users"
		case len(rule.Users) == 0:
			return "no group of the identity is among its groups"
		}
		return "neither the username nor a group of the identity is among its users and groups"
	}
	for _, name := range slices.Sorted(maps.Keys(rule.Match)) {
		values := claimValues(id, name)
		if values == nil {
			return fmt.Sprintf("claim %s is missing", name)
		}
		if !slices.ContainsFunc(values, func(v string) bool { return claims.Match(rule.Match[name], v) }) {
			return fmt.Sprintf("claim %s does not match", name)
		}
	}
	return ""
}

func claimValues(id binding.Identity, name string) []string {
	if name == "sub" {
		return []string{id.Subject} // kept by itself
	}
	for _, c := range id.Claims {
		if c.Name == name {
			return c.Values
		}
	}
	return nil
}

// Check says why the grant, in a zone of the repository, does not cover what a node asks for; nil if it does.
func (g Grant) Check(repo *spec.Repository, zone string, routes []netip.Prefix, relay bool) error {
	if relay && !g.Rule.Relay {
		return fmt.Errorf("rule %s (%s) lets nobody be a relay", g.Rule.Name, g.Pos)
	}
	if len(routes) == 0 {
		return nil
	}
	doc := repo.Zone(zone)
	if doc == nil {
		return fmt.Errorf("there is no zone %s", zone)
	}
	claimed := claimedBy(repo, zone)
	for _, p := range routes {
		switch {
		case !policy.Within(p, g.Rule.Routes):
			return fmt.Errorf("rule %s (%s) does not allow the route %s", g.Rule.Name, g.Pos, p)
		case repo.TrustRoot != nil && !policy.Within(p, claimed):
			return fmt.Errorf("the trust root does not let zone %s carry the route %s", zone, p)
		case slices.ContainsFunc(doc.Value.Spec.Ranges, p.Overlaps):
			return fmt.Errorf("the route %s overlaps the ranges of zone %s", p, zone)
		}
	}
	return nil
}

// claimedBy gives the prefixes that the trust root lets a zone carry.
func claimedBy(repo *spec.Repository, zone string) []netip.Prefix {
	var out []netip.Prefix
	if repo.TrustRoot != nil {
		for _, c := range repo.TrustRoot.Value.Spec.Routes {
			if c.Zone == zone {
				out = append(out, c.Prefixes...)
			}
		}
	}
	return out
}

// CheckAddress says why an enrolled node of a zone cannot have an address; nil if it can. Whether another node has it is
// not judged here.
func CheckAddress(zone *spec.Zone, a netip.Addr) error {
	if !slices.ContainsFunc(zone.Spec.Dynamic, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return fmt.Errorf("address %s lies outside of the dynamic ranges of zone %s", a, zone.Metadata.Name)
	}
	for _, r := range zone.Spec.Ranges {
		if r.Contains(a) {
			if spec.IsReserved(r, a) {
				return fmt.Errorf("address %s is the network or broadcast address of %s", a, r)
			}
			return nil
		}
	}
	return fmt.Errorf("address %s lies outside of the ranges of zone %s", a, zone.Metadata.Name)
}

// Asked is what an approval of a binding has to name if rule admits its identity.
func Asked(b *binding.Binding, rule string) spec.Approval {
	return spec.Approval{
		Node: b.Node, PublicKey: spec.Key(b.PublicKey), IdentityKey: spec.Key(b.IdentityKey), Issuer: b.Identity.Issuer,
		Subject: b.Identity.Subject, Rule: rule, Routes: b.Routes, Relay: b.Relay,
	}
}

// ApprovedInGit reports whether the zone's document approves what is asked.
func ApprovedInGit(zone *spec.Zone, asked spec.Approval) bool {
	return slices.ContainsFunc(zone.Spec.Approved, asked.Equal)
}

// FindRevocation finds the entry of Network.spec.revoked that ends a binding, and where it stands; nil if none does. Digest
// is that of the binding's payload; leave it zero for one that is yet to be made, to learn whether it would end at once.
func FindRevocation(repo *spec.Repository, b *binding.Binding, digest peermap.Digest) (*spec.Revocation, diag.Position) {
	for entry, pos := range Revocations(repo, b, digest) {
		return entry, pos
	}
	return nil, diag.Position{}
}

// Revocations gives all entries that FindRevocation gives the first of.
func Revocations(repo *spec.Repository, b *binding.Binding, digest peermap.Digest) iter.Seq2[*spec.Revocation, diag.Position] {
	return func(yield func(*spec.Revocation, diag.Position) bool) {
		if repo.Network == nil {
			return
		}
		list := repo.Network.Value.Spec.Revoked
		for i := range list {
			if revokes(&list[i], b, digest) && !yield(&list[i], repo.Network.At(fmt.Sprintf("spec.revoked[%d]", i))) {
				return
			}
		}
	}
}

// revokes reports whether an entry ends a binding: all that it sets must hold. An entry that names no binding, user,
// subject or node, which validation refuses, ends nothing.
func revokes(r *spec.Revocation, b *binding.Binding, digest peermap.Digest) bool {
	if r.Binding == "" && r.User == "" && r.Subject == "" && r.Node == "" {
		return false
	}
	is := func(want, have string) bool { return want == "" || want == have }
	return (r.Binding == "" || r.Binding == digest.String()) && is(r.Issuer, b.Identity.Issuer) && is(r.User, b.Identity.Username) &&
		is(r.Subject, b.Identity.Subject) && is(r.Zone, b.Zone) && is(r.Node, b.Node) &&
		(r.Before == nil || b.Issued < r.Before.Unix())
}
