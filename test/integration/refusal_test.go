//go:build linux

package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/protocol"
)

// office is one zone in which laptop reaches server on a port.
func office(port string) map[string]string {
	return map[string]string{
		"zones/office.yaml":    zoneDoc("office", "10.10.0.0/24"),
		"policies/office.yaml": officePolicy(port),
	}
}

func officePolicy(ports string) string {
	return policyDoc("web", "office", "{from: [{node: laptop}], to: [{node: server}], ports: ["+ports+"]}")
}

// pair are the nodes of office.
func (w *world) pair() (server, laptop *fleet.Node) {
	w.t.Helper()
	server, laptop = w.member("server", "office", "10.10.0.1"), w.member("laptop", "office", "10.10.0.2")
	for _, n := range w.Nodes {
		w.echo(n.Host, 443, 80)
	}
	return server, laptop
}

// refused waits until the controller names commit as the one it does not take.
func (w *world) refused(commit, stage string) *protocol.Refusal {
	w.t.Helper()
	s, err := w.AwaitStatus(w.ctx, fmt.Sprintf("refusal of %.12s", commit), func(s protocol.FleetStatus) error {
		if s.Refused == nil || s.Refused.Commit != commit {
			return fmt.Errorf("head %.12s, accepted %.12s, refused %+v", s.Head, s.Accepted, s.Refused)
		}
		return nil
	})
	w.must(err)
	if s.Refused.Stage != stage {
		w.t.Errorf("refused at stage %s, want %s", s.Refused.Stage, stage)
	}
	w.t.Logf("refused %.12s at %s: %s", commit, s.Refused.Stage, s.Refused.Reason)
	return s.Refused
}

// TestRefusedCommits pushes what must not be enforced, one thing after another. Each time the status names the commit
// and the reason, no host changes, and the good branch goes on afterwards.
func TestRefusedCommits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443"))
	server, laptop := w.pair()
	w.begin()
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	stranger, err := fleet.NewSSHKey(filepath.Join(t.TempDir(), "stranger"))
	w.must(err)
	head := func() string { return must(w.Repo.Head())(t) }

	open := func() { w.write("policies/office.yaml", officePolicy("tcp/443, tcp/80")) }
	rows := []struct {
		name, stage, says string
		make              func() (string, error)
	}{
		{"unsigned", "verify", "not signed", func() (string, error) {
			open()
			return w.Repo.CommitAs("Open 80", nil)
		}},
		{"unsigned in the middle", "verify", "not signed", func() (string, error) {
			open()
			bad, err := w.Repo.CommitAs("Open 80", nil)
			if err != nil {
				return "", err
			}
			w.write("note.txt", "signed on top\n")
			_, err = w.Repo.Commit("Sign on top")
			return bad, err
		}},
		{"a stranger's signature", "verify", "", func() (string, error) {
			open()
			return w.Repo.CommitAs("Open 80", stranger)
		}},
		{"a change of the trust root by itself", "verify", "", func() (string, error) {
			w.write("trust/root.yaml", strings.Replace(must(w.Repo.Read("trust/root.yaml"))(t), "epoch: 1", "epoch: 2", 1))
			return w.Repo.Commit("Raise the epoch")
		}},
		{"bad YAML", "load", "", func() (string, error) {
			w.write("zones/office.yaml", zoneDoc("office", "10.10.0.0/24", "mtu: 01420"))
			return w.Repo.Commit("Write octal")
		}},
		{"an unknown node", "validate", "printer", func() (string, error) {
			w.write("policies/office.yaml", policyDoc("web", "office", "{from: [{node: printer}], to: [{node: server}]}"))
			return w.Repo.Commit("Let the printer in")
		}},
		{"a failing test", "test", "", func() (string, error) {
			w.write("tests/office.yaml", doc("PolicyTest", "web", "office", "deny:", "  - {from: laptop, to: server, ports: [tcp/80]}"))
			open()
			return w.Repo.Commit("Open 80 against the test")
		}},
		{"a zone emptied", "shrink", "Apex-Allow-Shrink: office", func() (string, error) {
			w.must(w.Repo.Remove(fleet.NodePath("office", "server")))
			w.write("policies/office.yaml", policyDoc("web", "office"))
			return w.Repo.Commit("Remove the server")
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := w.in(t)
			good, before := head(), w.snapshots()
			bad, err := row.make()
			w.must(err)
			w.must(w.Repo.Push())
			stage := row.stage
			named := bad
			if row.name == "unsigned in the middle" {
				named = head() // the branch cannot be taken; the reason names the commit
			}
			r := w.refused(named, stage)
			if !strings.Contains(r.Reason, row.says) {
				t.Errorf("the reason does not say %q: %s", row.says, r.Reason)
			}
			if stage == "verify" && !strings.Contains(r.Reason, bad[:7]) {
				t.Errorf("the reason does not name commit %.12s: %s", bad, r.Reason)
			}
			w.untouched(before)
			w.still(laptop.Host, "10.10.0.1", tcp(443), true)
			w.still(laptop.Host, "10.10.0.1", tcp(80), false)
			w.must(w.Repo.Reset(good))
			w.must(w.Repo.ForcePush())
		})
	}
	t.Run("the good branch goes on", func(t *testing.T) {
		w := w.in(t)
		open()
		w.enforced(w.merge("Open 80, signed"))
		w.still(laptop.Host, "10.10.0.1", tcp(80), true)
		s := must(w.Status(w.ctx))(t)
		if s.Refused != nil {
			t.Errorf("still refused: %+v", s.Refused)
		}
	})
	t.Run("a shrink that is meant", func(t *testing.T) {
		w := w.in(t)
		w.must(w.Repo.Remove(fleet.NodePath("office", "laptop")))
		w.write("policies/office.yaml", policyDoc("web", "office"))
		commit := w.merge("Remove the laptop\n\nApex-Allow-Shrink: office")
		w.taken(commit)
		w.must(server.AwaitCommit(w.ctx, commit))
		w.still(laptop.Host, "10.10.0.1", tcp(443), false)
	})
	t.Run("history is rewritten", func(t *testing.T) {
		w := w.in(t)
		before, good := w.snapshots(), head()
		parent := must(w.Repo.Parent(good))(t)
		w.must(w.Repo.Reset(parent))
		w.write("note.txt", "another history\n")
		bad := must(w.Repo.Commit("Rewrite history"))(t)
		w.must(w.Repo.ForcePush())
		w.refused(bad, "verify")
		w.untouched(before)
	})
}

// TestSuspend freezes one zone of two, visibly.
func TestSuspend(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, twoZones())
	w.fourNodes()
	w.begin()
	server, laptop, pump := w.Nodes["server"], w.Nodes["laptop"], w.Nodes["pump"]
	w.write("zones/office.yaml", zoneDoc("office", "10.10.0.0/24", "suspend: true"))
	w.write("policies/office.yaml", policyDoc("web", "office"))
	frozen := w.merge("Suspend the office and close everything")
	w.taken(frozen)
	w.must(pump.AwaitCommit(w.ctx, frozen))
	_, err := server.AwaitCondition(w.ctx, "office", status.Suspended, true)
	w.must(err)
	if z := must(server.Zone(w.ctx, "office"))(t); z.Applied.Commit == frozen {
		t.Error("the suspended zone moved on")
	}
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	s := must(w.Status(w.ctx))(t)
	for _, z := range s.Zones {
		if z.Suspended != (z.Zone == "office") {
			t.Errorf("zone %s: suspended is %t", z.Zone, z.Suspended)
		}
	}
	w.write("zones/office.yaml", zoneDoc("office", "10.10.0.0/24"))
	w.enforced(w.merge("Thaw the office"))
	_, err = server.AwaitCondition(w.ctx, "office", status.Suspended, false)
	w.must(err)
	w.still(laptop.Host, "10.10.0.1", tcp(443), false)
}

// TestManyNetworks runs two networks with the same zone and addresses on one controller. They never meet.
func TestManyNetworks(t *testing.T) {
	t.Parallel()
	one := newWorld(t, fleet.Options{Network: "acme"}, office("tcp/443"))
	f, err := fleet.New(one.ctx, fleet.Options{Lab: one.Lab, Binaries: binaries(t), Network: "globex", Beside: one.Fleet}, office("tcp/443"))
	one.must(err)
	two := &world{Fleet: f, t: t, ctx: one.ctx}
	one.pair()
	server, laptop := two.member("g-server", "office", "10.10.0.1"), two.member("g-laptop", "office", "10.10.0.2")
	two.echo(server.Host, 443, 80)
	two.write("policies/office.yaml", policyDoc("web", "office", "{from: [{node: g-laptop}], to: [{node: g-server}], ports: [tcp/443]}"))
	second := two.merge("Begin globex")
	first := one.begin()
	for _, n := range two.Nodes {
		one.must(n.Start(one.ctx))
	}
	two.enforced(second)
	one.reaches(one.Nodes["laptop"].Host, "10.10.0.1", tcp(443), true)
	two.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	one.write("policies/office.yaml", policyDoc("web", "office"))
	closed := one.merge("Close acme")
	one.enforced(closed)
	one.still(one.Nodes["laptop"].Host, "10.10.0.1", tcp(443), false)
	two.still(laptop.Host, "10.10.0.1", tcp(443), true)
	for _, w := range []*world{one, two} {
		s := must(w.Status(w.ctx))(t)
		if s.Network != w.Network || len(s.Zones) != 1 {
			t.Errorf("%s: %+v", w.Network, s)
		}
		for _, z := range s.Zones {
			for _, n := range z.Nodes {
				if w.Nodes[n.Node] == nil {
					t.Errorf("%s lists node %s of another network", w.Network, n.Node)
				}
			}
		}
	}
	if first == closed || second == closed {
		t.Error("the commits of two networks are one")
	}
}
