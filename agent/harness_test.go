package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
	"github.com/apex-network/apex/signer"
)

const (
	testNetwork = "acme"
	testZone    = "prod"
	testIface   = "apex-prod"
)

// world is one agent "a" in a zone with nodes a, b and c, a controller, and a host in memory that outlives the agent.
type world struct {
	t          testing.TB
	clock      *agenttest.Clock
	network    *agenttest.Network
	nodes      []agenttest.Node
	controller *agenttest.Controller
	host       *twin.Host
	dir        string
	edit       func(*Options)
	newEngine  func(reconciler.Options) (Engine, error)

	agent  *Agent
	stop   func()
	serial uint64
	last   *agenttest.Generation
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: &agenttest.Clock{}, network: agenttest.NewNetwork(t, testNetwork), host: twin.New(), dir: t.TempDir()}
	for i, name := range []string{"a", "b", "c"} {
		w.nodes = append(w.nodes, w.network.NewNode(name, i+1))
	}
	w.newEngine = func(opt reconciler.Options) (Engine, error) {
		opt.Backends = w.host.Backends()
		return reconciler.New(opt)
	}
	w.controller = agenttest.NewController(t, w.clock.Now)
	t.Cleanup(w.halt)
	return w
}

// zone is the next generation's input.
func (w *world) zone() agenttest.Zone {
	z := agenttest.Zone{
		Name: testZone, Nodes: w.nodes, Rules: agenttest.SSHRule(0), Epoch: w.network.Root.Epoch, Serial: w.serial + 1,
		Issued: w.clock.Now(),
	}
	if w.last != nil && w.last.Zone.Epoch == z.Epoch {
		z.Previous = w.last.Digest
	}
	return z
}

// publish makes the next generation, changed by edit, and serves it as an honest controller does.
func (w *world) publish(edit func(*agenttest.Zone)) *agenttest.Generation {
	w.t.Helper()
	g := w.make(edit)
	w.serial, w.last = g.Zone.Serial, g
	w.controller.Publish(g)
	return g
}

// make makes the next generation without serving it.
func (w *world) make(edit func(*agenttest.Zone)) *agenttest.Generation {
	w.t.Helper()
	z := w.zone()
	if edit != nil {
		edit(&z)
	}
	return w.network.Publish(z)
}

func (w *world) options() Options {
	config := Config{
		Controllers: []string{w.controller.URL()}, Network: testNetwork, Node: "a", RootDigest: w.network.Pin().String(),
		Zones: []ZoneConfig{{Name: testZone}}, StateDir: filepath.Join(w.dir, "state"), Socket: filepath.Join(w.dir, "sock"),
	}.WithDefaults()
	opt := Options{
		Config: config, Version: "test", Keys: ringOf(w.nodes[0].Identity, w.nodes[0].Private),
		NewEngine: w.newEngine, Now: w.clock.Now, Logger: testLogger(w.t),
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") },
		Times: Times{
			// What a good run never waits for is long, so that no stall of the machine is taken for a fault.
			Grace: time.Minute, ProbeBound: time.Minute, Patience: time.Minute, Farewell: time.Minute,
			BackoffMin: 5 * time.Millisecond, BackoffMax: 20 * time.Millisecond,
			HostMin: 5 * time.Millisecond, HostMax: 20 * time.Millisecond,
			Sample: 20 * time.Millisecond, Tick: 10 * time.Millisecond, ReportMin: 5 * time.Millisecond, ReportMax: time.Second,
			AlarmHold: time.Hour, EnrolMin: 5 * time.Millisecond, EnrolMax: 40 * time.Millisecond,
		},
	}
	if w.edit != nil {
		w.edit(&opt)
	}
	return opt
}

func ringOf(identity signer.PrivateKey, wireguard reconciler.PrivateKey) *keys.Ring {
	return keys.InMemory(identity, map[string]reconciler.PrivateKey{testZone: wireguard}, rand.Reader)
}

// start runs the agent until halt.
func (w *world) start() {
	w.t.Helper()
	opt := w.options()
	if err := opt.Config.Validate(); err != nil {
		w.t.Fatal(err)
	}
	a, err := New(opt)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.agent = a
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("agent ended with: %v", err)
		}
	})
}

// halt stops the agent, as a service manager would.
func (w *world) halt() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// restart stops the agent and starts it with other options.
func (w *world) restart(edit func(*Options)) {
	w.t.Helper()
	w.halt()
	w.edit = edit
	w.start()
}

// shortProbe lets a probe that does not hold fail soon. An agent gets it once the host is in a generation: a probe that is
// to hold is given all the time it wants.
func shortProbe(o *Options) { o.Times.ProbeBound = 100 * time.Millisecond }

// zoneStatus is the zone's status document.
func (w *world) zoneStatus() status.Zone {
	return w.agent.Status(context.Background()).Zones[0]
}

func (w *world) condition(kind string) status.Condition {
	for _, c := range w.zoneStatus().Conditions {
		if c.Type == kind {
			return c
		}
	}
	w.t.Fatalf("no condition %s", kind)
	return status.Condition{}
}

// awaitCondition waits for a condition to have a status and, if given, a reason.
func (w *world) awaitCondition(kind string, on bool, reason string) status.Condition {
	w.t.Helper()
	var got status.Condition
	agenttest.Await(w.t, fmt.Sprintf("condition %s is %t %s", kind, on, reason), func() bool {
		got = w.condition(kind)
		return got.Status == on && (reason == "" || got.Reason == reason)
	})
	return got
}

// awaitApplied waits until the host carries a serial.
func (w *world) awaitApplied(serial uint64) {
	w.t.Helper()
	agenttest.Await(w.t, fmt.Sprintf("serial %d is applied", serial), func() bool {
		z := w.zoneStatus()
		return z.Applied != nil && z.Applied.Serial == serial && z.Verified != nil && z.Verified.Serial == serial
	})
}

// snapshot is everything on the host, ours or not, but for what traffic changes.
func (w *world) snapshot() string {
	w.t.Helper()
	ctx := context.Background()
	b := w.host.Backends()
	out := []string{w.host.Snapshot("-", "-")}
	if device, err := b.WireGuard.Device(ctx, testIface); err == nil {
		slices.SortFunc(device.Peers, func(a, b reconciler.DevicePeer) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) })
		for _, p := range device.Peers {
			out = append(out, fmt.Sprintf("peer %s %v %s %v", p.PublicKey, p.AllowedIPs, p.Endpoint, p.Keepalive))
		}
	}
	routes, err := b.Routes.Routes(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range routes {
		out = append(out, fmt.Sprintf("route %v", r))
	}
	table, err := b.Firewall.Table(ctx, reconciler.TableName(testIface))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(append(out, fmt.Sprintf("table %+v", table)), "\n")
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testWriter logs to the test. The agent is halted before the test ends.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func routed(prefix string) func(*agenttest.Zone) {
	return func(z *agenttest.Zone) {
		z.Nodes = append([]agenttest.Node(nil), z.Nodes...)
		z.Nodes[1].Routes = []netip.Prefix{netip.MustParsePrefix(prefix)}
	}
}

func grant(prefix string) func(*signer.Root) {
	return func(r *signer.Root) {
		r.Routes = []signer.RouteClaim{{Zone: testZone, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}}
	}
}
