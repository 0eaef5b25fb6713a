package oidcclient

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func server(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.URL
}

func answer(kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, strings.ReplaceAll(body, "SELF", "http://"+r.Host))
	}
}

func TestDiscover(t *testing.T) {
	c := New(nil, "test")
	self := server(t, answer("application/json; charset=utf-8", `{"issuer":"SELF","token_endpoint":"SELF/token","extra":1}`))
	p, err := c.Discover(t.Context(), self)
	if err != nil || p.TokenEndpoint != self+"/token" {
		t.Fatalf("got %+v, %v", p, err)
	}
	for name, row := range map[string]struct {
		handler http.HandlerFunc
		says    string
	}{
		"another issuer": {answer("application/json", `{"issuer":"https://evil.example"}`), `of issuer "https://evil.example"`},
		"plain endpoint": {answer("application/json", `{"issuer":"SELF","token_endpoint":"http://id.example/t"}`), "want https"},
		"no JSON":        {answer("text/html", `<html>`), "not JSON"},
		"broken JSON":    {answer("application/json", `{"issuer":`), "no JSON object"},
		"oversized":      {answer("application/json", `{"issuer":"`+strings.Repeat("a", MaxBodyBytes)+`"}`), "more than"},
		"500":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "500"},
		"redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2:9/", http.StatusFound)
		}, "redirects"},
	} {
		_, err := c.Discover(t.Context(), server(t, row.handler))
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Discover(t.Context(), "http://id.example"); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("plain issuer: %v", err)
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	if _, err := c.Discover(t.Context(), gone.URL); !errors.Is(err, ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestTokenEndpoint(t *testing.T) {
	c := New(nil, "test")
	var seen url.Values
	var basic string
	good := server(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		seen = r.PostForm
		basic = r.Header.Get("Authorization")
		answer("application/json", `{"id_token":"a.b.c","access_token":"x","token_type":"Bearer"}`)(w, r)
	})
	tokens, err := c.Refresh(t.Context(), good, Auth{ClientID: "cli"}, "keep-me", "openid")
	if err != nil || tokens.IDToken != "a.b.c" || tokens.RefreshToken != "keep-me" {
		t.Fatalf("got %v", err)
	}
	if seen.Get("client_id") != "cli" || seen.Get("scope") != "openid" || basic != "" {
		t.Errorf("a public client sent %v %q", seen, basic)
	}
	if _, err := c.Token(t.Context(), good, url.Values{}, Auth{ClientID: "c", Secret: "s", InForm: true}); err != nil || seen.Get("client_secret") != "s" {
		t.Errorf("secret in the form: %v, %v", seen, err)
	}
	bad := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(400)
		w.Write([]byte(`{"error":"authorization_pending","error_description":"wait\u0007` + strings.Repeat("x", 5000) + `"}`))
	})
	_, err = c.Token(t.Context(), bad, url.Values{"code": {"hush"}}, Auth{ClientID: "c", Secret: "hush2"})
	if !IsCode(err, "authorization_pending") || len(err.Error()) > 1000 || strings.Contains(err.Error(), "hush") || strings.ContainsRune(err.Error(), 7) {
		t.Errorf("refusal: %.200v", err)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		},
		"huge":         answer("application/json", `{"id_token":"`+strings.Repeat("a", MaxBodyBytes)+`"}`),
		"long token":   answer("application/json", `{"id_token":"`+strings.Repeat("a", MaxTokenBytes+1)+`"}`),
		"no ID token":  answer("application/json", `{"access_token":"x"}`),
		"null":         answer("application/json", `null`),
		"HTML":         answer("text/html", `{"id_token":"a.b.c"}`),
		"server error": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) },
	} {
		if _, err := c.Refresh(t.Context(), server(t, handler), Auth{ClientID: "c"}, "r"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	secret := Tokens{IDToken: "hush", RefreshToken: "hush", AccessToken: "hush"}
	text, err := json.Marshal(struct{ T Tokens }{secret})
	if err != nil {
		t.Fatal(err)
	}
	if all := fmt.Sprintf("%v %+v %#v %s %q ", secret, secret, secret, secret, secret) + string(text); strings.Contains(all, "hush") {
		t.Errorf("tokens printed themselves: %s", all)
	}
}

func TestPeek(t *testing.T) {
	token := func(claims string) string { return "x." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".y" }
	c, err := Peek(token(`{"iss":"https://id","sub":"1","aud":["a","b"],"nonce":"n","exp":1800000000.5}`))
	if err != nil || c.Issuer != "https://id" || len(c.Audience) != 2 || c.Nonce != "n" || c.Expires.Unix() != 1800000000 {
		t.Errorf("got %+v, %v", c, err)
	}
	if c, err := Peek(token(`{"aud":"one"}`)); err != nil || len(c.Audience) != 1 || !c.Expires.IsZero() {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, bad := range []string{"", "a.b", "x.!.y", token(`[]`), token(`{"aud":7}`), strings.Repeat("a", MaxTokenBytes) + ".b.c"} {
		if _, err := Peek(bad); err == nil {
			t.Errorf("%.40q: accepted", bad)
		}
	}
}

func FuzzPeek(f *testing.F) {
	f.Add("x.eyJhdWQiOlsiYSJdfQ.y")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) { _, _ = Peek(token) })
}

type answering func(*http.Request) *http.Response

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }

// FuzzAnswers: whatever a provider answers, discovery gives endpoints that may be asked, and tokens have their bounds.
func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"issuer":"https://id.example","token_endpoint":"https://id.example/t","scopes_supported":["openid"]}`))
	f.Add(200, []byte(`{"id_token":"a.b.c","refresh_token":"r","access_token":"x"}`))
	f.Add(400, []byte(`{"error":"invalid_grant","error_description":"\u001b[2Jgone"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		c := New(answering(func(r *http.Request) *http.Response {
			return &http.Response{
				StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
				Body: io.NopCloser(bytes.NewReader(body)),
			}
		}), "")
		if p, err := c.Discover(t.Context(), "https://id.example"); err == nil {
			if p.Issuer != "https://id.example" || p.TokenEndpoint != "" && CheckEndpoint(p.TokenEndpoint) != nil {
				t.Fatalf("discovered %+v", p)
			}
		}
		tokens, err := c.Refresh(t.Context(), "https://id.example/t", Auth{ClientID: "c"}, "old")
		if err == nil && (tokens.IDToken == "" || len(tokens.IDToken) > MaxTokenBytes || len(tokens.RefreshToken) > MaxTokenBytes) {
			t.Fatal("tokens out of bounds")
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Fatalf("the provider writes to the terminal: %q", err)
		}
	})
}
