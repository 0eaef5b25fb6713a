//go:build linux

package integration

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec/policy"
)

// TestSites connects two sites by subnet routers. The machines behind them run no agent.
//
//	pc-a ── lan-a ── gw-a ══ internet ══ gw-b ── lan-b ── pc-b
//	                            ║
//	                          laptop
func TestSites(t *testing.T) {
	t.Parallel()
	a, b := netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("192.168.2.0/24")
	w := newWorld(t, fleet.Options{Routes: map[string][]netip.Prefix{"hq": {a, b}}}, map[string]string{
		"zones/hq.yaml": zoneDoc("hq", "10.30.0.0/24"),
		"policies/hq.yaml": policyDoc("sites", "hq",
			"{from: [{cidr: 192.168.1.0/24}], to: [{cidr: 192.168.2.0/24}], ports: [tcp/443]}",
			"{from: [{node: laptop}], to: [{cidr: 192.168.1.0/24}], ports: [tcp/80]}",
			"{from: [{cidr: 192.168.2.0/24}], to: [{node: laptop}], ports: [icmp]}"),
	})
	sites := map[string]*lab.Host{}
	for name, prefix := range map[string]netip.Prefix{"a": a, "b": b} {
		lan, err := w.Lab.Switch("lan-"+name, prefix)
		w.must(err)
		gw := w.node(fleet.NodeSpec{Name: "gw-" + name, Routes: []netip.Prefix{prefix},
			Zones: map[string][]netip.Addr{"hq": addresses(map[string]string{"a": "10.30.0.1", "b": "10.30.0.2"}[name])}})
		_, err = gw.Host.Attach(w.ctx, lan, lan.Gateways()...)
		w.must(err)
		pc, err := w.Lab.Host("pc-" + name)
		w.must(err)
		_, err = pc.Join(w.ctx, lan)
		w.must(err)
		w.echo(pc, 443, 80)
		sites[name] = pc
	}
	laptop := w.member("laptop", "hq", "10.30.0.3")
	w.echo(laptop.Host, 443, 80)
	w.begin()

	who := map[*lab.Host]string{
		sites["a"]: sites["a"].Interfaces()[0].Addr4().String(), sites["b"]: sites["b"].Interfaces()[0].Addr4().String(),
		laptop.Host: "laptop",
	}
	var sources []lab.Source
	var targets []lab.Target
	for h, name := range who {
		sources = append(sources, lab.Source{Host: h})
		addr, err := netip.ParseAddr(name)
		if err != nil {
			addr = netip.MustParseAddr("10.30.0.3")
		}
		for _, p := range []lab.Probe{tcp(443), tcp(80), icmp()} {
			targets = append(targets, lab.Target{Addr: addr, Probe: p, Host: h})
		}
	}
	agree := func(w *world) {
		w.t.Helper()
		judge, now := policy.New(w.repository(), "hq"), time.Now()
		m, err := lab.Converge(w.ctx, sources, targets, func(s lab.Source, to lab.Target) bool {
			return judge.Can(who[s.Host], who[to.Host], port(to.Probe), now).Allowed
		})
		w.must(err)
		w.t.Logf("\n%s", m)
	}
	agree(w)
	t.Run("the other direction", func(t *testing.T) {
		w := w.in(t)
		w.write("policies/hq.yaml", policyDoc("sites", "hq",
			"{from: [{cidr: 192.168.2.0/24}], to: [{cidr: 192.168.1.0/24}], ports: [tcp/80, icmp]}",
			"{from: [{cidr: 192.168.1.0/24}], to: [{node: laptop}], ports: [tcp/443]}"))
		w.enforced(w.merge("Turn the sites around"))
		agree(w)
	})
}

// TestZonesApart has two zones with one range, and a host that is in two zones of different ranges.
func TestZonesApart(t *testing.T) {
	t.Parallel()
	open := func(zone string) string {
		return policyDoc("open", zone, "{from: [{any: true}], to: [{any: true}]}")
	}
	w := newWorld(t, fleet.Options{}, map[string]string{
		"zones/red.yaml": zoneDoc("red", "10.9.0.0/24"), "policies/red.yaml": open("red"),
		"zones/blue.yaml": zoneDoc("blue", "10.9.0.0/24"), "policies/blue.yaml": open("blue"),
		"zones/green.yaml": zoneDoc("green", "10.8.0.0/24"), "policies/green.yaml": open("green"),
	})
	r1, r2 := w.member("red-1", "red", "10.9.0.1"), w.member("red-2", "red", "10.9.0.2")
	b1, b2 := w.member("blue-1", "blue", "10.9.0.1"), w.member("blue-2", "blue", "10.9.0.2")
	g1 := w.member("green-1", "green", "10.8.0.1")
	both := w.node(fleet.NodeSpec{Name: "both", Zones: map[string][]netip.Addr{"red": addresses("10.9.0.9"), "green": addresses("10.8.0.9")}})
	w.echo(r2.Host, 443)
	w.echo(b2.Host, 80)
	w.echo(both.Host, 22)
	w.echo(g1.Host, 22)
	w.begin()
	for _, row := range []struct {
		from *fleet.Node
		to   string
		p    lab.Probe
		want bool
	}{
		{r1, "10.9.0.2", tcp(443), true}, // red's 10.9.0.2 listens on 443 alone, blue's on 80 alone
		{r1, "10.9.0.2", tcp(80), false},
		{b1, "10.9.0.2", tcp(80), true},
		{b1, "10.9.0.2", tcp(443), false},
		{r1, "10.9.0.9", tcp(22), true},
		{g1, "10.8.0.9", tcp(22), true},
		{both, "10.9.0.2", tcp(443), true},
		{both, "10.8.0.1", tcp(22), true},
		{r1, "10.8.0.9", tcp(22), false}, // the host's address in its other zone
		{r1, "10.8.0.1", icmp(), false},  // through the host into its other zone
		{g1, "10.9.0.2", tcp(443), false},
	} {
		w.reaches(row.from.Host, row.to, row.p, row.want)
	}
	for _, route := range []string{"10.8.0.1/32", "10.8.0.9/32"} { // even for a node that tries by hand
		w.must(r1.Host.AddRoute(w.ctx, lab.Route{Prefix: netip.MustParsePrefix(route), Device: must(r1.Zone(w.ctx, "red"))(t).Interface}))
	}
	w.still(r1.Host, "10.8.0.1", icmp(), false)
	w.still(r1.Host, "10.8.0.9", tcp(22), false)

	before := w.snapshots()
	w.write(fleet.NodePath("blue", "both"), strings.ReplaceAll(strings.ReplaceAll(must(w.Repo.Read(fleet.NodePath("red", "both")))(t),
		"zone: red", "zone: blue"), "10.9.0.9", "10.9.0.8"))
	r := w.refused(w.merge("Put one host into two zones with one range"), "validate")
	for _, name := range []string{"red", "blue", "both"} {
		if !strings.Contains(r.Reason, name) {
			t.Errorf("the reason does not name %s: %s", name, r.Reason)
		}
	}
	w.untouched(before)
}

// TestIPv6Only has a zone of IPv6 addresses over an IPv6 underlay.
func TestIPv6Only(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{Wide: true}, map[string]string{
		"zones/six.yaml":    zoneDoc("six", `"fd77::/64"`),
		"policies/six.yaml": policyDoc("web", "six", "{from: [{node: laptop}], to: [{node: server}], ports: [tcp/443, icmp]}"),
	})
	for name, addr := range map[string]string{"server": "fd77::1", "laptop": "fd77::2"} {
		n := w.node(fleet.NodeSpec{Name: name, V6: true, Zones: map[string][]netip.Addr{"six": addresses(addr)}})
		w.echo(n.Host, 443, 80)
	}
	w.begin()
	t.Logf("\n%s", w.agrees(tcp(443), tcp(80), icmp()))
	for _, peer := range must(w.Nodes["laptop"].Zone(w.ctx, "six"))(t).Peers {
		if at, err := netip.ParseAddrPort(peer.Endpoint); err != nil || !at.Addr().Is6() {
			t.Errorf("peer %s is reached at %q, not over IPv6", peer.Name, peer.Endpoint)
		}
	}
}

// TestForeignRoute meets somebody else's route where ours should be: it is reported and left alone.
func TestForeignRoute(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443"))
	_, laptop := w.pair()
	foreign := lab.Route{Prefix: netip.MustParsePrefix("10.10.0.0/24"), Device: "eth0"}
	w.must(laptop.Host.AddRoute(w.ctx, foreign))
	before, err := laptop.Host.Snapshot(w.ctx)
	w.must(err)
	commit := w.merge("Add the nodes")
	w.start()
	c, err := laptop.AwaitCondition(w.ctx, "office", status.Conflict, true)
	w.must(err)
	t.Logf("%s: %s", c.Reason, c.Message)
	if !strings.Contains(c.Message, "10.10.0.0/24") {
		t.Errorf("the message does not name the route: %s", c.Message)
	}
	now, err := laptop.Host.Snapshot(w.ctx)
	w.must(err)
	if lost := removed(before.Diff(now)); lost != "" {
		t.Errorf("what was there is gone:\n%s", lost)
	}
	w.must(laptop.Host.DeleteRoute(w.ctx, foreign.Prefix))
	_, err = laptop.AwaitCondition(w.ctx, "office", status.Conflict, false)
	w.must(err)
	w.enforced(commit)
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
}

// removed are the lines of a difference that only the older side has.
func removed(diff string) string {
	var out []string
	for _, line := range strings.Split(diff, "\n") {
		if strings.HasPrefix(line, "-") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// TestBehindNAT puts a node behind a cone NAT: it reaches a public node and its controller, and by its keepalive the
// public node reaches it.
func TestBehindNAT(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, map[string]string{
		"zones/office.yaml": zoneDoc("office", "10.10.0.0/24"),
		"policies/office.yaml": policyDoc("both", "office", "{from: [{node: laptop}], to: [{node: server}], ports: [tcp/443]}",
			"{from: [{node: server}], to: [{node: laptop}], ports: [tcp/80]}"),
	})
	home, err := w.Lab.Switch("home", prefixes("192.168.50.0/24")...)
	w.must(err)
	_, err = w.Lab.Router(w.ctx, "router", lab.Cone, w.Internet, home)
	w.must(err)
	host, err := w.Lab.Host("laptop")
	w.must(err)
	_, err = host.Join(w.ctx, home)
	w.must(err)
	server := w.member("server", "office", "10.10.0.1")
	laptop := w.node(fleet.NodeSpec{Name: "laptop", Host: host, Hidden: true, Keepalive: 5 * time.Second,
		Zones: map[string][]netip.Addr{"office": addresses("10.10.0.2")}})
	w.echo(server.Host, 443, 80)
	w.echo(laptop.Host, 443, 80)
	w.begin()
	w.reaches(server.Host, "10.10.0.2", tcp(80), true)
	w.agrees(tcp(443), tcp(80))
	for _, peer := range must(server.Zone(w.ctx, "office"))(t).Peers {
		if !strings.HasPrefix(peer.Endpoint, "203.0.113.") {
			t.Errorf("the server knows the laptop at %s, not at its NAT", peer.Endpoint)
		}
	}
}
