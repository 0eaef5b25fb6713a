package tokens

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// MaxAnswer bounds what is read of one answer of a provider, in bytes.
const MaxAnswer = 1 << 20

const (
	maxAnswerHeader = 64 << 10
	maxRedirects    = 3
)

// errAnswerTooLarge says that a provider sends more than anybody reads.
var errAnswerTooLarge = fmt.Errorf("the answer is larger than %d bytes", MaxAnswer)

// newClient makes requests to providers: bounded in time, size and where they lead.
func newClient(caFile string, timeout time.Duration) (*http.Client, error) {
	roots, err := certificates(caFile)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    timeout,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConnsPerHost:    1,
		MaxConnsPerHost:        4,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{Transport: capped{transport}, Timeout: timeout, CheckRedirect: stay}, nil
}

// stay follows redirects on one host and scheme only: who can redirect elsewhere could name any host of our network.
func stay(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) > maxRedirects || req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return fmt.Errorf("redirect to %s://%.100s is not followed", req.URL.Scheme, req.URL.Host)
	}
	return nil
}

// certificates gives the system's authorities and those of the file.
func certificates(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil // the system's
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("certificate authorities of issuers: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("certificate authorities of issuers: %s holds no PEM certificate", file)
	}
	return pool, nil
}

// capped fails the reading of answers beyond MaxAnswer, and drops the content of those that are not 200: it would end in
// messages, and a URL in git may lead to a service that only this host reaches.
type capped struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (c capped) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > MaxAnswer {
		return nil, errors.Join(errAnswerTooLarge, resp.Body.Close())
	}
	if resp.StatusCode != http.StatusOK {
		err := resp.Body.Close()
		resp.Body = http.NoBody
		return resp, err
	}
	resp.Body = &cappedBody{resp.Body, MaxAnswer}
	return resp, nil
}

type cappedBody struct {
	io.ReadCloser
	left int
}

func (b *cappedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errAnswerTooLarge
	}
	return n, err
}
