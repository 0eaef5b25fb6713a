package tokens_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/tokens"
)

// hostile is a provider on a loopback address that answers as keys says. It gives the URL of the issuer.
func hostile(t *testing.T, jwks func(own string) string, keys http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, server.URL, jwks(server.URL))
	})
	mux.HandleFunc("/keys", keys)
	return server.URL
}

// junk is a token of the issuer that nobody signed, with a signature of some size.
func junk(issuer string, now time.Time, signature int) string {
	encode := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"iss":%q,"aud":"apex","sub":"a","iat":%d,"exp":%d}`, issuer, now.Unix(), now.Unix()+300)
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode(bytes.Repeat([]byte{7}, signature))
}

func ask(t *testing.T, issuer, raw string) error {
	t.Helper()
	v, err := tokens.New(tokens.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	_, err = v.Verify(t.Context(), tokens.Issuer{URL: issuer, Audiences: []string{"apex"}}, raw)
	return err
}

// TestKeysOfAnySizeDoNotCount: the arithmetic with a modulus of many kilobytes would take the controller's time, and one that
// can be factored makes tokens.
func TestKeysOfAnySizeDoNotCount(t *testing.T) {
	for _, size := range []int{128, 12 << 10, 600 << 10} {
		modulus := bytes.Repeat([]byte{0xf1}, size)
		issuer := hostile(t, func(own string) string { return own + "/keys" }, func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"keys":[{"kty":"RSA","e":"AQAB","n":%q}]}`, base64.RawURLEncoding.EncodeToString(modulus))
		})
		err := ask(t, issuer, junk(issuer, time.Now(), min(size, 8<<10)))
		var down *tokens.Unavailable
		if !errors.As(err, &down) || !strings.Contains(err.Error(), "none that can verify") {
			t.Errorf("a key of %d bytes: %v", size, err)
		}
	}
}

// TestLoopbackIssuersLeadNowhereElse: an issuer without TLS must not send the controller to a service of its network.
func TestLoopbackIssuersLeadNowhereElse(t *testing.T) {
	issuer := hostile(t, func(string) string { return "http://169.254.169.254/latest/meta-data" }, http.NotFound)
	if err := ask(t, issuer, junk(issuer, time.Now(), 256)); err == nil || !strings.Contains(err.Error(), "jwks_uri") {
		t.Errorf("%v", err)
	}
}

// TestAnswersAreNotToldOn: what a URL in git leads to may be for this host's eyes only.
func TestAnswersAreNotToldOn(t *testing.T) {
	for _, status := range []int{http.StatusCreated, http.StatusNonAuthoritativeInfo, http.StatusNotModified, http.StatusForbidden} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("the-secret-of-a-local-service"))
		}))
		defer server.Close()
		err := ask(t, server.URL, junk(server.URL, time.Now(), 256))
		if err == nil || !strings.Contains(err.Error(), strconv.Itoa(status)) || strings.Contains(err.Error(), "the-secret") {
			t.Errorf("%d: %v", status, err)
		}
	}
}
