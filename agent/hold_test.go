package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
)

// TestNotAfterBehindAGenerationThatCannotBeApplied: what is in force runs out on time although a newer generation is known
// and of no use.
func TestNotAfterBehindAGenerationThatCannotBeApplied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.clock.Now().Add(time.Hour)
	w.publish(func(z *agenttest.Zone) { z.Rules = agenttest.SSHRule(end.Unix()) })
	w.start()
	w.awaitApplied(1)
	w.publish(func(z *agenttest.Zone) {
		z.Rules = agenttest.SSHRule(end.Unix())
		z.Nodes = slices.Clone(z.Nodes)
		z.Nodes[0].PublicKey = w.nodes[1].PublicKey
		z.Nodes[1].PublicKey = w.nodes[0].PublicKey
	})
	w.awaitCondition(status.KeyMismatch, true, "OtherKey")
	if !strings.Contains(w.snapshot(), "ssh/0") {
		t.Fatalf("gone before its end:\n%s", w.snapshot())
	}
	w.clock.Advance(time.Hour)
	agenttest.Await(t, "the rule has run out", func() bool { return !strings.Contains(w.snapshot(), "ssh/0") })
	w.awaitCondition(status.KeyMismatch, true, "OtherKey")
}

// TestRollBackThatFailsIsTriedAgain: a host that refuses the change and the way back as well is told of, and brought back
// as soon as it lets itself be; the generation waits for its next attempt.
func TestRollBackThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hostPause(time.Hour)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	before := w.snapshot()
	var broken atomic.Bool
	w.host.FailWith(func(_, object string) error {
		if strings.Contains(object, "192.168.7") {
			broken.Store(true)
		}
		if broken.Load() {
			return errors.New("out of memory")
		}
		return nil
	})
	w.publish(routed("192.168.7.0/24"))
	w.awaitCondition(status.ApplyFailed, true, rollbackFailed)
	w.host.FailWith(func(_, object string) error { // the way back is free, the change is still refused
		if strings.Contains(object, "192.168.7") {
			return errors.New("out of memory")
		}
		return nil
	})
	w.passTime(time.Hour)
	w.awaitAttempt(2)
	agenttest.Await(t, "the host is as before", func() bool { return withoutIndex(w.snapshot()) == withoutIndex(before) })
	w.uncondemned()
	w.host.FailWith(nil)
	w.passTime(time.Hour)
	w.awaitApplied(2)
	w.awaitCondition(status.ApplyFailed, false, "")
}

// TestRollBackThatFailsAfterAProbe: the same after a failed probe: the host is brought back, and the generation condemned.
func TestRollBackThatFailsAfterAProbe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.restart(shortProbe)
	agenttest.Await(t, "connected", func() bool { return w.zoneStatus().Controller.Connected })
	before := w.snapshot()
	w.controller.Override("timestamp", func(http.ResponseWriter, *http.Request) bool {
		if strings.Contains(w.snapshot(), "192.168.7.0/24") {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	w.host.FailWith(func(operation, _ string) error { // the way back
		if operation == "route remove" {
			return errors.New("out of memory")
		}
		return nil
	})
	w.publish(routed("192.168.7.0/24"))
	w.awaitCondition(status.ApplyFailed, true, rollbackFailed)
	w.host.FailWith(nil)
	agenttest.Await(t, "the host is as before", func() bool { return withoutIndex(w.snapshot()) == withoutIndex(before) })
	w.awaitCondition(status.ApplyFailed, false, "")
	w.awaitCondition(status.RolledBack, true, "Undone")
}

// TestOneProcessPerStateFolder: another socket is not another host.
func TestOneProcessPerStateFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	before := w.snapshot()
	opt := w.options()
	opt.Config.Socket = filepath.Join(w.dir, "other")
	second, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Down(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("down beside a running agent: %v", err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent: %v", err)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("the host changed:\n%s", after)
	}
}

// TestAZoneThatIsNoLongerConfiguredIsNamed: it stays on the host as it is, and nobody but the log would tell.
func TestAZoneThatIsNoLongerConfiguredIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.halt()
	opt := w.options()
	opt.Config.Zones[0].Name = "other"
	opt.Keys = keys.InMemory(w.nodes[0].Identity, map[string]reconciler.PrivateKey{"other": w.nodes[0].Private}, rand.Reader)
	var out strings.Builder
	opt.Logger = slog.New(slog.NewTextHandler(&out, nil))
	a, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	a.warnOfOrphans()
	if got := out.String(); !strings.Contains(got, "zone="+testZone) || !strings.Contains(got, "down --zone "+testZone) {
		t.Errorf("the log does not name the zone: %s", got)
	}
}

// TestNotAfterWithoutCache: what ran out stays out, and what runs out goes, when all that is left of the generation is what the
// engine wrote down: no cache, no controller.
func TestNotAfterWithoutCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	soon, later := w.clock.Now().Add(time.Hour), w.clock.Now().Add(3*time.Hour)
	w.nodes[1].NotAfter, w.nodes[2].NotAfter = soon.Unix(), later.Unix()
	w.publish(func(z *agenttest.Zone) { z.Rules = agenttest.SSHRule(soon.Unix()) })
	w.start()
	w.awaitApplied(1)
	w.halt()
	w.controller.Stop()
	state := filepath.Join(w.dir, "state/networks", testNetwork, testZone)
	files, _ := filepath.Glob(filepath.Join(state, "*.json"))
	for _, path := range append(files, filepath.Join(state, "artefacts")) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	has := func(name string) bool { return strings.Contains(w.snapshot(), name+"/32") }
	w.host.DeleteLink(testIface) // the machine was switched off
	w.clock.Advance(2 * time.Hour)
	w.start()
	agenttest.Await(t, "c is back", func() bool { return has("10.1.0.3") })
	if device, err := w.host.Backends().WireGuard.Device(t.Context(), testIface); err != nil || len(device.Peers) != 1 {
		t.Errorf("%d peers, %v; b has run out", len(device.Peers), err)
	}
	table, err := w.host.Backends().Firewall.Table(t.Context(), reconciler.TableName(testIface))
	if err != nil || strings.Contains(fmt.Sprintf("%+v", table), "ssh/0") {
		t.Errorf("a rule that has run out is back: %v", err)
	}
	w.clock.Advance(2 * time.Hour)
	poke(w.agent.zones[0].offered) // the clock was set, the timer does not know
	agenttest.Await(t, "c runs out", func() bool {
		device, err := w.host.Backends().WireGuard.Device(t.Context(), testIface)
		return err == nil && len(device.Peers) == 0
	})
}

type hostRoutes = reconciler.Routes // so that it can be embedded beside its method Routes

// deafRoutes are routes that cannot be read while deaf is set.
type deafRoutes struct {
	hostRoutes
	deaf *atomic.Bool
}

func (d deafRoutes) Routes(ctx context.Context) ([]reconciler.HostRoute, error) {
	if d.deaf.Load() {
		return nil, errors.New("no buffer space available")
	}
	return d.hostRoutes.Routes(ctx)
}

// TestDriftedEnds: a read that failed is told of until the host could be read again.
func TestDriftedEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var deaf atomic.Bool
	w.newEngine = func(o reconciler.Options) (Engine, error) {
		o.Backends = w.host.Backends()
		o.Backends.Routes = deafRoutes{o.Backends.Routes, &deaf}
		o.FullPass = 20 * time.Millisecond
		return reconciler.New(o)
	}
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	deaf.Store(true)
	w.awaitCondition(status.Drifted, true, "RepairFailed")
	deaf.Store(false)
	w.awaitCondition(status.Drifted, false, "")
}

// TestAClockThatWasSetWrong: what a clock far ahead ended comes back when it is right again.
func TestAClockThatWasSetWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.clock.Now().Add(24 * time.Hour).Unix()
	w.publish(func(z *agenttest.Zone) {
		z.Rules = agenttest.SSHRule(end)
		z.Nodes = slices.Clone(z.Nodes)
		z.Nodes[2].NotAfter = end
	})
	w.start()
	w.awaitApplied(1)
	before := w.snapshot()
	look := func(what string, is func(now string) bool) {
		t.Helper()
		agenttest.Await(t, what, func() bool {
			poke(w.agent.zones[0].offered) // it looks each minute by itself
			return is(w.snapshot())
		})
	}
	w.clock.Advance(48 * time.Hour)
	look("rule and peer have run out", func(now string) bool {
		return !strings.Contains(now, "ssh/0") && !strings.Contains(now, "10.1.0.3/32")
	})
	w.clock.Advance(-48 * time.Hour)
	look("they are back", func(now string) bool { return withoutIndex(now) == withoutIndex(before) })
}
