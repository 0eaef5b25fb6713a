package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/oidcclient"
)

// GitHub asks GitHub Actions for the job's ID token, with an audience that commits to the node's keys. The job needs
// `permissions: id-token: write`.
type GitHub struct {
	// Transport nil: the system's.
	Transport http.RoundTripper
}

// The variables that a job with the permission has.
const (
	githubURL   = "ACTIONS_ID_TOKEN_REQUEST_URL"
	githubToken = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
)

// Name is GitHub Actions.
func (GitHub) Name() string { return "GitHub Actions" }

// Token asks for a token.
func (g GitHub) Token(ctx context.Context, need Need) (string, error) {
	raw, bearer := os.Getenv(githubURL), os.Getenv(githubToken)
	if raw == "" || bearer == "" {
		return "", fmt.Errorf("%w: %s is not set; give the job `permissions: id-token: write`", ErrNone, githubURL)
	}
	target, err := url.Parse(raw)
	if err != nil || target.Host == "" {
		return "", fmt.Errorf("%s is no URL", githubURL)
	}
	query := target.Query()
	query.Set("audience", need.BoundAudience())
	target.RawQuery = query.Encode()
	ctx, cancel := context.WithTimeout(ctx, oidcclient.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return "", fmt.Errorf("%s is no URL", githubURL)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	client := http.Client{
		Transport:     g.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask GitHub Actions for a token: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ask GitHub Actions for a token: it answers %s", resp.Status)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 2*oidcclient.MaxTokenBytes)).Decode(&answer); err != nil {
		return "", errors.New("ask GitHub Actions for a token: it answers no JSON object")
	}
	return clean("the answer of GitHub Actions", answer.Value)
}

// ClientCredentials asks the issuer's token endpoint as a client with a secret (RFC 6749, section 4.4). SecretFile must
// have mode 0600. Audience, if set, is sent as `audience`, which some providers want.
type ClientCredentials struct {
	Client     *oidcclient.Client
	ClientID   string
	SecretFile string
	Scopes     []string
	Audience   string
}

// Name says which client.
func (c ClientCredentials) Name() string { return "client credentials of " + c.ClientID }

// Token discovers the endpoint and asks.
func (c ClientCredentials) Token(ctx context.Context, need Need) (string, error) {
	secret, err := keyfile.Load(c.SecretFile)
	if err != nil {
		return "", fmt.Errorf("client secret: %w", err)
	}
	provider, err := c.Client.Discover(ctx, need.Issuer)
	if err != nil {
		return "", err
	}
	extra := url.Values{}
	if c.Audience != "" {
		extra.Set("audience", c.Audience)
	}
	auth := oidcclient.Auth{ClientID: c.ClientID, Secret: strings.TrimSpace(string(secret))}
	raw, err := c.Client.ClientCredentials(ctx, provider.TokenEndpoint, auth, extra, c.Scopes...)
	if err != nil {
		return "", err
	}
	return clean("the answer of the provider", raw)
}

// Grant is what a person left with the agent: it gets ID tokens until it is taken back.
type Grant struct {
	Issuer        string `json:"issuer"`
	TokenEndpoint string `json:"tokenEndpoint"`
	ClientID      string `json:"clientID"`
	ClientSecret  string `json:"clientSecret"`
	RefreshToken  string `json:"refreshToken"`
}

// Refresh gets tokens with a refresh token. Providers that replace it with each use (RFC 6749, section 6) take the old one
// back, so Save must have kept the new one before the ID token is used.
type Refresh struct {
	Client *oidcclient.Client
	Load   func() (Grant, bool)
	Save   func(Grant) error
}

// Name is the sign-in of a person.
func (Refresh) Name() string { return "refresh token" }

// Token uses the refresh token. A provider that does not take it any more is ErrSpent.
func (r Refresh) Token(ctx context.Context, _ Need) (string, error) {
	grant, ok := r.Load()
	if !ok {
		return "", fmt.Errorf("%w: no refresh token is kept", ErrSpent)
	}
	auth := oidcclient.InstalledApp(grant.ClientID, grant.ClientSecret)
	tokens, err := r.Client.Refresh(ctx, grant.TokenEndpoint, auth, grant.RefreshToken)
	if next := tokens.RefreshToken; next != "" && next != grant.RefreshToken {
		grant.RefreshToken = next
		if saveErr := r.Save(grant); saveErr != nil {
			return "", errors.Join(fmt.Errorf("the new refresh token cannot be kept: %w", saveErr), err)
		}
	}
	if oidcclient.IsCode(err, "invalid_grant") {
		return "", fmt.Errorf("%w: the refresh token is not accepted any more: %w", ErrSpent, err)
	}
	if err != nil {
		return "", err
	}
	return clean("the answer of the provider", tokens.IDToken)
}
