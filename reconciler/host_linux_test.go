package reconciler_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/apex-network/apex/reconciler"
)

func TestHostApplyAndDown(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	foreign := foreignThings(t)
	before := foreign()
	e := startHost(t, testOwner, testName, t.TempDir())
	started := time.Now()
	r := e.mustApply(t, state("one", 120))
	t.Logf("measured: first apply of 120 peers in %s, %d changes", time.Since(started), r.Total)
	e.settled(t)
	if b := e.Stats().Backend; b != string(wireGuardMode()) {
		t.Errorf("backend %q", b)
	}
	s := state("two", 121)
	s.Peers[7].Keepalive = 0
	s.Interface.MTU = 1400
	s.Interface.ListenPort = 51900
	started = time.Now()
	r = e.mustApply(t, s)
	t.Logf("measured: change of a peer, a new one, MTU and port in %s: %v", time.Since(started), r.Changes)
	e.settled(t)
	l, err := netlink.LinkByName(testName)
	must(t, err)
	if l.Attrs().Alias != "apex "+testOwner || l.Attrs().MTU != 1400 {
		t.Errorf("alias %q MTU %d", l.Attrs().Alias, l.Attrs().MTU)
	}
	s = differentState("three")
	s.Forward = []netip.Prefix{prefix("192.168.7.0/24")}
	e.mustApply(t, s)
	e.settled(t)
	c, err := e.Counters(t.Context())
	if err != nil || len(c) == 0 {
		t.Errorf("counters %v %v", c, err)
	}
	if _, err := e.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(testName); err == nil {
		t.Error("the interface is left")
	}
	nft, err := nftables.New()
	must(t, err)
	if tables, err := nft.ListTables(); err != nil || len(tables) != 0 {
		t.Errorf("tables %v %v", tables, err)
	}
	if now := foreign(); now != before {
		t.Errorf("foreign objects changed:\n%s\n--\n%s", before, now)
	}
	v, err := e.backends.Sysctl.Get(t.Context(), "net/ipv4/conf/lan0/forwarding")
	if err != nil || v != "0" {
		t.Errorf("forwarding is %q %v", v, err)
	}
}

func mustNet(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

func flushNFT(t testing.TB) {
	t.Helper()
	nft, err := nftables.New()
	must(t, err)
	nft.FlushRuleset()
	must(t, nft.Flush())
}

func TestHostDrift(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	foreign := foreignThings(t)
	before := foreign()
	e := startHost(t, testOwner, testName, t.TempDir())
	e.mustApply(t, state("one", 40))
	wg, err := wgctrl.New()
	must(t, err)
	defer wg.Close()
	nft, err := nftables.New()
	must(t, err)
	link := func() netlink.Link {
		l, err := netlink.LinkByName(testName)
		must(t, err)
		return l
	}
	configure := func(c wgtypes.Config) { t.Helper(); must(t, wg.ConfigureDevice(testName, c)) }
	key := wgtypes.Key(publicKey(3))
	table := &nftables.Table{Name: testName, Family: nftables.TableFamilyINet}
	for _, spoil := range []struct {
		name string
		do   func()
	}{
		{"peer removed", func() { configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, Remove: true}}}) }},
		{"peer added", func() {
			configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: wgtypes.Key(publicKey(999))}}})
		}},
		{"preshared key", func() {
			configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, PresharedKey: &key}}})
		}},
		{"keepalive", func() {
			d := 7 * time.Second
			configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, PersistentKeepaliveInterval: &d}}})
		}},
		{"allowed IP stolen", func() {
			p := state("", 40).Peers[5].AllowedIPs[0]
			ip := netlink.NewIPNet(p.Addr().AsSlice())
			configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, AllowedIPs: []net.IPNet{*ip}}}})
		}},
		{"listen port", func() { p := 4444; configure(wgtypes.Config{ListenPort: &p}) }},
		{"fwmark", func() { m := 4444; configure(wgtypes.Config{FirewallMark: &m}) }},
		{"private key", func() { k := wgtypes.Key(privateKey(3)); configure(wgtypes.Config{PrivateKey: &k}) }},
		{"link down", func() { must(t, netlink.LinkSetDown(link())) }},
		{"link deleted", func() { must(t, netlink.LinkDel(link())) }},
		{"MTU", func() { must(t, netlink.LinkSetMTU(link(), 1300)) }},
		{"address removed", func() {
			a, err := netlink.ParseAddr("10.1.255.1/32")
			must(t, err)
			must(t, netlink.AddrDel(link(), a))
		}},
		{"address added", func() {
			a, err := netlink.ParseAddr("10.99.0.1/24")
			must(t, err)
			must(t, netlink.AddrAdd(link(), a))
		}},
		{"route removed", func() {
			must(t, netlink.RouteDel(&netlink.Route{LinkIndex: link().Attrs().Index, Dst: mustNet("10.1.0.0/16"), Scope: netlink.SCOPE_LINK}))
		}},
		{"nft flush ruleset", func() { flushNFT(t) }},
		{"nft flush table", func() { nft.FlushTable(table); must(t, nft.Flush()) }},
		{"nft element removed", func() {
			s, err := nft.GetSetByName(table, "hosts-0-v4")
			must(t, err)
			must(t, nft.SetDeleteElements(s, []nftables.SetElement{{Key: peerAddr(0).AsSlice()}}))
			must(t, nft.Flush())
		}},
		{"nft rule added", func() {
			nft.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "apex-input"}})
			must(t, nft.Flush())
		}},
	} {
		spoil.do()
		r, err := e.Repair(t.Context())
		if err != nil || !r.Drift || r.Total == 0 {
			t.Errorf("%s: %+v %v", spoil.name, r, err)
		}
		e.settled(t)
	}
	if now := foreign(); now != before {
		t.Errorf("foreign objects changed:\n%s\n--\n%s", before, now)
	}
}

func TestHostConflicts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	foreign := foreignThings(t)
	lan, err := netlink.LinkByName("lan0")
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lan.Attrs().Index, Dst: mustNet("10.1.0.0/16"), Priority: reconciler.RouteMetric}))
	a, err := netlink.ParseAddr("10.1.255.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(lan, a))
	before := foreign()
	e := startHost(t, testOwner, testName, t.TempDir())
	r := e.mustApply(t, state("one", 3))
	if len(r.Conflicts) != 2 {
		t.Errorf("conflicts %v", r.Conflicts)
	}
	if now := foreign(); now != before {
		t.Errorf("foreign objects changed:\n%s\n--\n%s", before, now)
	}
	must(t, netlink.RouteDel(&netlink.Route{LinkIndex: lan.Attrs().Index, Dst: mustNet("10.1.0.0/16")}))
	must(t, netlink.AddrDel(lan, a))
	if r, err := e.Repair(t.Context()); err != nil || r.Total != 3 || len(r.Conflicts) != 0 { // address, route, rules
		t.Errorf("%+v %v", r, err)
	}
	// Interfaces and tables that are not ours are not adopted.
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "apex-taken"}, PeerName: "apex-taken1"}))
	taken := startHost(t, "corp/taken", "apex-taken", t.TempDir())
	s := state("taken", 1)
	s.Interface.Name = "apex-taken"
	if _, err := taken.Apply(t.Context(), s, nil); !errors.Is(err, reconciler.ErrForeign) {
		t.Error(err)
	}
	if r, err := taken.Down(t.Context()); err != nil || len(r.Conflicts) != 1 {
		t.Errorf("%+v %v", r, err)
	}
	nft, err := nftables.New()
	must(t, err)
	table := nft.AddTable(&nftables.Table{Name: "apex-table", Family: nftables.TableFamilyINet})
	nft.AddChain(&nftables.Chain{Name: "mine", Table: table})
	must(t, nft.Flush())
	tabled := startHost(t, "corp/table", "apex-table", t.TempDir())
	s.Interface.Name = "apex-table"
	if _, err := tabled.Apply(t.Context(), s, nil); !errors.Is(err, reconciler.ErrForeign) {
		t.Error(err)
	}
	if r, err := tabled.Down(t.Context()); err != nil || len(r.Conflicts) != 1 {
		t.Errorf("%+v %v", r, err)
	}
}

// TestHostAddressOfTheLAN: a zone that gives this node an address it has on its own network is a conflict, and the
// neighbours there still reach it.
func TestHostAddressOfTheLAN(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "home"}, PeerName: "neighbour"}))
	far, err := netlink.LinkByName("neighbour")
	must(t, err)
	neighbour := newSpace(t)
	must(t, netlink.LinkSetNsFd(far, int(neighbour.ns)))
	neighbour.up(t, "neighbour", "10.1.255.9/24")
	home, err := netlink.LinkByName("home")
	must(t, err)
	a, err := netlink.ParseAddr("10.1.255.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(home, a))
	must(t, netlink.LinkSetUp(home))
	var here *space
	here.echo(t, "10.1.255.1:22")
	c, err := neighbour.dial("10.1.255.1:22", soon)
	must(t, err)
	e := startHost(t, testOwner, testName, t.TempDir())
	if r := e.mustApply(t, state("one", 1)); len(r.Conflicts) != 1 {
		t.Errorf("conflicts %v", r.Conflicts)
	}
	if err := talk(c, soon); err != nil {
		t.Errorf("the host is cut off from its own network: %v", err)
	}
	e.settled(t)
}

func TestHostTwoZones(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	blue := startHost(t, "corp/blue", "apex-blue", t.TempDir())
	red := startHost(t, "corp/red", "apex-red", t.TempDir())
	b := state("blue", 5)
	r := reconciler.State{
		ID: "red", Interface: reconciler.Interface{Name: "apex-red", PrivateKey: privateKey(2), ListenPort: 51821, MTU: 1420},
		Addresses: []netip.Prefix{prefix("fd00:2::1/128")}, Routes: []reconciler.Route{{Prefix: prefix("fd00:2::/64")}},
		Peers: []reconciler.Peer{{Name: "six", PublicKey: publicKey(1), AllowedIPs: []netip.Prefix{prefix("fd00:2::2/128")}}},
		Firewall: reconciler.Firewall{Sets: [][]netip.Prefix{{prefix("fd00:2::2/128")}},
			Rules: []reconciler.Rule{{ID: "six/0", Hook: reconciler.Input, From: []int{0}, Ports: []reconciler.Port{{Protocol: 1}}}}},
	}
	blue.mustApply(t, b)
	red.mustApply(t, r)
	blue.settled(t)
	red.settled(t)
	r.Routes = append(r.Routes, b.Routes[0]) // what the compiler refuses, the host does too
	if rep := red.mustApply(t, r); len(rep.Conflicts) != 1 || !strings.Contains(rep.Conflicts[0].Reason, "zone") {
		t.Errorf("%v", rep.Conflicts)
	}
	if _, err := red.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	blue.settled(t)
}

func TestHostFirewallSets(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	e := startHost(t, testOwner, testName, t.TempDir())
	s := state("large", 1)
	var hosts, six []netip.Prefix
	for i := range 10000 {
		hosts = append(hosts, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), 32))
		six = append(six, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(i >> 8), 15: byte(i)}), 128))
	}
	var nets []netip.Prefix
	for i := range 2000 {
		nets = append(nets, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 4), byte(i << 4)}), 29))
	}
	s.Firewall = reconciler.Firewall{
		Sets: [][]netip.Prefix{hosts, six, nets, {prefix("0.0.0.0/0"), prefix("::/0")}, {prefix("10.0.0.0/25"), prefix("10.0.0.128/25"), prefix("10.0.0.7/32"), prefix("255.255.255.0/24"), prefix("fd00::/8"), prefix("fd00:1::/64")}, nil},
		Rules: []reconciler.Rule{
			{ID: "a/0", Hook: reconciler.Input, From: []int{0, 1}, Ports: []reconciler.Port{{Protocol: 6, First: 1, Last: 1024}, {Protocol: 17, Last: 65535}, {Protocol: 1}}},
			{ID: "a/1", Hook: reconciler.Output, To: []int{2, 0}},
			{ID: "a/2", Hook: reconciler.Forward, From: []int{3}, To: []int{4}},
			{ID: "a/3", Hook: reconciler.Forward, From: []int{5}, To: []int{4}},
			{ID: "a/4", Hook: reconciler.Input},
			{ID: "a/5", Hook: reconciler.Input, Ports: []reconciler.Port{{Protocol: 1}}},
		},
	}
	started := time.Now()
	e.mustApply(t, s)
	t.Logf("measured: table with %d set elements in %s", 2*10000+2000+8, time.Since(started))
	e.settled(t)
	s.ID = "less one, plus one"
	s.Firewall.Sets = append([][]netip.Prefix{append(append([]netip.Prefix{}, hosts[1:]...), prefix("10.3.0.1/32"))}, s.Firewall.Sets[1:]...)
	started = time.Now()
	r := e.mustApply(t, s)
	t.Logf("measured: two elements of it in %s: %v", time.Since(started), r.Changes)
	if r.Total != 4 || len(r.Changes) != 1 { // the hosts stand in two unions
		t.Errorf("%+v", r)
	}
	e.settled(t)
	nft, err := nftables.New()
	must(t, err)
	set, err := nft.GetSetByName(&nftables.Table{Name: testName, Family: nftables.TableFamilyINet}, "hosts-0-v4")
	must(t, err)
	elements, err := nft.GetSetElements(set)
	if err != nil || len(elements) != 10000 {
		t.Errorf("%d elements %v", len(elements), err)
	}
	c, err := e.Counters(t.Context())
	must(t, err)
	if !strings.Contains(fmt.Sprint(c), "a/2") {
		t.Errorf("%v", c)
	}
}
