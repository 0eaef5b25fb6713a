package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
)

// TestApplyFollowsOverARestart: a controller that restarts after it took a commit, alone or behind a proxy, is asked again; one
// that refuses is not.
func TestApplyFollowsOverARestart(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var refuse atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := asked.Add(1); {
		case refuse.Load():
			protocol.NewProblem(http.StatusUnauthorized, protocol.CodeSignature, "no applier").Write(w)
		case n == 1:
			protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeShuttingDown, "going down").Write(w)
		case n == 2:
			panic(http.ErrAbortHandler)
		case n == 3:
			http.Error(w, "<h1>Bad Gateway</h1>", http.StatusBadGateway)
		default:
			body, err := protocol.Encode(protocol.FleetStatus{Zones: []protocol.ZoneStatus{}})
			if err != nil {
				t.Error(err)
			}
			w.Write(body)
		}
	}))
	defer server.Close()
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	// Without connections that are kept nothing is asked twice behind the client's back.
	transport := &http.Transport{DisableKeepAlives: true}
	c := client.New(client.Options{URL: base, Network: "acme", Key: own, HTTP: &http.Client{Transport: transport}})
	var talk bytes.Buffer
	if err := follow(t.Context(), cli.Streams{Err: &talk}, c, "abc"); err != nil || asked.Load() != 4 {
		t.Errorf("after %d questions: %v", asked.Load(), err)
	}
	if !strings.Contains(talk.String(), "going down") || !strings.Contains(talk.String(), "cannot be reached") {
		t.Errorf("nothing says why it waits: %s", &talk)
	}
	refuse.Store(true)
	if err := follow(t.Context(), cli.Streams{Err: &talk}, c, "abc"); err == nil || asked.Load() != 5 {
		t.Errorf("after %d questions: %v", asked.Load(), err)
	}
}
