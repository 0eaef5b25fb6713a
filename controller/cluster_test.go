package controller_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
	"github.com/apex-network/apex/internal/natstest"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// fast are the times of a lease in tests where replicas share a process: leaders give theirs back when they stop, and a process
// that was not scheduled for a while must not depose one in the middle of what is tested.
func fast() cluster.Times {
	return cluster.Times{Renew: 50 * time.Millisecond, StepDown: 30 * time.Second, TTL: 45 * time.Second}
}

// replicas are those of a world's controller. Each is a world of its own, as far as talking to it goes.
type replicas struct {
	*world
	bus  cluster.Bus
	open func() store.Store
	all  []*world
}

// memoryReplicas share a store and a bus within the process.
func memoryReplicas(t *testing.T, n int, change ...func(*world)) *replicas {
	w := newWorld(t, change...)
	r := &replicas{world: w, bus: cluster.NewMemory(), open: func() store.Store { return w.store }}
	for i := range n {
		r.begin(i)
	}
	return r
}

// begin starts replica i with a folder and, over NATS, a connection of its own.
func (r *replicas) begin(i int) *world {
	w := *r.world
	w.dir = filepath.Join(r.world.dir, fmt.Sprint("replica", i))
	w.startAs(func(cfg *config.Config, o *controller.Options) {
		cfg.Storage, cfg.Listen.Admin, cfg.NATS.Replica = filepath.Join(w.dir, "state"), filepath.Join(w.dir, "admin.sock"), fmt.Sprint("r", i)
		o.Path, o.Store, o.Bus, o.LeaseTimes = "", r.open(), r.bus, fast()
	})
	for len(r.all) <= i {
		r.all = append(r.all, nil)
	}
	r.all[i] = &w
	return &w
}

// leader waits until exactly one of the running replicas is named leader by all of them, and gives it with one of the others.
func (r *replicas) leader() (leader, follower *world) {
	r.t.Helper()
	deadline := time.Now().Add(hung)
	for time.Now().Before(deadline) {
		names := map[string]int{}
		running := 0
		for _, w := range r.all {
			if w == nil {
				continue
			}
			running++
			if f, err := w.tryFleet(); err == nil {
				names[f.Leader]++
			}
		}
		for name, n := range names {
			for i, w := range r.all {
				if n == running && w != nil && name == fmt.Sprint("r", i) {
					leader = w
				} else if w != nil {
					follower = w
				}
			}
			if leader != nil {
				return leader, follower
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatalf("no leader within %s", hung)
	return nil, nil
}

// ready asks until the answer is another one than to come back, which replicas give that nobody leads yet or that have just
// taken over.
func (w *world) ready(ask func() (*http.Response, []byte)) (*http.Response, []byte) {
	w.t.Helper()
	deadline := time.Now().Add(hung)
	for {
		resp, body := ask()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || time.Now().After(deadline) {
			return resp, body
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// applied applies a commit through a replica as soon as somebody leads.
func (r *replicas) applied(w *world, commit string) {
	r.t.Helper()
	if resp, body := w.ready(func() (*http.Response, []byte) { return w.apply(commit) }); resp.StatusCode != http.StatusOK {
		r.t.Fatalf("apply: %d %s", resp.StatusCode, body)
	}
}

// same demands that all running replicas serve the same manifest and view of the commit to node a.
func (r *replicas) same(commit string) protocol.Published {
	r.t.Helper()
	var first protocol.Published
	var manifest, view []byte
	for _, w := range r.all {
		if w == nil {
			continue
		}
		p := w.published("prod", commit)
		m, v := w.get("a", protocol.ManifestPath(w.name, "prod", p.Manifest)), w.get("a", protocol.ViewPath(w.name, "prod", "a"))
		if manifest == nil {
			first, manifest, view = p, m, v
		} else if !bytes.Equal(m, manifest) || !bytes.Equal(v, view) || p.Serial != first.Serial {
			r.t.Fatalf("replicas serve different bytes: serial %d and %d", p.Serial, first.Serial)
		}
	}
	return first
}

func TestReplicasServeTheSameBytes(t *testing.T) {
	r := memoryReplicas(t, 3)
	r.same(r.repo.Head())
	leader, follower := r.leader()

	// An apply reaches the leader through any replica.
	r.node("prod", "d", "10.1.0.4")
	commit := r.push("Add d")
	r.applied(follower, commit)
	r.same(commit)
	for w, leads := range map[*world]string{leader: "1", follower: "0"} {
		if _, m := w.metrics(); !strings.Contains(m, fmt.Sprintf("apex_controller_leading{network=%q} %s\n", w.name, leads)) {
			t.Errorf("want leading %s: %s", leads, m)
		}
	}

	// An agent that changes the replica goes on where it was.
	a := leader.agent("prod", "a")
	s := a.open()
	if m := a.take(s.next(t)); peerNames(m) != "b c d" {
		t.Fatalf("a sees %s", peerNames(m))
	}
	s.close()
	a.w = follower
	s = a.open()
	if msg := s.next(t); msg.Timestamp == nil {
		t.Fatalf("another replica sent more than a timestamp: %+v", msg)
	}
	r.node("prod", "e", "10.1.0.5")
	commit = r.push("Add e")
	r.applied(leader, commit)
	if m := a.take(s.next(t)); peerNames(m) != "b c d e" {
		t.Fatalf("a sees %s", peerNames(m))
	}
	s.close()
	r.same(commit)
}

// A node's status and connection are known whichever replica it talks to.
func TestStatusIsOneOverAllReplicas(t *testing.T) {
	r := memoryReplicas(t, 2)
	r.same(r.repo.Head())
	leader, follower := r.leader()
	a := follower.agent("prod", "a")
	s := a.open()
	defer s.close()
	a.take(s.next(t))
	for _, w := range []*world{leader, follower} {
		w.await("a is connected", func(f protocol.FleetStatus) bool {
			z := zoneOf(f, "prod")
			return z != nil && len(z.Nodes) == 3 && z.Nodes[0].Connected && !z.Nodes[1].Connected
		})
	}
	status := protocol.NodeStatus{Network: r.name, Zone: "prod", Node: "a", Conditions: []protocol.Condition{}}
	status.Applied.Serial = 77
	body, err := protocol.Encode(status)
	if err != nil {
		t.Fatal(err)
	}
	path := protocol.ReportPath(r.name, "prod", "a")
	if resp, text := follower.do(follower.as("a", call{method: http.MethodPost, path: path, body: body})); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("report: %d %s", resp.StatusCode, text)
	}
	leader.await("a's report", func(f protocol.FleetStatus) bool {
		n := zoneOf(f, "prod").Nodes[0]
		return n.Status != nil && n.Status.Applied.Serial == 77
	})
}

func TestFollowersForwardWhatNeedsTheLeader(t *testing.T) {
	r := memoryReplicas(t, 2)
	commit := r.repo.Head()
	r.same(commit)
	leader, follower := r.leader()
	if resp, body := follower.apply(strings.Repeat("0", 40)); resp.StatusCode != http.StatusConflict {
		t.Fatalf("apply of an unknown commit through a follower: %d %s", resp.StatusCode, body)
	}
	// A follower does not answer by itself once nobody leads.
	leader.stop()
	r.applied(follower, commit)
}

// What a thief of the store's credentials writes keeps nobody from leading.
func TestNonsenseInTheStoreIsIgnored(t *testing.T) {
	r := memoryReplicas(t, 2)
	r.same(r.repo.Head())
	frontiers, err := r.store.Bucket(t.Context(), controller.FrontierBucket())
	if err != nil {
		t.Fatal(err)
	}
	leader, follower := r.leader()
	for i, w := range r.all {
		if w == leader {
			r.all[i] = nil
		}
	}
	leader.stop()
	if err := frontiers.Put(t.Context(), r.name+".frontier", []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	r.leader()
	r.node("prod", "d", "10.1.0.4")
	commit := r.push("Add d")
	r.applied(follower, commit)
	r.same(commit)
}

func TestWitnessSignsThroughAFollower(t *testing.T) {
	var key signer.PrivateKey
	r := memoryReplicas(t, 2, twoSigners(t, &key))
	leader, follower := r.leader()
	stop := follower.witness(key, t.TempDir())
	r.same(r.repo.Head())
	stop()

	// The leader ends while a generation waits: the next one proposes it again, under a number of its own.
	r.node("prod", "d", "10.1.0.4")
	commit := r.push("Add d")
	r.applied(follower, commit)
	pending := zoneOf(leader.fleet(), "prod").Pending
	if pending == nil || pending.Commit != commit {
		t.Fatalf("pending %+v", pending)
	}
	for i, w := range r.all {
		if w == leader {
			r.all[i] = nil
		}
	}
	leader.stop()
	r.leader()
	f := follower.await("a pending generation", func(f protocol.FleetStatus) bool { return zoneOf(f, "prod").Pending != nil })
	if again := zoneOf(f, "prod").Pending; again.Commit != commit || again.Serial <= pending.Serial {
		t.Errorf("proposed again as serial %d, was %d", again.Serial, pending.Serial)
	}
	defer follower.witness(key, t.TempDir())()
	r.same(commit)
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	r := memoryReplicas(t, 2)
	before := r.same(r.repo.Head())
	leader, follower := r.leader()
	for i, w := range r.all {
		if w == leader {
			r.all[i] = nil
		}
	}
	leader.stop()
	r.node("prod", "d", "10.1.0.4")
	commit := r.push("Add d")
	if now, _ := r.leader(); now != follower {
		t.Fatal("the stopped one still leads")
	}
	r.applied(follower, commit)
	after := follower.published("prod", commit)
	if after.Epoch != before.Epoch || after.Serial <= before.Serial {
		t.Fatalf("serial %d-%d after %d-%d", after.Epoch, after.Serial, before.Epoch, before.Serial)
	}
}

// natsReplicas share a real cluster of NATS servers.
func natsReplicas(t *testing.T, servers, n int) (*replicas, *natstest.Cluster) {
	w := newWorld(t)
	c := natstest.Start(t, servers)
	r := &replicas{world: w}
	for i := range n {
		s := openStore(t, c, servers)
		r.open = func() store.Store { return s }
		r.bus = cluster.NewBus(s.Conn())
		r.begin(i)
	}
	return r, c
}

func openStore(t *testing.T, c *natstest.Cluster, copies int) *jetstream.Store {
	t.Helper()
	s, err := jetstream.Open(context.Background(), jetstream.Options{URL: c.URL(), Replicas: copies, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestReplicasOverNATSFailStatic(t *testing.T) {
	r, c := natsReplicas(t, 3, 2)
	first := r.repo.Head()
	r.same(first)
	leader, follower := r.leader()

	c.StopAll()
	for _, w := range []*world{leader, follower} {
		w.await("notice of the store", func(f protocol.FleetStatus) bool { return f.Store != "" })
		w.get("a", protocol.ViewPath(w.name, "prod", "a"))
		if text := w.readyz(); !strings.Contains(text, "nothing new") {
			t.Errorf("readyz says %q", text)
		}
	}
	r.node("prod", "d", "10.1.0.4")
	commit := r.push("Add d")
	for _, w := range []*world{leader, follower} { // nothing is wrong with the commit: it may be applied later
		if resp, body := w.apply(commit); resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("apply without the store: %d %s", resp.StatusCode, body)
		}
	}
	for _, w := range []*world{leader, follower} {
		if z := zoneOf(w.fleet(), "prod"); z.Current.Commit != first {
			t.Fatalf("published %s without the store", z.Current.Commit)
		}
	}

	c.ResumeAll()
	r.leader()
	r.applied(follower, commit)
	r.same(commit)
}

// readyz asks /readyz.
func (w *world) readyz() string {
	w.t.Helper()
	resp, err := http.Get("http://" + w.addr.Metrics + "/readyz")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}
