package login

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// browserLimit bounds one exchange with the browser, which only a hung one reaches.
const browserLimit = time.Minute

// Browser signs in with a browser on this machine (RFC 8252 §7.3): open is given the address that it shall show, and
// the provider sends it back to a port of the loopback that is open only meanwhile. ctx bounds the waiting.
func (f *Flow) Browser(ctx context.Context, open func(url string) error) (*Session, error) {
	listener, redirect, err := f.listen(ctx)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	flow, err := f.code(ctx, redirect)
	if err != nil {
		return nil, err
	}
	codes := make(chan outcome, 1)
	server := &http.Server{
		Handler:           flow.landingPage(listener.Addr().String(), redirect, codes),
		ReadHeaderTimeout: browserLimit,
		ReadTimeout:       browserLimit,
		WriteTimeout:      browserLimit,
		MaxHeaderBytes:    64 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with the listener, below
	}()
	defer func() {
		// The browser is to get its page before the port closes.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		<-done
	}()
	if err := open(flow.url()); err != nil {
		return nil, err
	}
	select {
	case got := <-codes:
		if got.err != nil {
			return nil, got.err
		}
		return flow.redeem(ctx, got.code)
	case <-ctx.Done():
		return nil, f.failed(ctx, "wait for the browser", ctx.Err())
	}
}

// outcome is how a redirect ended.
type outcome struct {
	code string
	err  error
}

// listen opens the loopback port and gives the redirect address that leads to it.
func (f *Flow) listen(ctx context.Context) (net.Listener, string, error) {
	host, port, err := f.callback()
	if err != nil {
		return nil, "", err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(listenHost(host), port))
	if err != nil {
		return nil, "", fmt.Errorf("wait for the browser: %w", err)
	}
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, "", errors.Join(err, listener.Close())
	}
	return listener, "http://" + net.JoinHostPort(host, port) + callbackPath, nil
}

// callback reads Callback: loopback only, since whoever else could connect could end the signing in.
func (f *Flow) callback() (host, port string, err error) {
	if f.Callback == "" {
		return "127.0.0.1", "0", nil
	}
	host, port, err = net.SplitHostPort(f.Callback)
	if err != nil || host != "localhost" && host != "127.0.0.1" && host != "::1" {
		return "", "", fmt.Errorf("%w: callback %q: want 127.0.0.1:PORT, [::1]:PORT or localhost:PORT",
			ErrUnsupported, f.Callback)
	}
	return host, port, nil
}

// listenHost is the address behind a loopback name: `localhost` is not looked up, since a resolver may say anything.
func listenHost(host string) string {
	if host == "localhost" {
		return "127.0.0.1"
	}
	return host
}

// landingPage takes the redirect. Requests that are not ours (another state, another path, a page of the web that
// resolves its own name to the loopback) get an error page and end nothing; the first that is ours ends the waiting.
func (c *codeFlow) landingPage(listening, redirect string, codes chan<- outcome) http.Handler {
	want, err := http.NewRequest(http.MethodGet, redirect, nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ours := err == nil && (r.Host == want.Host || r.Host == listening)
		if !ours || r.Method != http.MethodGet || r.URL.Path != callbackPath {
			landing(w, http.StatusNotFound, "Nothing is here.")
			return
		}
		code, err := c.accept(r.URL.Query())
		if errors.Is(err, errForeign) {
			landing(w, http.StatusBadRequest, "This page belongs to another attempt to sign in. Begin again in the terminal.")
			return
		}
		select {
		case codes <- outcome{code, err}:
		default: // an earlier one was first
		}
		if err != nil {
			landing(w, http.StatusOK, "Signing in failed. The terminal says why.")
			return
		}
		landing(w, http.StatusOK, "You can close this window and go back to the terminal.")
	})
}
