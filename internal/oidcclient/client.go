package oidcclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Bounds of one exchange.
const (
	// MaxBodyBytes bounds what a provider may answer.
	MaxBodyBytes = 1 << 20
	// Timeout bounds one exchange, connection included.
	Timeout = 15 * time.Second
	// MaxTokenBytes bounds a token that is accepted from a provider or a file; the controller takes no longer one.
	MaxTokenBytes = 16 << 10
	maxRedirects  = 3
	maxWords      = 300
)

// ErrUnavailable says that no usable answer came: the network, a time-out, a 5xx, or something that is no provider. A later
// attempt may do better.
var ErrUnavailable = errors.New("the OpenID provider cannot be reached")

// Error is the provider's refusal, RFC 6749, section 5.2.
type Error struct {
	// Code is one of the registered words, for example invalid_grant, authorization_pending or slow_down.
	Code string
	// Description is for people, cut to one line; often empty.
	Description string
	Status      int // of HTTP
}

// Error gives the code and the provider's words.
func (e *Error) Error() string {
	if e.Description == "" {
		return fmt.Sprintf("the OpenID provider answers %s", e.Code)
	}
	return fmt.Sprintf("the OpenID provider answers %s: %s", e.Code, e.Description)
}

// IsCode says whether err is the provider's refusal with this code.
func IsCode(err error, code string) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Code == code
}

// Client makes requests of providers. It may be used by several goroutines.
type Client struct {
	transport http.RoundTripper
	userAgent string
}

// New makes a Client. A nil transport is one with the system's authorities and the environment's proxy.
func New(transport http.RoundTripper, userAgent string) *Client {
	if transport == nil {
		transport = defaultTransport()
	}
	return &Client{transport: transport, userAgent: userAgent}
}

func defaultTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 1, IdleConnTimeout: 10 * time.Second, MaxResponseHeaderBytes: 32 << 10,
	}
}

// Provider is what discovery says (OpenID Connect Discovery 1.0, section 3). Endpoints that a provider does not have are
// empty.
type Provider struct {
	Issuer                string   `json:"issuer"`
	TokenEndpoint         string   `json:"token_endpoint"`
	AuthorizationEndpoint string   `json:"authorization_endpoint"`
	DeviceEndpoint        string   `json:"device_authorization_endpoint"` // RFC 8628
	Scopes                []string `json:"scopes_supported"`
	GrantTypes            []string `json:"grant_types_supported"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported"`
	// NamesIssuer says that every redirect of the provider carries `iss` (RFC 9207, section 3).
	NamesIssuer bool `json:"authorization_response_iss_parameter_supported"`
}

// Discover reads the provider's metadata. The document must name the very issuer that was asked, and its endpoints must be
// https (http for loopback only).
func (c *Client) Discover(ctx context.Context, issuer string) (Provider, error) {
	if err := checkURL("issuer", issuer); err != nil {
		return Provider{}, err
	}
	target := strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return Provider{}, fmt.Errorf("discovery of %s: %w", issuer, err)
	}
	status, body, err := c.do(req, sameHost)
	if err != nil {
		return Provider{}, fmt.Errorf("discovery of %s: %w", issuer, err)
	}
	if status != http.StatusOK {
		return Provider{}, fmt.Errorf("discovery of %s: %w: it answers %d", issuer, ErrUnavailable, status)
	}
	var p Provider
	if err := json.Unmarshal(body, &p); err != nil {
		return Provider{}, fmt.Errorf("discovery of %s: %w: it answers no JSON object", issuer, ErrUnavailable)
	}
	if p.Issuer != issuer {
		return Provider{}, fmt.Errorf("discovery of %s: the document is of issuer %q; the issuer in git must be spelled exactly so",
			issuer, cut(p.Issuer))
	}
	for _, endpoint := range []struct{ name, value string }{
		{"token_endpoint", p.TokenEndpoint}, {"authorization_endpoint", p.AuthorizationEndpoint},
		{"device_authorization_endpoint", p.DeviceEndpoint},
	} {
		if endpoint.value == "" {
			continue
		}
		if err := checkURL(endpoint.name, endpoint.value); err != nil {
			return Provider{}, fmt.Errorf("discovery of %s: %w", issuer, err)
		}
	}
	return p, nil
}

// Post sends a form to one of the provider's endpoints and gives the JSON object it answers. auth may be nil. It is for
// grants that this package does not know; see Token for those that end in tokens.
func (c *Client) Post(ctx context.Context, endpoint string, form url.Values, auth *Auth) ([]byte, error) {
	if err := checkURL("endpoint", endpoint); err != nil {
		return nil, err
	}
	if auth != nil {
		form = auth.fill(form)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", endpoint, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if auth != nil {
		auth.sign(req)
	}
	status, body, err := c.do(req, noRedirect)
	if err != nil {
		return nil, fmt.Errorf("request to %s: %w", endpoint, err)
	}
	if status == http.StatusOK {
		return body, nil
	}
	return nil, fmt.Errorf("request to %s: %w", endpoint, refusal(status, body))
}

// refusal reads an error answer.
func refusal(status int, body []byte) error {
	var words struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal(body, &words) != nil || words.Code == "" || status >= 500 {
		return fmt.Errorf("%w: it answers %d", ErrUnavailable, status)
	}
	return &Error{Code: cut(words.Code), Description: cut(words.Description), Status: status}
}

// do makes one exchange. It gives the status and the whole body.
func (c *Client) do(req *http.Request, redirects func(*http.Request, []*http.Request) error) (int, []byte, error) {
	req.Header.Set("Accept", "application/json")
	if c.userAgent != "" {
		req.Header.Set("User-Agent", c.userAgent)
	}
	client := http.Client{Transport: c.transport, Timeout: Timeout, CheckRedirect: redirects}
	resp, err := client.Do(req)
	if err != nil {
		// The error of net/http quotes the URL, which carries no secret: those travel in forms and headers.
		return 0, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return 0, nil, fmt.Errorf("%w: it redirects, which is not followed", ErrUnavailable)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBodyBytes+1))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if len(body) > MaxBodyBytes {
		return 0, nil, fmt.Errorf("%w: it sends more than %d bytes", ErrUnavailable, MaxBodyBytes)
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); resp.StatusCode == http.StatusOK &&
		(err != nil || kind != "application/json" && !strings.HasSuffix(kind, "+json")) {
		return 0, nil, fmt.Errorf("%w: it answers %s, not JSON; is the URL right?", ErrUnavailable, cut(kind))
	}
	return resp.StatusCode, body, nil
}

// sameHost follows a few redirects that stay at the scheme and host that were asked.
func sameHost(req *http.Request, via []*http.Request) error {
	if first := via[0].URL; len(via) > maxRedirects || req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return http.ErrUseLastResponse
	}
	return nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// CheckEndpoint wants an https URL, or http to loopback: what this package sends secrets to.
func CheckEndpoint(endpoint string) error { return checkURL("endpoint", endpoint) }

// checkURL wants an https URL, or http to loopback.
func checkURL(what, raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%s %q is not an https URL", what, cut(raw))
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s %q: want https (http is for loopback only)", what, cut(raw))
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// cut makes foreign words one bounded line of printable characters.
func cut(s string) string {
	out := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(out); len(runes) > maxWords {
		return string(runes[:maxWords]) + "…"
	}
	return out
}
