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

	"github.com/apex-network/apex/internal/loopback"
)

// startLimit bounds how long a provider may take to answer, on a machine that does much else.
const startLimit = time.Minute

// DialFunc connects as net.Dialer.DialContext does. lab.Host.DialContext is one.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Place says where a provider's program runs and how tests reach it. The zero value but for Folder is: plain HTTP on
// this machine's loopback.
type Place struct {
	Folder    string         // required; an existing folder for configuration, state and logs
	Addr      netip.AddrPort // where to listen; by default an address of its own, of the loopback
	TLS       bool           // https, with a certificate of Authority
	Authority *Authority     // default with TLS: a new one
	Start     Starter        // default: Local(Folder)
	Dial      DialFunc       // default: from this machine
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
		addr, err := loopback.Address()
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
			DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool},
			// A provider may restart between two requests, and a form is not sent again over another connection.
			DisableKeepAlives: true,
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

func (s *serving) stop() error { return stop(s.process) }

// TB is what the Run functions need of *testing.T.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	TempDir() string
	Cleanup(func())
	Context() context.Context
}
