package reconciler_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

const (
	testOwner = "corp/blue"
	testName  = "apex-blue"
)

func privateKey(n byte) reconciler.PrivateKey {
	k := reconciler.PrivateKey{0: 8, 1: n, 31: 64}
	return k
}

func publicKey(n int) reconciler.Key {
	var k reconciler.Key
	binary.BigEndian.PutUint32(k[4:], uint32(n)+1)
	k[31] = 1
	return k
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func peerAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }

func peer(n int) reconciler.Peer {
	return reconciler.Peer{
		Name: fmt.Sprintf("node-%d", n), PublicKey: publicKey(n),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(peerAddr(n), 32)},
		Endpoint:   netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(1000+n%60000)),
		Keepalive:  25 * time.Second,
	}
}

// state is a zone with n peers, all of whom may reach this node's port 5432.
func state(id string, n int) reconciler.State {
	s := reconciler.State{
		ID:        id,
		Interface: reconciler.Interface{Name: testName, PrivateKey: privateKey(1), ListenPort: 51820, MTU: 1420},
		Addresses: []netip.Prefix{prefix("10.1.255.1/32"), prefix("fd00:1::1/128")},
		Routes:    []reconciler.Route{{Prefix: prefix("10.1.0.0/16")}, {Prefix: prefix("fd00:1::/64")}},
	}
	var members []netip.Prefix
	for i := range n {
		s.Peers = append(s.Peers, peer(i))
		members = append(members, netip.PrefixFrom(peerAddr(i), 32))
	}
	s.Firewall = reconciler.Firewall{
		Sets: [][]netip.Prefix{members, {prefix("192.168.7.0/24")}},
		Rules: []reconciler.Rule{
			{ID: "db/0", Hook: reconciler.Input, From: []int{0}, Ports: []reconciler.Port{{Protocol: 6, First: 5432, Last: 5432}}},
			{ID: "db/0", Hook: reconciler.Output, To: []int{0}},
		},
	}
	return s
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type fixture struct {
	*reconciler.Engine
	host *twin.Host
	dir  string
	logs bytes.Buffer
}

func options(h *twin.Host, dir string) reconciler.Options {
	return reconciler.Options{
		Owner: testOwner, Interface: testName, Backends: h.Backends(), StateDir: dir,
		PrivateKey: func(k reconciler.Key) (reconciler.PrivateKey, bool) {
			for n := byte(1); n < 5; n++ {
				if pub, err := privateKey(n).Public(); err == nil && pub == k {
					return privateKey(n), true
				}
			}
			return reconciler.PrivateKey{}, false
		},
		RepairBurst: 1 << 20,
	}
}

// start makes an engine on a host and recovers it.
func start(t testing.TB, h *twin.Host, dir string) *fixture {
	t.Helper()
	f := &fixture{host: h, dir: dir}
	opt := options(h, dir)
	opt.Logger = slog.New(slog.NewTextHandler(&f.logs, nil))
	var err error
	if f.Engine, err = reconciler.New(opt); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) mustApply(t testing.TB, s reconciler.State) reconciler.Report {
	t.Helper()
	r, err := f.Apply(t.Context(), s, nil)
	if err != nil {
		t.Fatalf("apply %s: %v", s.ID, err)
	}
	return r
}

// settled checks that the host is as the last confirmed state asks: nothing is left to do.
func (f *fixture) settled(t testing.TB) {
	t.Helper()
	f.host.Operations()
	r, err := f.Repair(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ops := f.host.Operations(); r.Drift || len(ops) > 0 {
		t.Fatalf("the host was not settled: %v, operations %v", r, ops)
	}
}

func TestApplyMakesTheHost(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	foreign := f.host.Snapshot(reconciler.AliasOf(testOwner), testName)
	f.mustApply(t, state("one", 3))
	ops := f.host.Operations()
	if ops[0] != "firewall replace apex-blue" || ops[1] != "link create apex-blue" {
		t.Errorf("the firewall must be there before the interface: %q", ops)
	}
	up := -1
	for i, op := range ops {
		if op == "link up apex-blue" {
			up = i
		}
		if strings.HasPrefix(op, "wireguard") && up >= 0 {
			t.Errorf("%s after the interface went up", op)
		}
	}
	f.settled(t)
	if now := f.host.Snapshot(reconciler.AliasOf(testOwner), testName); now != foreign {
		t.Errorf("foreign objects changed:\n%s\n%s", foreign, now)
	}
	if _, err := f.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := f.host.Empty(reconciler.AliasOf(testOwner), testName); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(f.dir)
	if err != nil || len(left) != 0 {
		t.Errorf("the state folder still holds %v (%v)", left, err)
	}
}

func TestOneChangeTouchesOneThing(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("one", 50))
	f.host.Operations()
	s := state("two", 50)
	s.Peers[7].Endpoint = netip.MustParseAddrPort("203.0.113.9:51820")
	f.mustApply(t, s)
	if ops := f.host.Operations(); len(ops) != 1 || ops[0] != "wireguard peer "+publicKey(7).String() {
		t.Errorf("operations %q", ops)
	}
	f.mustApply(t, state("three", 51)) // puts the endpoint back and adds a peer
	if ops := f.host.Operations(); len(ops) != 3 || ops[0] != "firewall update apex-blue" {
		t.Errorf("operations %q", ops)
	}
	f.settled(t)
}

func TestAllowedIPsMove(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	a := state("a", 4)
	a.Peers[0].AllowedIPs = append(a.Peers[0].AllowedIPs, prefix("192.168.7.0/24"))
	f.mustApply(t, a)
	b := state("b", 4)
	b.Peers[3].AllowedIPs = append(b.Peers[3].AllowedIPs, prefix("192.168.7.0/24"))
	f.mustApply(t, b)
	f.settled(t)
	c := state("c", 4) // every address changes hands
	for i := range c.Peers {
		c.Peers[i].AllowedIPs = []netip.Prefix{netip.PrefixFrom(peerAddr((i+1)%4), 32)}
	}
	f.mustApply(t, c)
	f.settled(t)
}

func TestRoamingIsNotDrift(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("one", 2))
	elsewhere := netip.MustParseAddrPort("203.0.113.50:4000")
	f.host.Handshake(testName, publicKey(0), time.Now(), elsewhere)
	f.settled(t)
	f.host.Handshake(testName, publicKey(0), time.Now().Add(-time.Hour), elsewhere)
	r, err := f.Repair(t.Context())
	if err != nil || !r.Drift || r.Total != 1 {
		t.Errorf("an endpoint of a session long dead is drift: %v %v", r, err)
	}
	f.host.Handshake(testName, publicKey(0), time.Now(), elsewhere)
	s := state("two", 2)
	s.Peers[0].Endpoint = netip.MustParseAddrPort("203.0.113.77:7")
	if r := f.mustApply(t, s); r.Total != 1 {
		t.Errorf("an endpoint that is meant to change is written: %v", r)
	}
}

func TestProbeFailureRollsBack(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("good", 3))
	bad := state("bad", 1)
	bad.Addresses = []netip.Prefix{prefix("10.1.255.2/32")}
	bad.Routes = nil
	r, err := f.Apply(t.Context(), bad, func(context.Context) error { return errors.New("the controller does not answer") })
	if !errors.Is(err, reconciler.ErrRolledBack) || !r.RolledBack || !r.Quarantine || !strings.Contains(r.Reason, "controller") || r.ID != "bad" {
		t.Fatalf("report %+v, error %v", r, err)
	}
	f.settled(t)
	if s, ok := f.Confirmed(); !ok || s.ID != "good" || len(s.Peers) != 3 {
		t.Errorf("confirmed is %s", s.ID)
	}
	// The first state ever rolls back to nothing.
	g := start(t, twin.New(), t.TempDir())
	if _, err := g.Apply(t.Context(), state("bad", 1), func(context.Context) error { return errors.New("no") }); !errors.Is(err, reconciler.ErrRolledBack) {
		t.Fatal(err)
	}
	if err := g.host.Empty(reconciler.AliasOf(testOwner), testName); err != nil {
		t.Error(err)
	}
	g.mustApply(t, state("good", 1))
}

func TestRollBackPutsBackEndpointsOfLivePeers(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	good := state("good", 2)
	f.mustApply(t, good)
	f.host.Handshake(testName, publicKey(0), time.Now(), good.Peers[0].Endpoint)
	_, err := f.Apply(t.Context(), swapEndpoint(good, 0), func(context.Context) error { return errors.New("no") })
	if !errors.Is(err, reconciler.ErrRolledBack) {
		t.Fatal(err)
	}
	d, err := f.host.Backends().WireGuard.Device(t.Context(), testName)
	if err != nil || d.Peers[0].Endpoint != good.Peers[0].Endpoint {
		t.Errorf("the endpoint is %s (%v)", d.Peers[0].Endpoint, err)
	}
}

// TestConfirmedChangeWithCheckpointLeft: a crash after the confirmation and before the checkpoint was removed.
func TestConfirmedChangeWithCheckpointLeft(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("one", 2))
	file := filepath.Join(f.dir, "checkpoint.json")
	var checkpoint []byte
	if _, err := f.Apply(t.Context(), state("two", 3), func(context.Context) (err error) {
		checkpoint, err = os.ReadFile(file)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, checkpoint, 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := reconciler.New(options(f.host, f.dir))
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.Recover(t.Context())
	if s, _ := e.Confirmed(); err != nil || r.RolledBack || s.ID != "two" {
		t.Errorf("%+v %v, confirmed %s", r, err, s.ID)
	}
}

func TestProbeMaySeePeers(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	_, err := f.Apply(t.Context(), state("one", 2), func(ctx context.Context) error {
		p, err := f.Peers(ctx)
		if err == nil && len(p) != 2 {
			err = fmt.Errorf("%d peers", len(p))
		}
		if _, e := f.Counters(ctx); e != nil {
			return e
		}
		f.Stats()
		f.Confirmed()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCancelledApplyRollsBackWithoutQuarantine(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("good", 3))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := f.Apply(ctx, state("two", 9), func(context.Context) error { cancel(); return ctx.Err() })
	if !errors.Is(err, reconciler.ErrRolledBack) || r.Quarantine {
		t.Fatalf("%+v %v", r, err)
	}
	f.settled(t)
}

func TestForeignNamesAreNotAdopted(t *testing.T) {
	h := twin.New()
	h.AddLink(testName, prefix("10.1.255.1/32"))
	f := start(t, h, t.TempDir())
	h.Operations()
	if _, err := f.Apply(t.Context(), state("one", 1), nil); !errors.Is(err, reconciler.ErrForeign) {
		t.Fatal(err)
	}
	r, err := f.Down(t.Context())
	if err != nil || len(r.Conflicts) != 1 {
		t.Errorf("%v %v", r, err)
	}
	if ops := h.Operations(); len(ops) != 0 {
		t.Errorf("operations %q", ops)
	}
	h = twin.New()
	h.AddForeignTable(testName)
	f = start(t, h, t.TempDir())
	if _, err := f.Apply(t.Context(), state("one", 1), nil); !errors.Is(err, reconciler.ErrForeign) {
		t.Fatal(err)
	}
}

func TestClashesAreReportedAndResolved(t *testing.T) {
	h := twin.New()
	h.AddRoute(reconciler.HostRoute{Prefix: prefix("10.1.0.0/16"), Link: "eth0", Metric: 0})
	h.AddAddress("eth0", prefix("10.1.255.1/24"))
	f := start(t, h, t.TempDir())
	before := h.Snapshot(reconciler.AliasOf(testOwner), testName)
	s := state("one", 2)
	s.Peers[0].Endpoint = netip.MustParseAddrPort("10.1.0.9:51820")
	r := f.mustApply(t, s)
	if len(r.Conflicts) != 3 {
		t.Fatalf("conflicts %v", r.Conflicts)
	}
	if now := h.Snapshot(reconciler.AliasOf(testOwner), testName); now != before {
		t.Errorf("foreign objects changed:\n%s\n%s", before, now)
	}
	h.DeleteRoute("eth0", prefix("10.1.0.0/16"))
	h.RemoveAddress("eth0", prefix("10.1.255.1/24"))
	r, err := f.Repair(t.Context())
	if err != nil || r.Total != 3 || len(r.Conflicts) != 1 {
		t.Errorf("%+v %v", r, err)
	}
	f.settled(t)
	// A foreign route that comes later takes ours away rather than racing it.
	h.AddRoute(reconciler.HostRoute{Prefix: prefix("10.1.0.0/16"), Link: "eth0", Metric: 9999})
	if r, err = f.Repair(t.Context()); err != nil || len(r.Conflicts) != 2 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestInvalidStatesTouchNothing(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	f.mustApply(t, state("good", 2))
	f.host.Operations()
	for name, spoil := range map[string]func(*reconciler.State){
		"two peers claim one address": func(s *reconciler.State) { s.Peers[1].AllowedIPs = s.Peers[0].AllowedIPs },
		"one key twice":               func(s *reconciler.State) { s.Peers[1].PublicKey = s.Peers[0].PublicKey },
		"no key":                      func(s *reconciler.State) { s.Interface.PrivateKey = reconciler.PrivateKey{} },
		"other interface":             func(s *reconciler.State) { s.Interface.Name = "apex-red" },
		"long interface":              func(s *reconciler.State) { s.Interface.Name = strings.Repeat("x", 16) },
		"unmasked allowed IP":         func(s *reconciler.State) { s.Peers[0].AllowedIPs = []netip.Prefix{prefix("10.1.2.3/8")} },
		"unmasked route":              func(s *reconciler.State) { s.Routes[0].Prefix = prefix("10.1.2.3/8") },
		"zero prefix":                 func(s *reconciler.State) { s.Routes[0].Prefix = netip.Prefix{} },
		"missing set":                 func(s *reconciler.State) { s.Firewall.Rules[0].From = []int{2} },
		"negative set":                func(s *reconciler.State) { s.Firewall.Rules[0].From = []int{-1} },
		"unknown hook":                func(s *reconciler.State) { s.Firewall.Rules[0].Hook = 9 },
		"rule ID that breaks out":     func(s *reconciler.State) { s.Firewall.Rules[0].ID = "a\" drop" },
		"port range upside down": func(s *reconciler.State) {
			s.Firewall.Rules[0].Ports[0] = reconciler.Port{Protocol: 6, First: 9, Last: 8}
		},
		"protocol":              func(s *reconciler.State) { s.Firewall.Rules[0].Ports[0] = reconciler.Port{Protocol: 47} },
		"endpoint without port": func(s *reconciler.State) { s.Peers[0].Endpoint = netip.MustParseAddrPort("192.0.2.1:0") },
		"keepalive":             func(s *reconciler.State) { s.Peers[0].Keepalive = -1 },
		"MTU":                   func(s *reconciler.State) { s.Interface.MTU = 20 },
		"loose address":         func(s *reconciler.State) { s.Addresses[0] = prefix("0.0.0.0/32") },
		"long id":               func(s *reconciler.State) { s.ID = strings.Repeat("x", 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			s := state("bad", 2)
			spoil(&s)
			r, err := f.Apply(t.Context(), s, nil)
			if !errors.Is(err, reconciler.ErrInvalidState) || r.RolledBack {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
	if ops := f.host.Operations(); len(ops) != 0 {
		t.Errorf("operations %q", ops)
	}
	f.settled(t)
}

func TestThePrivateKeyStaysInside(t *testing.T) {
	f := start(t, twin.New(), t.TempDir())
	s := state("one", 3)
	r, err := f.Apply(t.Context(), s, func(context.Context) error { return errors.New("no") })
	if err == nil {
		t.Fatal("want a roll back")
	}
	f.mustApply(t, s)
	key := s.Interface.PrivateKey
	needles := []string{fmt.Sprintf("%x", key[:]), fmt.Sprintf("%d", key[:8]), reconciler.Key(key).String(), string(key[:])}
	texts := map[string]string{
		"report": fmt.Sprintf("%+v %#v %v", r, r, err), "logs": f.logs.String(),
		"state": fmt.Sprintf("%v %+v %#v %x %s", s.Interface, s, s, s.Interface.PrivateKey, s.Interface.PrivateKey),
	}
	files, _ := filepath.Glob(filepath.Join(f.dir, "*"))
	if len(files) == 0 {
		t.Fatal("no state files")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(b)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
	for where, text := range texts {
		for _, n := range needles {
			if strings.Contains(text, n) {
				t.Errorf("the private key stands in the %s", where)
			}
		}
	}
	if c, _ := f.Confirmed(); !c.Interface.PrivateKey.IsZero() {
		t.Error("Confirmed gives away the private key")
	}
}

func TestRestartRestoresEverything(t *testing.T) {
	dir := t.TempDir()
	f := start(t, twin.New(), dir)
	for i := range 20 { // some in the base file, most in the log
		s := state(fmt.Sprint(i), 5+i)
		s.Forward = []netip.Prefix{prefix("192.168.7.0/24")}
		f.host.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
		f.mustApply(t, s)
	}
	want, _ := f.Confirmed()
	h := twin.New() // a reboot: nothing is left on the host
	h.SetSysctl("net/ipv4/conf/eth0/forwarding", "0")
	g := start(t, h, dir)
	got, ok := g.Confirmed()
	if !ok || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("confirmed after a restart:\n%v\n%v", got, want)
	}
	g.settled(t)
}

func TestForwardingIsPutBack(t *testing.T) {
	h := twin.New()
	const lan, other = "net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/eth0/accept_ra"
	h.SetSysctl(lan, "0")
	h.SetSysctl("net/ipv6/conf/all/forwarding", "0")
	h.SetSysctl(other, "1")
	f := start(t, h, t.TempDir())
	s := state("router", 1)
	s.Forward = []netip.Prefix{prefix("192.168.7.0/24"), prefix("fd00:7::/64")}
	f.mustApply(t, s)
	f.settled(t)
	sys := h.Backends().Sysctl
	get := func(name string) string { v, _ := sys.Get(t.Context(), name); return v }
	if get(lan) != "1" || get("net/ipv6/conf/all/forwarding") != "1" || get(other) != "2" || get("net/ipv4/conf/apex-blue/forwarding") != "1" {
		t.Error("the host does not forward")
	}
	f.mustApply(t, state("leaf", 1))
	if get(lan) != "0" || get("net/ipv6/conf/all/forwarding") != "0" || get(other) != "1" || get("net/ipv4/conf/apex-blue/forwarding") != "0" {
		t.Error("the host still forwards")
	}
	f.mustApply(t, s)
	h.SetSysctl(lan, "2") // somebody else has taken it over
	if _, err := f.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if get(lan) != "2" || get("net/ipv6/conf/all/forwarding") != "0" {
		t.Error("down does not put back what is ours alone")
	}
}

func TestDamagedStoreIsSetAside(t *testing.T) {
	for name, spoil := range map[string]string{
		"garbage": "{", "unknown field": `{"version":1,"nonsense":2}`, "version": `{"version":9}`, "two documents": "{}{}", "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := start(t, twin.New(), dir)
			f.mustApply(t, state("one", 3))
			if err := os.WriteFile(filepath.Join(dir, "confirmed.json"), []byte(spoil), 0o600); err != nil {
				t.Fatal(err)
			}
			e, err := reconciler.New(options(f.host, dir))
			if err != nil {
				t.Fatal(err)
			}
			f.host.Operations()
			r, err := e.Recover(t.Context())
			if err != nil || r.Reason == "" || len(f.host.Operations()) != 0 {
				t.Fatalf("%+v %v", r, err)
			}
			if _, err := e.Apply(t.Context(), state("two", 3), nil); err != nil {
				t.Fatal(err)
			}
			if ops := f.host.Operations(); len(ops) != 0 {
				t.Errorf("an equal state changed the host: %q", ops)
			}
		})
	}
}

func TestRepairIsRateLimitedButTheFirewallIsNot(t *testing.T) {
	h := twin.New()
	opt := options(h, t.TempDir())
	opt.RepairBurst = 1
	now := time.Unix(1e9, 0)
	opt.Now = func() time.Time { return now }
	e, err := reconciler.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), state("one", 1), nil); err != nil {
		t.Fatal(err)
	}
	spoil := func() { h.DeleteRoute(testName, prefix("10.1.0.0/16")); h.FlushTables() }
	spoil()
	if r, err := e.Repair(t.Context()); err != nil || r.Deferred || r.Total != 2 {
		t.Fatalf("%+v %v", r, err)
	}
	spoil()
	if r, err := e.Repair(t.Context()); err != nil || !r.Deferred || r.Total != 1 || r.Changes[0].Subsystem != reconciler.SubsystemFirewall {
		t.Fatalf("%+v %v", r, err)
	}
	now = now.Add(time.Minute)
	if r, err := e.Repair(t.Context()); err != nil || r.Deferred || r.Total != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if s := e.Stats(); s.Repairs != 2 || s.RepairsDeferred != 1 || s.DriftedObjects != 3 {
		t.Errorf("%+v", s)
	}
}

func TestWatchRepairs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := start(t, twin.New(), dir)
		f.mustApply(t, state("one", 3))
		ctx, cancel := context.WithCancel(t.Context())
		var reports []reconciler.Report
		done := make(chan error)
		go func() {
			done <- f.Watch(ctx, func(r reconciler.Report, err error) {
				if err != nil {
					t.Error(err)
				}
				reports = append(reports, r)
			})
		}()
		pass := func() { time.Sleep(200 * time.Millisecond); synctest.Wait() }
		pass()
		f.host.Operations()
		for name, spoil := range map[string]func(){
			"route":  func() { f.host.DeleteRoute(testName, prefix("10.1.0.0/16")) },
			"flap":   func() { f.host.FlapLink(testName, false) },
			"delete": func() { f.host.DeleteLink(testName) },
			"nft":    func() { f.host.FlushTables() },
			"broken": func() {
				f.host.BreakEvents()
				f.host.DeleteRoute(testName, prefix("10.1.0.0/16"))
				time.Sleep(2 * time.Second)
			},
			"wg set": func() { f.host.EditPeer(testName, publicKey(1), nil); time.Sleep(6 * time.Minute) },
		} {
			reports = nil
			spoil()
			pass()
			if len(reports) == 0 || !reports[0].Drift {
				t.Errorf("%s was not repaired: %v", name, reports)
			}
			f.host.Operations()
			f.host.DeleteRoute("eth0", prefix("172.16.0.0/12")) // not our business
			pass()
		}
		reports = nil
		if r := f.mustApply(t, state("two", 3)); r.Total != 0 {
			t.Errorf("%v", r)
		}
		pass()
		if ops := f.host.Operations(); len(ops) != 0 || len(reports) != 0 {
			t.Errorf("a quiet host was changed: %q %v", ops, reports)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestInterfaceName(t *testing.T) {
	seen := make(map[string]string)
	for _, zone := range []string{"blue", "production", "production-east", "production-west", "zone-5-long"} {
		n := reconciler.InterfaceName(zone)
		if len(n) > 15 || seen[n] != "" || n != reconciler.InterfaceName(zone) {
			t.Errorf("%s → %s (also %q)", zone, n, seen[n])
		}
		seen[n] = zone
	}
	if n := reconciler.InterfaceName("blue"); n != "apex-blue" {
		t.Error(n)
	}
	if n := reconciler.TableName("wg-corp"); n != "apex-wg-corp" {
		t.Error(n)
	}
}
