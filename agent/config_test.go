package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goodConfig = `# an agent in two zones
controllers:
  - https://controller.example:8443
network: acme
node: web-1
rootDigest: 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03
zones:
  - name: prod
  - name: a-rather-long-zone-name
    wireGuardKeyFile: /etc/apex/second.key
`

func TestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(goodConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Zones[0].Interface != "apex-prod" || len(c.Zones[1].Interface) > 15 {
		t.Errorf("interfaces are %q and %q", c.Zones[0].Interface, c.Zones[1].Interface)
	}
	if c.Zones[0].WireGuardKeyFile != "/var/lib/apex/wireguard.key" || c.Zones[1].WireGuardKeyFile != "/etc/apex/second.key" {
		t.Errorf("key files are %q and %q", c.Zones[0].WireGuardKeyFile, c.Zones[1].WireGuardKeyFile)
	}
}

func TestConfigSyntax(t *testing.T) {
	for _, row := range []struct{ name, from, to, want string }{
		{"unknown field", "node: web-1", "node: web-1\nnodes: 3", "x:6: field nodes not found"},
		{"repeated field", "node: web-1", "node: web-1\nnode: web-2", "x:6: mapping key \"node\" already defined at line 5"},
		{"wrong kind", "network: acme", "network: [acme]", "x:4: cannot unmarshal !!seq into string"},
		{"second document", "# an agent in two zones", "---\na: 1\n---", "x:2: field a not found"},
		{"document after it", "second.key\n", "second.key\n---\nnode: b\n", "x:11: a second document"},
		{"anchor", "network: acme", "network: &n acme", "x:4: anchors and aliases"},
		{"syntax", "network: acme", "network: 'acme", "x:4:"},
		{"empty", goodConfig, "", "x:1: the file is empty"},
	} {
		_, err := parseConfig("x", []byte(strings.Replace(goodConfig, row.from, row.to, 1)))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", row.name, err, row.want)
		}
	}
}

func TestConfigChecks(t *testing.T) {
	for _, row := range []struct{ from, to, want string }{
		{"https://controller.example:8443", "http://controller.example", "plain http is for loopback only"},
		{"https://controller.example:8443", "ftp://controller.example", "is not an https URL"},
		{"https://controller.example:8443", "https://u:p@controller.example", "want scheme, host and path only"},
		{"node: web-1", "node: Web_1", "node: \"Web_1\" is not a name"},
		{"5891b5", "5891B5", "rootDigest:"},
		{"name: prod", "name: prod\n    interface: a/b", "is not an interface name"},
		{"name: prod", "name: a-rather-long-zone-name", "is listed twice"},
		{"network: acme", "network: acme\nlogLevel: loud", "logLevel: \"loud\""},
		{"network: acme", "network: acme\nmetrics: '9000'", "metrics: \"9000\" is not host:port"},
		{"network: acme", "network: acme\ntlsPin: abc", "tlsPin:"},
		{"network: acme", "network: acme\nstateDir: here", "is not an absolute path"},
		{"name: prod", "name: prod\n    join: {github: true, tokenEnv: T}", "zones[0].join: github and tokenEnv are given"},
		{"name: prod", "name: prod\n    join: {tokenFile: token}", "zones[0].join.tokenFile: \"token\" is not an absolute path"},
		{"name: prod", "name: prod\n    join: {tokenCommand: [vault]}", "zones[0].join.tokenCommand"},
		{"name: prod", "name: prod\n    join: {issuer: Corp}", "zones[0].join.issuer"},
		{"name: prod", "name: prod\n    join: {routes: [10.1.2.3/16]}", "zones[0].join.routes"},
		{"name: prod", "name: prod\n    join: {clientCredentials: {clientID: a}}", "clientSecretFile"},
		{"name: prod", "name: prod\n    join: {clientCredentials: {clientID: a, clientSecretFile: /s}}", "zones[0].join.issuerURL: is missing"},
		{"name: prod", "name: prod\n    join: {issuerURL: 'http://id.example'}", "zones[0].join.issuerURL"},
	} {
		c, err := parseConfig("x", []byte(strings.Replace(goodConfig, row.from, row.to, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WithDefaults().Validate(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", row.to, err, row.want)
		}
	}
}

func TestNodeName(t *testing.T) {
	for host, want := range map[string]string{
		"web-1": "web-1", "Ada's-Laptop.local": "ada-s-laptop", "db_1.example.com": "db-1", "--x--": "x", "": "", "Ä": "",
		strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		if got := NodeName(host); got != want || got != "" && !isName(got) {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(goodConfig))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseConfig("x", data); err == nil {
			_ = c.WithDefaults().Validate()
		}
	})
}
