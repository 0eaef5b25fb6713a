//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/protocol"
)

// TestMapThatCutsOff merges a map by which a node would lose its controller: the trust root lets the zone carry the
// controller's address, and a policy sends it through a peer. The node takes it back, says so, and goes on with the next
// commit.
func TestMapThatCutsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{Routes: map[string][]netip.Prefix{"office": prefixes("203.0.113.0/24")}}, office("tcp/443"))
	server, laptop := w.pair()
	w.begin()
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	before, err := laptop.Host.Snapshot(w.ctx)
	w.must(err)

	address := w.Controller.Host.Interfaces()[0].Addr4()
	path := fleet.NodePath("office", "server")
	plain := must(w.Repo.Read(path))(t)
	w.write(path, plain+fmt.Sprintf("  routes: [{prefix: %s/32}]\n", address))
	w.write("policies/cut.yaml", policyDoc("cut", "office", fmt.Sprintf("{from: [{node: laptop}], to: [{cidr: %s/32}]}", address)))
	bad := w.merge("Carry the controller's address")
	w.taken(bad)
	started := time.Now()
	c, err := laptop.AwaitCondition(w.ctx, "office", status.RolledBack, true)
	w.must(err)
	t.Logf("measured: rolled back %s after the merge: %s: %s", time.Since(started).Round(time.Millisecond), c.Reason, c.Message)
	now, err := laptop.Host.Snapshot(w.ctx)
	w.must(err)
	if d := before.Diff(now); d != "" {
		t.Errorf("the host is not as it was:\n%s", d)
	}
	z := must(laptop.Zone(w.ctx, "office"))(t)
	if len(z.Quarantined) != 1 || z.Applied.Commit == bad {
		t.Errorf("quarantined %v, applied %.12s", z.Quarantined, z.Applied.Commit)
	}
	_, err = w.AwaitStatus(w.ctx, "the controller to hear of it", func(s protocol.FleetStatus) error {
		for _, n := range s.Zones[0].Nodes {
			if n.Node == "laptop" && n.Behind != "" && n.Status != nil {
				t.Logf("the controller says of the laptop: %s", n.Behind)
				return nil
			}
		}
		return errors.New("the laptop is not behind")
	})
	w.must(err)
	w.still(laptop.Host, "10.10.0.1", tcp(443), true)

	t.Run("a restart keeps the quarantine", func(t *testing.T) {
		w := w.in(t)
		w.must(laptop.Agent.Kill(w.ctx))
		w.must(laptop.Restart(w.ctx))
		w.awaitReady(laptop, "office")
		_, err := laptop.AwaitCondition(w.ctx, "office", status.Unreachable, false)
		w.must(err)
		if z := must(laptop.Zone(w.ctx, "office"))(t); len(z.Quarantined) != 1 || z.Applied.Commit == bad {
			t.Errorf("quarantined %v, applied %.12s", z.Quarantined, z.Applied.Commit)
		}
	})
	t.Run("the next good commit applies", func(t *testing.T) {
		w := w.in(t)
		w.write(path, plain)
		w.must(w.Repo.Remove("policies/cut.yaml"))
		w.write("policies/office.yaml", officePolicy("tcp/80"))
		w.enforced(w.merge("Take it back"))
		_, err := laptop.AwaitCondition(w.ctx, "office", status.RolledBack, false)
		w.must(err)
		w.reaches(laptop.Host, "10.10.0.1", tcp(80), true)
	})
	_ = server
}

// TestKilledWhileApplying kills an agent with SIGKILL at ten random moments (of a fixed seed) around an apply and starts it
// again without a controller: the host is in the old or in the new state, never in between, and its firewall stands all
// the time. That every single step of an apply survives a kill is what package reconciler tests.
func TestKilledWhileApplying(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443"))
	server, laptop := w.pair()
	w.echo(laptop.Host, 2222)
	commits := map[string]string{w.begin(): "tcp/443"}
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	random := rand.New(rand.NewPCG(2, 6))
	outcomes := map[string]int{}
	for i := range 10 {
		port := []string{"tcp/80", "tcp/443"}[i%2]
		w.write("policies/office.yaml", officePolicy(port))
		commit := w.merge(fmt.Sprintf("Change %d", i))
		commits[commit] = port
		w.must(laptop.Agent.Await(w.ctx, "the generation", func(context.Context) error {
			s, err := w.Status(w.ctx)
			if err == nil && s.Accepted != commit {
				err = errors.New("not published")
			}
			return err
		}))
		<-time.After(time.Duration(random.Int64N(int64(40 * time.Millisecond)))) // the moment of the kill, not a wait for anything
		w.must(laptop.Agent.Kill(w.ctx))
		w.must(server.AwaitCommit(w.ctx, commit))
		w.must(w.Controller.Process.Kill(w.ctx))
		dead, err := laptop.Host.Snapshot(w.ctx)
		w.must(err)
		if !strings.Contains(string(dead), "apex-office") {
			t.Errorf("kill %d left the host without a firewall:\n%s", i, dead)
		}
		w.must(laptop.Restart(w.ctx))
		w.awaitReady(laptop, "office")
		z := must(laptop.Zone(w.ctx, "office"))(t)
		has := commits[z.Applied.Commit]
		outcomes[map[bool]string{true: "new", false: "old"}[z.Applied.Commit == commit]]++
		// The server has the new state: only the new state on the laptop lets anything through, and only its port.
		w.still(laptop.Host, "10.10.0.1", tcp(443), has == port && port == "tcp/443")
		w.still(laptop.Host, "10.10.0.1", tcp(80), has == port && port == "tcp/80")
		w.must(w.Controller.Start(w.ctx))
		w.enforced(commit)
		w.reaches(laptop.Host, "10.10.0.1", tcp(80), port == "tcp/80")
		w.reaches(laptop.Host, "10.10.0.1", tcp(443), port == "tcp/443")
	}
	t.Logf("after the kills: %v", outcomes)
}
