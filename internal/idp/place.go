package idp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// startLimit bounds how long a provider may take to answer, on a machine that does much else.
const startLimit = time.Minute

// DialFunc connects as net.Dialer.DialContext does. lab.Host.DialContext is one.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Place says where a provider's program runs and how tests reach it. The zero value but for Folder is: plain HTTP on a
// free port of this machine's loopback.
type Place struct {
	Folder    string         // required; an existing folder for configuration, state and logs
	Addr      netip.AddrPort // where to listen; by default a free port of 127.0.0.1
	TLS       bool           // https, with a certificate of Authority
	Authority *Authority     // default with TLS: a new one
	Start     Starter        // default: Local(Folder)
	Dial      DialFunc       // default: from this machine
}

// onFreePort completes the place and calls start with it. The free port may be taken before the program gets to it, so
// a program that ends at once is tried again at another, unless the caller named the port.
func (p Place) onFreePort(start func(Place) error) error {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		whole, err := p.complete()
		if err != nil {
			return err
		}
		if err = start(whole); !errors.Is(err, ErrExited) || p.Addr.IsValid() || attempt == attempts {
			return err
		}
	}
}

// complete fills in the defaults.
func (p Place) complete() (Place, error) {
	if p.Folder == "" {
		return p, errors.New("idp: Place.Folder is required")
	}
	if p.Start == nil {
		p.Start = Local(p.Folder)
	}
	if p.Dial == nil {
		p.Dial = (&net.Dialer{}).DialContext
	}
	if !p.Addr.IsValid() {
		addr, err := freePort()
		if err != nil {
			return p, err
		}
		p.Addr = addr
	}
	if p.TLS && p.Authority == nil {
		authority, err := NewAuthority()
		if err != nil {
			return p, err
		}
		p.Authority = authority
	}
	return p, nil
}

// freePort finds a port that was free a moment ago.
func freePort() (netip.AddrPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer l.Close()
	return netip.ParseAddrPort(l.Addr().String())
}

func (p Place) url(path string) string {
	scheme := "http"
	if p.TLS {
		scheme = "https"
	}
	return fmt.Sprintf("%s://%s%s", scheme, p.Addr, path)
}

// client dials through p.Dial and trusts p.Authority and nobody else.
func (p Place) client() *http.Client {
	return NewClient(p.Dial, p.ca())
}

func (p Place) ca() []byte {
	if p.Authority == nil {
		return nil
	}
	return p.Authority.PEM()
}

// NewClient gives an HTTP client that connects with dial and trusts only the certificates of ca (PEM; nil: none).
func NewClient(dial DialFunc, ca []byte) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
			IdleConnTimeout: 5 * time.Second,
		},
	}
}

// serving is a provider's program that answers at its issuer URL.
type serving struct {
	Place
	issuer  string
	process Process
}

// launch starts a provider and waits until its discovery document is there.
func launch(ctx context.Context, p Place, issuer, name string, argv ...string) (*serving, error) {
	process, err := p.Start(ctx, name, argv...)
	if err != nil {
		return nil, err
	}
	s := &serving{Place: p, issuer: issuer, process: process}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	client := p.client()
	defer client.CloseIdleConnections()
	err = await(ctx, process, name+" at "+issuer, func(ctx context.Context) error {
		return probe(ctx, client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	})
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func probe(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}

func (s *serving) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return s.process.Stop(ctx)
}

// TB is what the Run functions need of *testing.T.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	TempDir() string
	Cleanup(func())
	Context() context.Context
}
