package controller

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/internal/protocol"
)

// Addresses say where a running controller listens. TLSPin is the SHA-256 of the certificate's public key, hex.
type Addresses struct {
	API, Metrics, Admin string
	TLSPin              string
}

// Time-outs against clients that do nothing. The watch sets its own write deadlines.
const (
	headerTimeout   = 10 * time.Second
	writeTimeout    = time.Minute
	idleTimeout     = 75 * time.Second
	shutdownTimeout = 10 * time.Second
)

type listeners struct {
	addresses Addresses
	api       net.Listener
	others    []endpoint
	servers   []*http.Server
}

type endpoint struct {
	listener net.Listener
	handler  http.Handler
}

func (c *Controller) listen(ctx context.Context) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	var lc net.ListenConfig
	raw, err := lc.Listen(ctx, "tcp", c.cfg.Listen.API)
	if err != nil {
		return l, fmt.Errorf("listen.api: %w", err)
	}
	l.api = tls.NewListener(netutil.LimitListener(raw, c.cfg.Limits.Connections), c.tls.config())
	l.addresses = Addresses{API: raw.Addr().String(), TLSPin: c.tls.pin()}
	if a := c.cfg.Listen.Metrics; a != config.NoMetrics {
		m, err := lc.Listen(ctx, "tcp", a)
		if err != nil {
			return l, fmt.Errorf("listen.metrics: %w", err)
		}
		l.addresses.Metrics = m.Addr().String()
		l.others = append(l.others, endpoint{netutil.LimitListener(m, 64), c.metricsHandler()})
	}
	if path := c.cfg.Listen.Admin; path != "" {
		a, err := listenUnix(ctx, path)
		if err != nil {
			return l, fmt.Errorf("listen.admin: %w", err)
		}
		l.addresses.Admin = path
		l.others = append(l.others, endpoint{a, c.adminHandler()})
	}
	return l, nil
}

func (c *Controller) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(c.gather, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Registry: c.gather}))
	mux.Handle("GET /", c.server.HealthHandler())
	return mux
}

// listenUnix listens on a socket that only this account may open. A socket that nobody listens on any more is replaced.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is in the way and no socket", path)
		}
		if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
			_ = conn.Close() // only to see whether somebody is there
			return nil, fmt.Errorf("%s: another process listens there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := listenPrivately(ctx, path)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *listeners) serve(c *Controller) <-chan error {
	failed := make(chan error, len(l.others)+1)
	run := func(listener net.Listener, h http.Handler, readTimeout time.Duration) {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true) // a stream over HTTP/2 costs more memory than a connection over HTTP/1.1
		s := &http.Server{
			Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
			MaxHeaderBytes: protocol.MaxHeaderBytes, Protocols: protocols, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		}
		l.servers = append(l.servers, s)
		go func() {
			if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	run(l.api, c.handler(), 0) // the server gives bodies their time, and a watch outlives any
	for _, e := range l.others {
		run(e.listener, e.handler, headerTimeout)
	}
	return failed
}

// shutdown lets running requests end, for a while.
func (l *listeners) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var errs []error
	for _, s := range l.servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, err, s.Close())
		}
	}
	return errors.Join(errs...)
}

// close ends listeners that never served.
func (l *listeners) close() error {
	var errs []error
	if l.api != nil {
		errs = append(errs, l.api.Close())
	}
	for _, e := range l.others {
		errs = append(errs, e.listener.Close())
	}
	return errors.Join(errs...)
}
