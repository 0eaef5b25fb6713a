package idp_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/apex-network/apex/internal/idp"
)

const audience = "https://controller.example"

// verify checks a token with go-oidc alone, with all algorithms that a simulated provider has.
func verify(t *testing.T, i *idp.Issuer, token string) (*oidc.IDToken, error) {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), i.Client())
	provider, err := oidc.NewProvider(ctx, i.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	return provider.Verifier(&oidc.Config{ClientID: audience}).Verify(ctx, token)
}

func TestIssuerMintsSoundTokens(t *testing.T) {
	for _, algorithm := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: algorithm, TLS: algorithm == "ES256", Path: "/tenant"})
			token, err := verify(t, i, i.Mint(i.Claims(audience, "alice", time.Now())))
			if err != nil {
				t.Fatal(err)
			}
			if token.Subject != "alice" || token.Issuer != i.Issuer() {
				t.Errorf("%q by %q", token.Subject, token.Issuer)
			}
		})
	}
}

// TestWhatGoOIDCLetsPass says for each defect whether go-oidc, set up as usual, refuses it. What passes is for our own
// code to refuse.
func TestWhatGoOIDCLetsPass(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{})
	now := time.Now()
	sound := i.Claims(audience, "alice", now)
	for _, c := range []struct {
		name    string
		claims  idp.Claims
		defects []idp.Defect
		passes  bool
	}{
		{name: "none", defects: []idp.Defect{idp.AlgNone("none")}},
		{name: "nOnE", defects: []idp.Defect{idp.AlgNone("nOnE")}},
		{name: "HS256 with the PEM", defects: []idp.Defect{idp.HS256WithPublicPEM()}},
		{name: "HS256 with the JWK", defects: []idp.Defect{idp.HS256WithPublicJWK()}},
		{name: "says ES256", defects: []idp.Defect{idp.SaysAlg("ES256")}},
		{name: "says PS256", defects: []idp.Defect{idp.SaysAlg("PS256")}},
		{name: "wrong key", defects: []idp.Defect{idp.WrongKey()}},
		{name: "embedded key", defects: []idp.Defect{idp.EmbeddedKey()}},
		{name: "unknown kid", defects: []idp.Defect{idp.Header("kid", "stranger")}},
		{name: "no kid", defects: []idp.Defect{idp.NoHeader("kid")}, passes: true},
		{name: "critical extension", defects: []idp.Defect{idp.Header("crit", []string{"exp"})}},
		{name: "bad signature", defects: []idp.Defect{idp.BadSignature()}},
		{name: "tampered", defects: []idp.Defect{idp.Tampered("sub", "mallory")}},
		{name: "no JSON", defects: []idp.Defect{idp.Payload("hello")}},
		{name: "JSON serialization", defects: []idp.Defect{idp.AsJSON()}, passes: true},
		{name: "spaced", defects: []idp.Defect{idp.Spaced()}, passes: true},
		{name: "duplicate audience", claims: sound.With("aud", "other"),
			defects: []idp.Defect{idp.Duplicate("aud", audience)}, passes: true},
		{name: "case-folded audience", claims: sound.Without("aud").With("AUD", audience), passes: true},
		{name: "another type", defects: []idp.Defect{idp.Header("typ", "logout+jwt")}, passes: true},
		{name: "other audience", claims: sound.With("aud", "other")},
		{name: "no audience", claims: sound.Without("aud")},
		{name: "one of two audiences", claims: sound.With("aud", []string{"other", audience}), passes: true},
		{name: "other issuer", claims: sound.With("iss", "https://evil.example")},
		{name: "issuer with a slash", claims: sound.With("iss", i.Issuer()+"/")},
		{name: "expired", claims: sound.Valid(now.Add(-time.Hour), now.Add(-time.Second))},
		{name: "no exp", claims: sound.Without("exp")},
		{name: "4 minutes ahead", claims: sound.Valid(now.Add(4*time.Minute), now.Add(time.Hour)), passes: true},
		{name: "6 minutes ahead", claims: sound.Valid(now.Add(6*time.Minute), now.Add(time.Hour))},
		{name: "issued tomorrow", claims: sound.Without("nbf").With("iat", now.Add(24*time.Hour).Unix()), passes: true},
		{name: "lives for years", claims: sound.Valid(now, now.Add(9*365*24*time.Hour)), passes: true},
		{name: "no jti", claims: sound.Without("jti"), passes: true},
		{name: "no sub", claims: sound.Without("sub"), passes: true},
		{name: "1 MiB", claims: sound.With("padding", strings.Repeat("a", 1<<20)), passes: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := c.claims
			if claims == nil {
				claims = sound
			}
			_, err := verify(t, i, i.Mint(claims, c.defects...))
			if passes := err == nil; passes != c.passes {
				t.Errorf("passes: %v, want %v (%v)", passes, c.passes, err)
			}
		})
	}
}

func TestIssuerRotatesKeys(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})
	ctx := oidc.ClientContext(t.Context(), i.Client())
	provider, err := oidc.NewProvider(ctx, i.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: audience})
	check := func(what, token string, want bool) {
		t.Helper()
		if _, err := verifier.Verify(ctx, token); (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	old := i.Mint(i.Claims(audience, "alice", time.Now()))
	check("first", old, true)
	if err := i.AddKey("EdDSA"); err != nil {
		t.Fatal(err)
	}
	check("added", i.Mint(i.Claims(audience, "alice", time.Now())), true)
	check("old one while both are published", old, true)
	if err := i.Rotate(""); err != nil {
		t.Fatal(err)
	}
	check("rotated", i.Mint(i.Claims(audience, "alice", time.Now())), true)
	check("withdrawn", old, false)
	if n := len(i.Requests(idp.Keys)); n != 4 {
		t.Errorf("the keys were fetched %d times", n)
	}
}

func TestIssuerMisbehaves(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})
	for _, c := range []struct {
		name  string
		fault idp.Fault
	}{
		{"hang", idp.Hang()},
		{"500", idp.Status(http.StatusInternalServerError)},
		{"trickle", idp.Trickle()},
		{"cut short", idp.CutShort()},
		{"web page", idp.Body("text/html", "<html>maintenance</html>")},
		{"another issuer", idp.Edit(func(m map[string]any) { m["issuer"] = "https://evil.example" })},
		{"loop", idp.RedirectTo(i.URL(idp.Discovery))},
	} {
		t.Run(c.name, func(t *testing.T) {
			i.Break(idp.Discovery, c.fault)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := oidc.NewProvider(oidc.ClientContext(ctx, i.Client()), i.Issuer()); err == nil {
				t.Error("discovery works")
			}
		})
	}
	t.Run("endless", func(t *testing.T) {
		i.Break(idp.Keys, idp.Endless())
		resp, err := i.Client().Get(i.URL(idp.Keys))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if n, err := io.CopyN(io.Discard, resp.Body, 8<<20); err != nil {
			t.Errorf("it ended after %d bytes: %v", n, err)
		}
	})
	i.Break(idp.Discovery, nil)
	if _, err := oidc.NewProvider(oidc.ClientContext(t.Context(), i.Client()), i.Issuer()); err != nil {
		t.Errorf("mended: %v", err)
	}
}

func TestIssuerScriptsTheTokenEndpoint(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256", DeviceNonce: true, RefreshNonce: true})
	r := newRig(t, i.Issuer(), i.Client())
	code := r.mustPost(r.provider.Endpoint().DeviceAuthURL, url.Values{"client_id": {idp.ClientID}, "nonce": {"mine"}})
	i.Answer(idp.Pending(), idp.SlowDown(), idp.Denied(), idp.CodeExpired(), idp.InvalidGrant(),
		idp.Fail(http.StatusServiceUnavailable, "temporarily_unavailable", "later"),
		idp.Grant(i.Claims(idp.ClientID, "alice", time.Now())))
	poll := url.Values{
		"client_id": {idp.ClientID}, "grant_type": {deviceGrant}, "device_code": {text(code, "device_code")},
	}
	var said []string
	var answer map[string]any
	for range 7 {
		_, answer = r.post(r.provider.Endpoint().TokenURL, poll)
		said = append(said, text(answer, "error"))
	}
	want := []string{"authorization_pending", "slow_down", "access_denied", "expired_token", "invalid_grant",
		"temporarily_unavailable", ""}
	if !slices.Equal(said, want) {
		t.Errorf("answers %q", said)
	}
	if got := text(r.claims(answer), "nonce"); got != "mine" {
		t.Errorf("nonce %q", got)
	}
	next := r.mustRefresh(answer, url.Values{"nonce": {"later"}})
	if got := text(r.claims(next), "nonce"); got != "later" {
		t.Errorf("nonce after refresh %q", got)
	}
	if n := len(i.Requests(idp.Tokens)); n != 8 {
		t.Errorf("%d requests", n)
	}
	i.Answer(idp.NoIDToken())
	if answer := r.mustRefresh(next, nil); answer["id_token"] != nil {
		t.Error("there is an ID token")
	}
}

func TestIssuerRunsACodeFlow(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})
	r := newRig(t, i.Issuer(), i.Client())
	answer := r.code(idp.Person{Login: "nobody asks", Client: i.Client()}, "mine")
	if claims := r.claims(answer); text(claims, "nonce") != "mine" || text(claims, "sub") != "somebody" {
		t.Errorf("nonce %v of %v", claims["nonce"], claims["sub"])
	}
	if got := text(r.claims(r.mustRefresh(answer, url.Values{"nonce": {"later"}})), "nonce"); got != "mine" {
		t.Errorf("nonce after refresh %q", got)
	}
	status, _ := r.post(r.provider.Endpoint().TokenURL, url.Values{
		"client_id": {idp.ClientID}, "grant_type": {"authorization_code"}, "code": {"made up"}, "code_verifier": {"x"},
	})
	if status != http.StatusBadRequest {
		t.Errorf("a made-up code: %d", status)
	}
}

func TestJobTokens(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})
	now := time.Now()
	for _, c := range []struct {
		claims idp.Claims
		sub    string
	}{
		{idp.GitHubJob{}.Claims(i.Issuer(), audience, now), "repo:example/network:ref:refs/heads/main"},
		{idp.GitHubJob{Environment: "prod"}.Claims(i.Issuer(), audience, now), "repo:example/network:environment:prod"},
		{idp.GitHubJob{Event: "pull_request"}.Claims(i.Issuer(), audience, now), "repo:example/network:pull_request"},
		{idp.GitLabJob{}.Claims(i.Issuer(), audience, now), "project_path:example/network:ref_type:branch:ref:main"},
		{idp.GitLabJob{Tag: true, Ref: "v1"}.Claims(i.Issuer(), audience, now),
			"project_path:example/network:ref_type:tag:ref:v1"},
		{idp.ServiceAccount{}.Claims(i.Issuer(), audience, now), "system:serviceaccount:default:deployer"},
	} {
		token, err := verify(t, i, i.Mint(c.claims))
		if err != nil {
			t.Errorf("%s: %v", c.sub, err)
		} else if token.Subject != c.sub {
			t.Errorf("subject %q, want %q", token.Subject, c.sub)
		}
	}
}

func TestGitHubEnvServesAJob(t *testing.T) {
	i := idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})
	env := map[string]string{}
	for _, kv := range i.GitHubEnv(idp.GitHubJob{Repository: "corp/net"}.Claims(i.Issuer(), "default", time.Now())) {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	ask := func(bearer string) (int, string) {
		t.Helper()
		address := env["ACTIONS_ID_TOKEN_REQUEST_URL"] + "&audience=" + url.QueryEscape(audience)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := i.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct{ Value string }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer.Value
	}
	if status, _ := ask("guessed"); status != http.StatusUnauthorized {
		t.Errorf("a guessed bearer: %d", status)
	}
	_, value := ask(env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"])
	token, err := verify(t, i, value)
	if err != nil {
		t.Fatal(err)
	}
	if token.Subject != "repo:corp/net:ref:refs/heads/main" {
		t.Errorf("subject %q", token.Subject)
	}
}
