package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/status"
)

// options are the flags. A flag that is given wins over the configuration file.
type options struct {
	file  string
	flags agent.Config
	zones []string
	iface string
}

func (o *options) register(f *pflag.FlagSet) {
	c := &o.flags
	f.StringVar(&o.file, "config", "", "configuration file (YAML); flags win over it")
	f.StringArrayVar(&c.Controllers, "controller", nil, "controller URL, may be repeated")
	f.StringVar(&c.CAFile, "ca-file", "", "PEM file of the authorities that vouch for the controller's certificate")
	f.StringVar(&c.IssuerCAFile, "issuer-ca-file", "", "PEM file of the authorities that vouch for OpenID providers' certificates")
	f.StringVar(&c.TLSPin, "tls-pin", "", "SHA-256 (hex) of the controller's TLS public key, instead of authorities")
	f.StringVar(&c.Network, "network", "", "network name")
	f.StringVar(&c.Node, "node", "", "name of this node (default: the host's name, made a name)")
	f.StringVar(&c.RootDigest, "root-digest", "", "digest (hex) of the first trust root: the pin")
	f.StringArrayVar(&o.zones, "zone", nil, "zone, or zone=interface; may be repeated")
	f.StringVar(&o.iface, "interface", "", "interface name, if there is one zone (default apex-<zone>)")
	f.StringVar(&c.IdentityKeyFile, "identity-key", "", "identity key file, mode 0600 (default identity.key in the state folder)")
	f.StringVar(&c.WireGuardKeyFile, "wireguard-key", "", "WireGuard key file, mode 0600 (default wireguard.key in the state folder)")
	f.StringVar(&c.WireGuard, "wireguard", "", "WireGuard implementation: auto, kernel or userspace (default auto)")
	f.StringVar(&c.StateDir, "state-dir", "", "state folder (default "+agent.DefaultStateDir+")")
	f.StringVar(&c.Socket, "socket", "", "status socket (default /run/apex/agent.sock)")
	f.StringVar(&c.Metrics, "metrics", "", "host:port for Prometheus metrics (default: none)")
	f.StringVar(&c.LogLevel, "log-level", "", "debug, info, warn or error (default info)")
	f.StringVar(&c.LogFormat, "log-format", "", "text or json (default text)")
}

// config merges file and flags, fills in defaults and checks the result.
func (o *options) config(f *pflag.FlagSet) (agent.Config, error) {
	var c agent.Config
	if o.file != "" {
		var err error
		if c, err = agent.ReadConfig(o.file); err != nil {
			return agent.Config{}, err
		}
	}
	o.override(&c, f)
	if err := o.setZones(&c); err != nil {
		return agent.Config{}, err
	}
	if c.StateDir != "" {
		dir, err := filepath.Abs(c.StateDir)
		if err != nil {
			return agent.Config{}, err
		}
		c.StateDir = dir
	}
	if c.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return agent.Config{}, fmt.Errorf("the host has no name; set node: %w", err)
		}
		c.Node = agent.NodeName(host)
	}
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		if o.file != "" {
			return agent.Config{}, fmt.Errorf("configuration %s:\n%w", o.file, err)
		}
		return agent.Config{}, fmt.Errorf("configuration:\n%w", err)
	}
	return c, nil
}

func (o *options) override(c *agent.Config, f *pflag.FlagSet) {
	for _, row := range []struct {
		flag string
		to   *string
		from string
	}{
		{"ca-file", &c.CAFile, o.flags.CAFile},
		{"issuer-ca-file", &c.IssuerCAFile, o.flags.IssuerCAFile},
		{"tls-pin", &c.TLSPin, o.flags.TLSPin},
		{"network", &c.Network, o.flags.Network},
		{"node", &c.Node, o.flags.Node},
		{"root-digest", &c.RootDigest, o.flags.RootDigest},
		{"identity-key", &c.IdentityKeyFile, o.flags.IdentityKeyFile},
		{"wireguard-key", &c.WireGuardKeyFile, o.flags.WireGuardKeyFile},
		{"wireguard", &c.WireGuard, o.flags.WireGuard},
		{"state-dir", &c.StateDir, o.flags.StateDir},
		{"socket", &c.Socket, o.flags.Socket},
		{"metrics", &c.Metrics, o.flags.Metrics},
		{"log-level", &c.LogLevel, o.flags.LogLevel},
		{"log-format", &c.LogFormat, o.flags.LogFormat},
	} {
		if f.Changed(row.flag) {
			*row.to = row.from
		}
	}
	if f.Changed("controller") {
		c.Controllers = o.flags.Controllers
	}
}

func (o *options) setZones(c *agent.Config) error {
	if len(o.zones) > 0 {
		c.Zones = nil
		for _, text := range o.zones {
			name, iface, _ := strings.Cut(text, "=")
			c.Zones = append(c.Zones, agent.ZoneConfig{Name: name, Interface: iface})
		}
	}
	if o.iface == "" {
		return nil
	}
	if len(c.Zones) != 1 {
		return fmt.Errorf("--interface: there are %d zones; write --zone name=interface for each", len(c.Zones))
	}
	c.Zones[0].Interface = o.iface
	return nil
}

// gcChosen says whether the environment sets the garbage collector's pace.
func gcChosen() bool {
	_, ok := os.LookupEnv("GOGC")
	return ok
}

// socket is where the running agent listens; the rest of the configuration does not matter for asking it.
func (o *options) socket() (string, error) {
	if o.flags.Socket != "" {
		return o.flags.Socket, nil
	}
	if o.file == "" {
		return status.DefaultSocket, nil
	}
	c, err := agent.ReadConfig(o.file)
	if err != nil {
		return "", err
	}
	return c.WithDefaults().Socket, nil
}
