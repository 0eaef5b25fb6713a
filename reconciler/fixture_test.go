package reconciler_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
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
	deadline := time.Now().Add(2 * time.Minute) // only for what hangs
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
