package spec

import (
	"cmp"
	"slices"
	"strings"
)

// QualifiedIdentity names a user or group among those of all issuers: "<issuer>:<name>".
func QualifiedIdentity(issuer, name string) string { return issuer + ":" + name }

// TokenAudience is what `aud` of an issuer's tokens must contain where the issuer is given with these two fields, either of
// which may be empty.
func TokenAudience(audience, clientID string) string {
	return cmp.Or(audience, clientID, DefaultIssuerAudience)
}

// IdentityNames reads how policies name users and groups: "<issuer>:<name>", or the name alone if the network has one
// issuer. Its zero value knows no issuer.
type IdentityNames struct{ issuers []string }

// IdentityNames gives the reader for the network's issuers.
func (r *Repository) IdentityNames() IdentityNames {
	var n IdentityNames
	if r.Network != nil {
		for _, i := range r.Network.Value.Spec.Issuers {
			n.issuers = append(n.issuers, i.Name)
		}
	}
	return n
}

// Equal reports whether two readers read alike.
func (n IdentityNames) Equal(o IdentityNames) bool { return slices.Equal(n.issuers, o.issuers) }

// Issuers are the names of the issuers, in order.
func (n IdentityNames) Issuers() []string { return n.issuers }

// Split gives the issuer and the name that a policy's text means. What stands before the first colon counts as an issuer
// only if the network has it, so that with one issuer a group named team:ops is written as it is. It gives false if the text
// does not say which of several issuers is meant, or if there is none.
func (n IdentityNames) Split(text string) (issuer, name string, ok bool) {
	if before, after, found := strings.Cut(text, ":"); found && after != "" {
		for _, i := range n.issuers {
			if i == before {
				return i, after, true
			}
		}
	}
	if len(n.issuers) != 1 {
		return "", text, false
	}
	return n.issuers[0], text, true
}

// MemberEndpoint is an endpoint of an Assertion that stands for whoever a member rule admits: "user:<name>" or
// "group:<name>". One of User and Group is set, as written.
type MemberEndpoint struct{ User, Group string }

// ParseMemberEndpoint reads a member endpoint.
func ParseMemberEndpoint(s string) (MemberEndpoint, bool) {
	kind, name, _ := strings.Cut(s, ":")
	switch {
	case !ValidIdentity(name):
	case kind == "user":
		return MemberEndpoint{User: name}, true
	case kind == "group":
		return MemberEndpoint{Group: name}, true
	}
	return MemberEndpoint{}, false
}

// Named gives the endpoint with another name.
func (e MemberEndpoint) Named(name string) MemberEndpoint {
	if e.User != "" {
		return MemberEndpoint{User: name}
	}
	return MemberEndpoint{Group: name}
}

// RulesFor gives the member rules by which somebody may enrol of whom only this is known: the user or the group, of an
// issuer. Those are the rules that name it, up to the first that asks for no more; if none names it, all of the issuer: a
// policy may select by finer groups than the rules admit by.
func (z *ZoneSpec) RulesFor(issuer string, who MemberEndpoint) []*MemberRule {
	var naming, others []*MemberRule
	for i := range z.Members {
		r := &z.Members[i]
		switch {
		case r.Issuer != issuer:
		case who.User != "" && slices.Contains(r.Users, who.User) || who.Group != "" && slices.Contains(r.Groups, who.Group):
			if naming = append(naming, r); len(r.Match) == 0 {
				return naming
			}
		default:
			others = append(others, r)
		}
	}
	if naming != nil {
		return naming
	}
	return others
}

// Qualify gives the qualified name that a policy's text means, or "" if Split gives false.
func (n IdentityNames) Qualify(text string) string {
	issuer, name, ok := n.Split(text)
	if !ok {
		return ""
	}
	return QualifiedIdentity(issuer, name)
}
