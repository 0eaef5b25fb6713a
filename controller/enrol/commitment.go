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
