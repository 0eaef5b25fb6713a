package status

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func TestConditions(t *testing.T) {
	c := NewConditions(now)
	if len(c.List()) != len(Definitions()) {
		t.Fatalf("%d conditions, the table has %d", len(c.List()), len(Definitions()))
	}
	if !c.Set(Stale, true, "NotCurrent", "first", now.Add(time.Second)) {
		t.Error("a new status is no news")
	}
	if !c.Set(Stale, true, "NotCurrent", "second", now.Add(time.Minute)) {
		t.Error("a new message is no news")
	}
	if got := c.Get(Stale).Since; !got.Equal(now.Add(time.Second)) {
		t.Errorf("a message moved since to %v", got)
	}
	if c.Set(Stale, true, "NotCurrent", "second", now.Add(time.Hour)) {
		t.Error("the same again is news")
	}
	defer func() {
		if recover() == nil {
			t.Error("an unknown condition was taken")
		}
	}()
	c.Set("Imaginary", true, "", "", now)
}

func TestDefinitionsAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Definitions() {
		if d.Means == "" || d.Do == "" || seen[d.Type] {
			t.Errorf("%s: incomplete or twice", d.Type)
		}
		seen[d.Type] = true
	}
}

func serve(t *testing.T, path string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		mux, log := http.NewServeMux(), slog.New(slog.DiscardHandler)
		Handle(mux, func() Status { return Status{Node: "a", Zones: []Zone{}} }, log)
		done <- Serve(ctx, l, mux, log)
	}()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "s")
	stop := serve(t, path)
	if got, err := NewClient(path).Get(t.Context()); err != nil || got.Node != "a" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent: %v", err)
	}
	stop()
	if _, err := NewClient(path).Get(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("after the end: %v", err)
	}
	// A socket that a killed agent left behind is replaced; any other file is not touched.
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*unlinking).Listener.Close()
	serve(t, path)()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil {
		t.Error("a file of somebody else was replaced")
	}
}

func TestTable(t *testing.T) {
	c := NewConditions(now)
	c.Set(Stale, true, "NotCurrent", "the timestamp expired", now.Add(-time.Hour))
	end := now.Add(-time.Minute)
	s := Status{Version: "1", Network: "acme", Node: "a", Started: now.Add(-26 * time.Hour), Taken: now, Zones: []Zone{{
		Zone: "prod", Interface: "apex-prod", Applied: &Generation{Epoch: 1, Serial: 7, Commit: strings.Repeat("c", 40), View: strings.Repeat("d", 64)},
		Signatures: []Signature{{Name: "timestamp", Version: "1.7", AgeSeconds: 660, Expires: &end, Expired: true}},
		Controller: Controller{URL: "https://c.example", LastMessageAgeSeconds: 90},
		Conditions: c.List(),
		Peers:      []Peer{{Name: "b", Endpoint: "192.0.2.2:1", LastHandshake: now.Add(-30 * time.Second), ReceivedBytes: 2048, SentBytes: 5}},
	}}}
	var out strings.Builder
	if err := s.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"up 26h00m", "Stale", "the timestamp expired", "generation 1.7", "EXPIRED 1m ago", "last heard 1m ago", "30s ago", "2.0 KiB", "nothing yet"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "Conflict") {
		t.Errorf("a healthy condition is shown:\n%s", out.String())
	}
}
