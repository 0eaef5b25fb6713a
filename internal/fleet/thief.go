//go:build linux

package fleet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
)

// hiddenPort is where the real controller listens while a thief stands in front of it.
const hiddenPort = 8444

// Thief has stolen the controller's address and TLS key. It passes requests on to the real controller and changes a
// byte in every view, class and block and in every update on its way back. Agents cannot tell it from the controller by
// its certificate; only signatures and digests can.
type Thief struct {
	server *http.Server
	count  atomic.Int64
	fleet  *Fleet
}

// NewThief takes the controller's place. The controller's process is restarted on another port.
func (f *Fleet) NewThief(ctx context.Context) (*Thief, error) {
	c := f.Controller
	if err := c.Process.Stop(ctx); err != nil {
		return nil, err
	}
	if err := c.start(ctx, hiddenPort); err != nil {
		return nil, err
	}
	t := &Thief{fleet: f}
	pool, err := c.authorities()
	if err != nil {
		return nil, err
	}
	stolen, err := tls.LoadX509KeyPair(c.file("tls.crt"), c.file("tls.key"))
	if err != nil {
		return nil, err
	}
	listener, err := c.Host.Listen(ctx, "tcp", netip.AddrPortFrom(c.addr, apiPort).String())
	if err != nil {
		return nil, err
	}
	t.server = &http.Server{Handler: t.proxy(c, pool), ErrorLog: log.New(io.Discard, "", 0)}
	go t.server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{stolen}}))
	return t, nil
}

func (t *Thief) proxy(c *Controller, pool *x509.CertPool) http.Handler {
	real := &url.URL{Scheme: "https", Host: netip.AddrPortFrom(c.addr, hiddenPort).String()}
	return &httputil.ReverseProxy{
		FlushInterval: -1,
		Transport:     &http.Transport{DialContext: c.Host.DialContext, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(real)
			r.Out.Host = r.In.Host // what the agents signed
			r.Out.Header.Del("If-None-Match")
			r.Out.Header.Del("Accept-Encoding") // to see what passes by
		},
		ModifyResponse: t.tamper,
	}
}

// tamper changes a byte of what an agent would act on.
func (t *Thief) tamper(resp *http.Response) error {
	path := resp.Request.URL.Path
	switch {
	case resp.StatusCode != http.StatusOK:
	case strings.HasSuffix(path, "/watch"):
		resp.Body = &forgedStream{lines: bufio.NewReaderSize(resp.Body, 1<<20), close: resp.Body, thief: t}
	case strings.HasSuffix(path, "/view"), strings.Contains(path, "/artefacts/"):
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		resp.Body.Close()
		resp.Body = io.NopCloser(bytes.NewReader(t.forge(body)))
	}
	return nil
}

// forge replaces one character in the middle by another of the same alphabet.
func (t *Thief) forge(b []byte) []byte {
	t.count.Add(1)
	out := bytes.Clone(b)
	i := len(out) / 2
	for ; i < len(out)-1 && (out[i] < 'a' || out[i] > 'y'); i++ {
	}
	out[i]++
	return out
}

// forgedStream forges the data of an event stream: timestamps and updates.
type forgedStream struct {
	lines *bufio.Reader
	close io.Closer
	rest  []byte
	thief *Thief
}

func (s *forgedStream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		line, err := s.lines.ReadBytes('\n')
		if len(line) == 0 {
			return 0, err
		}
		if bytes.HasPrefix(line, []byte("data:")) && len(line) > 100 {
			line = s.thief.forge(line)
		}
		s.rest = line
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *forgedStream) Close() error { return s.close.Close() }

// Forged counts what was tampered with.
func (t *Thief) Forged() int64 { return t.count.Load() }

// Close takes the thief away and starts the real controller in its old place.
func (t *Thief) Close(ctx context.Context) error {
	if err := t.server.Close(); err != nil {
		return err
	}
	if err := t.fleet.Controller.Process.Stop(ctx); err != nil {
		return err
	}
	return t.fleet.Controller.Start(ctx)
}
