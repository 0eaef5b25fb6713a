package fetch

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

func identity(t *testing.T) signer.PrivateKey {
	t.Helper()
	key, err := signer.GenerateKey(strings.NewReader(strings.Repeat("k", 64)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func client(t *testing.T, trust TLS, urls ...string) *Client {
	t.Helper()
	transport, err := NewTransport(trust)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := New(Options{
		Controllers: urls, Network: "acme", Zone: "prod", Node: "a", Identity: func() signer.PrivateKey { return identity(t) }, Transport: transport,
		UserAgent: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestProofOnEveryRequest(t *testing.T) {
	key := identity(t).Raw()
	seen := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := protocol.ParseToken(r.Header.Get(protocol.ProofHeader))
		if err == nil {
			var body []byte
			if r.Body != nil {
				body, _ = protocol.ReadAll(r.Body, 1<<20)
			}
			err = token.Verify(key, r.Method, r.URL.EscapedPath(), []string{r.Host}, body, time.Now())
		}
		if err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		seen++
	}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{server.URL, server.URL + "/", u.JoinPath("behind/a/proxy").String()} {
		c := client(t, TLS{}, base)
		ctx := t.Context()
		c.Timestamp(ctx)
		c.Root(ctx, 1)
		c.Manifest(ctx, peermap.Digest{1})
		c.View(ctx, peermap.Digest{1})
		c.Artefact(ctx, peermap.Digest{1}, 10)
		c.Report(ctx, protocol.NodeStatus{})
		if s, err := c.Watch(ctx, peermap.Digest{1}, peermap.Digest{2}); err == nil {
			s.Close()
		}
	}
	if seen != 3*7 {
		t.Errorf("%d requests, want 21", seen)
	}
}

func TestTLSPin(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("x")) }))
	defer server.Close()
	pin := sha256.Sum256(server.Certificate().RawSubjectPublicKeyInfo)
	if got, err := client(t, TLS{SPKI: pin[:]}, server.URL).Timestamp(t.Context()); err != nil || string(got) != "x" {
		t.Errorf("the pinned server: %q, %v", got, err)
	}
	pin[0] ^= 1
	if _, err := client(t, TLS{SPKI: pin[:]}, server.URL).Timestamp(t.Context()); !errors.Is(err, ErrTLSPin) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("another server: %v, want ErrTLSPin", err)
	}
	if _, err := client(t, TLS{}, server.URL).Timestamp(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("an unknown authority: %v", err)
	}
	var unknown *tls.CertificateVerificationError
	_, err := client(t, TLS{}, server.URL).Timestamp(t.Context())
	if !errors.As(err, &unknown) {
		t.Errorf("the cause is hidden: %v", err)
	}
}

func TestNotModified(t *testing.T) {
	sent := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		sent++
		w.Write([]byte("stamp"))
	}))
	defer server.Close()
	c := client(t, TLS{}, server.URL)
	for range 3 {
		if got, err := c.Timestamp(t.Context()); err != nil || string(got) != "stamp" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if sent != 1 {
		t.Errorf("the body was sent %d times", sent)
	}
}

// TestPace: a large body may take long if it flows, a small one may not if it drips.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, p := newPace(t.Context(), 15*time.Second, 1000)
		defer p.stop()
		p.count(3000) // earns three seconds
		time.Sleep(18*time.Second - 1)
		if synctest.Wait(); ctx.Err() != nil {
			t.Fatal("a flowing exchange was ended")
		}
		p.again()
		began := time.Now()
		<-ctx.Done()
		if took := time.Since(began); took != 15*time.Second {
			t.Errorf("one that drips was ended after %v", took)
		}
		if err := p.explain(ErrUnreachable, ctx.Err()); !errors.Is(err, ErrSlow) {
			t.Errorf("got %v, want ErrSlow", err)
		}
	})
}

func TestArtefactEncodings(t *testing.T) {
	plain := []byte(strings.Repeat("peer ", 100))
	packed, err := protocol.Compress(plain)
	if err != nil {
		t.Fatal(err)
	}
	encoding, body := "", plain
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if encoding != "" {
			w.Header().Set("Content-Encoding", encoding)
		}
		w.Write(body)
	}))
	defer server.Close()
	c := client(t, TLS{}, server.URL)
	want := peermap.DigestOf(plain)
	get := func(limit int) error { _, err := c.Artefact(t.Context(), want, limit); return err }
	if err := get(10_000); err != nil {
		t.Errorf("plain: %v", err)
	}
	encoding, body = "zstd", packed
	if err := get(10_000); err != nil {
		t.Errorf("zstd: %v", err)
	}
	if err := get(100); err == nil {
		t.Error("a bomb was unpacked beyond its limit")
	}
	encoding = "br"
	if err := get(10_000); err == nil {
		t.Error("an encoding that was not asked for was taken")
	}
	encoding, body = "", []byte("something else")
	if err := get(10_000); !errors.Is(err, protocol.ErrDelta) {
		t.Errorf("other bytes: %v", err)
	}
}
