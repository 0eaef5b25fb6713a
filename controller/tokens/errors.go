package tokens

import (
	"errors"
	"fmt"
	"time"
)

// Why a token is refused. A *Refused wraps one of them.
var (
	// ErrMalformed: it is no compact JWS of JSON claims with the claims every ID token has.
	ErrMalformed = errors.New("malformed token")
	// ErrAlgorithm: `alg` is none, symmetric or unknown.
	ErrAlgorithm = errors.New("token algorithm not allowed")
	// ErrSignature: no key of the issuer made the signature.
	ErrSignature = errors.New("bad token signature")
	// ErrIssuer: `iss` is another.
	ErrIssuer = errors.New("token of another issuer")
	// ErrAudience: `aud` (or `azp`) is somebody else.
	ErrAudience = errors.New("token for another audience")
	// ErrExpired and ErrNotYet: `exp`, `nbf` and `iat` against the controller's clock.
	ErrExpired = errors.New("token expired")
	ErrNotYet  = errors.New("token not valid yet")
	// ErrLife: the token lives too long for its use to be remembered.
	ErrLife = errors.New("token lives too long")
	// ErrBinding: the token commits to other keys, or to none where it has to.
	ErrBinding = errors.New("token not bound to these keys")
)

// Refused says which claim (or header member) of a token is wrong, and how. It never holds the token.
type Refused struct {
	Claim  string
	Detail string
	Reason error
}

func (r *Refused) Error() string {
	if r.Claim == "" {
		return r.Reason.Error() + ": " + r.Detail
	}
	return fmt.Sprintf("%v: claim %s: %s", r.Reason, r.Claim, r.Detail)
}

// Unwrap gives the reason.
func (r *Refused) Unwrap() error { return r.Reason }

func refuse(reason error, claim, format string, args ...any) error {
	return &Refused{Claim: claim, Detail: fmt.Sprintf(format, args...), Reason: reason}
}

// Unavailable says that an issuer could not be asked: nothing is wrong with the token as far as it was judged.
type Unavailable struct {
	Issuer string
	// Retry is when it will be asked again.
	Retry time.Time
	Err   error
}

func (u *Unavailable) Error() string {
	return fmt.Sprintf("issuer %s cannot be asked for its keys: %v", u.Issuer, u.Err)
}

// Unwrap gives the cause.
func (u *Unavailable) Unwrap() error { return u.Err }
