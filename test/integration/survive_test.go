//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
)

// TestWithoutController takes the controller away: packets keep flowing, agents come back from kill -9 and from a stop
// with what they knew, and a controller that returns is found.
func TestWithoutController(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443"))
	server, laptop := w.pair()
	w.begin()
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	w.must(w.Controller.Process.Kill(w.ctx))
	_, err := laptop.AwaitCondition(w.ctx, "office", status.Unreachable, true)
	w.must(err)
	w.still(laptop.Host, "10.10.0.1", tcp(443), true)
	w.still(laptop.Host, "10.10.0.1", tcp(80), false)

	t.Run("agents come back from the cache", func(t *testing.T) {
		w := w.in(t)
		for _, n := range []*fleet.Node{server, laptop} {
			w.must(n.Agent.Kill(w.ctx))
			started := time.Now()
			w.must(n.Restart(w.ctx))
			w.awaitReady(n, "office")
			t.Logf("measured: %s enforces again %s after it started, without a controller", n.Spec.Name, time.Since(started).Round(time.Millisecond))
		}
		w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
		w.still(laptop.Host, "10.10.0.1", tcp(80), false)
	})
	t.Run("the controller comes back", func(t *testing.T) {
		w := w.in(t)
		w.must(w.Controller.Start(w.ctx))
		w.write("policies/office.yaml", officePolicy("tcp/80"))
		w.enforced(w.merge("Swap the port"))
		w.still(laptop.Host, "10.10.0.1", tcp(80), true)
		w.still(laptop.Host, "10.10.0.1", tcp(443), false)
	})
	t.Run("an agent was off for ten generations", func(t *testing.T) {
		w := w.in(t)
		w.must(server.Agent.Stop(w.ctx))
		var last string
		for i := range 10 {
			w.write("policies/office.yaml", officePolicy(fmt.Sprintf("tcp/443, tcp/%d", 2000+i)))
			last = w.merge(fmt.Sprintf("Generation %d", i))
			w.taken(last)
		}
		w.must(server.Restart(w.ctx))
		w.enforced(last)
		w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
		z := must(server.Zone(w.ctx, "office"))(t)
		t.Logf("applied is %d.%d", z.Applied.Epoch, z.Applied.Serial)
	})
}

// awaitReady waits until a node says it is in force.
func (w *world) awaitReady(n *fleet.Node, zone string) {
	w.t.Helper()
	w.must(n.Agent.Await(w.ctx, n.Spec.Name+" is in force", func(ctx context.Context) error {
		z, err := n.Zone(ctx, zone)
		if err == nil && z.Applied == nil {
			err = errors.New("nothing is applied")
		}
		return err
	}))
}

// TestDrift spoils a host's state behind the agent's back; everything is put back, counted and said.
func TestDrift(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443, icmp"))
	server, laptop := w.pair()
	w.begin()
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	before, err := laptop.Host.Snapshot(w.ctx)
	w.must(err)
	z := must(laptop.Zone(w.ctx, "office"))(t)
	zoneRoute := netip.MustParsePrefix("10.10.0.0/24")
	for _, row := range []struct {
		name, subsystem string
		spoil           func(context.Context) error
	}{
		{"nft flush ruleset", "firewall", laptop.Host.FlushNFT},
		{"ip route del", "route", func(ctx context.Context) error {
			return laptop.Host.DeleteRoute(ctx, zoneRoute)
		}},
		{"ip address del", "address", func(ctx context.Context) error {
			return laptop.Host.DeleteAddress(ctx, z.Interface, netip.MustParsePrefix("10.10.0.2/32"))
		}},
		{"ip link set down", "link", func(ctx context.Context) error { return laptop.Host.SetLink(ctx, z.Interface, false) }},
		{"wg set peer remove", "wireguard", func(ctx context.Context) error {
			return removePeer(ctx, laptop.Host, z.Interface, wgtypes.Key(server.PublicKey))
		}},
		{"an intruder's peer", "wireguard", func(ctx context.Context) error {
			return addPeer(ctx, laptop.Host, z.Interface)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			counted := must(laptop.Zone(w.ctx, "office"))(t).Counters
			w.must(row.spoil(w.ctx))
			started := time.Now()
			// The device itself sends no events: a pass does it, which any event on the host brings about.
			if row.subsystem == "wireguard" {
				w.must(laptop.Host.DeleteRoute(w.ctx, zoneRoute))
			}
			w.must(laptop.Agent.Await(w.ctx, "the repair", func(ctx context.Context) error {
				now, err := laptop.Host.Snapshot(ctx)
				if err == nil && now != before {
					err = errors.New(before.Diff(now))
				}
				return err
			}))
			t.Logf("measured: repaired after %s", time.Since(started).Round(time.Millisecond))
			w.must(laptop.Agent.Await(w.ctx, "the count", func(ctx context.Context) error {
				z, err := laptop.Zone(ctx, "office")
				if err == nil && z.Counters.DriftBySubsystem[row.subsystem] <= counted.DriftBySubsystem[row.subsystem] {
					err = fmt.Errorf("counters %+v", z.Counters)
				}
				return err
			}))
			w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
			w.still(laptop.Host, "10.10.0.1", tcp(80), false)
		})
	}
	t.Run("somebody does not stop", func(t *testing.T) {
		w := w.in(t)
		var c status.Condition
		w.must(laptop.Agent.Await(w.ctx, "the rate limit", func(ctx context.Context) error {
			if err := laptop.Host.DeleteRoute(ctx, zoneRoute); err != nil && !strings.Contains(err.Error(), "there is none") {
				return err
			}
			z, err := laptop.Zone(ctx, "office")
			if err != nil {
				return err
			}
			c = condition(z, status.Drifted)
			if !c.Status {
				return errors.New("not drifted")
			}
			return nil
		}))
		if c.Reason != "RateLimited" {
			t.Errorf("the reason is %s: %s", c.Reason, c.Message)
		}
		_, err := laptop.AwaitCondition(w.ctx, "office", status.Drifted, false)
		w.must(err)
		w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	})
}

func condition(z status.Zone, kind string) status.Condition {
	for _, c := range z.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return status.Condition{}
}

// device runs fn with WireGuard's control inside a host.
func device(ctx context.Context, h *lab.Host, fn func(*wgctrl.Client) error) error {
	return h.Do(ctx, func() error {
		client, err := wgctrl.New()
		if err != nil {
			return err
		}
		return errors.Join(fn(client), client.Close())
	})
}

func removePeer(ctx context.Context, h *lab.Host, iface string, key wgtypes.Key) error {
	return device(ctx, h, func(c *wgctrl.Client) error {
		return c.ConfigureDevice(iface, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, Remove: true}}})
	})
}

func addPeer(ctx context.Context, h *lab.Host, iface string) error {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return err
	}
	return device(ctx, h, func(c *wgctrl.Client) error {
		return c.ConfigureDevice(iface, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key.PublicKey()}}})
	})
}

// TestLinkFlap takes the underlay down and up; nothing of ours is lost.
func TestLinkFlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443"))
	_, laptop := w.pair()
	w.begin()
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	before, err := laptop.Host.Snapshot(w.ctx)
	w.must(err)
	for range 3 {
		w.must(laptop.Host.SetLink(w.ctx, "eth0", false))
		w.still(laptop.Host, "10.10.0.1", tcp(443), false)
		w.must(laptop.Host.SetLink(w.ctx, "eth0", true))
	}
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	w.must(laptop.Agent.Await(w.ctx, "the host as it was", func(ctx context.Context) error {
		now, err := laptop.Host.Snapshot(ctx)
		if err == nil && now != before {
			err = errors.New(before.Diff(now))
		}
		return err
	}))
	w.write("policies/office.yaml", officePolicy("tcp/80"))
	w.enforced(w.merge("Swap the port after the flap"))
	w.still(laptop.Host, "10.10.0.1", tcp(80), true)
}

// TestDown removes everything of ours and nothing else.
func TestDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{Routes: map[string][]netip.Prefix{"office": prefixes("192.168.7.0/24")}}, office("tcp/443"))
	server := w.node(fleet.NodeSpec{Name: "server", Zones: map[string][]netip.Addr{"office": addresses("10.10.0.1")}, Routes: prefixes("192.168.7.0/24")})
	laptop := w.member("laptop", "office", "10.10.0.2")
	w.write("policies/behind.yaml", policyDoc("behind", "office", "{from: [{node: laptop}], to: [{cidr: 192.168.7.0/24}]}"))
	lan, err := w.Lab.Switch("lan", prefixes("192.168.7.0/24")...)
	w.must(err)
	if _, err := server.Host.Attach(w.ctx, lan); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.Nodes {
		w.must(n.Host.AddRoute(w.ctx, lab.Route{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Device: "eth0", Metric: 77}))
	}
	before := w.snapshots()
	w.begin()
	w.reaches(laptop.Host, "192.168.7.1", icmp(), false) // nobody is there; the route is
	for _, n := range w.Nodes {
		now, err := n.Host.Snapshot(w.ctx)
		w.must(err)
		if before[n.Spec.Name] == now {
			t.Fatal("the agent did nothing")
		}
		if _, err := n.Down(w.ctx); err == nil || !strings.Contains(err.Error(), "agent is running") {
			t.Errorf("down beside a running agent: %v", err)
		}
		w.must(n.Agent.Signal(syscall.SIGTERM))
		w.must(n.Agent.Wait(w.ctx))
		out, err := n.Down(w.ctx)
		w.must(err)
		t.Logf("down says:\n%s", out)
	}
	w.untouched(before)
}
