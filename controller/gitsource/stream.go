package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
)

// stream speaks git's upload-pack protocol over a pair of pipes: a local process or an ssh session. go-git has
// transports for both, but theirs cannot be bounded in bytes, and read the user's configuration on the way.
type stream struct {
	in      io.WriteCloser
	out     io.Reader
	refs    *packp.AdvRefs
	asked   bool
	release func() error
	failure func() string // what the other side wrote to stderr
}

// AdvertisedReferences implements transport.UploadPackSession.
func (s *stream) AdvertisedReferences() (*packp.AdvRefs, error) {
	return s.AdvertisedReferencesContext(context.Background())
}

// AdvertisedReferencesContext implements transport.UploadPackSession. The context was given when the stream opened.
func (s *stream) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	if s.refs != nil {
		return s.refs, nil
	}
	refs := packp.NewAdvRefs()
	switch err := refs.Decode(s.out); {
	case errors.Is(err, packp.ErrEmptyAdvRefs):
		return nil, transport.ErrEmptyRemoteRepository
	case errors.Is(err, ErrLimit), errors.Is(err, ErrRemote):
		return nil, err
	case err != nil:
		return nil, s.explain(err)
	}
	if refs.IsEmpty() {
		return nil, transport.ErrEmptyRemoteRepository
	}
	transport.FilterUnsupportedCapabilities(refs.Capabilities)
	s.refs = refs
	return refs, nil
}

func (s *stream) explain(err error) error {
	if text := s.failure(); text != "" {
		return fmt.Errorf("the remote says %q: %w", text, ErrRemote)
	}
	return err
}

// UploadPack implements transport.UploadPackSession.
func (s *stream) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	s.asked = true
	if err := errors.Join(req.UploadRequest.Encode(s.in), req.UploadHaves.Encode(s.in, true),
		pktline.NewEncoder(s.in).EncodeString("done\n"), s.in.Close()); err != nil {
		return nil, s.explain(err)
	}
	response := packp.NewUploadPackResponse(req)
	if err := response.Decode(io.NopCloser(s.out)); err != nil {
		return nil, s.explain(err)
	}
	return response, nil
}

// Close implements transport.Session.
func (s *stream) Close() error {
	if !s.asked {
		// A flush says good-bye; if the other side is gone already, that is good-bye too.
		_, _ = s.in.Write(pktline.FlushPkt)
	}
	return s.release()
}

// lastWords keeps the beginning of what a process writes to stderr.
type lastWords struct{ b []byte }

func (l *lastWords) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), 512-len(l.b))]...)
	return len(p), nil
}

func (l *lastWords) text() string { return strings.TrimSpace(string(l.b)) }

// dialFile runs git-upload-pack on a local repository, without the environment that could redirect it.
func dialFile(ctx context.Context, e endpoint, limits Limits) (transport.UploadPackSession, error) {
	if _, err := os.Stat(e.path); err != nil {
		return nil, fmt.Errorf("%w: %w", transport.ErrRepositoryNotFound, err)
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("a repository on a local path needs the git program; install it or use an https or ssh URL: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, git, "upload-pack", "--", e.path)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "GIT_") || strings.HasPrefix(kv, "GIT_CONFIG") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_NO_REPLACE_OBJECTS=1", "LC_ALL=C")
	words := &lastWords{}
	cmd.Stderr = words
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		cancel()
		return nil, fmt.Errorf("git upload-pack: %w", err)
	}
	waited := false
	wait := func() {
		if !waited {
			waited = true
			// How git-upload-pack ended does not matter: the pack was checked, or the error is already known.
			_ = cmd.Wait()
		}
	}
	return &stream{in: in, out: newBounded(out, limits, cancel),
		release: func() error { cancel(); wait(); return nil },
		failure: func() string { wait(); return words.text() }}, nil
}

// dialSSH runs git-upload-pack on an ssh server whose host key is already known.
func (r Remote) dialSSH(ctx context.Context, e endpoint, limits Limits) (transport.UploadPackSession, error) {
	config, err := r.sshConfig(e, limits)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{Timeout: limits.IdleTimeout}).DialContext(ctx, "tcp", e.host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	hangUp := func() { stop(); conn.Close() }
	quiet := newBounded(conn, limits, hangUp)
	client, channels, requests, err := ssh.NewClientConn(boundedConn{conn, quiet}, e.host, config)
	if err != nil {
		hangUp()
		return nil, explainSSH(err, e)
	}
	c := ssh.NewClient(client, channels, requests)
	session, err := c.NewSession()
	if err != nil {
		hangUp()
		return nil, err
	}
	words := &lastWords{}
	session.Stderr = words
	in, errIn := session.StdinPipe()
	out, errOut := session.StdoutPipe()
	if err := errors.Join(errIn, errOut, session.Start("git-upload-pack "+shellQuote(e.path))); err != nil {
		hangUp()
		return nil, err
	}
	return &stream{in: in, out: newBounded(out, limits, hangUp),
		release: func() error { hangUp(); return nil },
		failure: func() string { _ = session.Wait(); return words.text() }}, nil
}

// boundedConn reads through a byte and silence limit.
type boundedConn struct {
	net.Conn
	r io.Reader
}

func (b boundedConn) Read(p []byte) (int, error) { return b.r.Read(p) }

func (r Remote) sshConfig(e endpoint, limits Limits) (*ssh.ClientConfig, error) {
	if r.SSHKeyFile == "" {
		return nil, fmt.Errorf("an ssh URL needs a key: name its file")
	}
	info, err := os.Stat(r.SSHKeyFile)
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("ssh key %s is readable by others (mode %04o): chmod 600 it", r.SSHKeyFile, info.Mode().Perm())
	}
	pem, err := os.ReadFile(r.SSHKeyFile)
	if err != nil {
		return nil, fmt.Errorf("ssh key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("ssh key %s has a passphrase, which nobody can type here: use a key of its own without one", r.SSHKeyFile)
	case err != nil:
		return nil, fmt.Errorf("ssh key %s: %w", r.SSHKeyFile, err)
	}
	var files []string
	if r.SSHKnownHostsFile != "" {
		files = []string{r.SSHKnownHostsFile}
	}
	known, err := gitssh.NewKnownHostsDb(files...)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	return &ssh.ClientConfig{
		User:              e.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback:   known.HostKeyCallback(),
		HostKeyAlgorithms: known.HostKeyAlgorithms(e.host),
		Timeout:           limits.IdleTimeout,
	}, nil
}

func explainSSH(err error, e endpoint) error {
	if strings.Contains(err.Error(), "knownhosts:") {
		return fmt.Errorf("the host key of %s is not the one in known_hosts (or is not there): compare it out of band, then add it: %w: %w", e.host, ErrRemote, err)
	}
	return fmt.Errorf("ssh %s@%s: %w: %w", e.user, e.host, ErrRemote, err)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var _ transport.UploadPackSession = (*stream)(nil)
