package tokens

import (
	"context"
	"time"
)

const (
	// MaxLife is the longest a token may be valid for: what was used has to be remembered that long.
	MaxLife = 48 * time.Hour
	// MaxLeeway is how far a provider's clock may be off at most.
	MaxLeeway = 5 * time.Minute
)

// Issuer is what is demanded of a token.
type Issuer struct {
	// URL is the issuer identifier, equal to `iss`.
	URL string
	// Audiences are those of which `aud` must contain one.
	Audiences []string
	// Leeway is how far the provider's clock may be off, either way; at most MaxLeeway.
	Leeway time.Duration
	// At is the instant as of which the times in the token are judged; zero: now. It is for evidence.
	At time.Time
}

// Verified is a token whose every demand holds.
type Verified struct {
	Issuer   string
	Subject  string
	Audience []string
	Nonce    string
	// Claims are all claims, with numbers as json.Number: what package claims wants.
	Claims map[string]any
	// Key is the public key that verified it, a JSON Web Key: part of the evidence.
	Key             []byte
	Issued, Expires time.Time
	// ID is what a replay is known by, 64 hex digits: of issuer and `jti`, or of what was signed if there is no `jti`.
	ID string
}

// Verifier verifies tokens. *OIDC is the real one, *Memory the one of tests. Errors: *Refused, *Unavailable, those of ctx.
type Verifier interface {
	Verify(ctx context.Context, demand Issuer, raw string) (*Verified, error)
}

// Bound reports whether a verified token commits to keys: its nonce is the commitment (protocol.Commitment), or `aud`
// contains "<audience>:<commitment>". A token that has a nonce, or an audience of that form, for something else is refused
// by ErrBinding, whatever an issuer's tokenBinding says; one that has neither is false.
func (v *Verified) Bound(audience, commitment string) (bool, error) {
	if v.Nonce != "" && v.Nonce != commitment {
		return false, refuse(ErrBinding, "nonce", "it commits to other keys than those of this request")
	}
	bound := v.Nonce != ""
	for _, a := range v.Audience {
		switch {
		case a == audience+":"+commitment:
			bound = true
		case len(a) > len(audience) && a[:len(audience)+1] == audience+":":
			return false, refuse(ErrBinding, "aud", "it commits to other keys than those of this request")
		}
	}
	return bound, nil
}
