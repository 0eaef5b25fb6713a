//go:build linux

package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/idp/onlab"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
)

// Provider is a host on the internet for OpenID providers. Controllers, agents and people of the fleet trust the
// certificates of its authority.
type Provider struct {
	Host      *lab.Host
	Authority *idp.Authority
	fleet     *Fleet
}

// NewProvider makes a host for providers.
func (f *Fleet) NewProvider(ctx context.Context, name string) (*Provider, error) {
	host, err := f.Lab.Host(name)
	if err != nil {
		return nil, err
	}
	if _, err := host.Join(ctx, f.Internet); err != nil {
		return nil, err
	}
	if f.authority == nil {
		if f.authority, err = idp.NewAuthority(); err != nil {
			return nil, err
		}
		if err := os.WriteFile(f.IssuerCAFile(), f.authority.PEM(), 0o644); err != nil {
			return nil, err
		}
	}
	return &Provider{Host: host, Authority: f.authority, fleet: f}, nil
}

// IssuerCAFile holds the authority of the providers' certificates.
func (f *Fleet) IssuerCAFile() string { return filepath.Join(f.dir, "issuers.pem") }

// enrolmentConfig is what a network's configuration says of enrolment.
func (f *Fleet) enrolmentConfig() string {
	if !f.opt.Enrolment {
		return ""
	}
	text := "      enrolmentFiles: [enrolment.key]\n" // goes on with `keys`
	if f.authority != nil {
		text += fmt.Sprintf("    issuerCAFile: %s\n", f.IssuerCAFile())
	}
	if f.opt.Limits != "" {
		text += fmt.Sprintf("    enrolment: %s\n", f.opt.Limits)
	}
	return text
}

// Place is a port of the host's, with https.
func (p *Provider) Place(port uint16) idp.Place {
	return onlab.Place(p.Host, p.addr(port), p.Authority)
}

func (p *Provider) addr(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(p.Host.Interfaces()[0].Addr4(), port)
}

// Ports of the real providers.
const (
	ldapPort    = 389
	dexPort     = 5556
	zitadelPort = 9998
)

// Dex starts Dex with people of its own.
func (p *Provider) Dex(ctx context.Context, opt idp.DexOptions) (*idp.Dex, error) {
	opt.Place = p.Place(dexPort)
	return idp.StartDex(ctx, opt)
}

// Zitadel starts the provider made from Zitadel's library, with people of its own.
func (p *Provider) Zitadel(ctx context.Context, opt idp.ZitadelOptions) (*idp.Zitadel, error) {
	opt.Place = p.Place(zitadelPort)
	return idp.StartZitadel(ctx, opt)
}

// DexWithDirectory starts a directory with people, and Dex in front of it.
func (p *Provider) DexWithDirectory(ctx context.Context, people idp.Users, opt idp.DexOptions) (*idp.Dex, *idp.Slapd, error) {
	slapd, err := idp.StartSlapd(ctx, p.Place(ldapPort), people)
	if err != nil {
		return nil, nil, err
	}
	opt.LDAP = slapd
	dex, err := p.Dex(ctx, opt)
	if err != nil {
		return nil, nil, errors.Join(err, slapd.Close())
	}
	return dex, slapd, nil
}

// Simulate starts a simulated provider of this program at a free port of the host's.
func (p *Provider) Simulate(ctx context.Context, opt idp.IssuerOptions) (*idp.Issuer, error) {
	listener, err := p.Host.Listen(ctx, "tcp", p.addr(0).String())
	if err != nil {
		return nil, err
	}
	opt.Listener, opt.TLS, opt.Authority = listener, true, p.Authority
	return idp.StartIssuer(opt)
}

// Client is a browser on a host, which trusts the provider.
func (p *Provider) Client(from *lab.Host) *http.Client {
	return idp.NewClient(from.DialContext, p.Authority.PEM())
}

// EditNetwork changes the Network document in the clone. It commits nothing.
func (f *Fleet) EditNetwork(edit func(*spec.NetworkSpec)) error {
	edit(&f.network.Spec)
	text, err := spec.Marshal(f.network)
	if err != nil {
		return err
	}
	return f.Repo.Write("network.yaml", string(text))
}
