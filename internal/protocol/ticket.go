package protocol

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// TokenRequest is an Apply with an ID token in place of an SSH signature. The token's audience is the one of the trust
// root's applier identity; it is good for one apply.
type TokenRequest struct {
	Payload []byte `json:"payload"`
	Token   string `json:"token"`
}

// How long a ticket may be used: TicketIdle after it was last shown, MaxTicketLife in all.
const (
	TicketIdle    = 2 * RequestSkew
	MaxTicketLife = 2 * time.Hour
)

// DecodeApply reads the body of an apply: a SignedRequest, or a TokenRequest, in which case token is not nil.
func DecodeApply(data []byte) (signed SignedRequest, token *TokenRequest, err error) {
	var either struct {
		Payload   []byte `json:"payload"`
		Signature string `json:"signature,omitempty"`
		Token     string `json:"token,omitempty"`
	}
	if err := Decode(data, MaxApplyBytes, &either); err != nil {
		return SignedRequest{}, nil, err
	}
	switch {
	case (either.Signature == "") == (either.Token == ""):
		return SignedRequest{}, nil, fmt.Errorf("%w: want either a signature or a token", ErrMalformed)
	case len(either.Token) > MaxTokenBytes:
		return SignedRequest{}, nil, fmt.Errorf("%w: token of %d bytes, limit %d", ErrTooLarge, len(either.Token), MaxTokenBytes)
	case either.Token != "":
		return SignedRequest{}, &TokenRequest{Payload: either.Payload, Token: either.Token}, nil
	}
	return SignedRequest{Payload: either.Payload, Signature: either.Signature}, nil, nil
}

// NewTicket makes a ticket: 22 characters, base64url of 16 random bytes. Whoever shows it may read the status of one network,
// as the applier to whom it was given, and nothing else.
func NewTicket() (string, error) { return newNonce() }

// bearer is the scheme of RFC 6750, in the one spelling that we write and read.
const bearer = "Bearer "

// SetBearer puts a ticket, or a witness's access token, into the header of a request.
func SetBearer(h http.Header, token string) { h.Set("Authorization", bearer+token) }

// GetBearer reads it, at most MaxTokenBytes; false if there is none, or more than one.
func GetBearer(h http.Header) (string, bool) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	token, ok := strings.CutPrefix(values[0], bearer)
	return token, ok && token != "" && len(token) <= MaxTokenBytes
}
