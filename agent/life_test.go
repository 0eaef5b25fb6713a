package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

func TestFromNothingToEnforced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitCondition(status.Ready, true, "Applied")
	got := w.snapshot()
	for _, want := range []string{"10.1.0.1/32", "10.1.0.2/32", "10.1.0.3/32", "10.1.0.0/16"} {
		if !strings.Contains(got, want) {
			t.Errorf("host lacks %s:\n%s", want, got)
		}
	}
	// A peer more arrives over the watch, and nothing but the frame is asked for.
	before := w.controller.Requests("artefact")
	w.nodes = append(w.nodes, w.network.NewNode("d", 4))
	w.publish(nil)
	w.awaitApplied(2)
	if !strings.Contains(w.snapshot(), "10.1.0.4/32") {
		t.Errorf("the new peer is missing:\n%s", w.snapshot())
	}
	if after := w.controller.Requests("artefact"); after != before {
		t.Errorf("%d artefacts were fetched although the frame brought them", after-before)
	}
	agenttest.Await(t, "a report says that serial 2 is applied", func() bool {
		reports := w.controller.Reports()
		return len(reports) > 0 && reports[len(reports)-1].Applied.Serial == 2
	})
}

// counting is an Engine that counts.
type counting struct {
	Engine
	applies atomic.Int64
}

func (c *counting) Apply(ctx context.Context, s reconciler.State, p reconciler.Probe) (reconciler.Report, error) {
	c.applies.Add(1)
	return c.Engine.Apply(ctx, s, p)
}

func TestChangeWithoutEffectLeavesTheHostAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var engine *counting
	inner := w.newEngine
	w.newEngine = func(o reconciler.Options) (Engine, error) {
		e, err := inner(o)
		engine = &counting{Engine: e}
		return engine, err
	}
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	applies := engine.applies.Load()
	w.host.Operations() // those of the first apply
	w.publish(nil)      // another manifest, the same views
	w.awaitApplied(2)
	if n := engine.applies.Load(); n != applies {
		t.Errorf("the reconciler was called %d times", n-applies)
	}
	if ops := w.host.Operations(); len(ops) > 0 {
		t.Errorf("the host was written to: %v", ops)
	}
	if c := w.zoneStatus().Counters; c.Unchanged != 1 {
		t.Errorf("unchanged counter is %d, want 1", c.Unchanged)
	}
}

// TestOfflineBoot: after a reboot, without any controller, the host comes back as it was.
func TestOfflineBoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	before := w.snapshot()
	w.halt()
	w.controller.Stop()
	w.host.DeleteLink(testIface) // what a reboot does
	w.host.FlushTables()

	var asked atomic.Int64
	w.edit = func(o *Options) {
		o.Lookup = func(context.Context, string) ([]netip.Addr, error) { asked.Add(1); return nil, errors.New("offline") }
	}
	w.start()
	w.awaitCondition(status.Ready, true, "Applied")
	w.awaitCondition(status.Unreachable, true, "NoAnswer")
	if after := w.snapshot(); withoutIndex(after) != withoutIndex(before) {
		t.Errorf("the host is not as it was.\nbefore:\n%s\nafter:\n%s", before, after)
	}
	// Ages pass: the state turns stale, and stays.
	w.clock.Advance(2 * time.Hour)
	got := w.awaitCondition(status.Stale, true, "")
	if !strings.Contains(got.Message, "expired") {
		t.Errorf("stale without saying why: %s", got.Message)
	}
	if after := w.snapshot(); withoutIndex(after) != withoutIndex(before) {
		t.Errorf("expiry changed the host:\n%s", after)
	}
	w.controller.Start()
	w.publish(nil)
	w.awaitApplied(2)
	w.awaitCondition(status.Stale, false, "")
	w.awaitCondition(status.Unreachable, false, "")
}

// withoutIndex drops the interface's line, whose index a new interface changes.
func withoutIndex(snapshot string) string {
	return strings.ReplaceAll(strings.ReplaceAll(snapshot, "link apex-prod 4", "link apex-prod"), "link apex-prod 3", "link apex-prod")
}

func TestOffForTenGenerations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.halt()
	for i := range 10 {
		w.nodes = append(w.nodes, w.network.NewNode(fmt.Sprintf("n%d", i), 10+i))
		if i == 4 {
			w.network.NextRoot(grant("192.168.7.0/24"))
		}
		w.publish(nil)
	}
	w.start()
	w.awaitApplied(11)
	if !strings.Contains(w.snapshot(), "10.1.0.19/32") {
		t.Errorf("the newest peer is missing:\n%s", w.snapshot())
	}
}

func TestControllerRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	agenttest.Await(t, "connected", func() bool { return w.zoneStatus().Controller.Connected })
	before := w.snapshot()
	w.controller.Stop()
	w.awaitCondition(status.Unreachable, true, "")
	w.controller.Start()
	w.awaitCondition(status.Unreachable, false, "")
	if after := w.snapshot(); after != before {
		t.Errorf("the host changed:\n%s", after)
	}
	w.publish(nil)
	w.awaitApplied(2)
}

func TestRollbackSurvivesRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.publish(nil)
	w.publish(nil)
	w.start()
	w.awaitApplied(2)
	before := w.snapshot()
	w.halt()
	w.controller.Serve(old)
	w.start()
	w.awaitCondition(status.TrustAlarm, true, "Rollback")
	if after := w.snapshot(); after != before {
		t.Errorf("the host changed:\n%s", after)
	}
}

func TestNotAfterWithoutController(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	end := w.clock.Now().Add(time.Hour)
	w.publish(func(z *agenttest.Zone) {
		z.Rules = agenttest.SSHRule(end.Unix())
		z.Nodes = slices.Clone(z.Nodes)
		z.Nodes[2].NotAfter = end.Unix()
	})
	w.start()
	w.awaitApplied(1)
	if got := w.snapshot(); !strings.Contains(got, "ssh/0") || !strings.Contains(got, "10.1.0.3/32") {
		t.Fatalf("not in force before its end:\n%s", got)
	}
	w.halt()
	w.controller.Stop()
	w.clock.Advance(time.Hour - 300*time.Millisecond)
	w.start()
	w.awaitCondition(status.Ready, true, "")
	agenttest.Await(t, "rule and peer have run out", func() bool {
		got := w.snapshot()
		return !strings.Contains(got, "ssh/0") && !strings.Contains(got, "10.1.0.3/32")
	})
	if !strings.Contains(w.snapshot(), "10.1.0.2/32") {
		t.Errorf("a peer without an end is gone:\n%s", w.snapshot())
	}
}

// TestCutOffRollsBack: a generation whose routes take the controller's address away is applied, fails its probe, is
// undone and quarantined, also over a restart, until another one comes.
func TestCutOffRollsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.restart(shortProbe)
	agenttest.Await(t, "connected", func() bool { return w.zoneStatus().Controller.Connected })
	before := w.snapshot()

	// The controller is out of reach while the route stands: what the kernel would do to its packets.
	cut := func(http.ResponseWriter, *http.Request) bool {
		if strings.Contains(w.snapshot(), "192.168.7.0/24") {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	w.controller.Override("timestamp", cut)
	bad := w.publish(routed("192.168.7.0/24"))
	got := w.awaitCondition(status.RolledBack, true, "Undone")
	if !strings.Contains(got.Message, "cut this host off") {
		t.Errorf("the message does not say why: %s", got.Message)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("not as before.\nbefore:\n%s\nafter:\n%s", before, after)
	}
	z := w.zoneStatus()
	if want := peermap.DigestOf(bad.Views["a"].Bytes).String(); len(z.Quarantined) != 1 || z.Quarantined[0] != want {
		t.Errorf("quarantined is %v, want %s", z.Quarantined, want)
	}
	w.awaitCondition(status.Ready, false, status.RolledBack)

	w.halt()
	w.start()
	w.awaitCondition(status.RolledBack, true, "Undone")
	agenttest.Await(t, "the newest generation is verified again", func() bool {
		z := w.zoneStatus()
		return z.Controller.Connected && z.Verified != nil && z.Verified.Serial == 2 && w.condition(status.Ready).Reason == status.RolledBack
	})
	if n := w.zoneStatus().Counters.RolledBack; n != 0 {
		t.Errorf("a restart tried it again %d times", n)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("a restart tried it again:\n%s", after)
	}

	w.nodes = append(w.nodes, w.network.NewNode("d", 4))
	w.publish(nil)
	w.awaitApplied(3)
	w.awaitCondition(status.RolledBack, false, "")
	w.awaitCondition(status.Ready, true, "")
}

// TestControllerLostDuringApply: if the controller is away with the old state too, the new state is not to blame.
func TestControllerLostDuringApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.restart(shortProbe)
	agenttest.Await(t, "connected", func() bool { return w.zoneStatus().Controller.Connected })
	w.controller.Override("timestamp", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	w.publish(routed("192.168.7.0/24"))
	w.awaitApplied(2)
	if !strings.Contains(w.snapshot(), "192.168.7.0/24") {
		t.Errorf("the route is missing:\n%s", w.snapshot())
	}
	if w.condition(status.RolledBack).Status {
		t.Error("the generation is quarantined")
	}
}

// TestHostRefuses: an operation fails half way, the host is as before, and the condition names the system's error and the
// attempts. The host's error condemns nothing: the generation is applied once the host lets it.
func TestHostRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hostPause(time.Hour)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	before := w.snapshot()
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.host.FailWith(func(operation, object string) error {
		if strings.Contains(object, "192.168.7") {
			return errors.New("no space left in the routing table")
		}
		return nil
	})
	w.publish(routed("192.168.7.0/24"))
	for attempt := 1; attempt <= 3; attempt++ {
		got := w.awaitAttempt(attempt)
		if !strings.Contains(got.Message, "no space left") || got.Reason != "HostRefused" {
			t.Errorf("the condition hides the cause: %s: %s", got.Reason, got.Message)
		}
		if after := w.snapshot(); after != before {
			t.Errorf("not as before.\nbefore:\n%s\nafter:\n%s", before, after)
		}
		w.awaitCondition(status.Ready, false, status.ApplyFailed)
		w.passTime(time.Hour)
	}
	w.awaitAttempt(4)
	w.uncondemned()
	w.host.FailWith(nil)
	w.passTime(time.Hour)
	w.awaitApplied(2)
	w.awaitCondition(status.ApplyFailed, false, "")
	w.awaitCondition(status.Ready, true, "")
	if z := w.zoneStatus(); z.Counters.RolledBack != 4 || z.Counters.Applied != 2 {
		t.Errorf("counters: %+v", z.Counters)
	}
}

// TestCrashAnywhere kills the agent at every write of an apply: after the restart the host is either as before or as it
// should be, and gets there.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	for step := 0; ; step++ {
		w := newWorld(t)
		w.network.NextRoot(grant("192.168.7.0/24"))
		w.publish(nil)
		w.start()
		w.awaitApplied(1)
		w.halt()
		reached := crashAt(w, step)
		if !reached {
			if step < 3 {
				t.Fatalf("an apply has only %d writes", step)
			}
			return
		}
	}
}

// crashAt applies a change that dies at its n-th write, starts again and expects the change to be in force. It reports
// whether there was an n-th write.
func crashAt(w *world, n int) bool {
	w.t.Helper()
	var mu sync.Mutex
	writes, crashed := 0, false
	died := make(chan struct{})
	w.host.FailWith(func(string, string) error {
		mu.Lock()
		defer mu.Unlock()
		if crashed {
			return errors.New("the process is dead")
		}
		if writes == n {
			crashed = true
			close(died)
			return errors.New("killed")
		}
		writes++
		return nil
	})
	w.start()
	agenttest.Await(w.t, "booted", func() bool { return w.zoneStatus().Applied != nil })
	mu.Lock()
	writes = 0
	mu.Unlock()
	w.nodes = append(w.nodes, w.network.NewNode("d", 4))
	w.publish(func(z *agenttest.Zone) {
		routed("192.168.7.0/24")(z)
		z.Rules = z.Rules[:1]
	})
	agenttest.Await(w.t, "the change or the crash", func() bool {
		select {
		case <-died:
			return true
		default:
			return w.zoneStatus().Applied.Serial == 2 // without mu: the host calls back under its own lock
		}
	})
	w.halt()
	w.host.FailWith(nil)
	mu.Lock()
	defer mu.Unlock()
	if !crashed {
		return false
	}
	w.start()
	w.awaitApplied(2)
	if !strings.Contains(w.snapshot(), "192.168.7.0/24") {
		w.t.Errorf("crash at write %d: the change is not in force:\n%s", n, w.snapshot())
	}
	w.halt()
	return true
}

// TestDamagedCache alters every file of the cache in turn: the host stays, what is missing is fetched again.
func TestDamagedCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.halt()
	before := w.snapshot()
	dir := zoneDir(w.options().Config, testZone)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	artefacts, err := filepath.Glob(filepath.Join(dir, "artefacts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, artefacts...)
	if len(files) < 4 {
		t.Fatalf("only %d files in the cache", len(files))
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.awaitCondition(status.Ready, true, "Applied")
		w.awaitApplied(1)
		if after := w.snapshot(); after != before {
			t.Errorf("%s: the host changed.\nbefore:\n%s\nafter:\n%s", filepath.Base(file), before, after)
		}
		w.halt()
	}
}

func TestKeyMismatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.edit = func(o *Options) { o.Keys = ringOf(w.nodes[0].Identity, agenttest.WireGuard(t, "another")) }
	before := w.snapshot()
	w.start()
	got := w.awaitCondition(status.KeyMismatch, true, "OtherKey")
	if !strings.Contains(got.Message, "git says") {
		t.Errorf("the message does not help: %s", got.Message)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("the host changed:\n%s", after)
	}
}

func TestDriftIsRepairedAndCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	before := w.snapshot()
	w.host.DeleteRoute(testIface, netip.MustParsePrefix("10.1.0.0/16"))
	w.host.FlushTables()
	agenttest.Await(t, "repaired", func() bool { return withoutIndex(w.snapshot()) == withoutIndex(before) })
	agenttest.Await(t, "counted", func() bool {
		c := w.zoneStatus().Counters
		return c.Drift > 0 && c.DriftFixed > 0 && c.Applied == 1
	})
}

func TestConflictIsReportedNotFought(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	foreign := reconciler.HostRoute{Prefix: netip.MustParsePrefix("10.1.0.0/16"), Link: "eth0", Metric: 0}
	w.host.AddRoute(foreign)
	w.publish(nil)
	w.start()
	got := w.awaitCondition(status.Conflict, true, "")
	if !strings.Contains(got.Message, "10.1.0.0/16") {
		t.Errorf("the message does not name the object: %s", got.Message)
	}
	w.awaitCondition(status.Ready, false, status.Conflict)
	if !strings.Contains(w.snapshot(), "eth0") {
		t.Error("the foreign route is gone")
	}
}

func TestSeveralControllers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	dead := agenttest.NewController(t, w.clock.Now)
	dead.Stop()
	w.edit = func(o *Options) { o.Config.Controllers = []string{dead.URL(), w.controller.URL()} }
	w.start()
	w.awaitApplied(1)
}

func TestEndpointsByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var address atomic.Value
	address.Store("")
	w.edit = func(o *Options) {
		o.Lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
			if text := address.Load().(string); text != "" && host == "b.example" {
				return []netip.Addr{netip.MustParseAddr(text)}, nil
			}
			return nil, errors.New("no such host")
		}
	}
	w.publish(func(z *agenttest.Zone) {
		z.Nodes = slices.Clone(z.Nodes)
		z.Nodes[1].Endpoints = []string{"b.example:51820"}
		z.Nodes[2].Endpoints = []string{"192.0.2.3:51820"}
	})
	w.start()
	w.awaitApplied(1)
	got := w.awaitCondition(status.EndpointUnresolved, true, "LookupFailed")
	if !strings.Contains(got.Message, "b.example") {
		t.Errorf("the message does not name the host: %s", got.Message)
	}
	if !strings.Contains(w.snapshot(), "192.0.2.3:51820") {
		t.Errorf("a literal endpoint is missing:\n%s", w.snapshot())
	}
	address.Store("192.0.2.2")
	w.clock.Advance(time.Minute)
	w.agent.zones[0].resolver.Failed("b", []string{"b.example:51820"})
	agenttest.Await(t, "the name is resolved", func() bool { return strings.Contains(w.snapshot(), "192.0.2.2:51820") })
	w.awaitCondition(status.EndpointUnresolved, false, "")
	// What was learned survives a restart without DNS.
	w.halt()
	address.Store("")
	w.controller.Stop()
	w.host.DeleteLink(testIface)
	w.start()
	w.awaitCondition(status.Ready, true, "")
	if !strings.Contains(w.snapshot(), "192.0.2.2:51820") {
		t.Errorf("the endpoint is forgotten:\n%s", w.snapshot())
	}
}

func TestSocketAndDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.snapshot()
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	path := w.options().Config.Socket
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, mode %v, want 0600", err, info.Mode())
	}
	got, err := status.NewClient(path).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Zones) != 1 || got.Zones[0].Applied == nil || len(got.Zones[0].Peers) != 2 {
		t.Errorf("status lacks something: %+v", got)
	}
	w.halt()
	if _, err := status.NewClient(path).Get(t.Context()); !errors.Is(err, status.ErrNoAgent) {
		t.Errorf("after the end: %v, want ErrNoAgent", err)
	}
	a, err := New(w.options())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("not everything is gone.\nbefore:\n%s\nafter:\n%s", before, after)
	}
	w.start() // up again
	w.awaitApplied(1)
}

func TestReportsSayWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	agenttest.Await(t, "a ready report", func() bool {
		return slices.ContainsFunc(w.controller.Reports(), func(r protocol.NodeStatus) bool {
			return slices.ContainsFunc(r.Conditions, func(c protocol.Condition) bool {
				return c.Type == protocol.ConditionReady && c.Status == protocol.StatusTrue
			})
		})
	})
}
