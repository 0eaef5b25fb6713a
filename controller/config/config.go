// Package config is the controller's configuration: one strict YAML file, read with the same diagnostics as a network
// repository, and followed while it changes.
//
// What can change without a restart is said beside each field and in deploy/controller.example.yaml, which a test keeps
// complete.
package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

// Config is the whole file. Relative paths in it are relative to its folder.
type Config struct {
	// Storage is the folder for clones, generations, the embedded JetStream and the self-signed certificate. Not reloadable.
	Storage string `yaml:"storage"`
	Listen  Listen `yaml:"listen,omitempty"`
	TLS     TLS    `yaml:"tls,omitempty"`
	// PublicHosts are the authorities ("controller.example.com:8443") under which agents reach this controller, if a proxy
	// in between changes the Host header. Request proofs must name one of them. Default: whatever Host the request says.
	// Reloadable.
	PublicHosts []string `yaml:"publicHosts,omitempty" apex:"items=0-32,unique"`
	NATS        NATS     `yaml:"nats,omitempty"`
	Log         Log      `yaml:"log,omitempty"`
	Limits      Limits   `yaml:"limits,omitempty"`
	// Networks are the networks to serve, one or many. Reloadable: networks come and go, and one that changed starts anew
	// while the others keep running.
	Networks []Network `yaml:"networks" apex:"items=1-256"`

	// loaded is the digest, of the file and of those that it names, from which Watch tells later changes.
	loaded digest
}

// Reload gives c with what next changes of the fields that are reloadable, and whether that is all that next changes.
func (c *Config) Reload(next *Config) (_ *Config, all bool) {
	now := *c
	now.PublicHosts, now.Networks, now.Log.Level = next.PublicHosts, next.Networks, next.Log.Level
	now.TLS.CertFile, now.TLS.KeyFile = next.TLS.CertFile, next.TLS.KeyFile
	now.loaded = next.loaded
	return &now, reflect.DeepEqual(now, *next)
}

// Listen says where the controller answers. Not reloadable.
type Listen struct {
	// API is the TCP address for agents and people. Default ":8443".
	API string `yaml:"api,omitempty"`
	// Metrics is the TCP address, plain HTTP, of /metrics, /healthz and /readyz. Default "127.0.0.1:9464"; "none": nowhere.
	Metrics string `yaml:"metrics,omitempty"`
	// Admin is a Unix socket, mode 0600, that gives the fleet's status without a signature. Default: none.
	Admin string `yaml:"admin,omitempty"`
}

// TLS says what certificate the API shows. One of the two ways must be chosen.
type TLS struct {
	// CertFile and KeyFile are PEM. Reloadable, their content too.
	CertFile string `yaml:"certFile,omitempty"`
	KeyFile  string `yaml:"keyFile,omitempty"`
	// SelfSigned makes a certificate for development in the storage folder and logs the pin for agents. Not reloadable.
	SelfSigned bool `yaml:"selfSigned,omitempty"`
}

// NATS says where JetStream is. Not reloadable.
type NATS struct {
	// URL of an external cluster; empty: embedded, in the storage folder.
	URL string `yaml:"url,omitempty"`
	// CredentialsFile authenticates to an external cluster.
	CredentialsFile string `yaml:"credentialsFile,omitempty"`
	// Replicas of each bucket on an external cluster. Default 1.
	Replicas int `yaml:"replicas,omitempty" apex:"min=1,max=5"`
	// Replica is the name of this controller among those that share an external cluster, for people. Default: the host's.
	Replica string `yaml:"replica,omitempty"`
}

// Log says how the controller speaks. Level is reloadable.
type Log struct {
	Level  string `yaml:"level,omitempty" apex:"enum=debug|info|warn|error"`
	Format string `yaml:"format,omitempty" apex:"enum=text|json"`
}

// Limits bound what clients can make the controller spend. Not reloadable.
type Limits struct {
	// Connections is the most open connections. Default 20000.
	Connections int `yaml:"connections,omitempty" apex:"min=1,max=1000000"`
	// Requests is the most requests worked on at once, watches apart. Default 256.
	Requests int `yaml:"requests,omitempty" apex:"min=1,max=65536"`
}

// Network is one network.
type Network struct {
	// Name as in the repository's Network document.
	Name       string     `yaml:"name" apex:"name"`
	Repository Repository `yaml:"repository"`
	// TrustRoot is the SHA-256 of the first trust root, hex, as `apex trust show` prints it.
	TrustRoot peermap.Digest `yaml:"trustRoot"`
	Keys      Keys           `yaml:"keys"`
	// WebhookSecretFile holds the shared secret of the forge's webhook. Default: the webhook is off.
	WebhookSecretFile string `yaml:"webhookSecretFile,omitempty"`
	// IssuerCAFile, PEM, holds certificate authorities of OpenID providers that are trusted besides the system's.
	IssuerCAFile string    `yaml:"issuerCAFile,omitempty"`
	Enrolment    Enrolment `yaml:"enrolment,omitempty"`
	Poll         Poll      `yaml:"poll,omitempty"`
	// Apply lets the trust root's appliers make the controller fetch at once. Default true.
	Apply *bool `yaml:"apply,omitempty"`
	// KeepGenerations per zone, for deltas. Default 8.
	KeepGenerations int `yaml:"keepGenerations,omitempty" apex:"min=2,max=100"`
}

// Repository says where the branch is fetched from.
type Repository struct {
	// URL is a path, or file://, http://, https://, ssh:// or git@host:path, without a password.
	URL string `yaml:"url"`
	// Branch is the branch that counts. Default "main".
	Branch string `yaml:"branch,omitempty"`
	// Username and PasswordFile authenticate over HTTP; a token is a password.
	Username     string `yaml:"username,omitempty"`
	PasswordFile string `yaml:"passwordFile,omitempty"`
	// CAFile, PEM, replaces the system's certificate authorities.
	CAFile string `yaml:"caFile,omitempty"`
	// SSHKeyFile is a private key without passphrase, mode 0600. SSHKnownHostsFile must know the host.
	SSHKeyFile        string `yaml:"sshKeyFile,omitempty"`
	SSHKnownHostsFile string `yaml:"sshKnownHostsFile,omitempty"`
}

// Keys name Ed25519 private key files, mode 0600. Several are for rotation: each signs what the trust root lets it.
type Keys struct {
	ManifestFiles  []string `yaml:"manifestFiles" apex:"items=1-8,unique"`
	TimestampFiles []string `yaml:"timestampFiles" apex:"items=1-8,unique"`
	// EnrolmentFiles sign bindings; without any, nobody enrols here. The first also gives the challenge by which hosts prove
	// their WireGuard key: all replicas need the same one first.
	EnrolmentFiles []string `yaml:"enrolmentFiles,omitempty" apex:"items=0-8,unique"`
}

// Enrolment bounds what strangers can make the controller spend, in requests per minute.
type Enrolment struct {
	// PerIssuer bounds tokens that are verified, not counting renewals. Default 6000.
	PerIssuer int `yaml:"perIssuer,omitempty" apex:"min=1,max=1000000"`
	// PerSubject bounds enrolments of one identity, not counting renewals. Default 300.
	PerSubject int `yaml:"perSubject,omitempty" apex:"min=1,max=1000000"`
	// PerAddress bounds requests from one address (IPv6: one /64), not counting renewals. Default 600.
	PerAddress int `yaml:"perAddress,omitempty" apex:"min=1,max=1000000"`
	// EphemeralGrace is how long an ephemeral node may be disconnected before it leaves. Default 30s.
	EphemeralGrace spec.Duration `yaml:"ephemeralGrace,omitempty" apex:"min=1s,max=24h"`
	// Batch is the time between two generations that enrolments cause. Default 250ms.
	Batch spec.Duration `yaml:"batch,omitempty" apex:"min=10ms,max=1m"`
}

// Poll says how often to look at the branch.
type Poll struct {
	// Interval between two looks. Default 30s.
	Interval spec.Duration `yaml:"interval,omitempty" apex:"min=1s,max=24h"`
	// JitterPercent spreads the looks of many controllers. Default 20.
	JitterPercent *int `yaml:"jitterPercent,omitempty" apex:"min=0,max=100"`
}

// Defaults.
const (
	DefaultAPI         = ":8443"
	DefaultMetrics     = "127.0.0.1:9464"
	NoMetrics          = "none"
	DefaultBranch      = "main"
	DefaultInterval    = 30 * time.Second
	DefaultJitter      = 20
	DefaultConnections = 20_000
	DefaultRequests    = 256
	DefaultKeep        = 8

	DefaultPerIssuer      = 6000
	DefaultPerSubject     = 300
	DefaultPerAddress     = 600
	DefaultEphemeralGrace = 30 * time.Second
	DefaultBatch          = 250 * time.Millisecond
)

// Parse reads a configuration: every problem at once, with its place. path is where data came from; it names the file in
// diagnostics and is what relative paths start from.
func Parse(path string, data []byte) (*Config, diag.List) {
	doc, problems := spec.Decode[Config](spec.File{Path: path, Data: data})
	if doc == nil {
		return nil, problems
	}
	c := doc.Value
	check := checker{doc: doc, problems: problems}
	check.run(&c)
	check.problems.Sort()
	if check.problems.HasErrors() {
		return nil, check.problems
	}
	c.fill(filepath.Dir(path))
	return &c, check.problems
}

// Load reads the file at path. The error lists every problem.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, problems := Parse(path, data)
	if c == nil {
		return nil, problems.Err()
	}
	c.loaded = c.sum(path, data, nil)
	return c, nil
}

// fill puts in the defaults and makes paths absolute.
func (c *Config) fill(dir string) {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.Listen.API, DefaultAPI)
	set(&c.Listen.Metrics, DefaultMetrics)
	set(&c.Log.Level, "info")
	set(&c.Log.Format, "text")
	if c.Limits.Connections == 0 {
		c.Limits.Connections = DefaultConnections
	}
	if c.Limits.Requests == 0 {
		c.Limits.Requests = DefaultRequests
	}
	paths := []*string{&c.Storage, &c.Listen.Admin, &c.TLS.CertFile, &c.TLS.KeyFile, &c.NATS.CredentialsFile}
	for i := range c.Networks {
		n := &c.Networks[i]
		n.fill()
		r := &n.Repository
		paths = append(paths, &n.WebhookSecretFile, &n.IssuerCAFile, &r.PasswordFile, &r.CAFile, &r.SSHKeyFile, &r.SSHKnownHostsFile)
		for j := range n.Keys.ManifestFiles {
			paths = append(paths, &n.Keys.ManifestFiles[j])
		}
		for j := range n.Keys.TimestampFiles {
			paths = append(paths, &n.Keys.TimestampFiles[j])
		}
		for j := range n.Keys.EnrolmentFiles {
			paths = append(paths, &n.Keys.EnrolmentFiles[j])
		}
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

func (n *Network) fill() {
	if n.Repository.Branch == "" {
		n.Repository.Branch = DefaultBranch
	}
	if n.Poll.Interval == 0 {
		n.Poll.Interval = spec.Duration(DefaultInterval)
	}
	if n.Poll.JitterPercent == nil {
		jitter := DefaultJitter
		n.Poll.JitterPercent = &jitter
	}
	if n.Apply == nil {
		on := true
		n.Apply = &on
	}
	if n.KeepGenerations == 0 {
		n.KeepGenerations = DefaultKeep
	}
	e := &n.Enrolment
	for _, d := range []struct {
		v     *int
		value int
	}{{&e.PerIssuer, DefaultPerIssuer}, {&e.PerSubject, DefaultPerSubject}, {&e.PerAddress, DefaultPerAddress}} {
		if *d.v == 0 {
			*d.v = d.value
		}
	}
	if e.EphemeralGrace == 0 {
		e.EphemeralGrace = spec.Duration(DefaultEphemeralGrace)
	}
	if e.Batch == 0 {
		e.Batch = spec.Duration(DefaultBatch)
	}
}

// checker holds what the types alone do not say.
type checker struct {
	doc      *spec.Document[Config]
	problems diag.List
}

func (c *checker) fail(path, hint, format string, args ...any) {
	c.problems = append(c.problems, diag.Diagnostic{
		Code: diag.OutOfRange, Position: c.doc.At(path), Path: path, Message: fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (c *checker) run(cfg *Config) {
	if cfg.Storage == "" {
		c.fail("storage", "name a folder, e.g. /var/lib/apex-controller", "no folder")
	}
	c.address("listen.api", cfg.Listen.API)
	if cfg.Listen.Metrics != NoMetrics {
		c.address("listen.metrics", cfg.Listen.Metrics)
	}
	files := cfg.TLS.CertFile != "" || cfg.TLS.KeyFile != ""
	switch {
	case files && cfg.TLS.SelfSigned:
		c.fail("tls.selfSigned", "remove one of them", "certificate files and a self-signed certificate exclude each other")
	case !files && !cfg.TLS.SelfSigned:
		c.fail("tls", "set certFile and keyFile, or selfSigned: true for development", "no certificate")
	case files && (cfg.TLS.CertFile == "" || cfg.TLS.KeyFile == ""):
		c.fail("tls", "set both certFile and keyFile", "half a certificate")
	}
	if cfg.NATS.URL == "" && (cfg.NATS.CredentialsFile != "" || cfg.NATS.Replicas > 1 || cfg.NATS.Replica != "") {
		c.fail("nats", "set nats.url, or remove the other fields", "credentials, replicas and a replica's name are for an external cluster")
	}
	seen := map[string]bool{}
	for i, n := range cfg.Networks {
		at := fmt.Sprintf("networks[%d]", i)
		if seen[n.Name] {
			c.fail(at+".name", "", "network %s stands twice", n.Name)
		}
		seen[n.Name] = true
		if n.TrustRoot.IsZero() {
			c.fail(at+".trustRoot", "`apex trust show` prints it", "the digest is all zeros")
		}
		if strings.TrimSpace(n.Repository.URL) == "" {
			c.fail(at+".repository.url", "", "no URL")
		}
	}
}

func (c *checker) address(path, value string) {
	if value == "" {
		return
	}
	if _, _, err := net.SplitHostPort(value); err != nil {
		c.fail(path, `write "host:port" or ":port"`, "%q is no address", value)
	}
}
