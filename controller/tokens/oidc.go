package tokens

import (
	"context"
	"crypto/rsa"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// Options make an OIDC. The zero value is complete.
type Options struct {
	// CAFile holds certificate authorities, PEM, that are trusted besides the system's.
	CAFile string
	// Timeout bounds one fetch: discovery and keys. Default 10s.
	Timeout time.Duration
	// KeysFresh is how long fetched keys are used without asking again, default 10m: a withdrawn key counts no longer than
	// that. KeysKept is how long they go on where the provider cannot be asked, default 1h.
	KeysFresh, KeysKept time.Duration
	// Now and Logger have defaults. The logger is told of providers that fail, never of tokens.
	Now    func() time.Time
	Logger *slog.Logger
}

// OIDC verifies tokens with what their issuers publish. It is safe for concurrent use.
type OIDC struct {
	opts   Options
	client *http.Client

	mu        sync.Mutex
	providers map[string]*provider // by issuer URL, made when first asked for
}

// New asks no issuer yet. It fails if the CA file cannot be read.
func New(o Options) (*OIDC, error) {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.KeysFresh <= 0 {
		o.KeysFresh = 10 * time.Minute
	}
	if o.KeysKept <= 0 {
		o.KeysKept = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	client, err := newClient(o.CAFile, o.Timeout)
	if err != nil {
		return nil, err
	}
	return &OIDC{opts: o, client: client, providers: map[string]*provider{}}, nil
}

// Close ends idle connections.
func (o *OIDC) Close() { o.client.CloseIdleConnections() }

// Verify says whether raw is a token as demanded. Errors: *Refused, *Unavailable, those of ctx.
func (o *OIDC) Verify(ctx context.Context, demand Issuer, raw string) (*Verified, error) {
	at := demand.At
	if at.IsZero() {
		at = o.opts.Now()
	}
	return verify(ctx, demand, raw, at, o.provider(demand.URL))
}

func (o *OIDC) provider(url string) *provider {
	o.mu.Lock()
	defer o.mu.Unlock()
	p, ok := o.providers[url]
	if !ok {
		p = &provider{url: url, client: o.client, opts: o.opts}
		o.providers[url] = p
	}
	return p
}

// VerifyWith verifies an archived token with the key that is archived beside it (Verified.Key), as of demand.At: what a
// third party does with evidence. It says that whoever held the key made the token, not whose key it is. Errors: *Refused.
func VerifyWith(key []byte, demand Issuer, raw string) (*Verified, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(key); err != nil || !usable(k) {
		return nil, refuse(ErrSignature, "", "the archived key is no public signing key")
	}
	if demand.At.IsZero() {
		return nil, errors.New("verify an archived token: the instant is missing")
	}
	return verify(context.Background(), demand, raw, demand.At, archived{k})
}

// keySource gives the keys that may have made a signature.
type keySource interface {
	// candidates gives the keys for a key ID ("": all); errors: *Refused, *Unavailable, those of ctx.
	candidates(ctx context.Context, keyID string) ([]jose.JSONWebKey, error)
}

type archived struct{ key jose.JSONWebKey }

func (a archived) candidates(context.Context, string) ([]jose.JSONWebKey, error) {
	return []jose.JSONWebKey{a.key}, nil
}

// verify is all of the verification: first what needs no key, then the signature and once more, by go-oidc, the issuer.
func verify(ctx context.Context, demand Issuer, raw string, at time.Time, keys keySource) (*Verified, error) {
	d, err := parse(raw)
	if err != nil {
		return nil, err
	}
	v, err := d.judge(demand, at)
	if err != nil {
		return nil, err
	}
	found := &signature{draft: d, keys: keys}
	verifier := oidc.NewVerifier(demand.URL, found, &oidc.Config{
		// Audience, times and leeway are judged above; go-oidc knows neither several audiences nor a leeway of ours.
		SkipClientIDCheck: true, SkipExpiryCheck: true, SupportedSigningAlgs: algorithmNames(),
	})
	if _, err := verifier.Verify(ctx, raw); err != nil {
		if found.err != nil {
			return nil, found.err
		}
		return nil, refuse(ErrMalformed, "", "not an ID token of %s", demand.URL)
	}
	v.Key, err = found.key.MarshalJSON()
	return v, err
}

func algorithmNames() []string {
	out := make([]string, len(algorithms))
	for i, a := range algorithms {
		out[i] = string(a)
	}
	return out
}

// signature is the oidc.KeySet of one verification: it remembers which key did it, and why none did.
type signature struct {
	draft draft
	keys  keySource
	key   jose.JSONWebKey
	err   error
}

// VerifySignature gives the payload of the token that s was made for.
func (s *signature) VerifySignature(ctx context.Context, _ string) ([]byte, error) {
	head := s.draft.jws.Signatures[0].Header
	keys, err := s.keys.candidates(ctx, head.KeyID)
	if err != nil {
		s.err = err
		return nil, err
	}
	for _, key := range keys {
		if key.Algorithm != "" && key.Algorithm != head.Algorithm {
			continue
		}
		if payload, err := s.draft.jws.Verify(key.Key); err == nil {
			s.key = key
			return payload, nil
		}
	}
	s.err = refuse(ErrSignature, "", "it was not made by the issuer's key %.80q", head.KeyID)
	return nil, s.err
}

// Sizes of RSA keys that count, in bits: a smaller one can be broken, and a larger one, of which an issuer could publish one
// of a megabyte, only costs time.
const (
	minRSA = 2048
	maxRSA = 8192
)

// usable says whether a key is a public one for signatures that we take.
func usable(k jose.JSONWebKey) bool {
	if public, ok := k.Key.(*rsa.PublicKey); ok && (public.N.BitLen() < minRSA || public.N.BitLen() > maxRSA) {
		return false
	}
	return k.Valid() && k.IsPublic() && (k.Use == "" || k.Use == "sig")
}

var _ oidc.KeySet = (*signature)(nil)
