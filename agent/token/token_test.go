package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/apex-network/apex/internal/oidcclient"
)

const good = "aGVhZA.c2VjcmV0.c2ln"

var need = Need{Issuer: "https://id.example", Audience: "apex", Commitment: "COMMIT"}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// refused wants an error that does not quote what was read.
func refused(t *testing.T, name string, source Source, says string) {
	t.Helper()
	got, err := source.Token(t.Context(), need)
	if err == nil || got != "" {
		t.Errorf("%s: accepted", name)
		return
	}
	if !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "c2VjcmV0") {
		t.Errorf("%s: %v", name, err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	if got, err := (File{write(t, filepath.Join(dir, "good"), good+"\n")}).Token(t.Context(), need); err != nil || got != good {
		t.Errorf("got %q, %v", got, err)
	}
	refused(t, "absent", File{filepath.Join(dir, "none")}, "no such file")
	refused(t, "empty", File{write(t, filepath.Join(dir, "empty"), " \n")}, "is empty")
	refused(t, "two", File{write(t, filepath.Join(dir, "two"), good+"\n"+good)}, "does not hold an ID token")
	refused(t, "JSON", File{write(t, filepath.Join(dir, "json"), `{"id_token":"`+good+`"}`)}, "does not hold an ID token")
	refused(t, "huge", File{write(t, filepath.Join(dir, "huge"), good+strings.Repeat("A", 1<<20))}, "at most")
	refused(t, "a folder", File{dir}, "there is no token")
}

func TestEnv(t *testing.T) {
	t.Setenv("APEX_TEST_TOKEN", good)
	if got, err := (Env{"APEX_TEST_TOKEN"}).Token(t.Context(), need); err != nil || got != good {
		t.Errorf("got %q, %v", got, err)
	}
	refused(t, "unset", Env{"APEX_TEST_NONE"}, "APEX_TEST_NONE is empty")
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string) Command {
		path := write(t, filepath.Join(dir, name), "#!/bin/sh\n"+body+"\n")
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return Command{Argv: []string{path, "argument"}}
	}
	got, err := script("good", `echo "$APEX_AUDIENCE.$1.$APEX_COMMITMENT"`).Token(t.Context(), need)
	if err != nil || got != "apex:COMMIT.argument.COMMIT" {
		t.Errorf("got %q, %v", got, err)
	}
	var log bytes.Buffer
	for body, says := range map[string]string{
		"echo " + good + "; echo first >&2; echo 'no such role' >&2; exit 3": "no such role",
		"set -x; false eyJhbGciOiJFZERTQSJ9.e30.c2ln":                        "[token]", // it traces itself
	} {
		c := script("fails", body)
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		_, err := c.Token(t.Context(), need)
		if err == nil || !strings.Contains(err.Error(), "exit status") || strings.Contains(err.Error(), says) {
			t.Errorf("the error goes to the controller: %v", err)
		}
		if text := log.String(); !strings.Contains(text, says) || strings.Contains(text, "eyJ") || strings.Contains(text, "first") {
			t.Errorf("the log says %s", text)
		}
	}
	told := script("audience", `echo "${APEX_PLAIN_AUDIENCE-none}.a.b"`)
	if got, err := told.Token(t.Context(), need); err != nil || got != "none.a.b" {
		t.Errorf("an audience that only the controller names is given out: %q, %v", got, err)
	}
	told.Audience = "ours"
	if got, err := told.Token(t.Context(), need); err != nil || got != "ours.a.b" {
		t.Errorf("got %q, %v", got, err)
	}
	refused(t, "too much", script("much", "yes "+good+" | head -n 10000"), "printed more than a token")
	refused(t, "nothing", script("nothing", ""), "is empty")
	refused(t, "no program", Command{Argv: []string{filepath.Join(dir, "none")}}, "failed")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := script("hangs", "sleep 600 & wait").Token(ctx, need); err == nil {
		t.Error("a program that hangs gave a token")
	}
}

func TestGitHub(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer job" || r.URL.Query().Get("audience") != "apex:COMMIT" || r.URL.Query().Get("api-version") != "2" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Write([]byte(`{"count":1,"value":"` + good + `"}`))
	}))
	defer server.Close()
	t.Setenv(githubURL, "")
	refused(t, "outside of a job", GitHub{}, "id-token: write")
	t.Setenv(githubURL, server.URL+"/token?api-version=2")
	t.Setenv(githubToken, "job")
	if got, err := (GitHub{}).Token(t.Context(), need); err != nil || got != good {
		t.Errorf("got %q, %v", got, err)
	}
	t.Setenv(githubToken, "other")
	refused(t, "another job", GitHub{}, "403")
}

// provider answers discovery and, at its token endpoint, whatever token says.
func provider(t *testing.T, token http.HandlerFunc) *httptest.Server {
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"issuer":"` + server.URL + `","token_endpoint":"` + server.URL + `/token"}`))
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		token(w, r)
	})
	return server
}

func TestClientCredentials(t *testing.T) {
	answer := `{"access_token":"opaque","id_token":"` + good + `"}`
	server := provider(t, func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "gate%2Fway" || secret != "s%3Acret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("audience") != "apex" {
			w.WriteHeader(http.StatusUnauthorized)
			w.Write([]byte(`{"error":"invalid_client"}`))
			return
		}
		w.Write([]byte(answer))
	})
	secret := filepath.Join(t.TempDir(), "secret")
	source := ClientCredentials{
		Client: oidcclient.New(nil, ""), ClientID: "gate/way", SecretFile: write(t, secret, "s:cret\n"), Scopes: []string{"openid"}, Audience: "apex",
	}
	n := need
	n.Issuer = server.URL
	if got, err := source.Token(t.Context(), n); err != nil || got != good {
		t.Errorf("got %q, %v", got, err)
	}
	answer = `{"access_token":"opaque"}`
	if _, err := source.Token(t.Context(), n); !errors.Is(err, oidcclient.ErrNoIDToken) {
		t.Errorf("an opaque access token: %v", err)
	}
	if err := os.Chmod(secret, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := source.Token(t.Context(), n); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("an open secret: %v", err)
	}
}

func TestRefreshKeepsTheNewTokenFirst(t *testing.T) {
	server := provider(t, func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("refresh_token") != "one" {
			w.WriteHeader(http.StatusBadRequest)
			w.Write([]byte(`{"error":"invalid_grant","error_description":"revoked\nby admin"}`))
			return
		}
		w.Write([]byte(`{"id_token":"` + good + `","refresh_token":"two"}`))
	})
	kept := Grant{TokenEndpoint: server.URL + "/token", ClientID: "cli", RefreshToken: "one"}
	source := Refresh{
		Client: oidcclient.New(nil, ""), Load: func() (Grant, bool) { return kept, true }, Save: func(Grant) error { return errors.New("disk full") },
	}
	if _, err := source.Token(t.Context(), need); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("a new refresh token that cannot be kept: %v", err)
	}
	source.Save = func(g Grant) error { kept = g; return nil }
	if got, err := source.Token(t.Context(), need); err != nil || got != good || kept.RefreshToken != "two" {
		t.Errorf("got %q, %v, kept %q", got, err, kept.RefreshToken)
	}
	_, err := source.Token(t.Context(), need)
	if !errors.Is(err, ErrSpent) || !strings.Contains(err.Error(), "revoked by admin") {
		t.Errorf("a refresh token that was taken back: %v", err)
	}
}

// TestWatch: a file put in place of the other, a swapped symbolic link as Kubernetes does it, and a file system without
// notices are all noticed.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"v1", "v2"} {
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "token"), version)
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "..data")
	link("..data/token", "token")
	watch := func(slow time.Duration) (changed chan struct{}, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		changed, done := make(chan struct{}, 1), make(chan struct{})
		go func() {
			defer close(done)
			Watch(ctx, filepath.Join(dir, "token"), slow, slog.New(slog.DiscardHandler), func() {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		}()
		return changed, func() { cancel(); <-done }
	}
	swap := func(to string) {
		link(to, "..tmp")
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	// await changes the file again and again until one change is noticed: the first may come before the watch begins.
	await := func(what string, changed chan struct{}, change func(round int)) {
		t.Helper()
		for round, began := 0, time.Now(); time.Since(began) < time.Minute; round++ {
			change(round)
			select {
			case <-changed:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
		t.Fatalf("%s was not noticed", what)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		t.Fatal("the system gives no notice; other programs have taken all of fs.inotify.max_user_instances? ", err)
	}
	watcher.Close()
	changed, stop := watch(time.Hour)
	await("the swap", changed, func(round int) { swap([]string{"v2", "v1"}[round%2]) })
	stop()
	changed, stop = watch(time.Millisecond)
	defer stop()
	behind := filepath.Join(t.TempDir(), "token") // in a folder that is not watched
	if err := os.Remove(filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	link(behind, "token")
	await("a change that the system does not tell of", changed, func(round int) { write(t, behind, fmt.Sprint("v", round)) })
}
