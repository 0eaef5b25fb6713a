package reconciler_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/apex-network/apex/reconciler"
)

// trust makes the remote take the peer's new key in place of the old one, as another host's agent does.
func (r *remote) trust(t *testing.T, old, next reconciler.Key, peerPort int, allowed ...string) {
	t.Helper()
	peer := wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(next), Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(peerPort))),
	}
	for _, a := range allowed {
		peer.AllowedIPs = append(peer.AllowedIPs, *mustNet(a))
	}
	must(t, r.do(func() error {
		wg, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer wg.Close()
		return wg.ConfigureDevice("wgfar", wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: wgtypes.Key(old), Remove: true}, peer}})
	}))
}

// TestHostKeyRotation: a host takes another WireGuard key. Its interface stays, a TCP stream goes on, whichever of the two
// ends is the first to change, and the old key opens nothing any more.
func TestHostKeyRotation(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	e, far := newPair(t)
	e.mustApply(t, pair(t, "one"))
	var here *space
	here.echo(t, net.JoinHostPort(hereAddr, "5432"))
	c, err := far.dial(net.JoinHostPort(hereAddr, "5432"), soon)
	must(t, err)
	must(t, talk(c, soon))
	before, err := net.InterfaceByName(testName)
	must(t, err)

	public := func(seed byte) reconciler.Key {
		key, err := privateKey(seed).Public()
		must(t, err)
		return key
	}
	allowed := []string{hereAddr + "/32", hereAddr6 + "/128"}
	for i, hereFirst := range []bool{true, false} {
		old, next := byte(1), byte(11)
		if i == 1 {
			old, next = 11, 12
		}
		s := pair(t, "rotated")
		s.Interface.PrivateKey = privateKey(next)
		if hereFirst {
			e.mustApply(t, s)
		} else {
			far.trust(t, public(old), public(next), 51820, allowed...)
		}
		// Traffic in between finds the two ends apart.
		started := time.Now()
		answer := make(chan error, 1)
		go func() { answer <- talk(c, soon) }()
		if hereFirst {
			far.trust(t, public(old), public(next), 51820, allowed...)
		} else {
			e.mustApply(t, s)
		}
		if err := <-answer; err != nil {
			t.Fatalf("the stream does not go on (this host first: %t): %v", hereFirst, err)
		}
		t.Logf("measured: the stream goes on after %s (this host first: %t)", time.Since(started).Round(time.Millisecond), hereFirst)
	}
	if after, err := net.InterfaceByName(testName); err != nil || after.Index != before.Index {
		t.Errorf("the interface was made anew: %v", err)
	}
	e.settled(t)
	far.trust(t, public(12), public(1), 51820, allowed...)
	if err := talk(c, 2*time.Second); err == nil {
		t.Error("the old key still opens the tunnel")
	}
}
