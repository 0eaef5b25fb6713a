package gitsource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// Remote says where a branch is fetched from. Files are named, never their content, and read at each fetch, so that
// rotated credentials are picked up.
type Remote struct {
	// URL is a local path, or file://, http://, https://, ssh:// or git@host:path. It must not carry a password.
	URL string
	// Branch is the branch's short name, e.g. "main".
	Branch string

	// Username and PasswordFile authenticate over HTTP (a token is a password). Username defaults to "git".
	Username, PasswordFile string
	// CAFile, PEM, replaces the system's certificate authorities for https.
	CAFile string
	// SSHKeyFile is an unencrypted private key, mode 0600; SSHKnownHostsFile must know the host's key. Default: the
	// user's and the system's known_hosts.
	SSHKeyFile, SSHKnownHostsFile string
}

// endpoint is a parsed URL.
type endpoint struct {
	scheme string // file, http, https, ssh
	user   string
	host   string // with port, for ssh
	path   string
	url    string // as fetched, without user for http
}

func (r Remote) check() error {
	if r.Branch == "" {
		return fmt.Errorf("repository %s: no branch named; set one, e.g. main", r.identityURL())
	}
	if err := plumbing.NewBranchReferenceName(r.Branch).Validate(); err != nil {
		return fmt.Errorf("branch %.80q: %w", r.Branch, err)
	}
	_, err := r.endpoint()
	return err
}

// endpoint parses the URL. Unknown schemes are refused, so that no helper program is ever run.
func (r Remote) endpoint() (endpoint, error) {
	raw := r.URL
	switch {
	case raw == "" || strings.HasPrefix(raw, "-"):
		return endpoint{}, fmt.Errorf("repository URL %.80q: give a path or a file, https or ssh URL", raw)
	case !strings.Contains(raw, "://"):
		if host, path, ok := strings.Cut(raw, ":"); ok && !strings.ContainsAny(host, `/\`) && len(host) > 1 {
			return sshEndpoint(host, "", path)
		}
		path, err := absolute(raw)
		return endpoint{scheme: "file", path: path, url: path}, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		return endpoint{}, fmt.Errorf("repository URL: %w", errors.Unwrap(err)) // the outer error quotes the URL, secrets and all
	}
	if _, has := u.User.Password(); has {
		return endpoint{}, fmt.Errorf("repository URL %s carries a password; put it in a file and name that", u.Redacted())
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" {
			return endpoint{}, fmt.Errorf("repository URL %s: a file URL has no host", u.Redacted())
		}
		path, err := absolute(u.Path)
		return endpoint{scheme: "file", path: path, url: raw}, err
	case "http", "https":
		e := endpoint{scheme: u.Scheme, user: u.User.Username(), host: u.Host}
		u.User = nil
		e.url = u.String()
		return e, nil
	case "ssh":
		return sshEndpoint(u.User.String()+"@"+u.Hostname(), u.Port(), u.Path)
	}
	return endpoint{}, fmt.Errorf("repository URL %s: scheme %q is not supported; use file, https or ssh", u.Redacted(), u.Scheme)
}

func sshEndpoint(userHost, port, path string) (endpoint, error) {
	user, host, ok := strings.Cut(userHost, "@")
	if !ok {
		user, host = "git", userHost
	}
	if user == "" {
		user = "git"
	}
	if port == "" {
		port = "22"
	}
	if strings.HasPrefix(path, ":") {
		return endpoint{}, fmt.Errorf("repository URL: remote helpers (%.20q) are not supported; use file, https or ssh", host+"::")
	}
	if host == "" || path == "" || strings.HasPrefix(path, "-") || strings.ContainsAny(path, "\n\x00") {
		return endpoint{}, fmt.Errorf("ssh URL needs a host and a path")
	}
	return endpoint{scheme: "ssh", user: user, host: net.JoinHostPort(host, port), path: path}, nil
}

// identityURL is the URL as it may be shown.
func (r Remote) identityURL() string {
	if u, err := url.Parse(r.URL); err == nil {
		return u.Redacted()
	}
	return r.URL
}

// identity tells clones of different remotes or branches apart.
func (r Remote) identity() string { return r.URL + "\n" + r.Branch + "\n" }

// dial opens a session with the remote; reading from it is bounded by the limits.
func (r Remote) dial(ctx context.Context, limits Limits) (transport.UploadPackSession, error) {
	e, err := r.endpoint()
	if err != nil {
		return nil, err
	}
	switch e.scheme {
	case "file":
		return dialFile(ctx, e, limits)
	case "ssh":
		return r.dialSSH(ctx, e, limits)
	default:
		return r.dialHTTP(e, limits)
	}
}

func (r Remote) dialHTTP(e endpoint, limits Limits) (transport.UploadPackSession, error) {
	base := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: limits.IdleTimeout,
		DisableKeepAlives:     true,
		ForceAttemptHTTP2:     true,
	}
	ep, err := transport.NewEndpoint(e.url)
	if err != nil {
		return nil, fmt.Errorf("repository URL: %w", err)
	}
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate authorities: %s holds no PEM certificate", r.CAFile)
		}
		base.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	auth, err := r.httpAuth(e)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &boundedTransport{base: base, limits: limits}}
	return githttp.NewClient(client).NewUploadPackSession(ep, auth)
}

func (r Remote) httpAuth(e endpoint) (transport.AuthMethod, error) {
	if r.PasswordFile == "" {
		return nil, nil
	}
	secret, err := os.ReadFile(r.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("password file: %w", err)
	}
	user := r.Username
	if user == "" {
		user = e.user
	}
	if user == "" {
		user = "git"
	}
	return &githttp.BasicAuth{Username: user, Password: strings.TrimSpace(string(secret))}, nil
}

// boundedTransport bounds every response body in bytes and in silence.
type boundedTransport struct {
	base   http.RoundTripper
	limits Limits
}

func (b *boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	res, err := b.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{newBounded(res.Body, b.limits, cancel), closer{res.Body, cancel}}
	return res, nil
}

type closer struct {
	io.Closer
	cancel func()
}

func (c closer) Close() error {
	c.cancel()
	return c.Closer.Close()
}

// bounded ends a stream that is too long or falls silent. abort must make a blocked Read return.
type bounded struct {
	r     io.Reader
	left  int64
	idle  time.Duration
	abort func()
}

// advertisedBytes is added to FetchBytes for what comes before the pack: the list of refs.
const advertisedBytes = 16 << 20

func newBounded(r io.Reader, limits Limits, abort func()) *bounded {
	return &bounded{r: r, left: limits.FetchBytes + advertisedBytes, idle: limits.IdleTimeout, abort: abort}
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the remote sends without end: %w", ErrLimit)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	silent := time.AfterFunc(b.idle, b.abort)
	n, err := b.r.Read(p)
	fired := !silent.Stop()
	b.left -= int64(n)
	if fired && n == 0 && err != nil {
		return 0, fmt.Errorf("the remote was silent for %s: %w", b.idle, ErrRemote)
	}
	return n, err
}
