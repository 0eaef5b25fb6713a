//go:build linux

package lab_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// TestWireGuard runs a real userspace device in each of two homes, configures both through wgctrl from inside, and
// sends packets over the tunnel; then it kills one device with -9 and brings it back.
func TestWireGuard(t *testing.T) {
	labtest.NeedTunnel(t)
	t.Parallel()
	binary := labtest.Build(t, "testdata/wgnode")
	ctx := labtest.Context(t, 5*time.Minute)
	n := newInternet(t, ctx, labtest.New(t), lab.Cone, lab.Cone)
	nodes := []*wgNode{
		{host: n.left, address: netip.MustParsePrefix("10.9.0.1/24"), endpoint: n.gwLeft.Outside.Addr4()},
		{host: n.right, address: netip.MustParsePrefix("10.9.0.2/24"), endpoint: n.gwRight.Outside.Addr4()},
	}
	for _, w := range nodes {
		w.key = must(wgtypes.GeneratePrivateKey())(t)
		w.start(t, ctx, binary)
	}
	nodes[0].peer(t, ctx, nodes[1])
	nodes[1].peer(t, ctx, nodes[0])

	if o := n.left.Probe(ctx, nodes[1].address.Addr(), patientPing); o.Verdict != lab.Reached { // both homes have to punch first
		t.Fatalf("ping through the tunnel: %s, %v", o, o.Err)
	}
	must(n.right.Echo(ctx, 7000))(t)
	matrix := must(lab.Measure(ctx, []lab.Source{{Host: n.left}, {Host: n.server}}, []lab.Target{
		{Host: n.right, Addr: nodes[1].address.Addr(), Probe: lab.Probe{Protocol: lab.TCP, Port: 7000, Timeout: patient}},
		{Host: n.right, Addr: nodes[1].address.Addr(), Probe: lab.Probe{Protocol: lab.UDP, Port: 7000, Timeout: patient}},
	}))(t)
	t.Logf("reachability in %s:\n%s", matrix.Took, matrix)
	for _, m := range matrix.Mismatches(func(s lab.Source, _ lab.Target) bool { return s.Host == n.left }) {
		t.Error(m)
	}

	check(t, nodes[0].process.Kill(ctx))
	if o := n.right.Probe(ctx, nodes[0].address.Addr(), lab.Probe{Protocol: lab.ICMP, Timeout: 300 * time.Millisecond}); o.Verdict == lab.Reached {
		t.Error("a killed device still answers")
	}
	nodes[0].start(t, ctx, binary)
	nodes[0].peer(t, ctx, nodes[1])
	if o := n.left.Probe(ctx, nodes[1].address.Addr(), patientPing); o.Verdict != lab.Reached {
		t.Errorf("ping after the restart: %s, %v", o, o.Err)
	}
	check(t, nodes[1].process.Stop(ctx))
}

type wgNode struct {
	host     *lab.Host
	address  netip.Prefix
	endpoint netip.Addr // where its router is seen
	key      wgtypes.Key
	process  *lab.Process
}

const wgPort = 51820

func (w *wgNode) start(t testing.TB, ctx context.Context, binary string) {
	t.Helper()
	w.process = must(w.host.Start(ctx, lab.Command{Argv: []string{binary, "wg0"}}))(t)
	check(t, w.process.AwaitSocket(ctx, "/var/run/wireguard/wg0.sock"))
	check(t, w.host.AddAddress(ctx, "wg0", w.address))
	check(t, w.host.SetLink(ctx, "wg0", true))
}

func (w *wgNode) peer(t testing.TB, ctx context.Context, other *wgNode) {
	t.Helper()
	port, keepalive := wgPort, time.Second
	err := w.host.Do(ctx, func() error {
		client, err := wgctrl.New()
		if err != nil {
			return fmt.Errorf("open wgctrl: %w", err)
		}
		defer client.Close()
		return client.ConfigureDevice("wg0", wgtypes.Config{
			PrivateKey: &w.key, ListenPort: &port,
			Peers: []wgtypes.PeerConfig{{
				PublicKey: other.key.PublicKey(), PersistentKeepaliveInterval: &keepalive,
				Endpoint:   net.UDPAddrFromAddrPort(netip.AddrPortFrom(other.endpoint, wgPort)),
				AllowedIPs: []net.IPNet{{IP: other.address.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}},
			}},
		})
	})
	check(t, err)
}
