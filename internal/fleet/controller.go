//go:build linux

package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
)

// Controller is the controller's host and, once started, its process.
type Controller struct {
	Host    *lab.Host
	Process *lab.Process
	// Dir holds configuration, keys and storage; CAFile the certificates that agents trust: this controller's, and those of
	// its replicas.
	Dir, CAFile string
	// Key signs manifests and timestamps, EnrolmentKey bindings.
	Key, EnrolmentKey signer.PrivateKey
	// NATS, if set before Start, is the URL of the cluster that holds the state.
	NATS string
	// Front, if set, is what agents are told instead of URL: something that stands between them and the controller.
	Front string

	binary string
	serves []*Fleet // the networks, the first of which made the host
	addr   netip.Addr
}

const apiPort = 8443

func (f *Fleet) newController(ctx context.Context) (*Controller, error) {
	host, err := f.Lab.Host("controller")
	if err != nil {
		return nil, err
	}
	nic, err := host.Join(ctx, f.Internet)
	if err != nil {
		return nil, err
	}
	c := &Controller{Host: host, Dir: host.Dir(), binary: f.opt.Binaries.Controller, serves: []*Fleet{f}, addr: nic.Addr4()}
	if c.Key, err = keyfile.NewEd25519(filepath.Join(c.Dir, "manifest.key"), rand.Reader); err != nil {
		return nil, err
	}
	if c.EnrolmentKey, err = keyfile.NewEd25519(filepath.Join(c.Dir, "enrolment.key"), rand.Reader); err != nil {
		return nil, err
	}
	c.CAFile = filepath.Join(c.Dir, "authorities.pem")
	return c, c.certify(nic)
}

// certify makes the controller's certificate and lets agents trust it.
func (c *Controller) certify(nic *lab.Interface) error {
	if err := certificate(c.file("tls.crt"), c.file("tls.key"), nic); err != nil {
		return err
	}
	pem, err := os.ReadFile(c.file("tls.crt"))
	if err != nil {
		return err
	}
	return appendFile(c.CAFile, pem)
}

func (c *Controller) file(name string) string { return filepath.Join(c.Dir, name) }

// URL is the controller's base URL for agents.
func (c *Controller) URL() string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(c.addr, apiPort))
}

// config is the text of the configuration file.
func (c *Controller) config(port uint16) string {
	text := fmt.Sprintf(`storage: %s/storage
listen:
  api: ":%d"
  metrics: 127.0.0.1:9464
  admin: %s
tls:
  certFile: tls.crt
  keyFile: tls.key
`, c.Dir, port, c.adminSocket())
	if c.NATS != "" {
		text += fmt.Sprintf("nats:\n  url: %s\n", c.NATS)
	}
	text += "networks:\n"
	for _, f := range c.serves {
		text += fmt.Sprintf(`  - name: %s
    repository:
      url: %s
      branch: %s
    trustRoot: %s
    keys:
      manifestFiles: [manifest.key]
      timestampFiles: [manifest.key]
%s    poll:
      interval: %s
`, f.Network, f.Remote, branch, f.Pin, f.enrolmentConfig(), f.opt.Poll)
	}
	return text
}

func (c *Controller) adminSocket() string { return c.file("admin.sock") }

// Start writes the configuration and starts the controller; it is up when it accepts connections.
func (c *Controller) Start(ctx context.Context) error { return c.start(ctx, apiPort) }

func (c *Controller) start(ctx context.Context, port uint16) error {
	path := c.file("controller.yaml")
	if err := os.WriteFile(path, []byte(c.config(port)), 0o600); err != nil {
		return err
	}
	p, err := c.Host.Start(ctx, lab.Command{Argv: []string{c.binary, "--config", path}, Name: "controller"})
	if err != nil {
		return err
	}
	c.Process = p
	return p.AwaitTCP(ctx, netip.AddrPortFrom(c.addr, port))
}

// firstRoot makes the trust root of one maintainer, the controller and perhaps a witness, signed.
func (f *Fleet) firstRoot() (document, envelope string, err error) {
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(f.Maintainer.PublicKey())))
	f.root = spec.TrustRoot{Metadata: spec.Metadata{Name: f.Network}, Spec: spec.TrustRootSpec{
		Version: 1, Epoch: 1,
		Keys:        []spec.TrustKey{{Name: "ada", SSH: line}, {Name: "controller", Ed25519: spec.Key(f.Controller.Key.Raw())}},
		Root:        spec.Role{Keys: []string{"ada"}},
		Maintainers: []spec.MaintainerRule{{Name: "everything", Keys: []string{"ada"}, Paths: []string{"**"}}},
		Manifest:    spec.Role{Keys: []string{"controller"}},
		Timestamp:   spec.Role{Keys: []string{"controller"}},
		Appliers:    spec.ApplierRole{Keys: []string{"ada"}},
		Validity:    f.opt.Validity,
	}}
	if f.opt.Witness {
		key, err := keyfile.LoadEd25519(f.WitnessKeyFile)
		if err != nil {
			return "", "", err
		}
		f.root.Spec.Keys = append(f.root.Spec.Keys, spec.TrustKey{Name: "witness", Ed25519: spec.Key(key.Raw())})
		f.root.Spec.Witnesses.Keys = []string{"witness"}
		f.root.Spec.Manifest.Threshold = 2
	}
	if f.opt.Enrolment {
		f.root.Spec.Keys = append(f.root.Spec.Keys, spec.TrustKey{Name: "enrolment", Ed25519: spec.Key(f.Controller.EnrolmentKey.Raw())})
		f.root.Spec.Enrolment.Keys = []string{"enrolment"}
	}
	for zone, prefixes := range f.opt.Routes {
		f.root.Spec.Routes = append(f.root.Spec.Routes, spec.RouteClaim{Zone: zone, Prefixes: prefixes})
	}
	root, err := trustdir.RootFromSpec(f.root.Spec, f.Network)
	if err != nil {
		return "", "", err
	}
	f.Pin = root.Digest()
	if envelope, err = f.signRoot(nil, root); err != nil {
		return "", "", err
	}
	text, err := spec.Marshal(f.root)
	return string(text), envelope, err
}

// certificate writes a self-signed certificate for a host's addresses.
func certificate(certFile, keyFile string, nic *lab.Interface) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "controller"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, p := range nic.Prefixes {
		t.IPAddresses = append(t.IPAddresses, net.IP(p.Addr().AsSlice()))
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
