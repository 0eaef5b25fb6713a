package enrol

import (
	"slices"
	"strings"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/identity"
)

// mustBind says whether tokens of the issuer must commit to keys.
func mustBind(i *spec.Issuer) bool { return i.TokenBinding != spec.TokenBindingOptional }

// demand says what a token of the issuer has to be, for the node to whose keys a commitment belongs.
func demand(i *spec.Issuer, commitment string) tokens.Issuer {
	audience := identity.Audience(i)
	return tokens.Issuer{URL: i.URL, Audiences: []string{audience, audience + ":" + commitment}, Leeway: identity.Leeway(i)}
}

// commitments gives all that a token commits to: its nonce, and what its audiences add to the issuer's.
func commitments(i *spec.Issuer, v *tokens.Verified) []string {
	var out []string
	if v.Nonce != "" {
		out = append(out, v.Nonce)
	}
	for _, a := range v.Audience {
		if c, ok := strings.CutPrefix(a, identity.Audience(i)+":"); ok && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// checkParty refuses a token whose nonce was chosen by another client than the issuer's: the provider may let a client ask
// for tokens with our audience (OpenID Connect Core 1.0, section 2, `azp`), and whoever runs that client would choose the keys that its
// users' identities are bound to. Workloads that commit by audience have parties of their own.
func checkParty(i *spec.Issuer, v *tokens.Verified) error {
	if azp, _ := v.Claims["azp"].(string); v.Nonce != "" && i.ClientID != "" && azp != "" && azp != i.ClientID {
		return badToken("the token of issuer %s was made for another client than %q (claim azp): sign in with apex join", i.Name, i.ClientID)
	}
	return nil
}
