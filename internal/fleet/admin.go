//go:build linux

package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/internal/lab"
)

// Admin is the maintainer at a machine of their own on the internet, speaking to the controller.
type Admin struct {
	*client.Client
	Host *lab.Host
}

// NewAdmin makes the machine.
func (f *Fleet) NewAdmin(ctx context.Context) (*Admin, error) {
	host, err := f.Lab.Host("admin")
	if err != nil {
		return nil, err
	}
	if _, err := host.Join(ctx, f.Internet); err != nil {
		return nil, err
	}
	base, err := url.Parse(f.Controller.URL())
	if err != nil {
		return nil, err
	}
	pool, err := f.Controller.authorities()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: host.DialContext, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	return &Admin{Host: host, Client: client.New(client.Options{URL: base, Network: f.Network, Key: f.Maintainer,
		HTTP: &http.Client{Transport: transport}, UserAgent: "apex/lab"})}, nil
}

// authorities are what agents trust the controller's certificate by.
func (c *Controller) authorities() (*x509.CertPool, error) {
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", c.CAFile)
	}
	return pool, nil
}
