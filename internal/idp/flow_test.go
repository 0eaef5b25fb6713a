package idp_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/apex-network/apex/internal/idp"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// alice's group is what moves in the tests.
var alice = idp.User{
	ID: "a-1", Username: "alice", Email: "alice@example.com", Password: "wonderland", Groups: []string{"admins", "staff"},
}

// rig is a client of one provider, with as little between a test and the wire as possible.
type rig struct {
	t        *testing.T
	http     *http.Client
	provider *oidc.Provider
	scope    string
}

func newRig(t *testing.T, issuer string, client *http.Client) *rig {
	t.Helper()
	provider, err := oidc.NewProvider(oidc.ClientContext(t.Context(), client), issuer)
	if err != nil {
		t.Fatalf("discovery: %v", err)
	}
	return &rig{t, client, provider, "openid email profile groups offline_access"}
}

// on gives the rig to a subtest.
func (r rig) on(t *testing.T) *rig {
	r.t = t
	return &r
}

func (r *rig) post(endpoint string, form url.Values) (int, map[string]any) {
	r.t.Helper()
	if endpoint == "" {
		r.t.Fatal("discovery does not name the endpoint")
	}
	resp, err := r.http.PostForm(endpoint, form)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(body, &answer); err != nil {
		r.t.Fatalf("%s: %s: %v", endpoint, resp.Status, err)
	}
	return resp.StatusCode, answer
}

// mustPost fails the test unless the answer is 200; only the error fields are printed.
func (r *rig) mustPost(endpoint string, form url.Values) map[string]any {
	r.t.Helper()
	status, answer := r.post(endpoint, form)
	if status != http.StatusOK {
		r.t.Fatalf("%s: %d %v %v", endpoint, status, answer["error"], answer["error_description"])
	}
	return answer
}

// device runs a device flow in which somebody approves, and gives the token answer.
func (r *rig) device(p idp.Person, extra url.Values) map[string]any {
	r.t.Helper()
	form := url.Values{"client_id": {idp.ClientID}, "scope": {r.scope}}
	maps.Copy(form, extra)
	code := r.mustPost(r.provider.Endpoint().DeviceAuthURL, form)
	poll := url.Values{
		"client_id": {idp.ClientID}, "grant_type": {deviceGrant}, "device_code": {text(code, "device_code")},
	}
	if status, answer := r.post(r.provider.Endpoint().TokenURL, poll); answer["error"] != "authorization_pending" {
		r.t.Fatalf("before anybody approved: %d %v", status, answer["error"])
	}
	if err := p.Approve(r.t.Context(), text(code, "verification_uri_complete")); err != nil {
		r.t.Fatal(err)
	}
	return r.mustPost(r.provider.Endpoint().TokenURL, poll)
}

// code runs an authorization code flow with PKCE to a loopback listener.
func (r *rig) code(p idp.Person, nonce string) map[string]any {
	r.t.Helper()
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "done")
	}))
	defer listener.Close()
	verifier := oauth2.GenerateVerifier()
	config := oauth2.Config{
		ClientID: idp.ClientID, Endpoint: r.provider.Endpoint(), RedirectURL: listener.URL + "/callback",
		Scopes: strings.Fields(r.scope),
	}
	address := config.AuthCodeURL("st4te", oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce))
	end, err := p.Follow(r.t.Context(), address)
	if err != nil {
		r.t.Fatal(err)
	}
	if end.Query().Get("state") != "st4te" || end.Query().Get("code") == "" {
		r.t.Fatalf("the listener got no code, but %q", end.Query().Get("error"))
	}
	return r.mustPost(r.provider.Endpoint().TokenURL, url.Values{
		"client_id": {idp.ClientID}, "grant_type": {"authorization_code"}, "code": {end.Query().Get("code")},
		"redirect_uri": {config.RedirectURL}, "code_verifier": {verifier},
	})
}

// refresh gives the answer to a refresh grant.
func (r *rig) refresh(answer map[string]any, extra url.Values) (int, map[string]any) {
	r.t.Helper()
	form := url.Values{
		"client_id": {idp.ClientID}, "grant_type": {"refresh_token"}, "refresh_token": {text(answer, "refresh_token")},
	}
	maps.Copy(form, extra)
	return r.post(r.provider.Endpoint().TokenURL, form)
}

func (r *rig) mustRefresh(answer map[string]any, extra url.Values) map[string]any {
	r.t.Helper()
	status, next := r.refresh(answer, extra)
	if status != http.StatusOK {
		r.t.Fatalf("refresh: %d %v %v", status, next["error"], next["error_description"])
	}
	return next
}

// claims verifies an ID token as our controller will: with go-oidc, over the provider's published keys.
func (r *rig) claims(answer map[string]any) map[string]any {
	r.t.Helper()
	verifier := r.provider.Verifier(&oidc.Config{ClientID: idp.ClientID})
	token, err := verifier.Verify(oidc.ClientContext(context.Background(), r.http), text(answer, "id_token"))
	if err != nil {
		r.t.Fatalf("verify: %v", err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		r.t.Fatal(err)
	}
	return claims
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func names(claims map[string]any) []string { return slices.Sorted(maps.Keys(claims)) }

func groups(claims map[string]any) []string {
	var list []string
	all, _ := claims["groups"].([]any)
	for _, g := range all {
		list = append(list, fmt.Sprint(g))
	}
	slices.Sort(list)
	return list
}

func wantGroups(t *testing.T, claims map[string]any, want ...string) {
	t.Helper()
	if got := groups(claims); !slices.Equal(got, want) {
		t.Errorf("groups %v, want %v", got, want)
	}
}

// wantNonce checks a row of the table in the package's doc comment.
func wantNonce(t *testing.T, what string, claims map[string]any, want string) {
	t.Helper()
	if got := text(claims, "nonce"); got != want {
		t.Errorf("%s: nonce %q, want %q", what, got, want)
	}
	if claims["jti"] != nil {
		t.Errorf("%s: the token has a jti", what)
	}
}

func getJSON(t *testing.T, client *http.Client, address string, into any) {
	t.Helper()
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// unverified reads the claims of a token for another client.
func unverified(t *testing.T, token string) map[string]any {
	t.Helper()
	_, rest, _ := strings.Cut(token, ".")
	payload, _, _ := strings.Cut(rest, ".")
	b, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(b, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}
