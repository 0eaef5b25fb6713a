// Package login signs a person in at an OpenID provider and brings back an ID token that commits to a node's keys. It
// is the client side for people: a browser on this machine (RFC 8252), a browser on another one whose address bar is
// pasted back, or a code typed in elsewhere (RFC 8628). Any provider that follows the standards will do.
//
// It promises that a token it gives was issued for the client, audience and commitment it asked with, as far as the
// token itself says so; whether the token's signature holds is the controller's to judge. No error and no text that
// it makes holds a token, a code or a secret. It keeps nothing: where a result goes is the caller's business.
package login

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// Errors that a caller may want to tell apart.
var (
	// ErrDenied says that the person, or the provider for them, refused.
	ErrDenied = errors.New("signing in was refused")
	// ErrExpired says that the person took longer than the provider, or the context, allows.
	ErrExpired = errors.New("nobody signed in within the time allowed")
	// ErrUnbound says that the token commits to no keys although the network asks for that.
	ErrUnbound = errors.New("the token is not bound to the node's keys")
	// ErrToken says that the provider gave a token that is not what was asked for; the message names the claim.
	ErrToken = errors.New("the provider's ID token is not usable")
	// ErrUnsupported says that the provider, or the network's description of it, lacks what this way of signing in
	// needs.
	ErrUnsupported = errors.New("this way of signing in is not possible here")
)

// Flow is one signing in: of whom it is asked and what the token has to commit to.
type Flow struct {
	// Issuer is the provider as the network describes it; ClientID must be set.
	Issuer protocol.IssuerInfo
	// Commitment becomes the token's nonce (see protocol.Commitment).
	Commitment string
	// Client reaches the provider.
	Client *oidcclient.Client
	// Callback is where the provider sends the browser back to: host:port of the loopback, port 0 for a free one.
	// Empty means 127.0.0.1:0. A provider that only takes registered addresses needs a fixed one; `localhost:PORT`
	// keeps that word in the address.
	Callback string
}

// Session is what signing in gives: enough to enrol now and to renew later. It is secret.
type Session struct {
	// Issuer is the name that the network gives the provider.
	Issuer  string `json:"issuer"`
	IDToken string `json:"idToken"`
	// RefreshToken is empty if the provider gives none; renewal then needs a person.
	RefreshToken string `json:"refreshToken"`
	// TokenEndpoint, ClientID and ClientSecret (mostly empty) are what RefreshToken is used with.
	TokenEndpoint string `json:"tokenEndpoint"`
	ClientID      string `json:"clientID"`
	ClientSecret  string `json:"clientSecret,omitempty"`
}

// String keeps tokens out of logs and messages, whatever verb prints the session.
func (s Session) String() string { return "session at " + s.Issuer }

// GoString is String, for %#v.
func (s Session) GoString() string { return s.String() }

// begin learns the provider's endpoints.
func (f *Flow) begin(ctx context.Context) (*oidcclient.Provider, error) {
	if f.Issuer.ClientID == "" {
		return nil, fmt.Errorf("%w: issuer %s names no client for people (Network.spec.issuers: clientID)",
			ErrUnsupported, f.Issuer.Name)
	}
	p, err := f.Client.Discover(ctx, f.Issuer.URL)
	if err != nil {
		return nil, err
	}
	if p.TokenEndpoint == "" {
		return nil, fmt.Errorf("%w: provider %s names no token endpoint", ErrUnsupported, f.Issuer.Name)
	}
	return &p, nil
}

// scopes is what is asked for: openid always, and offline_access only of a provider that does not say it knows none,
// since some refuse a whole request for a scope that they do not have.
func (f *Flow) scopes(p *oidcclient.Provider) []string {
	scopes := []string{"openid"}
	for _, s := range f.Issuer.Scopes {
		if s == "offline_access" && len(p.Scopes) > 0 && !slices.Contains(p.Scopes, s) {
			continue
		}
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

// session checks what the token endpoint gave and keeps what matters of it.
func (f *Flow) session(p *oidcclient.Provider, tokens oidcclient.Tokens, nonce nonceRule) (*Session, error) {
	if tokens.IDToken == "" {
		return nil, fmt.Errorf("%w: the answer of %s holds no id_token; is scope openid allowed for client %s?",
			ErrToken, f.Issuer.Name, f.Issuer.ClientID)
	}
	if err := f.check(tokens.IDToken, nonce); err != nil {
		return nil, err
	}
	return &Session{Issuer: f.Issuer.Name, IDToken: tokens.IDToken, RefreshToken: tokens.RefreshToken,
		TokenEndpoint: p.TokenEndpoint, ClientID: f.Issuer.ClientID, ClientSecret: f.Issuer.ClientSecret}, nil
}

// auth is how the client names itself: by its ID alone, unless the provider wants the secret that is none.
func (f *Flow) auth() oidcclient.Auth {
	return oidcclient.InstalledApp(f.Issuer.ClientID, f.Issuer.ClientSecret)
}

// failed words an error: the person's refusal and their lateness are told apart from the rest.
func (f *Flow) failed(ctx context.Context, doing string, err error) error {
	switch {
	case oidcclient.IsCode(err, "access_denied"):
		err = fmt.Errorf("%w: %w", ErrDenied, err)
	case oidcclient.IsCode(err, "expired_token"), errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%w: %w", ErrExpired, err)
	}
	return fmt.Errorf("%s at %s: %w", doing, f.Issuer.Name, err)
}

// clip makes foreign text fit for a terminal: printable, one line, of bounded length.
func clip(text string) string {
	const most = 200
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
