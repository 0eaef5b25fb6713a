package gitsource_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/gittest"
)

// backend serves the repositories below root over smart HTTP, behind a password.
func backend(t *testing.T, env *gittest.Env, root string) http.Handler {
	t.Helper()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	h := &cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: append(env.Environ(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1")}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "reader" || password != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func TestHTTPS(t *testing.T) {
	t.Parallel()
	env, repo, first := newRepo(t)
	server := httptest.NewTLSServer(backend(t, env, filepath.Dir(repo.Dir())))
	defer server.Close()
	ca := filepath.Join(env.Home(), "ca.pem")
	env.WriteFile(ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	secret := filepath.Join(env.Home(), "token")
	env.WriteFile(secret, "s3cret\n")
	remote := gitsource.Remote{URL: server.URL + "/net/.git", Username: "reader", PasswordFile: secret, CAFile: ca}
	s := open(t, t.TempDir(), remote, gitsource.Options{})
	fetch(t, s, first)
	repo.Write("a.yaml", "a: 2\n")
	second := repo.Commit(nil, "Second")
	fetch(t, s, second)
	if got := documents(t, s, second); got["a.yaml"] != "a: 2\n" {
		t.Errorf("documents %q", got)
	}
	repo.Git("reset", "-q", "--hard", first)
	fetch(t, s, first)
	wrong := remote
	wrong.Username = "other"
	if _, err := open(t, t.TempDir(), wrong, gitsource.Options{}).Fetch(context.Background()); !errors.Is(err, gitsource.ErrRemote) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("wrong credentials: %v", err)
	}
	untrusted := remote
	untrusted.CAFile = ""
	if _, err := open(t, t.TempDir(), untrusted, gitsource.Options{}).Fetch(context.Background()); !errors.Is(err, gitsource.ErrRemote) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: %v", err)
	}
}

func TestSlowAndEndlessHTTP(t *testing.T) {
	t.Parallel()
	_, repo, first := newRepo(t)
	release := make(chan struct{})
	defer close(release)
	silent := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	mute := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "001e# service=git-upload-pack\n0000")
		for i := 0; r.Context().Err() == nil; i++ {
			line := fmt.Sprintf("%040x refs/heads/b%d\n", i+1, i)
			if i == 0 {
				line = fmt.Sprintf("%040x refs/heads/b0\x00ofs-delta\n", 1)
			}
			if _, err := fmt.Fprintf(w, "%04x%s", len(line)+4, line); err != nil {
				return
			}
		}
	}
	limits := gitsource.Limits{IdleTimeout: 200 * time.Millisecond, FetchTimeout: 5 * time.Second, FetchBytes: 1}
	for name, handler := range map[string]http.HandlerFunc{"silent": silent, "mute": mute, "endless refs": drip} {
		server := httptest.NewServer(handler)
		s := open(t, t.TempDir(), gitsource.Remote{URL: server.URL + "/x.git"}, gitsource.Options{Limits: limits})
		_, err := s.Fetch(context.Background())
		if !errors.Is(err, gitsource.ErrRemote) && !errors.Is(err, gitsource.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
		server.Close()
	}
	// The caller's context ends a fetch at once, and the copy is as it was.
	server := httptest.NewServer(http.HandlerFunc(mute))
	defer server.Close()
	dir := t.TempDir()
	fetch(t, open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{}), first)
	s := open(t, t.TempDir(), gitsource.Remote{URL: server.URL + "/x.git"}, gitsource.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.Fetch(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// sshServer runs git-upload-pack for anyone who holds the client key.
func sshServer(t *testing.T, env *gittest.Env, hostKey ssh.Signer, client ssh.PublicKey) string {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(hostKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveSSH(env, conn, config)
		}
	}()
	return listener.Addr().String()
}

func serveSSH(env *gittest.Env, conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		c, requests, err := channel.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type != "exec" {
				_ = r.Reply(false, nil)
				continue
			}
			_ = r.Reply(true, nil)
			cmd := exec.Command("sh", "-c", string(r.Payload[4:]))
			cmd.Env, cmd.Stdout, cmd.Stderr = env.Environ(), c, c.Stderr()
			in, err := cmd.StdinPipe()
			if err != nil || cmd.Start() != nil {
				return
			}
			go func() { _, _ = io.Copy(in, c); in.Close() }()
			_ = cmd.Wait()
			_, _ = c.SendRequest("exit-status", false, []byte{0, 0, 0, byte(cmd.ProcessState.ExitCode())})
			c.Close()
		}
	}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	env, repo, first := newRepo(t)
	host, client, other := env.SSHKey("host"), env.SSHKey("client"), env.SSHKey("other")
	address := sshServer(t, env, host.Signer(), client.Signer().PublicKey())
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(env.Home(), "known_hosts")
	line := func(key *gittest.SSHKey) string { return "[127.0.0.1]:" + port + " " + key.Public + "\n" }
	env.WriteFile(known, line(host))
	remote := gitsource.Remote{URL: "ssh://git@" + address + repo.Dir(), SSHKeyFile: client.File, SSHKnownHostsFile: known}
	s := open(t, t.TempDir(), remote, gitsource.Options{})
	fetch(t, s, first)
	repo.Write("a.yaml", "a: 2\n")
	fetch(t, s, repo.Commit(nil, "Second"))

	fails := func(name string, r gitsource.Remote, word string) {
		t.Helper()
		_, err := open(t, t.TempDir(), r, gitsource.Options{}).Fetch(context.Background())
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stranger := remote
	stranger.SSHKeyFile = other.File
	fails("unknown client key", stranger, "unable to authenticate")
	missing := remote
	missing.URL += "-none"
	fails("no repository", missing, "does not appear to be a git repository")
	env.WriteFile(known, line(other))
	fails("changed host key", remote, "out of band")
	env.WriteFile(known, "")
	fails("unknown host key", remote, "out of band")
	env.WriteFile(known, line(host))
	if err := os.Chmod(client.File, 0o644); err != nil {
		t.Fatal(err)
	}
	fails("key readable by others", remote, "chmod 600")
}

func TestSilentSSH(t *testing.T) {
	t.Parallel()
	env := gittest.New(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	known := filepath.Join(env.Home(), "known_hosts")
	env.WriteFile(known, "")
	s := open(t, t.TempDir(), gitsource.Remote{URL: "ssh://git@" + listener.Addr().String() + "/x", SSHKeyFile: env.SSHKey("k").File, SSHKnownHostsFile: known},
		gitsource.Options{Limits: gitsource.Limits{IdleTimeout: 100 * time.Millisecond, FetchTimeout: 5 * time.Minute}})
	if _, err := s.Fetch(context.Background()); !errors.Is(err, gitsource.ErrRemote) || !strings.Contains(err.Error(), "silent") {
		t.Errorf("got %v", err)
	}
}
