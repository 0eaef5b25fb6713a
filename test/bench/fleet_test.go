//go:build linux

package bench

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

// fleet is all agents of a network in this process, each over a host in memory of its own. They are the real ones up to
// the host's boundary: TLS, proofs, verification, cache on disk, diff, checkpoint, apply, confirm.
type fleet struct {
	tb       testing.TB
	network  *network
	server   *process
	url      string // of the controller, or of what stands before it
	pin      string
	dir      string
	enforced chan arrival
	stop     func()
}

// arrival says that a host carries another state.
type arrival struct {
	node  int
	at    time.Time
	err   error
	peers []reconciler.Key
}

func newFleet(tb testing.TB, n *network, p *process) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, network: n, server: p, url: "https://" + p.api, pin: p.pin(), dir: stateFolder(tb), enforced: make(chan arrival, 16*n.nodes)}
	tb.Cleanup(f.halt)
	return f
}

// stateFolder is in memory where that is possible: a thousand agents have a thousand disks, not one.
func stateFolder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "apex-bench-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// observed is an engine that tells when a state is in force.
type observed struct {
	*reconciler.Engine
	node int
	tell chan<- arrival
}

func (o observed) Apply(ctx context.Context, s reconciler.State, p reconciler.Probe) (reconciler.Report, error) {
	report, err := o.Engine.Apply(ctx, s, p)
	if ctx.Err() == nil {
		a := arrival{node: o.node, at: time.Now(), err: err}
		for _, p := range s.Peers {
			a.peers = append(a.peers, p.PublicKey)
		}
		o.tell <- a
	}
	return report, err
}

// running reports whether the agents were started and not stopped since.
func (f *fleet) running() bool { return f.stop != nil }

// start runs every agent at once.
func (f *fleet) start() {
	f.tb.Helper()
	f.startThese(f.network.all())
}

// startThese runs the agents of some nodes at once.
func (f *fleet) startThese(nodes []int) {
	f.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	f.stop = func() { cancel(); all.Wait() }
	for _, i := range nodes {
		a := f.newAgent(i)
		all.Go(func() {
			if err := a.Run(ctx); err != nil {
				f.tb.Errorf("agent %s: %v", nodeName(i), err)
			}
		})
	}
}

func (f *fleet) halt() {
	if f.stop != nil {
		f.stop()
		f.stop = nil
	}
}

// forget makes the agents new: what they have on disk is gone.
func (f *fleet) forget() {
	f.tb.Helper()
	for i := range f.network.nodes {
		if err := os.RemoveAll(filepath.Join(f.dir, nodeName(i))); err != nil {
			f.tb.Fatal(err)
		}
	}
}

func (f *fleet) newAgent(i int) *agent.Agent {
	f.tb.Helper()
	dir := filepath.Join(f.dir, nodeName(i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		f.tb.Fatal(err)
	}
	config := agent.Config{
		Controllers: []string{f.url}, TLSPin: f.pin, Network: networkName, Node: nodeName(i),
		RootDigest: f.network.root.Pin().String(), Zones: []agent.ZoneConfig{{Name: zoneName, Join: f.network.joining(i, dir)}},
		StateDir: dir, Socket: filepath.Join(dir, "sock"),
	}.WithDefaults()
	host := twin.New()
	a, err := agent.New(agent.Options{
		Config: config, Version: "bench",
		Keys: keys.InMemory(f.network.ids[i], map[string]reconciler.PrivateKey{zoneName: f.network.keys[i]}, rand.Reader), Logger: slog.New(slog.DiscardHandler),
		NewEngine: func(o reconciler.Options) (agent.Engine, error) {
			o.Backends = host.Backends()
			e, err := reconciler.New(o)
			return observed{e, i, f.enforced}, err
		},
	})
	if err != nil {
		f.tb.Fatal(err)
	}
	return a
}

// await waits until each of these nodes has a new state in force, and gives when, counted from since, in order.
func (f *fleet) await(nodes []int, since time.Time) []time.Duration {
	f.tb.Helper()
	return collect(f.tb, f.enforced, nodes, since)
}

// watching waits until every agent has its watch.
func (f *fleet) watching() {
	f.tb.Helper()
	f.server.await("every agent watches", 20*time.Millisecond, func() bool {
		return int(f.server.metric("apex_controller_watches", "")) >= f.network.nodes
	})
}

const reports = "apex_controller_http_request_duration_seconds_count"

// settled waits until every agent has reported once more than before.
func (f *fleet) settled(before float64, nodes int) {
	f.tb.Helper()
	f.server.await("agents have reported", 100*time.Millisecond, func() bool {
		return int(f.server.metric(reports, `resource="report"`)-before) >= nodes
	})
}

// handshakes gives what the controller spends on TLS alone when every agent connects.
func (f *fleet) handshakes() time.Duration {
	f.tb.Helper()
	before := f.server.cpu()
	for range f.network.nodes {
		raw, err := net.Dial("tcp", f.server.api)
		if err != nil {
			f.tb.Fatal(err)
		}
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			f.tb.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			f.tb.Fatal(err)
		}
	}
	return f.server.cpu() - before
}

// all lists every node.
func (n *network) all() []int {
	list := make([]int, n.nodes)
	for i := range list {
		list[i] = i
	}
	return list
}

// BenchmarkFleet is the main job: a merge until the last host carries it, over TLS on loopback, with agents and controller
// on the cores of this machine. cpu-s is the controller's process with git, agent-ms the agents' process, per agent.
func BenchmarkFleet(b *testing.B) {
	binary := buildCommand(b, "apex-controller")
	for _, s := range []shape{{200, 20, false}, {1000, 200, false}, {300, 20, true}} {
		b.Run(s.String(), func(b *testing.B) {
			n := newNetwork(b, s)
			p := newProcess(b, binary, n)
			p.start()
			f := newFleet(b, n, p)
			b.Run("firstMaps", f.benchmarkFirstMaps)
			for _, e := range []edit{policyLine, oneNode} {
				b.Run(string(e), func(b *testing.B) { f.benchmarkEdit(b, e) })
			}
			b.Run("noEffect", f.benchmarkNoEffect)
			b.Run("restart", f.benchmarkRestart)
		})
	}
}

// begin makes sure that the agents run and have what is current.
func (f *fleet) begin() {
	f.tb.Helper()
	if !f.running() {
		since := time.Now()
		f.start()
		f.await(f.network.all(), since)
		f.watching()
	}
}

// benchmarkFirstMaps lets all agents begin at once, with nothing.
func (f *fleet) benchmarkFirstMaps(b *testing.B) {
	m := figures{}
	for b.Loop() {
		f.halt()
		f.forget()
		f.server.stop() // so that memory begins anew
		f.server.start()
		tls := f.handshakes()
		resident := f.server.resident()
		cpu, own, since := f.server.cpu(), ownCPU(b), time.Now()
		f.start()
		took := f.await(f.network.all(), since)
		m.seconds("p99-s", percentile(took, 99))
		m.seconds("last-s", took[len(took)-1])
		f.watching()
		m.seconds("cpu-s", f.server.cpu()-cpu)
		m.seconds("tls-cpu-s", tls)
		m.millis("agent-ms", (ownCPU(b)-own)/time.Duration(f.network.nodes))
		f.settled(0, f.network.nodes)
		m.add("connections/agent", f.server.connections()/float64(f.network.nodes))
		m.add("KiB-rss/agent", (f.server.resident()-resident)/1024/float64(f.network.nodes))
		m.add("MB-rss", f.server.resident()/1e6)
	}
	m.report(b)
}

// benchmarkEdit merges edits; time counts from the moment that the remote has the commit and the forge calls.
func (f *fleet) benchmarkEdit(b *testing.B, e edit) {
	f.begin()
	nodes := f.network.affected(e)
	m := figures{}
	for b.Loop() {
		f.network.push(e)
		sent, reported := f.server.metric("apex_controller_watch_sent_bytes_total", ""), f.server.metric(reports, `resource="report"`)
		cpu, own, since := f.server.cpu(), ownCPU(b), time.Now()
		f.server.poke()
		took := f.await(nodes, since)
		m.seconds("cpu-s", f.server.cpu()-cpu)
		m.millis("agent-ms", (ownCPU(b)-own)/time.Duration(f.network.nodes))
		m.seconds("p50-s", percentile(took, 50))
		m.seconds("p99-s", percentile(took, 99))
		m.seconds("last-s", took[len(took)-1])
		f.settled(reported, len(nodes))
		m.seconds("cpu-s-with-reports", f.server.cpu()-cpu)
		m.add("B/agent", (f.server.metric("apex_controller_watch_sent_bytes_total", "")-sent)/float64(f.network.nodes))
	}
	m.add("affected", float64(len(nodes)))
	m.report(b)
}

// benchmarkNoEffect merges a commit that changes no map: agents hear of a new manifest and do nothing.
func (f *fleet) benchmarkNoEffect(b *testing.B) {
	f.begin()
	m := figures{}
	for b.Loop() {
		f.network.push(noEffect)
		updates, sent := f.server.metric("apex_controller_watch_updates_total", ""), f.server.metric("apex_controller_watch_sent_bytes_total", "")
		cpu, since := f.server.cpu(), time.Now()
		f.server.poke()
		f.server.await("everybody heard", 20*time.Millisecond, func() bool {
			return int(f.server.metric("apex_controller_watch_updates_total", "")-updates) >= f.network.nodes
		})
		m.seconds("last-s", time.Since(since))
		m.seconds("cpu-s", f.server.cpu()-cpu)
		m.add("B/agent", (f.server.metric("apex_controller_watch_sent_bytes_total", "")-sent)/float64(f.network.nodes))
	}
	select {
	case a := <-f.enforced:
		b.Errorf("a host was changed: %s", nodeName(a.node))
	default:
	}
	m.report(b)
}

// benchmarkRestart stops the controller and starts it again under all agents, which hold what is current.
func (f *fleet) benchmarkRestart(b *testing.B) {
	f.begin()
	m := figures{}
	for b.Loop() {
		f.server.stop()
		since := time.Now()
		m.seconds("ready-s", f.server.start())
		f.watching()
		m.seconds("last-s", time.Since(since))
		m.seconds("cpu-s", f.server.cpu())
		m.add("B/agent", f.server.metric("apex_controller_watch_sent_bytes_total", "")/float64(f.network.nodes))
		m.seconds("tls-cpu-s", f.handshakes())
	}
	m.report(b)
}

func TestPercentile(t *testing.T) {
	var d []time.Duration
	for i := range 200 {
		d = append(d, time.Duration(i))
	}
	if fmt.Sprint(percentile(d, 50), percentile(d, 99), percentile(d[:1], 99)) != "100ns 198ns 0s" {
		t.Error(percentile(d, 50), percentile(d, 99), percentile(d[:1], 99))
	}
}
