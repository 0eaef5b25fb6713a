package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// Defaults of Config.
const (
	DefaultStateDir  = "/var/lib/apex"
	DefaultLogLevel  = "info"
	DefaultLogFormat = "text"
)

// Limits of the configuration file.
const (
	maxConfigBytes  = 64 << 10
	maxControllers  = 16
	maxZonesPerHost = 64
)

// Config says which network a host belongs to and whom it trusts. Nothing in it lets the host promote itself: addresses,
// routes and rules come from signed views alone.
type Config struct {
	// Controllers are base URLs, https or (for loopback only) http. They serve the same bytes; the first that answers wins.
	Controllers []string `yaml:"controllers"`
	// CAFile replaces the system's certificate authorities. TLSPin trusts exactly one server key instead: the SHA-256 of
	// its SubjectPublicKeyInfo, hex. At most one of the two.
	CAFile string `yaml:"caFile,omitempty"`
	TLSPin string `yaml:"tlsPin,omitempty"`
	// IssuerCAFile replaces the system's certificate authorities towards OpenID providers, where the agent itself asks one: to
	// renew with a refresh token, or by client credentials.
	IssuerCAFile string `yaml:"issuerCAFile,omitempty"`
	// Network and Node are names in git, or Node is the name to enrol under; RootDigest pins the first trust root (hex).
	Network    string       `yaml:"network"`
	Node       string       `yaml:"node"`
	RootDigest string       `yaml:"rootDigest"`
	Zones      []ZoneConfig `yaml:"zones"`
	// IdentityKeyFile and WireGuardKeyFile must have mode 0600. Default: identity.key, wireguard.key in StateDir.
	IdentityKeyFile  string `yaml:"identityKeyFile,omitempty"`
	WireGuardKeyFile string `yaml:"wireGuardKeyFile,omitempty"`
	// WireGuard is auto, kernel or userspace: which implementation new interfaces use. Default auto.
	WireGuard string `yaml:"wireGuard,omitempty"`
	StateDir  string `yaml:"stateDir,omitempty"`
	Socket    string `yaml:"socket,omitempty"`
	// Metrics is an address host:port for Prometheus; empty means no listener.
	Metrics   string `yaml:"metrics,omitempty"`
	LogLevel  string `yaml:"logLevel,omitempty"`
	LogFormat string `yaml:"logFormat,omitempty"`
}

// ZoneConfig is the host's membership in one zone.
type ZoneConfig struct {
	Name string `yaml:"name"`
	// Interface is at most 15 bytes. Default: reconciler.InterfaceName(Name).
	Interface string `yaml:"interface,omitempty"`
	// WireGuardKeyFile, if set, replaces the host's key in this zone.
	WireGuardKeyFile string `yaml:"wireGuardKeyFile,omitempty"`
	// Join, if set, makes the host a member by an identity: see JoinConfig. Key files are made if there are none.
	Join *JoinConfig `yaml:"join,omitempty"`
}

// ReadConfig reads a configuration file. Unknown fields, repeated fields and further documents are errors that carry
// file and line. The result has neither defaults nor checks: see WithDefaults and Validate.
func ReadConfig(path string) (Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxConfigBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return parseConfig(path, data)
}

func parseConfig(path string, data []byte) (Config, error) {
	if len(data) > maxConfigBytes {
		return Config{}, fmt.Errorf("%s: larger than %d bytes; is this the right file?", path, maxConfigBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	var config Config
	if err := decoder.Decode(&config); err != nil {
		if errors.Is(err, io.EOF) {
			return Config{}, fmt.Errorf("%s:1: the file is empty; start from the example in the documentation", path)
		}
		return Config{}, placed(path, err)
	}
	var more yaml.Node
	if err := decoder.Decode(&more); err == nil {
		return Config{}, fmt.Errorf("%s:%d: a second document; the configuration is one document", path, more.Line)
	} else if !errors.Is(err, io.EOF) {
		return Config{}, placed(path, err)
	}
	if line := firstAlias(data); line > 0 {
		return Config{}, fmt.Errorf("%s:%d: anchors and aliases are not allowed; write the value out", path, line)
	}
	return config, nil
}

// placed turns the library's "line 7: …" into "file:7: …", one error per problem.
func placed(path string, err error) error {
	problems := []string{err.Error()}
	var typed *yaml.TypeError
	if errors.As(err, &typed) {
		problems = typed.Errors
	}
	var all []error
	for _, problem := range problems {
		problem = strings.TrimPrefix(problem, "yaml: ")
		if rest, ok := strings.CutPrefix(problem, "line "); ok {
			all = append(all, fmt.Errorf("%s:%s", path, rest))
			continue
		}
		all = append(all, fmt.Errorf("%s:1: %s", path, problem))
	}
	return list(all)
}

// firstAlias gives the line of the first anchor or alias, 0 if there is none.
func firstAlias(data []byte) int {
	var root yaml.Node
	if yaml.Unmarshal(data, &root) != nil {
		return 0
	}
	var walk func(*yaml.Node) int
	walk = func(n *yaml.Node) int {
		if n.Anchor != "" || n.Kind == yaml.AliasNode {
			return n.Line
		}
		for _, child := range n.Content {
			if line := walk(child); line > 0 {
				return line
			}
		}
		return 0
	}
	return walk(&root)
}

// WithDefaults fills what is not set.
func (c Config) WithDefaults() Config {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.StateDir, DefaultStateDir)
	set(&c.IdentityKeyFile, filepath.Join(c.StateDir, "identity.key"))
	set(&c.WireGuardKeyFile, filepath.Join(c.StateDir, "wireguard.key"))
	set(&c.WireGuard, string(reconciler.WireGuardAuto))
	set(&c.Socket, status.DefaultSocket)
	set(&c.LogLevel, DefaultLogLevel)
	set(&c.LogFormat, DefaultLogFormat)
	c.Zones = append([]ZoneConfig(nil), c.Zones...)
	for i := range c.Zones {
		set(&c.Zones[i].Interface, reconciler.InterfaceName(c.Zones[i].Name))
		set(&c.Zones[i].WireGuardKeyFile, c.WireGuardKeyFile)
	}
	return c
}

// Validate says everything that is wrong with a configuration that has its defaults; each error names the field.
func (c Config) Validate() error {
	var all []error
	bad := func(field, format string, args ...any) {
		all = append(all, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	c.validateControllers(bad)
	name := func(field, value string) {
		if !isName(value) {
			bad(field, "%q is not a name: lower-case letters, digits and dashes, at most 63", value)
		}
	}
	name("network", c.Network)
	name("node", c.Node)
	if _, err := c.Pin(); err != nil {
		bad("rootDigest", "%v; `apex trust show` prints it", err)
	}
	c.validateZones(bad, name)
	if c.Metrics != "" {
		if _, port, err := net.SplitHostPort(c.Metrics); err != nil || port == "" {
			bad("metrics", "%q is not host:port", c.Metrics)
		}
	}
	switch reconciler.WireGuardMode(c.WireGuard) {
	case reconciler.WireGuardAuto, reconciler.WireGuardKernel, reconciler.WireGuardUserspace:
	default:
		bad("wireGuard", "%q is none of auto, kernel, userspace", c.WireGuard)
	}
	if !filepath.IsAbs(c.StateDir) {
		bad("stateDir", "%q is not an absolute path", c.StateDir)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		bad("logLevel", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		bad("logFormat", "%q is neither text nor json", c.LogFormat)
	}
	return list(all)
}

func (c Config) validateControllers(bad func(field, format string, args ...any)) {
	if len(c.Controllers) == 0 || len(c.Controllers) > maxControllers {
		bad("controllers", "%d given; want 1 to %d URLs", len(c.Controllers), maxControllers)
	}
	for i, raw := range c.Controllers {
		field := "controllers[" + strconv.Itoa(i) + "]"
		u, err := url.Parse(raw)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			bad(field, "%q is not an https URL", raw)
		case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
			bad(field, "%q: want scheme, host and path only", raw)
		case u.Scheme == "http" && !isLoopback(u.Hostname()):
			bad(field, "%q: plain http is for loopback only; what is served is signed, but who asks for what would be visible", raw)
		}
	}
	if c.CAFile != "" && c.TLSPin != "" {
		bad("tlsPin", "set either caFile or tlsPin, not both")
	}
	if _, err := c.spkiPin(); err != nil {
		bad("tlsPin", "%v", err)
	}
}

func (c Config) validateZones(bad func(field, format string, args ...any), name func(field, value string)) {
	if len(c.Zones) == 0 || len(c.Zones) > maxZonesPerHost {
		bad("zones", "%d given; want 1 to %d", len(c.Zones), maxZonesPerHost)
	}
	zones, interfaces := map[string]bool{}, map[string]bool{}
	for i, z := range c.Zones {
		field := "zones[" + strconv.Itoa(i) + "]"
		name(field+".name", z.Name)
		if zones[z.Name] {
			bad(field+".name", "%q is listed twice", z.Name)
		}
		if !isInterfaceName(z.Interface) {
			bad(field+".interface", "%q is not an interface name: 1 to 15 letters, digits, dots, dashes", z.Interface)
		} else if interfaces[z.Interface] {
			bad(field+".interface", "%q is used by two zones", z.Interface)
		}
		zones[z.Name], interfaces[z.Interface] = true, true
		z.Join.validate(field+".join", bad)
	}
}

// Pin is the digest of the first trust root.
func (c Config) Pin() (peermap.Digest, error) {
	var d peermap.Digest
	err := d.UnmarshalText([]byte(c.RootDigest))
	return d, err
}

// spkiPin decodes TLSPin; nil if there is none.
func (c Config) spkiPin() ([]byte, error) {
	if c.TLSPin == "" {
		return nil, nil
	}
	pin, err := hex.DecodeString(c.TLSPin)
	if err != nil || len(pin) != sha256.Size {
		return nil, fmt.Errorf("%.80q: want the SHA-256 of the server's public key, 64 hex digits", c.TLSPin)
	}
	return pin, nil
}

// NodeName makes the name of a node from that of a host: its first label, in lower case, with dashes for what a name may
// not have. Empty if nothing is left.
func NodeName(host string) string {
	label, _, _ := strings.Cut(host, ".")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, label)
	name = strings.Trim(name, "-")
	return strings.Trim(name[:min(len(name), peermap.MaxName)], "-")
}

// isName says whether s is a DNS-1123 label (RFC 1123, section 2.1).
func isName(s string) bool {
	if len(s) == 0 || len(s) > peermap.MaxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}) < 0
}

func isInterfaceName(s string) bool {
	if len(s) == 0 || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && r != '.' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// list joins errors, one per line, without a count in front; nil if there are none.
func list(all []error) error {
	result := multierror.Append(nil, all...)
	result.ErrorFormat = func(errs []error) string {
		lines := make([]string, len(errs))
		for i, err := range errs {
			lines[i] = err.Error()
		}
		return strings.Join(lines, "\n")
	}
	return result.ErrorOrNil()
}
