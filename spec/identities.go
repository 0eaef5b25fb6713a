package spec

import (
	"slices"
	"strings"
)

// QualifiedIdentity names a user or group among those of all issuers: "<issuer>:<name>".
func QualifiedIdentity(issuer, name string) string { return issuer + ":" + name }

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

// Qualify gives the qualified name that a policy's text means, or "" if Split gives false.
func (n IdentityNames) Qualify(text string) string {
	issuer, name, ok := n.Split(text)
	if !ok {
		return ""
	}
	return QualifiedIdentity(issuer, name)
}
