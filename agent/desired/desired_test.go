package desired_test

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/desired"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

var now = time.Unix(1_800_000_000, 0)

// fixture is a map with two groups, one via and rules of every hook, built by hand.
func fixture(t *testing.T) (*peermap.Map, desired.Local) {
	t.Helper()
	private := agenttest.WireGuard(t, "self")
	public, err := private.Public()
	if err != nil {
		t.Fatal(err)
	}
	peer := func(name, addr string, group uint32) peermap.PeerEntry {
		return peermap.PeerEntry{
			Peer:  peermap.Peer{Name: name, PublicKey: peermap.Key{name[0]}, Addresses: []netip.Addr{netip.MustParseAddr(addr)}},
			Group: group,
		}
	}
	prefix := netip.MustParsePrefix
	m := &peermap.Map{
		View: peermap.View{
			Network: "acme", Zone: "prod", Node: "self", PublicKey: peermap.Key(public), Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.1")},
			Ranges: []netip.Prefix{prefix("10.1.0.0/16")}, Routes: []netip.Prefix{prefix("192.168.1.0/24")},
			ListenPort: 51820, MTU: 1420, Keepalive: 25,
		},
		Peers: []peermap.PeerEntry{peer("a", "10.1.0.2", 0), peer("b", "10.1.0.3", 1), peer("c", "10.1.0.4", 1)},
	}
	m.Peers[1].Routes = []netip.Prefix{prefix("192.168.2.0/24")}
	m.Peers[1].Endpoints = []string{"b.example:1"}
	m.Peers[2].NotAfter = now.Unix() + 60
	lan := []netip.Prefix{prefix("192.168.1.0/24")}
	m.Class.Groups = []peermap.Group{{}, {}}
	m.Class.Vias = []peermap.Via{{Prefix: prefix("192.168.2.0/24"), Peer: "b"}}
	m.Class.Rules = []peermap.Rule{
		{ID: "in/0", Hook: peermap.HookInput, From: peermap.Set{Groups: []uint32{0, 1}}},
		{ID: "in/1", Hook: peermap.HookInput, From: peermap.Set{Groups: []uint32{1}}, NotAfter: now.Unix() + 30},
		{ID: "out/0", Hook: peermap.HookOutput, To: peermap.Set{Groups: []uint32{1}}, Ports: []peermap.PortRange{{Protocol: peermap.TCP, First: 1, Last: 9}}},
		{ID: "fwd/0", Hook: peermap.HookForward, From: peermap.Set{Groups: []uint32{1}}, To: peermap.Set{Prefixes: lan}},
		{ID: "fwd/1", Hook: peermap.HookForward, From: peermap.Set{Groups: []uint32{0}}, To: peermap.Set{Prefixes: slices.Clone(lan)}},
	}
	return m, desired.Local{
		Interface: "apex-prod", PrivateKey: private, Claims: []netip.Prefix{prefix("192.168.0.0/16")},
		Endpoint: func(peer string, endpoints []string) netip.AddrPort { return netip.MustParseAddrPort("192.0.2.3:1") },
	}
}

func build(t *testing.T, m *peermap.Map, local desired.Local, at time.Time) desired.Result {
	t.Helper()
	got, err := desired.Build(m, "id", local, at)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestBuild(t *testing.T) {
	m, local := fixture(t)
	got := build(t, m, local, now)
	s := got.State
	if s.ID != "id" || s.Interface.ListenPort != 51820 || s.Interface.MTU != 1420 || s.Interface.Name != "apex-prod" {
		t.Errorf("interface is %+v", s.Interface)
	}
	if want := []reconciler.Route{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, {Prefix: netip.MustParsePrefix("192.168.2.0/24")}}; !slices.Equal(s.Routes, want) {
		t.Errorf("routes are %v, want %v", s.Routes, want)
	}
	if len(s.Forward) != 1 || s.Addresses[0] != netip.MustParsePrefix("10.1.0.1/32") {
		t.Errorf("forward %v, addresses %v", s.Forward, s.Addresses)
	}
	b := s.Peers[1]
	if want := []netip.Prefix{netip.MustParsePrefix("10.1.0.3/32"), netip.MustParsePrefix("192.168.2.0/24")}; !slices.Equal(b.AllowedIPs, want) {
		t.Errorf("allowed IPs of b are %v, want %v", b.AllowedIPs, want)
	}
	if b.Keepalive != 25*time.Second || !b.Endpoint.IsValid() || s.Peers[0].Endpoint.IsValid() {
		t.Errorf("keepalive %v, endpoints %v and %v", b.Keepalive, b.Endpoint, s.Peers[0].Endpoint)
	}
	// One set each for the own addresses, both groups and the one prefix list that two rules name.
	if n := len(s.Firewall.Sets); n != 4 {
		t.Errorf("%d sets, want 4: %v", n, s.Firewall.Sets)
	}
	for _, r := range s.Firewall.Rules {
		if len(r.From) == 0 || len(r.To) == 0 {
			t.Errorf("rule %s is open on one side: %+v", r.ID, r)
		}
	}
	if !got.Next.Equal(now.Add(30 * time.Second)) {
		t.Errorf("next is %v", got.Next)
	}
}

func TestExpiry(t *testing.T) {
	m, local := fixture(t)
	got := build(t, m, local, now.Add(30*time.Second))
	if slices.ContainsFunc(got.State.Firewall.Rules, func(r reconciler.Rule) bool { return r.ID == "in/1" }) {
		t.Error("a rule lives at its notAfter")
	}
	got = build(t, m, local, now.Add(time.Minute))
	if len(got.State.Peers) != 2 || got.Expired != 2 || !got.Next.IsZero() {
		t.Errorf("%d peers, %d expired, next %v", len(got.State.Peers), got.Expired, got.Next)
	}
	for _, set := range got.State.Firewall.Sets {
		if slices.Contains(set, netip.MustParsePrefix("10.1.0.4/32")) {
			t.Error("an expired peer is still in a set")
		}
	}
}

func TestRefusals(t *testing.T) {
	m, local := fixture(t)
	other := local
	other.PrivateKey = agenttest.WireGuard(t, "other")
	if _, err := desired.Build(m, "id", other, now); !errors.Is(err, desired.ErrKeyMismatch) {
		t.Errorf("another key: %v", err)
	}
	other = local
	other.Claims = []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}
	if _, err := desired.Build(m, "id", other, now); !errors.Is(err, desired.ErrClaim) {
		t.Errorf("a via without a grant: %v", err)
	}
	other.Claims = []netip.Prefix{netip.MustParsePrefix("192.168.2.0/24")}
	if _, err := desired.Build(m, "id", other, now); !errors.Is(err, desired.ErrClaim) {
		t.Errorf("an own route without a grant: %v", err)
	}
}

func TestEmptySelectorOpensNothing(t *testing.T) {
	m, local := fixture(t)
	m.Class.Rules = []peermap.Rule{{ID: "fwd/0", Hook: peermap.HookForward, To: peermap.Set{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}}}}
	if got := build(t, m, local, now); len(got.State.Firewall.Rules) != 0 {
		t.Errorf("a rule from nobody became %+v", got.State.Firewall.Rules)
	}
}

func TestDeterministic(t *testing.T) {
	m, local := fixture(t)
	if !reflect.DeepEqual(build(t, m, local, now), build(t, m, local, now)) {
		t.Error("two builds differ")
	}
}
