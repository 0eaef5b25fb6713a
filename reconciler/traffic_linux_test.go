package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/apex-network/apex/reconciler"
)

// remote is a plain WireGuard peer, not driven by an engine: its device is made here, so that its UDP socket is, and
// its interface lives in a namespace of its own.
type remote struct {
	*space
	key  reconciler.Key
	port int
}

func newRemote(t *testing.T, name string, key byte, port int, peer reconciler.Key, peerPort int, allowed []string, addrs ...string) *remote {
	t.Helper()
	b, err := reconciler.Host(reconciler.HostOptions{WireGuard: wireGuardMode()})
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	must(t, b.Links.Create(t.Context(), name, "remote", 1420))
	wg, err := wgctrl.New()
	must(t, err)
	defer wg.Close()
	priv := wgtypes.Key(privateKey(key))
	cfg := wgtypes.PeerConfig{PublicKey: wgtypes.Key(peer), Endpoint: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(peerPort)))}
	for _, a := range allowed {
		cfg.AllowedIPs = append(cfg.AllowedIPs, *mustNet(a))
	}
	must(t, wg.ConfigureDevice(name, wgtypes.Config{PrivateKey: &priv, ListenPort: &port, Peers: []wgtypes.PeerConfig{cfg}}))
	must(t, b.Links.SetUp(t.Context(), name)) // opens the socket in this namespace
	l, err := netlink.LinkByName(name)
	must(t, err)
	s := newSpace(t)
	must(t, netlink.LinkSetNsFd(l, int(s.ns)))
	s.up(t, name, addrs...)
	for _, a := range allowed {
		s.route(t, name, a)
	}
	pub, err := privateKey(key).Public()
	must(t, err)
	return &remote{s, pub, port}
}

const (
	hereAddr, thereAddr   = "10.1.0.1", "10.1.0.2"
	hereAddr6, thereAddr6 = "fd00:1::1", "fd00:1::2"
)

// pair is a state for this host with one peer, the remote, which may reach port 5432; this host may reach port 80 there.
func pair(t *testing.T, id string) reconciler.State {
	t.Helper()
	pub, err := privateKey(2).Public()
	must(t, err)
	return reconciler.State{
		ID:        id,
		Interface: reconciler.Interface{Name: testName, PrivateKey: privateKey(1), ListenPort: 51820, MTU: 1420},
		Addresses: []netip.Prefix{prefix(hereAddr + "/32"), prefix(hereAddr6 + "/128")},
		Routes:    []reconciler.Route{{Prefix: prefix("10.1.0.0/24")}, {Prefix: prefix("fd00:1::/64")}},
		Peers: []reconciler.Peer{{Name: "remote", PublicKey: pub, Endpoint: addrPort("127.0.0.1:51821"), Keepalive: time.Second,
			AllowedIPs: []netip.Prefix{prefix(thereAddr + "/32"), prefix(thereAddr6 + "/128")}}},
		Firewall: reconciler.Firewall{
			Sets: [][]netip.Prefix{{prefix(thereAddr + "/32"), prefix(thereAddr6 + "/128")}},
			Rules: []reconciler.Rule{
				{ID: "in/0", Hook: reconciler.Input, From: []int{0}, Ports: []reconciler.Port{{Protocol: 6, First: 5432, Last: 5432}, {Protocol: 17, First: 5432, Last: 5432}}},
				{ID: "out/0", Hook: reconciler.Output, To: []int{0}, Ports: []reconciler.Port{{Protocol: 6, First: 80, Last: 89}}},
			},
		},
	}
}

func newPair(t *testing.T) (*hostEngine, *remote) {
	t.Helper()
	e := startHost(t, testOwner, testName, t.TempDir())
	pub, err := privateKey(1).Public()
	must(t, err)
	far := newRemote(t, "wgfar", 2, 51821, pub, 51820, []string{hereAddr + "/32", hereAddr6 + "/128", "192.168.7.0/24"}, thereAddr+"/32", thereAddr6+"/128")
	return e, far
}

const (
	soon  = time.Minute            // for what must work: only what hangs takes so long
	never = 400 * time.Millisecond // for what must not
	again = 200 * time.Millisecond // after which a datagram is sent once more
)

func TestHostTraffic(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	e, far := newPair(t)
	e.mustApply(t, pair(t, "one"))
	var here *space
	for _, a := range []string{":5432", ":5433"} {
		here.echo(t, net.JoinHostPort(hereAddr, a[1:]))
		here.echo(t, net.JoinHostPort(hereAddr6, a[1:]))
	}
	for _, a := range []string{"80", "89", "90"} {
		far.echo(t, net.JoinHostPort(thereAddr, a))
		far.echo(t, net.JoinHostPort(thereAddr6, a))
	}
	started := time.Now()
	c, err := far.dial(net.JoinHostPort(hereAddr, "5432"), soon)
	if err != nil {
		t.Fatalf("the allowed flow does not pass: %v", err)
	}
	t.Logf("measured: first packet to connection, handshake included, %s", time.Since(started))
	must(t, talk(c, soon))
	for _, dst := range []string{thereAddr, thereAddr6} {
		for _, port := range []string{"80", "89"} {
			out, err := here.dial(net.JoinHostPort(dst, port), soon)
			if err != nil {
				t.Fatalf("to %s port %s: %v", dst, port, err)
			}
			must(t, talk(out, soon))
			must(t, out.Close())
		}
	}
	forbidden := func() {
		for _, dst := range []string{thereAddr, thereAddr6} {
			if _, err := here.dial(net.JoinHostPort(dst, "90"), never); err == nil {
				t.Errorf("output to %s port 90 is not allowed but passes", dst)
			}
		}
		for _, dst := range []string{hereAddr, hereAddr6} {
			if _, err := far.dial(net.JoinHostPort(dst, "5433"), never); err == nil {
				t.Errorf("input from the zone to %s port 5433 is not allowed but passes", dst)
			}
		}
	}
	forbidden()
	peers, err := e.Peers(t.Context())
	if err != nil || len(peers) != 1 || peers[0].LastHandshake.IsZero() || peers[0].RxBytes == 0 {
		t.Errorf("peers %+v %v", peers, err)
	}
	e.settled(t) // a live peer is no drift
	eventually(t, "the counters", func() error {
		counters, err := e.Counters(t.Context())
		must(t, err)
		seen := make(map[string]uint64)
		for _, c := range counters {
			seen[c.ID] = c.Packets
		}
		for _, id := range []string{"in/0", "out/0", "drop input", "drop output"} {
			if seen[id] == 0 {
				forbidden() // the time for it may have been over before a packet came there
				return fmt.Errorf("%q saw nothing: %v", id, counters)
			}
		}
		return nil
	})

	stream := udpStream(t, far)

	// A rule that is withdrawn ends the flows it let through, and one that is given lets them in.
	s := pair(t, "other port")
	s.Firewall.Rules[0].Ports = []reconciler.Port{{Protocol: 6, First: 5433, Last: 5433}}
	e.mustApply(t, s)
	if err := talk(c, never); err == nil {
		t.Error("a flow goes on after its rule was withdrawn")
	}
	if stream(never) {
		t.Error("a stream of replies goes on after its rule was withdrawn")
	}
	c2, err := far.dial(net.JoinHostPort(hereAddr, "5433"), soon)
	must(t, err)
	must(t, talk(c2, soon))

	// A peer that is taken away is cut off at once.
	s = pair(t, "alone")
	s.Peers = nil
	e.mustApply(t, s)
	if err := talk(c2, never); err == nil {
		t.Error("a peer goes on after it was removed")
	}
}

// udpStream opens a UDP flow from the remote to port 5432 here and gives a function that sends an unasked reply to it and
// reports whether it arrived.
func udpStream(t *testing.T, far *remote) func(time.Duration) bool {
	t.Helper()
	server, err := net.ListenPacket("udp", net.JoinHostPort(hereAddr, "5432"))
	must(t, err)
	t.Cleanup(func() { _ = server.Close() })
	var client net.Conn
	must(t, far.do(func() (err error) { client, err = net.Dial("udp", net.JoinHostPort(hereAddr, "5432")); return err }))
	t.Cleanup(func() { _ = client.Close() })
	b := make([]byte, 16)
	var from net.Addr
	eventually(t, "the allowed UDP flow", func() error {
		if _, err := client.Write([]byte("begin")); err != nil {
			return err
		}
		_ = server.SetReadDeadline(time.Now().Add(again))
		_, from, err = server.ReadFrom(b)
		return err
	})
	sent := byte(0)
	send := func(wait time.Duration) bool {
		sent++
		if _, err := server.WriteTo([]byte{sent}, from); err != nil {
			return false // refused on the way out
		}
		_ = client.SetReadDeadline(time.Now().Add(wait))
		for {
			n, err := client.Read(b)
			if err != nil {
				return false
			}
			if n == 1 && b[0] == sent { // and not an earlier one that is late
				return true
			}
		}
	}
	eventually(t, "replies", func() error {
		if !send(again) {
			return errors.New("none came")
		}
		return nil
	})
	return send
}

func TestHostForward(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	e, far := newPair(t)
	// A network behind this host: 192.168.7.0/24, with a server .2 that routes the zone through us.
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1"}))
	site := newSpace(t)
	lan1, err := netlink.LinkByName("lan1")
	must(t, err)
	must(t, netlink.LinkSetNsFd(lan1, int(site.ns)))
	own, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	defer own.Close()
	(&space{h: own}).up(t, "lan0", "192.168.7.1/24")
	site.up(t, "lan1", "192.168.7.2/24")
	must(t, site.h.RouteAdd(&netlink.Route{Dst: mustNet("10.1.0.0/24"), Gw: net.ParseIP("192.168.7.1")}))
	site.echo(t, "192.168.7.2:443")
	site.echo(t, "192.168.7.2:444")
	far.echo(t, thereAddr+":80")

	s := pair(t, "router")
	s.Forward = []netip.Prefix{prefix("192.168.7.0/24")}
	s.Firewall.Sets = append(s.Firewall.Sets, s.Forward)
	s.Firewall.Rules = append(s.Firewall.Rules, reconciler.Rule{ID: "site/0", Hook: reconciler.Forward, From: []int{0}, To: []int{1},
		Ports: []reconciler.Port{{Protocol: 6, First: 443, Last: 443}}})
	e.mustApply(t, s)
	c, err := far.dial("192.168.7.2:443", soon)
	if err != nil {
		t.Fatalf("the allowed flow is not forwarded: %v", err)
	}
	must(t, talk(c, soon))
	if _, err := far.dial("192.168.7.2:444", never); err == nil {
		t.Error("a flow that is not allowed is forwarded")
	}
	if _, err := site.dial(thereAddr+":80", never); err == nil {
		t.Error("a flow from the network behind us is forwarded though only the other direction is allowed")
	}
	// Our address must not be reachable from beside the tunnel.
	var here *space
	here.echo(t, hereAddr+":5432")
	if _, err := site.dial(hereAddr+":5432", never); err == nil {
		t.Error("the zone address is reachable from the local network")
	}
	e.mustApply(t, pair(t, "leaf"))
	if err := talk(c, never); err == nil {
		t.Error("the host still forwards")
	}
}

func TestHostWatch(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	e, far := newPair(t)
	e.mustApply(t, pair(t, "one"))
	var here *space
	here.echo(t, hereAddr+":5432")
	ctx, cancel := context.WithCancel(t.Context())
	reports := make(chan reconciler.Report, 100)
	done := make(chan error)
	go func() {
		done <- e.Watch(ctx, func(r reconciler.Report, err error) {
			if err != nil {
				t.Error(err)
			}
			reports <- r
		})
	}()
	reachable := func() error {
		c, err := far.dial(hereAddr+":5432", time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return talk(c, time.Second)
	}
	eventually(t, "at first", reachable)
	link := func() netlink.Link {
		l, err := netlink.LinkByName(testName)
		must(t, err)
		return l
	}
	for name, spoil := range map[string]func(){
		"route": func() {
			must(t, netlink.RouteDel(&netlink.Route{LinkIndex: link().Attrs().Index, Dst: mustNet("10.1.0.0/24"), Scope: netlink.SCOPE_LINK}))
		},
		"link down":   func() { must(t, netlink.LinkSetDown(link())) },
		"link delete": func() { must(t, netlink.LinkDel(link())) },
		"nft flush":   func() { flushNFT(t) },
	} {
		started := time.Now()
		e.BetweenPasses(spoil) // one that reads meanwhile would find half of it, which is an error that the next one mends
		select {
		case r := <-reports:
			t.Logf("measured: %s repaired %s later: %d changes in %s", name, time.Since(started), r.Total, r.Duration)
			if !r.Drift || r.Total == 0 {
				t.Errorf("%s: %+v", name, r)
			}
		case <-time.After(soon):
			t.Fatalf("%s was not noticed", name)
		}
		eventually(t, "after "+name, reachable)
	}
	e.settled(t)
	cancel()
	must(t, <-done)
}

// dieEnv tells the copy of the test binary at which step to kill itself, in what namespace folder.
const dieEnv = "APEX_TEST_DIE_AT"

// TestHostKilled kills a process that applies a state at every step, and recovers.
func TestHostKilled(t *testing.T) {
	if at := os.Getenv(dieEnv); at != "" {
		dieAt(t, at)
		return
	}
	if !inNamespace(t) {
		return
	}
	foreign := foreignThings(t)
	before := foreign()
	died := 0
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "state")
		cmd := exec.Command(os.Args[0], "-test.run=^TestHostKilled$", "-test.count=1")
		cmd.Env = append(os.Environ(), dieEnv+"="+strconv.Itoa(n)+" "+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err == nil {
			if died < 10 {
				t.Fatalf("only %d steps\n%s", died, out)
			}
			break
		}
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: %v\n%s", n, err, out)
		}
		died++
		e := startHost(t, testOwner, testName, dir) // recovers
		e.settled(t)
		if s, ok := e.Confirmed(); !ok || s.ID != "good" {
			t.Fatalf("step %d: confirmed is %q", n, s.ID)
		}
		if _, err := e.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		must(t, e.backends.Close())
		if now := foreign(); now != before {
			t.Fatalf("step %d: foreign objects changed:\n%s\n--\n%s", n, before, now)
		}
	}
	t.Logf("measured: killed at each of %d steps", died)
}

func dieAt(t *testing.T, at string) {
	step, dir, _ := strings.Cut(at, " ")
	n, err := strconv.Atoi(step)
	must(t, err)
	e := startHost(t, testOwner, testName, dir)
	good := richState("good")
	e.mustApply(t, good)
	count := 0
	die := func(reconciler.Change) {
		if count++; count == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	e.SetSteps(die, nil) // after a step is before the next one
	e.mustApply(t, differentState("next"))
	e.SetSteps(nil, nil)
	if _, err := e.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	fmt.Println("lived through", count, "steps")
}
