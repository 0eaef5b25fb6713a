package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Path is where the status document stands on the socket.
const Path = "/v1/status"

// DefaultSocket is where the agent listens unless told otherwise.
const DefaultSocket = "/run/apex/agent.sock"

// maxBody bounds what a client reads: 10 000 peers take about 3 MiB.
const maxBody = 64 << 20

// ErrNoAgent says that nobody listens on the socket.
var ErrNoAgent = errors.New("no agent listens on this socket")

// Listen makes the socket at path with mode 0600 and its folder if need be (0755). A socket left behind by a dead agent
// is replaced; a live one, or a file that is not a socket, is an error. The listener removes the socket when closed.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("status socket: make its folder: %w", err)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	// The socket is bound under a private name and renamed once its mode is right, so that there is no instant at
	// which others could connect.
	private, err := os.MkdirTemp(filepath.Dir(path), ".apex-")
	if err != nil {
		return nil, fmt.Errorf("status socket %s: %w", path, err)
	}
	defer os.RemoveAll(private)
	inner := filepath.Join(private, "s")
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", inner)
	if err != nil {
		return nil, fmt.Errorf("status socket %s: %w", path, err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chmod(inner, 0o600)
	if err == nil {
		err = os.Rename(inner, path)
	}
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("status socket %s: %w", path, err)
	}
	return &unlinking{Listener: listener, path: path}, nil
}

// removeStale takes a dead socket out of the way.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("status socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("status socket %s: a file that is not a socket stands there; remove it or choose another path", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		conn.Close()
		return fmt.Errorf("status socket %s: another agent is running; stop it or give this one its own socket", path)
	case !isRefused(err): // a busy agent is no dead one
		return fmt.Errorf("status socket %s: cannot tell whether another agent is running: %w", path, err)
	}
	return os.Remove(path)
}

// unlinking removes the socket file when it closes.
type unlinking struct {
	net.Listener
	path string
}

func (u *unlinking) Close() error {
	err := u.Listener.Close()
	if rmErr := os.Remove(u.path); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// Handle puts the status document, as take gives it, on the socket's mux.
func Handle(mux *http.ServeMux, take func() Status, log *slog.Logger) {
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if err := json.NewEncoder(w).Encode(take()); err != nil {
			log.Debug("status reader went away", "error", err)
		}
	})
}

// Serve answers with handler until ctx ends. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      2 * time.Minute, // joining asks controllers
		IdleTimeout:       5 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("status socket: %w", err)
	}
	return nil
}

// Client reads the status of the agent behind a unix socket.
type Client struct {
	path string
	http *http.Client
}

// NewClient gives a client of the socket at path. It connects when asked, not before.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: Transport(path)}}
}

// Transport sends requests to the unix socket at path, whatever host they name, each on a connection of its own.
func Transport(path string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}
}

// Get asks for the status, for ten seconds unless ctx has a deadline. ErrNoAgent if nobody listens; a permission error says
// which user may read.
func (c *Client) Get(ctx context.Context) (Status, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+Path, nil)
	if err != nil {
		return Status{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Status{}, ExplainDial(c.path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Status{}, fmt.Errorf("status socket %s: answered %s", c.path, resp.Status)
	}
	var out Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&out); err != nil {
		return Status{}, fmt.Errorf("status socket %s: %w", c.path, err)
	}
	return out, nil
}

// ExplainDial says what it means that the socket at path could not be asked. ErrNoAgent if nobody listens.
func ExplainDial(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("status socket %s: only the agent's own user and root may use it (try sudo): %w", path, err)
	case errors.Is(err, fs.ErrNotExist), isRefused(err):
		return fmt.Errorf("status socket %s: %w; is apex-agent running? (%w)", path, ErrNoAgent, err)
	}
	return fmt.Errorf("status socket %s: %w", path, err)
}
