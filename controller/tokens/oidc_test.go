package tokens_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/idp"
)

const audience = "apex"

// world is a verifier with a clock of its own, and a provider.
type world struct {
	*testing.T
	*idp.Issuer
	oidc *tokens.OIDC

	mu  sync.Mutex
	now time.Time
}

func newWorld(t *testing.T, o idp.IssuerOptions, opts tokens.Options) *world {
	t.Helper()
	w := &world{T: t, Issuer: idp.RunIssuer(t, o), now: time.Now().Truncate(time.Second)}
	opts.Now = w.clock
	if o.TLS {
		opts.CAFile = filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(opts.CAFile, w.CA(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if w.oidc, err = tokens.New(opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.oidc.Close)
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) demand() tokens.Issuer {
	return tokens.Issuer{URL: w.Issuer.Issuer(), Audiences: []string{audience}, Leeway: 30 * time.Second}
}

func (w *world) sound() idp.Claims { return w.Claims(audience, "alice", w.clock()) }

func (w *world) verify(raw string) (*tokens.Verified, error) {
	return w.oidc.Verify(w.Context(), w.demand(), raw)
}

// refused demands an error by this reason that says something and does not show the token.
func (w *world) refused(what, raw string, err, want error) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Errorf("%s: %v, want %v", what, err, want)
		return
	}
	for _, part := range strings.Split(raw, ".") {
		if len(part) > 8 && strings.Contains(err.Error(), part) {
			w.Errorf("%s: the error shows the token: %v", what, err)
		}
	}
}

func TestSoundTokens(t *testing.T) {
	for _, algorithm := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		for _, o := range []idp.IssuerOptions{{}, {Path: "/tenant"}, {TLS: true}} {
			o.Algorithm = algorithm
			w := newWorld(t, o, tokens.Options{})
			raw := w.Mint(w.sound().With("nonce", "n").With("big", json.Number("9007199254740993")))
			v, err := w.verify(raw)
			if err != nil {
				t.Fatalf("%s: %v", algorithm, err)
			}
			if v.Subject != "alice" || v.Nonce != "n" || v.Issuer != w.Issuer.Issuer() || len(v.ID) != 64 || v.Claims["big"] != json.Number("9007199254740993") {
				t.Errorf("%s: %+v", algorithm, v)
			}
			// The archived key is enough for a third party, long after, and for that token only.
			demand := w.demand()
			demand.At = w.clock()
			w.pass(1000 * time.Hour)
			if again, err := tokens.VerifyWith(v.Key, demand, raw); err != nil || again.ID != v.ID {
				t.Errorf("%s: archived: %+v, %v", algorithm, again, err)
			}
			if _, err := w.oidc.Verify(t.Context(), demand, raw); err != nil {
				t.Errorf("%s: as of then, with the issuer's own key: %v", algorithm, err)
			}
			forged := w.Mint(w.Claims(audience, "alice", demand.At), idp.WrongKey())
			_, err = tokens.VerifyWith(v.Key, demand, forged)
			w.refused("archived key, another signature", forged, err, tokens.ErrSignature)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	now := w.clock()
	for _, c := range []struct {
		name    string
		claims  idp.Claims
		defects []idp.Defect
		want    error
		says    string
	}{
		{name: "none", defects: []idp.Defect{idp.AlgNone("none")}, want: tokens.ErrAlgorithm, says: `alg is "none"`},
		{name: "nOnE", defects: []idp.Defect{idp.AlgNone("nOnE")}, want: tokens.ErrAlgorithm},
		{name: "HS256 with the PEM", defects: []idp.Defect{idp.HS256WithPublicPEM()}, want: tokens.ErrAlgorithm, says: "HS256"},
		{name: "HS256 with the JWK", defects: []idp.Defect{idp.HS256WithPublicJWK()}, want: tokens.ErrAlgorithm},
		{name: "says ES256", defects: []idp.Defect{idp.SaysAlg("ES256")}, want: tokens.ErrSignature},
		{name: "says PS256", defects: []idp.Defect{idp.SaysAlg("PS256")}, want: tokens.ErrSignature},
		{name: "wrong key", defects: []idp.Defect{idp.WrongKey()}, want: tokens.ErrSignature},
		{name: "embedded key", defects: []idp.Defect{idp.EmbeddedKey()}, want: tokens.ErrSignature},
		{name: "unknown kid", defects: []idp.Defect{idp.Header("kid", "stranger")}, want: tokens.ErrSignature, says: "stranger"},
		{name: "critical extension", defects: []idp.Defect{idp.Header("crit", []string{"exp"})}, want: tokens.ErrMalformed},
		{name: "bad signature", defects: []idp.Defect{idp.BadSignature()}, want: tokens.ErrSignature},
		{name: "tampered", defects: []idp.Defect{idp.Tampered("sub", "mallory")}, want: tokens.ErrSignature},
		{name: "no JSON", defects: []idp.Defect{idp.Payload("hello")}, want: tokens.ErrMalformed},
		{name: "JSON serialization", defects: []idp.Defect{idp.AsJSON()}, want: tokens.ErrMalformed},
		{name: "spaced", defects: []idp.Defect{idp.Spaced()}, want: tokens.ErrMalformed},
		{name: "duplicate audience", claims: w.sound().With("aud", "other"), defects: []idp.Defect{idp.Duplicate("aud", audience)},
			want: tokens.ErrMalformed, says: "twice"},
		{name: "case-folded audience", claims: w.sound().Without("aud").With("AUD", audience), want: tokens.ErrAudience},
		{name: "another type", defects: []idp.Defect{idp.Header("typ", "logout+jwt")}, want: tokens.ErrMalformed},
		{name: "other audience", claims: w.sound().With("aud", "other"), want: tokens.ErrAudience, says: `claim aud: "other", want one of ["apex"]`},
		{name: "audience that begins alike", claims: w.sound().With("aud", "apex-evil"), want: tokens.ErrAudience},
		{name: "no audience", claims: w.sound().Without("aud"), want: tokens.ErrAudience},
		{name: "audience of numbers", claims: w.sound().With("aud", []any{1}), want: tokens.ErrMalformed},
		{name: "other issuer", claims: w.sound().With("iss", "https://evil.example"), want: tokens.ErrIssuer, says: "claim iss"},
		{name: "issuer with a slash", claims: w.sound().With("iss", w.Issuer.Issuer()+"/"), want: tokens.ErrIssuer},
		{name: "expired", claims: w.sound().Valid(now.Add(-time.Hour), now.Add(-time.Minute)), want: tokens.ErrExpired, says: "1m0s apart"},
		{name: "no exp", claims: w.sound().Without("exp"), want: tokens.ErrMalformed, says: "claim exp"},
		{name: "no iat", claims: w.sound().Without("iat"), want: tokens.ErrMalformed, says: "claim iat"},
		{name: "5 minutes ahead", claims: w.sound().Valid(now.Add(5*time.Minute), now.Add(time.Hour)), want: tokens.ErrNotYet,
			says: "5m0s apart, 30s are allowed; compare the clocks"},
		{name: "issued tomorrow", claims: w.sound().Without("nbf").With("iat", now.Add(24*time.Hour).Unix()), want: tokens.ErrNotYet, says: "claim iat"},
		{name: "lives for years", claims: w.sound().Valid(now, now.Add(9*365*24*time.Hour)), want: tokens.ErrLife},
		{name: "ends before it begins", claims: w.sound().Without("nbf").With("exp", now.Unix()).With("iat", now.Unix()+10), want: tokens.ErrMalformed},
		{name: "no sub", claims: w.sound().Without("sub"), want: tokens.ErrMalformed, says: "claim sub"},
		{name: "nonce of a number", claims: w.sound().With("nonce", 1), want: tokens.ErrMalformed},
		{name: "1 MiB", claims: w.sound().With("padding", strings.Repeat("a", 1<<20)), want: tokens.ErrMalformed},
		{name: "exp as text", claims: w.sound().With("exp", "9999999999"), want: tokens.ErrMalformed},
		{name: "exp beyond reason", claims: w.sound().With("exp", json.Number("1e300")), want: tokens.ErrMalformed},
	} {
		claims := c.claims
		if claims == nil {
			claims = w.sound()
		}
		raw := w.Mint(claims, c.defects...)
		_, err := w.verify(raw)
		w.refused(c.name, raw, err, c.want)
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.name, err, c.says)
		}
	}
	for _, raw := range []string{"", ".", "..", "a.b.c", strings.Repeat(".", 9)} {
		_, err := w.verify(raw)
		w.refused(fmt.Sprintf("%q", raw), raw, err, tokens.ErrMalformed)
	}
}

func TestLeewayGoesBothWays(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	now := w.clock()
	for _, claims := range []idp.Claims{
		w.sound().Valid(now.Add(29*time.Second), now.Add(time.Hour)),
		w.sound().Valid(now.Add(-time.Hour), now.Add(-29*time.Second)),
		w.sound().With("aud", []string{"other", audience}),
		w.sound().Without("nbf"),
		w.sound().With("exp", json.Number(fmt.Sprintf("%d.5", now.Add(time.Hour).Unix()))),
	} {
		if _, err := w.verify(w.Mint(claims)); err != nil {
			t.Error(err)
		}
	}
}

func TestBound(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	demand := w.demand()
	demand.Audiences = append(demand.Audiences, audience+":mine")
	for i, c := range []struct {
		claims idp.Claims
		bound  bool
		err    error
	}{
		{w.sound(), false, nil},
		{w.sound().With("nonce", "mine"), true, nil},
		{w.sound().With("nonce", "theirs"), false, tokens.ErrBinding},
		{w.sound().With("aud", audience+":mine"), true, nil},
		{w.sound().With("aud", []string{audience, audience + ":theirs"}), false, tokens.ErrBinding},
		{w.sound().With("aud", audience+":mine").With("nonce", "theirs"), false, tokens.ErrBinding},
	} {
		v, err := w.oidc.Verify(t.Context(), demand, w.Mint(c.claims))
		if err != nil {
			t.Fatal(i, err)
		}
		if bound, err := v.Bound(audience, "mine"); bound != c.bound || !errors.Is(err, c.err) {
			t.Errorf("%d: %v, %v", i, bound, err)
		}
	}
}

// TestID shows that a replay is known whatever the token looks like.
func TestID(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{Algorithm: "ES256"}, tokens.Options{})
	id := func(raw string) string {
		v, err := w.verify(raw)
		if err != nil {
			t.Fatal(err)
		}
		return v.ID
	}
	one := w.sound().With("jti", "1")
	if id(w.Mint(one)) != id(w.Mint(one.With("sub", "bob"))) {
		t.Error("one jti has two IDs")
	}
	if id(w.Mint(one)) == id(w.Mint(one.With("jti", "2"))) {
		t.Error("two jti have one ID")
	}
	// ECDSA signatures differ each time: without a jti, what was signed is what counts.
	bare := w.sound().Without("jti")
	first, second := w.Mint(bare), w.Mint(bare)
	if first == second || id(first) != id(second) || id(first) == id(w.Mint(bare.With("sub", "bob"))) {
		t.Error("without a jti the ID is not that of what was signed")
	}
}

func TestRotationInMidFlight(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	old := w.Mint(w.sound())
	if _, err := w.verify(old); err != nil {
		t.Fatal(err)
	}
	if err := w.Rotate("ES256"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	before := len(w.Requests(idp.Keys))
	for range 20 {
		wg.Go(func() {
			if _, err := w.verify(w.Mint(w.sound())); err != nil {
				t.Errorf("the first token by a new key: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(w.Requests(idp.Keys)) - before; n != 1 {
		t.Errorf("20 tokens by one new key caused %d fetches", n)
	}
	_, err := w.verify(old)
	w.refused("withdrawn key", old, err, tokens.ErrSignature)
}

// TestWithdrawnKey shows that a key ends although nobody ever names another.
func TestWithdrawnKey(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	raw := w.Mint(w.sound().Valid(w.clock(), w.clock().Add(time.Hour)))
	if _, err := w.verify(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Rotate(""); err != nil {
		t.Fatal(err)
	}
	w.pass(11 * time.Minute)
	_, err := w.verify(raw)
	w.refused("withdrawn key", raw, err, tokens.ErrSignature)
}

// TestStrangersKeyIDs bounds what made-up key IDs cost the provider, and what they cost the honest.
func TestStrangersKeyIDs(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{Algorithm: "ES256"}, tokens.Options{}) // each stranger makes a key
	for i := range 100 {
		raw := w.Mint(w.sound(), idp.WrongKey(), idp.Header("kid", fmt.Sprint("made up ", i)))
		if _, err := w.verify(raw); err == nil {
			t.Fatal("accepted")
		}
	}
	if n := len(w.Requests(idp.Keys)); n > 5 {
		t.Errorf("100 strangers caused %d fetches", n)
	}
	if _, err := w.verify(w.Mint(w.sound())); err != nil {
		t.Errorf("an honest token meanwhile: %v", err)
	}
	if err := w.Rotate(""); err != nil {
		t.Fatal(err)
	}
	_, err := w.verify(w.Mint(w.sound()))
	var down *tokens.Unavailable
	if !errors.As(err, &down) || !down.Retry.After(w.clock()) {
		t.Errorf("a rotation in the middle of a flood: %v", err)
	}
	w.pass(31 * time.Second)
	if _, err := w.verify(w.Mint(w.sound())); err != nil {
		t.Errorf("after the flood: %v", err)
	}
}

// TestGarbageFetchesNothing: what is wrong without any key asks no provider.
func TestGarbageFetchesNothing(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	for _, claims := range []idp.Claims{w.sound().With("aud", "x"), w.sound().With("iss", "x"), w.sound().Without("exp")} {
		if _, err := w.verify(w.Mint(claims, idp.Header("kid", "x"))); err == nil {
			t.Error("accepted")
		}
	}
	if n := len(w.Requests(idp.Discovery)) + len(w.Requests(idp.Keys)); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestProvidersThatMisbehave(t *testing.T) {
	elsewhere := idp.RunIssuer(t, idp.IssuerOptions{})
	for name, fault := range map[string]idp.Fault{
		"hangs": idp.Hang(), "fails": idp.Status(http.StatusInternalServerError), "endless": idp.Endless(), "trickles": idp.Trickle(),
		"cut short": idp.CutShort(), "a page": idp.Body("text/html", "<html>"), "redirects": idp.RedirectTo(elsewhere.URL(idp.Discovery)),
		"another issuer": idp.Edit(func(d map[string]any) { d["issuer"] = "https://evil.example" }),
		"file keys":      idp.Edit(func(d map[string]any) { d["jwks_uri"] = "file:///etc/passwd" }),
		"no keys":        idp.Edit(func(d map[string]any) { delete(d, "jwks_uri"); delete(d, "keys") }),
	} {
		t.Run(name, func(t *testing.T) {
			for _, endpoint := range []idp.Endpoint{idp.Discovery, idp.Keys} {
				if endpoint == idp.Keys && (name == "another issuer" || name == "file keys") {
					continue // they say so in the discovery
				}
				w := newWorld(t, idp.IssuerOptions{}, tokens.Options{Timeout: 2 * time.Second})
				w.Break(endpoint, fault)
				raw := w.Mint(w.sound())
				_, err := w.verify(raw)
				var down *tokens.Unavailable
				if !errors.As(err, &down) || down.Issuer != w.Issuer.Issuer() {
					t.Fatalf("%s: %v", endpoint, err)
				}
				// It is left alone for a moment, then it works as if nothing had been.
				w.Break(endpoint, nil)
				if _, err := w.verify(raw); !errors.As(err, &down) {
					t.Errorf("%s: asked again at once: %v", endpoint, err)
				}
				for err = down; errors.As(err, &down); { // a sound provider may be late too, where nothing is scheduled for two seconds
					w.pass(2 * time.Second)
					_, err = w.verify(w.Mint(w.sound()))
				}
				if err != nil {
					t.Errorf("%s: mended: %v", endpoint, err)
				}
			}
		})
	}
	if len(elsewhere.Requests(idp.Discovery)) != 0 {
		t.Error("a redirect to another host was followed")
	}
}

// TestDeadProviderHurtsOnlyItsOwn has one verifier, a provider that hangs and one that does not.
func TestDeadProviderHurtsOnlyItsOwn(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{Timeout: time.Minute})
	dead := idp.RunIssuer(t, idp.IssuerOptions{})
	dead.Break(idp.Discovery, idp.Hang())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	demand := w.demand()
	demand.URL = dead.Issuer()
	go func() {
		_, err := w.oidc.Verify(ctx, demand, dead.Mint(dead.Claims(audience, "alice", w.clock())))
		done <- err
	}()
	if _, err := w.verify(w.Mint(w.sound())); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestOutageOfAWhile: keys that were fetched go on for a while, then the provider is needed.
func TestOutageOfAWhile(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{}, tokens.Options{})
	if _, err := w.verify(w.Mint(w.sound())); err != nil {
		t.Fatal(err)
	}
	w.Break(idp.Keys, idp.Status(http.StatusBadGateway))
	w.Break(idp.Discovery, idp.Status(http.StatusBadGateway))
	w.pass(30 * time.Minute)
	if _, err := w.verify(w.Mint(w.sound())); err != nil {
		t.Errorf("after half an hour: %v", err)
	}
	w.pass(40 * time.Minute)
	var down *tokens.Unavailable
	if _, err := w.verify(w.Mint(w.sound())); !errors.As(err, &down) {
		t.Errorf("after more than an hour: %v", err)
	}
}

func TestAuthorities(t *testing.T) {
	w := newWorld(t, idp.IssuerOptions{TLS: true}, tokens.Options{})
	plain, err := tokens.New(tokens.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var down *tokens.Unavailable
	if _, err := plain.Verify(t.Context(), w.demand(), w.Mint(w.sound())); !errors.As(err, &down) {
		t.Errorf("a certificate of nobody known: %v", err)
	}
	for name, content := range map[string]string{"empty": "", "garbage": "hello"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tokens.New(tokens.Options{CAFile: file}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := tokens.New(tokens.Options{CAFile: "/none"}); err == nil {
		t.Error("a missing file is accepted")
	}
}

func TestMemoryTwin(t *testing.T) {
	now := time.Now()
	m := &tokens.Memory{Now: func() time.Time { return now }}
	demand := tokens.Issuer{URL: "https://idp.example", Audiences: []string{audience}}
	claims := map[string]any{"iss": demand.URL, "sub": "alice", "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	raw := m.Issue(claims)
	if v, err := m.Verify(t.Context(), demand, raw); err != nil || v.Subject != "alice" {
		t.Errorf("%+v, %v", v, err)
	}
	if _, err := (&tokens.Memory{}).Verify(t.Context(), demand, raw); !errors.Is(err, tokens.ErrSignature) {
		t.Error(err)
	}
	claims["aud"] = "x"
	if _, err := m.Verify(t.Context(), demand, m.Issue(claims)); !errors.Is(err, tokens.ErrAudience) {
		t.Error(err)
	}
	m.Break(demand.URL, errors.New("down"))
	var down *tokens.Unavailable
	if _, err := m.Verify(t.Context(), demand, raw); !errors.As(err, &down) {
		t.Error(err)
	}
}
