package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/apex-network/apex/spec/claims"
)

const (
	// firstPause and maxPause bound how long a provider that failed is left alone.
	firstPause = time.Second
	maxPause   = time.Minute
	// strangerFetches is how often, in strangerWindow, a key ID that nobody knows makes us ask for newer keys.
	strangerFetches = 3
	strangerWindow  = 30 * time.Second
	// discoveryFresh is how long the address of the keys is used without asking again.
	discoveryFresh = time.Hour
	// maxKeys is the most keys of an issuer that are looked at.
	maxKeys = 200
)

// provider is one issuer: its keys, and when they may be asked for again.
type provider struct {
	url    string
	client *http.Client
	opts   Options

	mu         sync.Mutex
	keys       []jose.JSONWebKey // replaced, never changed
	fetched    time.Time         // of the keys; zero: never
	jwks       string            // address of the keys
	discovered time.Time
	flight     *flight // the fetch under way
	failures   int
	retry      time.Time // not asked again before
	lastErr    error
	strangers  []time.Time // fetches for unknown key IDs
}

// flight is one fetch; err may be read once done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// candidates gives the issuer's keys with this ID, and all its keys if the token names none; it asks the issuer if it
// has to.
func (p *provider) candidates(ctx context.Context, keyID string) ([]jose.JSONWebKey, error) {
	keys, fetched, err := p.current(ctx)
	if err != nil {
		return nil, err
	}
	if found := withID(keys, keyID); len(found) > 0 {
		return found, nil
	}
	if keys, err = p.newer(ctx, fetched); err != nil {
		return nil, err
	}
	if found := withID(keys, keyID); len(found) > 0 {
		return found, nil
	}
	return nil, refuse(ErrSignature, "", "the issuer publishes no key %.80q", keyID)
}

func withID(keys []jose.JSONWebKey, id string) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, k := range keys {
		if id == "" || k.KeyID == id {
			out = append(out, k)
		}
	}
	return out
}

// current gives keys that are fresh, or, while the provider cannot be asked, those that were.
func (p *provider) current(ctx context.Context) ([]jose.JSONWebKey, time.Time, error) {
	p.mu.Lock()
	now := p.opts.Now()
	if !p.fetched.IsZero() && now.Sub(p.fetched) < p.opts.KeysFresh {
		defer p.mu.Unlock()
		return p.keys, p.fetched, nil
	}
	var err error
	if now.Before(p.retry) {
		err = p.unavailable(p.lastErr)
	} else {
		f := p.fly()
		p.mu.Unlock()
		err = f.wait(ctx)
		p.mu.Lock()
	}
	defer p.mu.Unlock()
	var down *Unavailable
	if errors.As(err, &down) && !p.fetched.IsZero() && now.Sub(p.fetched) < p.opts.KeysKept {
		return p.keys, p.fetched, nil
	}
	return p.keys, p.fetched, err
}

// newer asks for keys fetched after an instant, because a token names one that was not among them: the issuer may have
// rotated its keys, or a stranger have made up an ID.
func (p *provider) newer(ctx context.Context, than time.Time) ([]jose.JSONWebKey, error) {
	p.mu.Lock()
	if p.fetched.After(than) {
		defer p.mu.Unlock()
		return p.keys, nil
	}
	now := p.opts.Now()
	f := p.flight
	if f == nil {
		for len(p.strangers) > 0 && now.Sub(p.strangers[0]) >= strangerWindow {
			p.strangers = p.strangers[1:]
		}
		retry, cause := p.retry, p.lastErr
		if len(p.strangers) >= strangerFetches {
			retry, cause = p.strangers[0].Add(strangerWindow), errors.New("the token names a key that was not published a moment ago")
		}
		if now.Before(retry) {
			defer p.mu.Unlock()
			return nil, &Unavailable{Issuer: p.url, Retry: retry, Err: cause}
		}
		p.strangers = append(p.strangers, now)
		f = p.fly()
	}
	p.mu.Unlock()
	if err := f.wait(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys, nil
}

// fly begins a fetch, or joins the one under way. It goes on when those who wait give up. p.mu is held.
func (p *provider) fly() *flight {
	if p.flight != nil {
		return p.flight
	}
	f := &flight{done: make(chan struct{})}
	p.flight = f
	jwks := p.jwks
	if p.opts.Now().Sub(p.discovered) >= discoveryFresh {
		jwks = ""
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), p.opts.Timeout)
		defer cancel()
		address, keys, err := p.fetch(ctx, jwks)
		p.land(f, jwks == "", address, keys, err)
	}()
	return f
}

// land takes in what a fetch brought.
func (p *provider) land(f *flight, discovered bool, address string, keys []jose.JSONWebKey, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(f.done)
	p.flight = nil
	now := p.opts.Now()
	if err != nil {
		p.retry = now.Add(min(firstPause<<min(p.failures, 10), maxPause))
		p.failures++
		p.lastErr, p.jwks = err, "" // the keys may have moved
		f.err = p.unavailable(err)
		p.opts.Logger.Warn("identity provider cannot be asked for its keys", "issuer", p.url, "error", err, "retry", p.retry)
		return
	}
	if p.failures > 0 {
		p.opts.Logger.Info("identity provider answers again", "issuer", p.url)
	}
	p.keys, p.fetched, p.jwks = keys, now, address
	p.failures, p.retry, p.lastErr = 0, time.Time{}, nil
	if discovered {
		p.discovered = now
	}
}

func (p *provider) unavailable(err error) error {
	return &Unavailable{Issuer: p.url, Retry: p.retry, Err: err}
}

func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch asks for the keys; jwks is their address, or empty if discovery has to say it first.
func (p *provider) fetch(ctx context.Context, jwks string) (string, []jose.JSONWebKey, error) {
	if jwks == "" {
		found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.url)
		if err != nil {
			return "", nil, fmt.Errorf("discovery: %w", clipped{err})
		}
		var document struct {
			Keys string `json:"jwks_uri"`
		}
		if err := found.Claims(&document); err != nil {
			return "", nil, fmt.Errorf("discovery: %w", err)
		}
		if jwks = document.Keys; !fetchable(jwks, p.url) {
			return "", nil, fmt.Errorf("discovery: jwks_uri %.160q is no https URL", jwks)
		}
	}
	keys, err := p.fetchKeys(ctx, jwks)
	return jwks, keys, err
}

// fetchable demands https for the keys, unless the issuer itself has none: then, as for the issuer, http on a loopback
// address, so that nobody on this host can send us to a service that has only its network to protect it.
func fetchable(address, issuer string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && strings.HasPrefix(issuer, "http://") &&
		claims.CheckIssuer("http://"+u.Host) == nil
}

func (p *provider) fetchKeys(ctx context.Context, address string) ([]jose.JSONWebKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("keys: %s answers %s", address, resp.Status)
	}
	body, err := io.ReadAll(resp.Body) // newClient caps it
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return readKeys(body)
}

// readKeys takes the usable keys of a JWK set and passes over the others: one odd key must not cost the rest.
func readKeys(body []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("keys: the answer is no JWK set")
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) == nil && usable(k) {
			out = append(out, jose.JSONWebKey{Key: k.Key, KeyID: k.KeyID, Algorithm: k.Algorithm, Use: k.Use})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("keys: the issuer publishes none that can verify a signature")
	}
	return out, nil
}

// clipped shortens a message that may hold what a provider sent.
type clipped struct{ error }

func (c clipped) Error() string {
	if s := c.error.Error(); len(s) > 300 {
		return strings.ToValidUTF8(s[:300], "") + "…"
	}
	return c.error.Error()
}

// Unwrap gives the whole.
func (c clipped) Unwrap() error { return c.error }
