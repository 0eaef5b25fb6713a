package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

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
