package idp

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// IssuerOptions says how a simulated provider is to be. The zero value is plain HTTP on a free port of the loopback,
// with an RS256 key.
type IssuerOptions struct {
	Listener  net.Listener // lab.Host.Listen gives one for a lab
	TLS       bool
	Authority *Authority // default with TLS: a new one
	Path      string     // of the issuer URL: "" or "/tenant"
	Algorithm string     // of the first key; see Rotate

	// DeviceInterval and DeviceLifetime are what a device flow is told, in seconds. Defaults: 1 and 300.
	DeviceInterval, DeviceLifetime int
	// DeviceNonce and RefreshNonce make the provider copy a "nonce" parameter of the device authorization request, and
	// of the refresh request, into the ID token; the common providers do neither. That of the authorization request is
	// always copied, and kept by refreshes.
	DeviceNonce, RefreshNonce bool

	// ClientSecret, if set, is what every request for tokens must carry, in its form or as basic authentication: the way of
	// providers that give installed apps a secret which is none.
	ClientSecret string
}

// Issuer is a simulated OpenID provider inside the test's own process: it signs whatever claims it is given, with the
// defects it is told, and misbehaves on request. It checks as little as it can and is no example of a provider; what
// real ones do is tested with Dex and Zitadel. Methods may be called from many goroutines.
type Issuer struct {
	options IssuerOptions
	issuer  string
	host    string
	server  *http.Server

	mu       sync.Mutex
	keys     []*key // published; the last one signs
	made     int    // keys ever made
	faults   map[Endpoint]Fault
	requests []Request
	answers  []Answer
	flows    map[string]flow // by code, device code and refresh token
	issued   int             // codes and tokens ever issued
	jobs     map[string]Claims
}

// Endpoint is a path below the issuer URL.
type Endpoint string

// The endpoints of a simulated provider.
const (
	Discovery Endpoint = "/.well-known/openid-configuration"
	Keys      Endpoint = "/keys"
	Authorize Endpoint = "/authorize" // approves at once and redirects
	Device    Endpoint = "/device_authorization"
	Tokens    Endpoint = "/token"
	Actions   Endpoint = "/actions" // GitHub's, for jobs
)

// Request is what reached an endpoint, faults or not.
type Request struct {
	Endpoint Endpoint
	Form     url.Values // query and body
	Header   http.Header
}

// StartIssuer starts a simulated provider. The caller must Close it.
func StartIssuer(o IssuerOptions) (*Issuer, error) {
	var err error
	if o.Listener == nil {
		if o.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, err
		}
	}
	if o.DeviceInterval == 0 {
		o.DeviceInterval = 1
	}
	if o.DeviceLifetime == 0 {
		o.DeviceLifetime = 300
	}
	if o.Algorithm == "" {
		o.Algorithm = "RS256"
	}
	if o.TLS && o.Authority == nil {
		if o.Authority, err = NewAuthority(); err != nil {
			return nil, errors.Join(err, o.Listener.Close())
		}
	}
	i := &Issuer{
		options: o, host: o.Listener.Addr().String(), faults: map[Endpoint]Fault{}, flows: map[string]flow{},
		jobs: map[string]Claims{},
	}
	if err := i.Rotate(o.Algorithm); err != nil {
		return nil, errors.Join(err, o.Listener.Close())
	}
	if err := i.serve(); err != nil {
		return nil, errors.Join(err, o.Listener.Close())
	}
	return i, nil
}

// RunIssuer is StartIssuer for a test; the test's end closes it.
func RunIssuer(tb TB, o IssuerOptions) *Issuer {
	tb.Helper()
	i, err := StartIssuer(o)
	if err != nil {
		tb.Fatalf("start the simulated provider: %v", err)
	}
	tb.Cleanup(i.Close)
	return i
}

func (i *Issuer) serve() error {
	i.server = &http.Server{Handler: i.handler(), ReadHeaderTimeout: time.Minute}
	if !i.options.TLS {
		i.issuer = "http://" + i.host + i.options.Path
		go func() { _ = i.server.Serve(i.options.Listener) }()
		return nil
	}
	i.issuer = "https://" + i.host + i.options.Path
	host, _, err := net.SplitHostPort(i.host)
	if err != nil {
		return err
	}
	pair, err := i.options.Authority.Issue(host)
	if err != nil {
		return err
	}
	i.server.TLSConfig = tlsConfig(pair)
	go func() { _ = i.server.ServeTLS(i.options.Listener, "", "") }()
	return nil
}

// Issuer is the issuer URL.
func (i *Issuer) Issuer() string { return i.issuer }

// URL is the address of an endpoint.
func (i *Issuer) URL(e Endpoint) string { return i.issuer + string(e) }

// CA is the PEM certificate to trust; nil without TLS.
func (i *Issuer) CA() []byte {
	if i.options.Authority == nil {
		return nil
	}
	return i.options.Authority.PEM()
}

// Client gives an HTTP client that trusts this provider, from this machine.
func (i *Issuer) Client() *http.Client { return NewClient((&net.Dialer{}).DialContext, i.CA()) }

// Close stops the provider and cuts what hangs.
func (i *Issuer) Close() { _ = i.server.Close() }

// Requests lists what reached an endpoint, oldest first.
func (i *Issuer) Requests(e Endpoint) []Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(i.requests), func(r Request) bool { return r.Endpoint != e })
}

func (i *Issuer) handler() http.Handler {
	mux := http.NewServeMux()
	for endpoint, honest := range map[Endpoint]http.HandlerFunc{
		Discovery: i.serveDiscovery, Keys: i.serveKeys, Authorize: i.serveAuthorize, Device: i.serveDevice,
		Tokens: i.serveTokens, Actions: i.serveActions,
	} {
		mux.HandleFunc(i.options.Path+string(endpoint), func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
			if err := r.ParseForm(); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			i.mu.Lock()
			i.requests = append(i.requests, Request{endpoint, maps.Clone(r.Form), r.Header.Clone()})
			fault := i.faults[endpoint]
			i.mu.Unlock()
			if fault != nil {
				fault(w, r, honest)
				return
			}
			honest(w, r)
		})
	}
	return mux
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	grants := []string{"authorization_code", deviceGrant, "refresh_token", "client_credentials"}
	writeJSON(w, http.StatusOK, object{
		"issuer":                                i.issuer,
		"jwks_uri":                              i.URL(Keys),
		"authorization_endpoint":                i.URL(Authorize),
		"device_authorization_endpoint":         i.URL(Device),
		"token_endpoint":                        i.URL(Tokens),
		"grant_types_supported":                 grants,
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"scopes_supported":                      []string{"openid", "email", "profile", "groups", "offline_access"},
		"code_challenge_methods_supported":      []string{"S256"},
		"id_token_signing_alg_values_supported": []string{"RS256", "PS256", "ES256", "EdDSA"},
	})
}

func (i *Issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range i.keys {
		set.Keys = append(set.Keys, k.public())
	}
	writeJSON(w, http.StatusOK, set)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
