//go:build linux

package integration

import (
	"debug/buildinfo"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
)

// twoZones are two zones that deny by default and share no node.
func twoZones() map[string]string {
	return map[string]string{
		"zones/office.yaml": zoneDoc("office", "10.10.0.0/24"),
		"zones/plant.yaml":  zoneDoc("plant", "10.20.0.0/24"),
		"policies/office.yaml": policyDoc("web", "office",
			"{from: [{node: laptop}], to: [{node: server}], ports: [tcp/443, icmp]}"),
		"policies/plant.yaml": policyDoc("scada", "plant",
			"{from: [{node: panel}], to: [{node: pump}], ports: [udp/161]}"),
	}
}

// fourNodes are the nodes of twoZones.
func (w *world) fourNodes() {
	w.t.Helper()
	w.member("server", "office", "10.10.0.1")
	w.member("laptop", "office", "10.10.0.2")
	w.member("pump", "plant", "10.20.0.1")
	w.member("panel", "plant", "10.20.0.2")
	for _, n := range w.Nodes {
		w.echo(n.Host, 443, 161)
	}
}

// TestMergeIsEnforced is the main job: what a signed merge says is what packets meet, and nothing else.
func TestMergeIsEnforced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, twoZones())
	w.fourNodes()
	w.begin()
	probes := []lab.Probe{tcp(443), tcp(161), udp(161), icmp()}
	t.Logf("\n%s", w.agrees(probes...))
	server, laptop := w.Nodes["server"], w.Nodes["laptop"]

	t.Run("a port opens", func(t *testing.T) {
		w := w.in(t)
		w.still(laptop.Host, "10.10.0.1", udp(161), false)
		w.write("policies/office.yaml", policyDoc("web", "office",
			"{from: [{node: laptop}], to: [{node: server}], ports: [tcp/443, icmp, udp/161]}"))
		started := time.Now()
		commit := w.merge("Open snmp")
		w.must(server.AwaitCommit(w.ctx, commit))
		w.must(laptop.AwaitCommit(w.ctx, commit))
		t.Logf("measured: merge to enforced %s (the controller polls each second)", time.Since(started).Round(time.Millisecond))
		w.still(laptop.Host, "10.10.0.1", udp(161), true)
		w.agrees(probes...)
	})
	t.Run("a node is removed", func(t *testing.T) {
		w := w.in(t)
		w.must(w.Repo.Remove(fleet.NodePath("office", "laptop")))
		w.write("policies/office.yaml", policyDoc("web", "office", "{from: [{any: true}], to: [{any: true}]}"))
		started := time.Now()
		commit := w.merge("Remove the laptop\n\nApex-Allow-Shrink: office")
		w.must(server.AwaitCommit(w.ctx, commit))
		t.Logf("measured: removal to enforced %s", time.Since(started).Round(time.Millisecond))
		w.still(laptop.Host, "10.10.0.1", tcp(443), false)
		w.still(laptop.Host, "10.10.0.1", icmp(), false)
		for _, peer := range must(server.Zone(w.ctx, "office"))(t).Peers {
			t.Errorf("the server still has peer %s", peer.Name)
		}
		c, err := laptop.AwaitCondition(w.ctx, "office", "NotMember", true)
		w.must(err)
		t.Logf("the laptop says: %s: %s", c.Reason, c.Message)
	})
	t.Run("the agent holds no git and no server", func(t *testing.T) {
		info, err := buildinfo.ReadFile(binaries(t).Agent)
		if err != nil {
			t.Fatal(err)
		}
		for _, module := range info.Deps {
			if strings.Contains(module.Path, "go-git") || strings.Contains(module.Path, "nats-server") {
				t.Errorf("the agent links %s", module.Path)
			}
		}
	})
}

// must ends the test with err, or gives the value.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
