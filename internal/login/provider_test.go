package login

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"

	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

const commitment = "the-commitment-of-the-node"

// provider is an OpenID provider whose every answer a test can bend.
type provider struct {
	URL string

	mu       sync.Mutex
	metadata map[string]any
	claims   map[string]any // of the ID token; "nonce" is filled in from the request unless set
	noNonce  bool           // leave the nonce out whatever was asked for
	redirect url.Values     // added to the redirect; an empty value takes a parameter away
	answers  []string       // error codes of the token endpoint, before it gives a token
	polled   []http.Header
	device   map[string]any
	asked    url.Values // the last authorization or device request
}

// handler serves discovery, authorization (which grants at once), device codes and tokens.
func (p *provider) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		doc := map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token",
			"device_authorization_endpoint": p.URL + "/device"}
		for k, v := range p.metadata {
			doc[k] = v
		}
		reply(w, http.StatusOK, doc)
	})
	mux.HandleFunc("GET /auth", p.authorize)
	mux.HandleFunc("POST /device", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = r.ParseForm()
		p.asked = r.PostForm
		doc := map[string]any{"device_code": "secret-device-code", "user_code": "ABCD-EFGH", "verification_uri": p.URL + "/activate",
			"verification_uri_complete": p.URL + "/activate?code=ABCD-EFGH", "expires_in": 600, "interval": 5}
		for k, v := range p.device {
			doc[k] = v
		}
		reply(w, http.StatusOK, doc)
	})
	mux.HandleFunc("POST /token", p.token)
	return mux
}

func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = r.URL.Query()
	back, err := url.Parse(p.asked.Get("redirect_uri"))
	if err != nil {
		http.Error(w, "bad redirect", http.StatusBadRequest)
		return
	}
	q := url.Values{"code": {"secret-code"}, "state": {p.asked.Get("state")}}
	for k, v := range p.redirect {
		q[k] = v
		if v[0] == "" {
			q.Del(k)
		}
	}
	back.RawQuery = q.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = r.ParseForm()
	p.polled = append(p.polled, r.Header)
	if len(p.answers) > 0 {
		code := p.answers[0]
		p.answers = p.answers[1:]
		reply(w, http.StatusBadRequest, map[string]any{"error": code, "error_description": "because\x1b[31m of it"})
		return
	}
	if challenge := p.asked.Get("code_challenge"); challenge != "" {
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != challenge || p.asked.Get("code_challenge_method") != "S256" ||
			r.PostForm.Get("code") != "secret-code" || r.PostForm.Get("redirect_uri") != p.asked.Get("redirect_uri") {
			reply(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
			return
		}
	}
	claims := map[string]any{"iss": p.URL, "aud": "apex-cli", "sub": "1"}
	if n := p.asked.Get("nonce"); n != "" && !p.noNonce {
		claims["nonce"] = n
	}
	for k, v := range p.claims {
		claims[k] = v
	}
	body := map[string]any{"access_token": "secret-access", "token_type": "Bearer", "refresh_token": "secret-refresh", "id_token": unsigned(claims)}
	if p.claims["none"] != nil {
		delete(body, "id_token")
	}
	reply(w, http.StatusOK, body)
}

// unsigned is a compact JWS whose signature is nonsense: what this package looks at are the claims.
func unsigned(claims map[string]any) string {
	b, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(`{"alg":"ES256"}`)) + "." + e(b) + "." + e([]byte("secret-signature"))
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// serve starts the provider on the loopback and gives a flow with it.
func (p *provider) serve(t *testing.T) *Flow {
	t.Helper()
	server := httptest.NewServer(p.handler())
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p.flow(server.Client().Transport)
}

func (p *provider) flow(transport http.RoundTripper) *Flow {
	return &Flow{
		Issuer: protocol.IssuerInfo{Name: "corp", URL: p.URL, Audience: "apex-cli", ClientID: "apex-cli",
			Scopes: []string{"profile", "offline_access"}, Bound: true},
		Commitment: commitment,
		Client:     oidcclient.New(transport, "apex/test"),
	}
}

// inMemory answers requests with a handler, without a network: fit for a synctest bubble.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Result(), nil
}
