package signer

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestMatchPath(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"a.yaml", "a.yaml", true},
		{"a.yaml", "b/a.yaml", false},
		{"*", "a", true},
		{"*", "a/b", false},
		{"*.yaml", "a.yaml", true},
		{"*.yaml", "a/b.yaml", false},
		{"zones/*/nodes.yaml", "zones/prod/nodes.yaml", true},
		{"zones/*/nodes.yaml", "zones/a/b/nodes.yaml", false},
		{"zones/p?od/x", "zones/prod/x", true},
		{"zones/[a-c]/x", "zones/b/x", true},
		{"zones/[a-c]/x", "zones/d/x", false},
		{"**", "a", true},
		{"**", "a/b/c", true},
		{"zones/prod/**", "zones/prod/a", true},
		{"zones/prod/**", "zones/prod/a/b", true},
		{"zones/prod/**", "zones/prod", false},
		{"zones/prod/**", "zones/production/a", false},
		{"zones/prod/**", "zones/prod2", false},
		{"**/node.yaml", "node.yaml", true},
		{"**/node.yaml", "a/b/node.yaml", true},
		{"**/node.yaml", "a/b/node.yaml/c", false},
		{"a/**/z", "a/z", true},
		{"a/**/z", "a/b/c/z", true},
		{"a/**/z", "a/b/c/y", false},
		{"a/**/b/**/z", "a/x/b/y/y/z", true},
		{"a/**/b/**/z", "a/x/y/z", false},
		{"**/**", "a", true},
		{"a/**/**", "a/b", true},
		{"A.yaml", "a.yaml", false},
		{"a", "a/", false},
	} {
		if got := matchPath(c.pattern, c.path); got != c.want {
			t.Errorf("%s against %s: %v", c.pattern, c.path, got)
		}
	}
}

func TestMatchPathIsNeverSlow(t *testing.T) {
	pattern := strings.Repeat("**/a*/", 150) + "b"
	p := strings.Repeat("aaaa/", 200) + "c"
	start := time.Now()
	if matchPath(pattern, p) {
		t.Error("matched")
	}
	if d := time.Since(start); d > time.Minute { // it takes milliseconds, or years
		t.Errorf("took %s", d)
	}
}

func TestMayChange(t *testing.T) {
	r := testRoot(t).Clone()
	r.Maintainers = []MaintainerRule{
		{Name: "blue", Keys: []string{"bob"}, Paths: []string{"zones/blue/**", "shared.yaml"}, Zones: []string{"blue"}},
		{Name: "green", Keys: []string{"bob", "cleo"}, Paths: []string{"zones/green/**"}},
		{Name: "platform", Keys: []string{"ada"}, Paths: []string{"**"}},
		{Name: "shared", Keys: []string{"bob"}, Paths: []string{"shared.yaml"}},
	}
	r = must(r.Canonical())(t)
	id := func(name string) string { return sshPublic(t, testSSH(name)).ID() }
	for _, c := range []struct{ who, path, rule string }{
		{"ada", "network.yaml", "platform"},
		{"ada", "zones/blue/a.yaml", "platform"},
		{"ada", "trust/root.yaml", ""},
		{"ada", "trust", ""},
		{"ada", "Trust/root.yaml", ""},
		{"ada", "trustworthy/a.yaml", "platform"},
		{"ada", "a/trust/b.yaml", "platform"},
		{"ada", "/etc/passwd", ""},
		{"ada", "../x", ""},
		{"ada", "zones/../trust/root.yaml", ""},
		{"ada", "./trust/root.yaml", ""},
		{"ada", "a//b", ""},
		{"ada", "a\\b", ""},
		{"ada", "a\x00b", ""},
		{"ada", "", ""},
		{"bob", "zones/blue/a.yaml", "blue"},
		{"bob", "zones/green/a/b.yaml", "green"},
		{"bob", "zones/red/a.yaml", ""},
		{"bob", "shared.yaml", "shared"},
		{"cleo", "zones/green/a.yaml", "green"},
		{"cleo", "zones/blue/a.yaml", ""},
		{"mallory", "network.yaml", ""},
	} {
		rule, ok := r.MayChange(id(c.who), c.path)
		if rule != c.rule || ok != (c.rule != "") {
			t.Errorf("%s on %q: %q, %v; want %q", c.who, c.path, rule, ok, c.rule)
		}
	}
	for _, c := range []struct{ who, path, zone, rule string }{
		{"bob", "zones/blue/a.yaml", "blue", "blue"},
		{"bob", "zones/blue/a.yaml", "green", ""},
		{"bob", "zones/blue/a.yaml", "", ""},
		{"bob", "zones/green/a.yaml", "blue", "green"},
		{"bob", "shared.yaml", "red", "shared"},
		{"ada", "network.yaml", "", "platform"},
		{"ada", "trust/root.yaml", "", ""},
	} {
		if rule, _ := r.MayName(id(c.who), c.path, c.zone); rule != c.rule {
			t.Errorf("%s names %q in %q: %q, want %q", c.who, c.zone, c.path, rule, c.rule)
		}
	}
}

func TestMayClaim(t *testing.T) {
	r := testRoot(t)
	for _, c := range []struct {
		zone, prefix string
		want         bool
	}{
		{"prod", "192.168.0.0/16", true},
		{"prod", "192.168.7.0/24", true},
		{"prod", "192.168.0.0/15", false},
		{"prod", "0.0.0.0/0", false},
		{"prod", "10.0.0.0/8", false},
		{"prod", "::/0", false},
		{"dev", "192.168.7.0/24", false},
	} {
		if got := r.MayClaim(c.zone, netip.MustParsePrefix(c.prefix)); got != c.want {
			t.Errorf("%s in %s: %v", c.prefix, c.zone, got)
		}
	}
	if r.MayClaim("prod", netip.Prefix{}) {
		t.Error("an unset prefix may be claimed")
	}
}
