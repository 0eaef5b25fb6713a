package login

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/oauth2"

	"github.com/apex-network/apex/internal/oidcclient"
)

// callbackPath is where the browser comes back to.
const callbackPath = "/callback"

// codeFlow is an authorization request under way (OpenID Connect Core 1.0 §3.1, with PKCE, RFC 7636):
//
//	url ──▶ browser, person ──▶ redirect: accept(query) ──▶ code ──▶ redeem ──▶ session
type codeFlow struct {
	*Flow
	provider                  *oidcclient.Provider
	redirect, state, verifier string
}

// code begins an authorization request that comes back to redirect.
func (f *Flow) code(ctx context.Context, redirect string) (*codeFlow, error) {
	p, err := f.begin(ctx)
	if err != nil {
		return nil, err
	}
	if p.AuthorizationEndpoint == "" {
		return nil, fmt.Errorf("%w: provider %s names no authorization endpoint", ErrUnsupported, f.Issuer.Name)
	}
	return &codeFlow{
		Flow: f, provider: p, redirect: redirect, state: rand.Text(), verifier: oauth2.GenerateVerifier(),
	}, nil
}

// url is what the person's browser is to open.
func (c *codeFlow) url() string {
	config := oauth2.Config{ClientID: c.Issuer.ClientID, RedirectURL: c.redirect, Scopes: c.scopes(c.provider),
		Endpoint: oauth2.Endpoint{AuthURL: c.provider.AuthorizationEndpoint}}
	return config.AuthCodeURL(c.state, oauth2.S256ChallengeOption(c.verifier),
		oauth2.SetAuthURLParam("nonce", c.Commitment))
}

// errForeign says that a redirect belongs to another signing in, or is somebody's attempt to slip one in.
var errForeign = errors.New("this redirect does not belong to this signing in (parameter state differs)")

// accept reads the parameters of a redirect and gives its code. Nothing in it counts unless its state is ours.
func (c *codeFlow) accept(query url.Values) (code string, err error) {
	if subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(c.state)) != 1 {
		return "", errForeign
	}
	// RFC 9207 §2.4: an answer of another provider must not be sent to this one's token endpoint.
	if iss := query.Get("iss"); iss != c.Issuer.URL && (iss != "" || c.provider.NamesIssuer) {
		return "", fmt.Errorf("%w: the redirect comes from %q, not from %q (parameter iss)",
			ErrToken, clip(iss), c.Issuer.URL)
	}
	if problem := query.Get("error"); problem != "" {
		refused := &oidcclient.Error{Code: clip(problem), Description: clip(query.Get("error_description"))}
		return "", c.failed(context.Background(), "sign in", refused)
	}
	if code = query.Get("code"); code == "" {
		return "", fmt.Errorf("%w: the redirect carries neither code nor error", ErrToken)
	}
	return code, nil
}

// redeem changes the code for a session.
func (c *codeFlow) redeem(ctx context.Context, code string) (*Session, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {c.redirect}, "code_verifier": {c.verifier},
	}
	tokens, err := c.Client.Token(ctx, c.provider.TokenEndpoint, form, c.auth())
	if err != nil {
		return nil, c.failed(ctx, "get a token", err)
	}
	return c.session(c.provider, tokens, nonceSent)
}

// landing is what the browser shows in the end. Nothing of the request is repeated in it.
func landing(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<!doctype html><title>Apex</title><h1>Apex</h1><p>%s</p>\n", text)
}
