// Package identity decides who is a member of a zone by an OpenID identity: it reads a token's claims as the network's
// issuers say, finds the member rule that admits them, and picks from all signed bindings those that are nodes at a commit
// and an instant. The controller judges by it when a host enrols, the compile takes its nodes from it, and a witness
// arrives at the same.
//
//	claims ── FromClaims ─▶ Identity ── Match ─▶ Grant (rule, life, limits)
//	bindings + repository + instant ── Admit ─▶ repository with enrolled nodes, what was refused and why
//
// It is pure, and a function of its arguments' values alone: the order of bindings means nothing. Whether a signature
// counts or a token is genuine is judged before; nothing here trusts a binding further than that its holder could make
// any binding at all. What a node may do always comes from the rule as it stands at the commit.
package identity

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/claims"
)

// ErrClaims says that the claims of a token make no identity; what wraps it names the claim, never its value.
var ErrClaims = errors.New("the token's claims make no identity")

// defaultGroups is the claim that holds groups unless the issuer's mapping names another.
const defaultGroups = "groups"

// FromClaims reads the claims of a verified token of an issuer (decoded with json.Number, see claims.Decode). Wanted are
// further claims to keep: those that member rules match on (Wanted gives them); an email that is not verified is not kept.
// What a rule could not name is left out:
// a group that is no name, a claim without a text. Errors: ErrClaims.
//
// The username is the claim that the mapping names; `email` only if `email_verified` says so. Without a mapping it is
// the verified email, else the subject. It may be empty: then no rule's users match.
func FromClaims(issuer spec.Issuer, token map[string]any, wanted []string) (binding.Identity, error) {
	id := binding.Identity{
		Issuer: issuer.Name, URL: issuer.URL, Subject: one(token, "sub"), Username: username(issuer, token),
		Groups: []string{}, Claims: []binding.Claim{},
	}
	if id.Subject == "" {
		return binding.Identity{}, fmt.Errorf("%w: sub is missing or empty", ErrClaims)
	}
	name := issuer.Claims.Groups
	if name == "" {
		name = defaultGroups
	}
	groups, _ := claims.Lookup(token, name)
	id.Groups = distinct(slices.DeleteFunc(groups, func(g string) bool { return !nameable(g) }))
	if len(id.Groups) > binding.MaxGroups {
		return binding.Identity{}, fmt.Errorf("%w: %s lists %d groups, at most %d are read; "+
			"let the provider send only those that matter here", ErrClaims, name, len(id.Groups), binding.MaxGroups)
	}
	for _, name := range distinct(wanted) {
		values, ok := claims.Lookup(token, name)
		if claims.IsEmail(name) && verifiedEmail(token) == "" {
			ok = false // what people say of themselves admits nobody
		}
		if !ok {
			continue
		}
		id.Claims = append(id.Claims, binding.Claim{Name: name, Values: distinct(values)})
	}
	if err := id.Check(); err != nil {
		return binding.Identity{}, fmt.Errorf("%w: %w", ErrClaims, err)
	}
	return id, nil
}

// Wanted lists the claims that the member rules of the network match on for an issuer, sorted.
func Wanted(repo *spec.Repository, issuer string) []string {
	names := map[string]bool{}
	for _, z := range repo.Zones {
		for _, r := range z.Value.Spec.Members {
			if r.Issuer == issuer {
				for name := range r.Match {
					names[name] = true
				}
			}
		}
	}
	delete(names, "sub") // an identity has it anyway
	return slices.Sorted(maps.Keys(names))
}

func username(issuer spec.Issuer, token map[string]any) string {
	name := issuer.Claims.Username
	var out string
	switch {
	case claims.IsEmail(name):
		out = verifiedEmail(token)
	case name == "":
		if out = verifiedEmail(token); out == "" {
			out = one(token, "sub")
		}
	default:
		out = one(token, name)
	}
	if !nameable(out) {
		return ""
	}
	return out
}

// nameable reports whether a rule or policy could name a user or group so.
func nameable(s string) bool { return spec.ValidIdentity(s) && binding.Printable(s) }

// verifiedEmail gives the email if the issuer says that it belongs to the subject.
func verifiedEmail(token map[string]any) string {
	if !claims.EmailVerified(token) {
		return ""
	}
	return one(token, "email")
}

// one gives the value of a claim that has exactly one, else "".
func one(token map[string]any, name string) string {
	values, ok := claims.Lookup(token, name)
	if !ok || len(values) != 1 {
		return ""
	}
	return values[0]
}

// distinct sorts a copy and removes what stands twice; it is never nil.
func distinct(list []string) []string {
	out := slices.Compact(slices.Sorted(slices.Values(list)))
	if out == nil {
		return []string{}
	}
	return out
}

// IssuerNamed gives the issuer of a network by its name, or nil.
func IssuerNamed(repo *spec.Repository, name string) *spec.Issuer {
	if repo.Network == nil {
		return nil
	}
	issuers := repo.Network.Value.Spec.Issuers
	for i := range issuers {
		if issuers[i].Name == name {
			return &issuers[i]
		}
	}
	return nil
}

// Audience is what `aud` must contain for an issuer: its audience, else its clientID, else "apex".
func Audience(i *spec.Issuer) string {
	return spec.TokenAudience(i.Audience, i.ClientID)
}

// Leeway is how far the issuer's clock may be off.
func Leeway(i *spec.Issuer) time.Duration {
	if i.ClockLeeway == 0 {
		return spec.DefaultClockLeeway
	}
	return time.Duration(i.ClockLeeway)
}

// Describe names an identity for people: "<issuer>:<username>", with the subject for want of a username.
func Describe(id binding.Identity) string {
	who := id.Username
	if who == "" {
		who = id.Subject
	}
	return strings.Join([]string{id.Issuer, who}, ":")
}
