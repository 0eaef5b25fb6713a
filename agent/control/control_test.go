package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
)

type fake struct{ joined Join }

func (f *fake) Enrolment(_ context.Context, zone string) (Enrolment, error) {
	if zone != "" && zone != "prod" {
		return Enrolment{}, fmt.Errorf("%w: %q", ErrNoZone, zone)
	}
	return Enrolment{Zone: "prod", Stage: Unbound}, nil
}

func (f *fake) Join(_ context.Context, join Join) (Enrolment, error) {
	f.joined = join
	if join.IDToken == "bad" {
		return Enrolment{}, fmt.Errorf("enrolment from c: %w", protocol.NewProblem(403, protocol.CodeEnrolRefused, "rule staff wants group ops"))
	}
	return Enrolment{Stage: Bound}, nil
}

func (f *fake) Leave(context.Context, string) (Enrolment, error) {
	return Enrolment{}, errors.New("offline")
}
func (f *fake) Rotate(context.Context, string) (Rotation, error) {
	return Rotation{Message: "go on"}, nil
}
func (f *fake) Rotation(context.Context, string) (Rotation, error) { return Rotation{Done: true}, nil }

func serve(t *testing.T) (*fake, *Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	listener, err := status.Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	f, mux, done := &fake{}, http.NewServeMux(), make(chan error, 1)
	Handle(mux, f)
	go func() { done <- status.Serve(ctx, listener, mux, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() { cancel(); <-done })
	return f, NewClient(path), path
}

func TestSocket(t *testing.T) {
	f, c, _ := serve(t)
	if got, err := c.Enrolment(t.Context(), "prod"); err != nil || got.Stage != Unbound {
		t.Errorf("got %+v, %v", got, err)
	}
	var problem *protocol.Problem
	if _, err := c.Enrolment(t.Context(), "other"); !errors.As(err, &problem) || problem.Code != protocol.CodeNotFound {
		t.Errorf("another zone: %v", err)
	}
	join := Join{Zone: "prod", Issuer: "corp", IDToken: "a.b.c", Routes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, Relay: true}
	if got, err := c.Join(t.Context(), join); err != nil || got.Stage != Bound || fmt.Sprint(f.joined) != fmt.Sprint(join) {
		t.Errorf("got %+v, %v; the agent saw %+v", got, err, f.joined)
	}
	join.IDToken = "bad"
	if _, err := c.Join(t.Context(), join); !errors.As(err, &problem) || problem.Status != 403 || problem.Detail != "rule staff wants group ops" {
		t.Errorf("the controller's words: %v", err)
	}
	if _, err := c.Leave(t.Context(), ""); !errors.As(err, &problem) || problem.Detail != "offline" {
		t.Errorf("leave: %v", err)
	}
	if got, err := c.Rotate(t.Context(), ""); err != nil || got.Message != "go on" {
		t.Errorf("rotate: %+v, %v", got, err)
	}
	if got, err := c.Rotation(t.Context(), ""); err != nil || !got.Done {
		t.Errorf("rotation: %+v, %v", got, err)
	}
	if _, err := NewClient(filepath.Join(t.TempDir(), "none")).Leave(t.Context(), ""); !errors.Is(err, status.ErrNoAgent) {
		t.Errorf("without an agent: %v", err)
	}
}

func TestStrictRequests(t *testing.T) {
	f, _, path := serve(t)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	for name, row := range map[string]struct {
		path, kind, body string
		status           int
	}{
		"unknown field": {PathLeave, protocol.TypeJSON, `{"zone":"prod","force":true}`, 400},
		"missing field": {PathJoin, protocol.TypeJSON, `{"zone":"prod"}`, 400},
		"twice":         {PathLeave, protocol.TypeJSON, `{"zone":"prod","zone":"dev"}`, 400},
		"null":          {PathLeave, protocol.TypeJSON, `null`, 400},
		"huge":          {PathLeave, protocol.TypeJSON, `{"zone":"` + strings.Repeat("a", maxRequest) + `"}`, 400},
		"a form":        {PathLeave, "application/x-www-form-urlencoded", `zone=prod`, 415},
		"secret":        {PathJoin, protocol.TypeJSON, `{"zone":"prod","idToken":"hush","idToken":7}`, 400},
	} {
		resp, err := client.Post("http://agent"+row.path, row.kind, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		problem := protocol.ReadProblem(resp)
		resp.Body.Close()
		if resp.StatusCode != row.status || strings.Contains(problem.Error(), "hush") {
			t.Errorf("%s: %v", name, problem)
		}
	}
	if f.joined.Zone != "" {
		t.Error("a malformed request was carried out")
	}
}

// FuzzRequest: what is done is exactly what was written, in the one way there is to write it.
func FuzzRequest(f *testing.F) {
	seed, err := protocol.Encode(Join{Zone: "prod", IDToken: "a.b.c"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"zone":"prod"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, mux := &fake{}, http.NewServeMux()
		Handle(mux, c)
		for _, path := range []string{PathJoin, PathLeave, PathRotate} {
			r := httptest.NewRequest("POST", path, bytes.NewReader(body))
			r.Header.Set("Content-Type", protocol.TypeJSON)
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code == http.StatusOK && path == PathJoin {
				if again, err := protocol.Encode(c.joined); err != nil || !bytes.Equal(again, body) {
					t.Fatalf("did %s for %s", again, body)
				}
			}
		}
	})
}
