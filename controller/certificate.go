package controller

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/controller/config"
)

// certificate is what the API shows. It can be replaced while serving.
type certificate struct {
	current    atomic.Pointer[tls.Certificate]
	selfSigned bool
}

func openCertificate(cfg *config.Config, now time.Time, log *slog.Logger) (*certificate, error) {
	c := &certificate{selfSigned: cfg.TLS.SelfSigned}
	if !c.selfSigned {
		return c, c.reload(cfg)
	}
	path := filepath.Join(cfg.Storage, "selfsigned.pem")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = makeCertificate(cfg, now); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate %s: %w: remove it and a new one is made", path, err)
	}
	c.current.Store(&pair)
	log.Warn("the API shows a self-signed certificate, for development only", "tlsPin", c.pin(), "file", path)
	return c, nil
}

// reload reads the certificate files again. A pair that does not fit leaves the old one.
func (c *certificate) reload(cfg *config.Config) error {
	if c.selfSigned || cfg.TLS.SelfSigned {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(cfg.TLS.CertFile, cfg.TLS.KeyFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.current.Load(), nil
		},
	}
}

// pin is the SHA-256 of the certificate's public key (its SubjectPublicKeyInfo), hex: what --tls-pin and tlsPin take.
func (c *certificate) pin() string {
	sum := sha256.Sum256(c.current.Load().Leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// makeCertificate gives a key and certificate, PEM, for this host's names and addresses, loopback and publicHosts.
func makeCertificate(cfg *config.Config, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "apex-controller (self-signed)"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(2, 0, 0), BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	names := []string{"localhost", "127.0.0.1", "::1", cfg.Listen.API}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if p, ok := a.(*net.IPNet); ok {
			names = append(names, p.IP.String())
		}
	}
	for _, name := range append(names, cfg.PublicHosts...) {
		if host, _, err := net.SplitHostPort(name); err == nil {
			name = host
		}
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if name != "" {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}
