package oidcclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Auth is how a client names itself at the token endpoint (RFC 6749, section 2.3).
type Auth struct {
	ClientID string
	// Secret is empty for a public client, which then only says its ID.
	Secret string
	// InForm sends the secret in the form (client_secret_post), for providers that take it nowhere else.
	InForm bool
}

// InstalledApp is the client of people (RFC 8252): a public one, which only says its ID, or one of a provider that wants a
// secret although every copy of the app carries it (section 8.5). Those document it in the form.
func InstalledApp(clientID, secret string) Auth {
	return Auth{ClientID: clientID, Secret: secret, InForm: true}
}

// fill adds what travels in the form.
func (a *Auth) fill(form url.Values) url.Values {
	out := url.Values{}
	for name, values := range form {
		out[name] = values
	}
	if a.Secret == "" || a.InForm {
		out.Set("client_id", a.ClientID)
	}
	if a.Secret != "" && a.InForm {
		out.Set("client_secret", a.Secret)
	}
	return out
}

// sign adds what travels in the header: both halves are form-encoded first.
func (a *Auth) sign(req *http.Request) {
	if a.Secret != "" && !a.InForm {
		req.SetBasicAuth(url.QueryEscape(a.ClientID), url.QueryEscape(a.Secret))
	}
}

// Tokens is a good answer of the token endpoint. It never prints itself.
type Tokens struct {
	// IDToken is the raw ID token; empty if the provider gave none.
	IDToken string
	// RefreshToken gets the next; empty if the provider gave none.
	RefreshToken string
	AccessToken  string
}

// String keeps tokens out of logs.
func (Tokens) String() string { return "[tokens]" }

// Format keeps them out under every verb.
func (Tokens) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[tokens]")) }

// MarshalText keeps them out of encoders.
func (Tokens) MarshalText() ([]byte, error) { return []byte("[tokens]"), nil }

// Token sends a grant to the token endpoint and reads the tokens. A provider's refusal is an *Error, which a device flow
// asks for authorization_pending and slow_down.
func (c *Client) Token(ctx context.Context, endpoint string, form url.Values, auth Auth) (Tokens, error) {
	body, err := c.Post(ctx, endpoint, form, &auth)
	if err != nil {
		return Tokens{}, err
	}
	var answer struct {
		IDToken      string `json:"id_token"`
		RefreshToken string `json:"refresh_token"`
		AccessToken  string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Tokens{}, fmt.Errorf("token endpoint %s: %w: it answers no JSON object", endpoint, ErrUnavailable)
	}
	for _, token := range []string{answer.IDToken, answer.RefreshToken} {
		if len(token) > MaxTokenBytes {
			return Tokens{}, fmt.Errorf("token endpoint %s: a token of %d bytes, limit %d", endpoint, len(token), MaxTokenBytes)
		}
	}
	return Tokens{IDToken: answer.IDToken, RefreshToken: answer.RefreshToken, AccessToken: answer.AccessToken}, nil
}

// ErrNoIDToken says that the provider answered without an ID token; the message says what to do.
var ErrNoIDToken = errors.New("the OpenID provider gave no ID token")

// Refresh is the refresh token grant (RFC 6749, section 6). Where the provider gives no new refresh token, the old one goes
// on and is in the result. scopes may be empty: those of the first grant.
func (c *Client) Refresh(ctx context.Context, endpoint string, auth Auth, refreshToken string, scopes ...string) (Tokens, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken}}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	tokens, err := c.Token(ctx, endpoint, form, auth)
	if err != nil {
		return Tokens{}, err
	}
	if tokens.RefreshToken == "" {
		tokens.RefreshToken = refreshToken
	}
	if tokens.IDToken == "" {
		return tokens, fmt.Errorf("%w when asked to refresh: allow the scope openid for this client", ErrNoIDToken)
	}
	return tokens, nil
}

// ClientCredentials is the grant of a machine that has a secret (RFC 6749, section 4.4). OpenID Connect does not say that an
// ID token comes with it; where none does, the access token stands in if it is a JWT, which is what providers that serve
// machines give.
func (c *Client) ClientCredentials(
	ctx context.Context, endpoint string, auth Auth, extra url.Values, scopes ...string,
) (string, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	for name, values := range extra {
		form[name] = values
	}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	tokens, err := c.Token(ctx, endpoint, form, auth)
	switch {
	case err != nil:
		return "", err
	case tokens.IDToken != "":
		return tokens.IDToken, nil
	case strings.Count(tokens.AccessToken, ".") == 2 && len(tokens.AccessToken) <= MaxTokenBytes:
		return tokens.AccessToken, nil
	}
	return "", fmt.Errorf("%w for client credentials, and its access token is no JWT: ask for the scope openid, "+
		"or let the provider issue JWT access tokens", ErrNoIDToken)
}

// Claims are a few claims of an ID token that nobody has verified.
type Claims struct {
	Issuer   string
	Subject  string
	Audience []string
	Nonce    string
	// Issued and Expires are zero if the token does not say.
	Issued, Expires time.Time
}

// Peek reads an ID token without verifying it: for messages to people, never for decisions about others.
func Peek(token string) (Claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > MaxTokenBytes {
		return Claims{}, errors.New("this is no ID token: want a JWT of three parts")
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return Claims{}, errors.New("this is no ID token: its second part is not base64url")
	}
	var raw struct {
		Issuer   string          `json:"iss"`
		Subject  string          `json:"sub"`
		Audience json.RawMessage `json:"aud"`
		Nonce    string          `json:"nonce"`
		Issued   json.Number     `json:"iat"`
		Expires  json.Number     `json:"exp"`
	}
	if err := json.Unmarshal(payload, &raw); err != nil {
		return Claims{}, errors.New("this is no ID token: its second part is not a JSON object of claims")
	}
	c := Claims{
		Issuer: cut(raw.Issuer), Subject: cut(raw.Subject), Nonce: cut(raw.Nonce),
		Issued: instant(raw.Issued), Expires: instant(raw.Expires),
	}
	var one string
	if json.Unmarshal(raw.Audience, &one) == nil {
		c.Audience = []string{one}
	} else if len(raw.Audience) > 0 && json.Unmarshal(raw.Audience, &c.Audience) != nil {
		return Claims{}, errors.New("this is no ID token: the claim aud is neither text nor a list of texts")
	}
	return c, nil
}

// instant reads seconds since 1970, fractions cut.
func instant(n json.Number) time.Time {
	f, err := n.Float64()
	if err != nil || f <= 0 || f > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}
