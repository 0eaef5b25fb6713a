package login

import (
	"fmt"
	"strings"

	"github.com/apex-network/apex/internal/oidcclient"
)

// nonceRule says what a token's nonce has to be.
type nonceRule int

const (
	// nonceSent: the commitment was sent as the nonce of an authorization request, so the token must carry it back
	// (OpenID Connect Core 1.0 §3.1.3.7, 11).
	nonceSent nonceRule = iota
	// nonceOffered: a device code has no place for a nonce, so a token may lack it if the network says so; another
	// one is refused.
	nonceOffered
)

// check reads the claims of a token that came from the token endpoint itself, over TLS, and compares those that decide
// whether it is worth sending on. The message names the claim, never the token.
func (f *Flow) check(raw string, rule nonceRule) error {
	c, err := oidcclient.Peek(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrToken, err)
	}
	if c.Issuer != f.Issuer.URL {
		return fmt.Errorf("%w: claim iss is %q, not %q", ErrToken, clip(c.Issuer), f.Issuer.URL)
	}
	if !f.meant(c.Audience) {
		return fmt.Errorf("%w: claim aud is %q, and the network asks for %q (Network.spec.issuers: audience, clientID)",
			ErrToken, clip(strings.Join(c.Audience, ", ")), f.Issuer.Audience)
	}
	switch {
	case c.Nonce == f.Commitment:
		return nil
	case c.Nonce != "":
		return fmt.Errorf("%w: claim nonce is not the commitment that was asked for", ErrToken)
	case rule == nonceSent:
		return fmt.Errorf("%w: %w: the provider left claim nonce out although it was asked for", ErrToken, ErrUnbound)
	case f.Issuer.Bound:
		return fmt.Errorf("%w: %s carries no nonce through a device code, and the network wants one; "+
			"sign in with a browser, or paste the redirect back", ErrUnbound, f.Issuer.Name)
	}
	return nil
}

// meant says whether the token is for the network: its audience, plain or with the commitment.
func (f *Flow) meant(aud []string) bool {
	for _, a := range aud {
		if a == f.Issuer.Audience || a == f.Issuer.Audience+":"+f.Commitment {
			return true
		}
	}
	return false
}
