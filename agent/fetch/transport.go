package fetch

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// ErrTLSPin says that a server showed another key than the pinned one.
var ErrTLSPin = errors.New("the server's TLS key is not the pinned one")

// TLS says which servers are controllers: those the system's authorities vouch for, or those of CAFile, or the one whose
// SubjectPublicKeyInfo has the SHA-256 SPKI. It protects who asks for what; what is served is protected by signatures.
type TLS struct {
	CAFile string
	SPKI   []byte
}

// NewTransport makes the transport of a Client: HTTP/1.1, TLS 1.3 or 1.2, few kept connections, every step of
// connecting bounded. How long an answer may take is for the Client to bound, because a watch may begin late.
func NewTransport(trust TLS) (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if trust.CAFile != "" {
		pem, err := os.ReadFile(trust.CAFile)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificate authorities: %s holds no PEM certificate", trust.CAFile)
		}
	}
	if len(trust.SPKI) > 0 {
		// The pin replaces the chain and the name: it is stricter than both.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(state tls.ConnectionState) error { return checkPin(state, trust.SPKI) }
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	// One stream and one exchange at a time need no multiplexing, and HTTP/2 costs the agent memory.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    1,
		MaxResponseHeaderBytes: 32 << 10,
		DisableCompression:     true,
		Protocols:              &protocols,
	}, nil
}

func checkPin(state tls.ConnectionState, pin []byte) error {
	if len(state.PeerCertificates) == 0 {
		return ErrTLSPin
	}
	got := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
	if subtle.ConstantTimeCompare(got[:], pin) != 1 {
		return fmt.Errorf("%w: it has %x", ErrTLSPin, got)
	}
	return nil
}
