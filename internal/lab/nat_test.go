//go:build linux

package lab_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// internet is two homes behind NATs, with a server each can reach.
//
//	left ── lan-l ── gw-l ──┐              ┌── gw-r ── lan-r ── right
//	                        ├── internet ──┤
//	                        └── server, server2
type internet struct {
	left, right     *lab.Host
	gwLeft, gwRight *lab.Router
	server, server2 *lab.Host
	sw              *lab.Switch
}

func newInternet(t testing.TB, ctx context.Context, l *lab.Lab, leftNAT, rightNAT lab.NAT) *internet {
	t.Helper()
	n := &internet{sw: must(l.Switch("internet", prefixes("203.0.113.0/24", "2001:db8::/64")...))(t)}
	lanL := must(l.Switch("lan-l", prefixes("192.168.1.0/24", "fd01::/64")...))(t)
	lanR := must(l.Switch("lan-r", prefixes("192.168.1.0/24", "fd02::/64")...))(t) // the same IPv4 LAN: homes are like that
	n.gwLeft = must(l.Router(ctx, "gw-l", leftNAT, n.sw, lanL))(t)
	n.gwRight = must(l.Router(ctx, "gw-r", rightNAT, n.sw, lanR))(t)
	n.left, n.right = must(l.Host("left"))(t), must(l.Host("right"))(t)
	n.server, n.server2 = must(l.Host("server"))(t), must(l.Host("server2"))(t)
	must(n.left.Join(ctx, lanL))(t)
	must(n.right.Join(ctx, lanR))(t)
	must(n.server.Attach(ctx, n.sw))(t)
	must(n.server2.Attach(ctx, n.sw))(t)
	return n
}

// reflector answers every datagram with the address it came from.
func reflector(t testing.TB, ctx context.Context, h *lab.Host, port int) {
	t.Helper()
	conn := must(h.ListenPacket(ctx, "udp", fmt.Sprintf("[::]:%d", port)))(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte(from.String()), from)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
}

// ask sends to a reflector and gives the address it saw. Another one's answer, which came late, is not taken for its.
func ask(t testing.TB, ctx context.Context, from net.PacketConn, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	var seen netip.AddrPort
	check(t, lab.Await(ctx, "ask the reflector", func(context.Context) error {
		if _, err := from.WriteTo([]byte("who am I"), net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
		text, by, err := receive(from, 200*time.Millisecond)
		if err != nil {
			return err
		}
		if who := by.(*net.UDPAddr).AddrPort(); netip.AddrPortFrom(who.Addr().Unmap(), who.Port()) != to {
			return fmt.Errorf("an answer of %s", who)
		}
		seen, err = netip.ParseAddrPort(text)
		return err
	}))
	return netip.AddrPortFrom(seen.Addr().Unmap(), seen.Port())
}

func receive(conn net.PacketConn, wait time.Duration) (string, net.Addr, error) {
	if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", nil, err
	}
	buf := make([]byte, 1500)
	n, from, err := conn.ReadFrom(buf)
	return string(buf[:n]), from, err
}

func addr4(h *lab.Host) netip.Addr { return h.Interfaces()[0].Addr4() }
func addr6(h *lab.Host) netip.Addr { return h.Interfaces()[0].Addr6() }

// TestNATMapping: a cone shows one outside socket to everybody, a symmetric NAT another one to each.
func TestNATMapping(t *testing.T) {
	for _, kind := range []lab.NAT{lab.Cone, lab.Symmetric, lab.FullCone} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t, time.Minute)
			n := newInternet(t, ctx, labtest.New(t), kind, lab.Cone)
			reflector(t, ctx, n.server, 3478)
			reflector(t, ctx, n.server2, 3478)
			for _, addr := range []func(*lab.Host) netip.Addr{addr4, addr6} {
				sock := must(n.left.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr(n.left), 40000).String()))(t)
				one := ask(t, ctx, sock, netip.AddrPortFrom(addr(n.server), 3478))
				two := ask(t, ctx, sock, netip.AddrPortFrom(addr(n.server2), 3478))
				if outside := addr(n.gwLeft.Host); one.Addr() != outside || two.Addr() != outside {
					t.Errorf("seen as %s and %s, not from the router's %s", one, two, outside)
				}
				if same := one == two; same != (kind != lab.Symmetric) {
					t.Errorf("%s NAT: one socket is seen as %s and as %s", kind, one, two)
				}
			}
		})
	}
}

// TestNATFiltering: only a full cone lets strangers in, and only through a port that is in use.
func TestNATFiltering(t *testing.T) {
	for _, kind := range []lab.NAT{lab.Cone, lab.Symmetric, lab.FullCone} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t, time.Minute)
			n := newInternet(t, ctx, labtest.New(t), kind, lab.Cone)
			reflector(t, ctx, n.server, 3478)
			for _, addr := range []func(*lab.Host) netip.Addr{addr4, addr6} {
				sock := must(n.left.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr(n.left), 40000).String()))(t)
				outside := ask(t, ctx, sock, netip.AddrPortFrom(addr(n.server), 3478))
				stranger := must(n.server2.ListenPacket(ctx, "udp", netip.AddrPortFrom(addr(n.server2), 5000).String()))(t)
				knock := func(context.Context) error {
					if _, err := stranger.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(outside)); err != nil {
						return err
					}
					for {
						got, _, err := receive(sock, 300*time.Millisecond)
						if err != nil || got == "hello" { // else a second answer of the reflector
							return err
						}
					}
				}
				if kind == lab.FullCone {
					check(t, lab.Await(ctx, "a stranger's packet", knock))
				} else if knock(ctx) == nil {
					t.Errorf("%s NAT: a stranger's packet to %s arrived", kind, outside)
				}
				if o := n.server2.Probe(ctx, outside.Addr(), lab.Probe{Protocol: lab.UDP, Port: 9, Timeout: 300 * time.Millisecond}); o.Verdict != lab.TimedOut {
					t.Errorf("%s NAT: a stranger's packet to an unused port: %s", kind, o)
				}
				if o := n.server2.Probe(ctx, outside.Addr(), lab.Probe{Protocol: lab.ICMP, Timeout: 300 * time.Millisecond}); o.Verdict != lab.TimedOut {
					t.Errorf("%s NAT: a stranger's ping: %s", kind, o)
				}
			}
		})
	}
}

// TestHolePunching: cone to cone works, cone to symmetric does not. Each side learns the other's outside address from
// a server, then both send until they hear each other.
func TestHolePunching(t *testing.T) {
	for _, c := range []struct {
		left, right lab.NAT
		want        bool
	}{{lab.Cone, lab.Cone, true}, {lab.Cone, lab.Symmetric, false}, {lab.FullCone, lab.Symmetric, true}} {
		t.Run(c.left.String()+" to "+c.right.String(), func(t *testing.T) {
			t.Parallel()
			ctx := labtest.Context(t, time.Minute)
			n := newInternet(t, ctx, labtest.New(t), c.left, c.right)
			reflector(t, ctx, n.server, 3478)
			server := netip.AddrPortFrom(addr4(n.server), 3478)
			// Both use one port, as WireGuard does.
			left := must(n.left.ListenPacket(ctx, "udp4", "0.0.0.0:51820"))(t)
			right := must(n.right.ListenPacket(ctx, "udp4", "0.0.0.0:51820"))(t)
			leftOut, rightOut := ask(t, ctx, left, server), ask(t, ctx, right, server)

			sides := []*puncher{{sock: left, to: net.UDPAddrFromAddrPort(rightOut)}, {sock: right, to: net.UDPAddrFromAddrPort(leftOut)}}
			if !c.want { // what must work has all the time there is
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			err := lab.Await(ctx, "punch", func(context.Context) error { return punch(sides) })
			if both := err == nil; both != c.want {
				t.Errorf("both heard each other: %t, want %t (%v)", both, c.want, err)
			}
		})
	}
}

// puncher is one side of a hole.
type puncher struct {
	sock  net.PacketConn
	to    net.Addr
	heard bool
}

// punch has every side send, and says whether all have heard something by now.
func punch(sides []*puncher) error {
	for _, s := range sides {
		if _, err := s.sock.WriteTo([]byte("punch"), s.to); err != nil {
			return err
		}
	}
	deaf := 0
	for _, s := range sides {
		text, from, err := receive(s.sock, 20*time.Millisecond)
		if err == nil && text == "punch" { // and not a late answer of the reflector
			s.heard, s.to = true, from // where it came from may not be what the server saw
		}
		if !s.heard {
			deaf++
		}
	}
	if deaf > 0 {
		return fmt.Errorf("%d of %d have heard nothing", deaf, len(sides))
	}
	return nil
}

// TestThroughTwoRouters: inside reaches outside through every kind; outside reaches inside only through Open.
func TestThroughTwoRouters(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l := labtest.New(t)
	n := newInternet(t, ctx, l, lab.Cone, lab.Firewalled)
	for _, out := range []func(*lab.Host) netip.Addr{addr4, addr6} {
		if o := n.left.Probe(ctx, out(n.server), patientPing); o.Verdict != lab.Reached {
			t.Errorf("left to server: %s, %v", o, o.Err)
		}
	}
	check(t, n.left.SetLink(ctx, "eth0", false))
	if o := n.left.Probe(ctx, addr4(n.server), patientPing); o.Verdict != lab.Blocked {
		t.Errorf("left to server without a link: %s, %v", o, o.Err)
	}
	check(t, n.left.SetLink(ctx, "eth0", true))
	for _, out := range []func(*lab.Host) netip.Addr{addr4, addr6} {
		if o := n.left.Probe(ctx, out(n.server), patientPing); o.Verdict != lab.Reached {
			t.Errorf("left to server after a flap: %s, %v", o, o.Err)
		}
	}
	inside := addr6(n.right)
	check(t, n.server.AddRoute(ctx, lab.Route{Prefix: netip.MustParsePrefix("fd02::/64"), Via: n.gwRight.Outside.Addr6()}))
	short := lab.Probe{Protocol: lab.ICMP, Timeout: 300 * time.Millisecond}
	if o := n.server.Probe(ctx, inside, short); o.Verdict != lab.TimedOut {
		t.Errorf("server into a firewalled home: %s", o)
	}
	if o := n.right.Probe(ctx, addr6(n.server), patientPing); o.Verdict != lab.Reached {
		t.Errorf("firewalled home to server: %s, %v", o, o.Err)
	}
	check(t, n.gwRight.SetNAT(ctx, lab.Open))
	if o := n.server.Probe(ctx, inside, patientPing); o.Verdict != lab.Reached {
		t.Errorf("server into an open home: %s, %v", o, o.Err)
	}
}
