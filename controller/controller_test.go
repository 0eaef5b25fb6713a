package controller_test

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
)

func TestCommitReachesAgentsVerified(t *testing.T) {
	w := newWorld(t)
	first := w.repo.Head()
	w.start()
	w.published("prod", first)
	a := w.agent("prod", "a")
	s := a.open()
	m := a.take(s.next(t))
	if peerNames(m) != "b c" {
		t.Fatalf("a sees %s", peerNames(m))
	}

	w.node("prod", "d", "10.1.0.4")
	second := w.push("Add d")
	w.mustApply(second)
	msg := s.next(t)
	if msg.Update == nil || len(msg.Update.Artefacts) == 0 {
		t.Fatalf("no update: %+v", msg)
	}
	for _, art := range msg.Update.Artefacts {
		if art.Encoding != protocol.Delta {
			t.Errorf("artefact %s came whole", art.Digest)
		}
	}
	if m = a.take(msg); peerNames(m) != "b c d" {
		t.Fatalf("a sees %s", peerNames(m))
	}

	w.repo.Write("README.md", "nothing for machines")
	third := w.push("Explain")
	w.mustApply(third)
	msg = s.next(t)
	if msg.Update == nil || msg.Update.View != nil || len(msg.Update.Artefacts) != 0 {
		t.Fatalf("a commit without effect brought map bytes: %+v", msg.Update)
	}
	a.take(msg)
	if got, _ := a.state.Manifest(); got.Commit != third || got.Serial != 3 {
		t.Fatalf("manifest %+v", got)
	}
	s.close()

	// A reconnect that holds everything gets a timestamp, nothing else.
	again := a.open()
	if msg = again.next(t); msg.Timestamp == nil {
		t.Fatalf("reconnect: %+v", msg)
	}
	a.take(msg)
}

func TestRefusedCommitsKeepTheGoodGeneration(t *testing.T) {
	w := newWorld(t)
	good := w.repo.Head()
	w.start()
	before := w.published("prod", good)

	w.repo.Write("zones/prod/a.yaml", "apiVersion: apex/v1alpha1\nkind: Nodule\n")
	w.mustRefuse(w.push("Break the YAML"), "load", "zones/prod/a.yaml")

	w.repo.Git("reset", "-q", "--hard", good)
	w.node("prod", "d", "10.9.9.9")
	w.mustRefuse(w.push("Address outside"), "validate", "10.9.9.9")

	w.repo.Git("reset", "-q", "--hard", good)
	w.repo.Write("zones/prod/test.yaml", `apiVersion: apex/v1alpha1
kind: PolicyTest
metadata: {name: t, zone: prod}
spec:
  deny: [{from: a, to: b}]
`)
	w.mustRefuse(w.push("A test that fails"), "test", "policy tests fail")

	w.repo.Git("reset", "-q", "--hard", good)
	w.repo.Write("README.md", "unsigned")
	w.mustRefuse(func() string {
		c := w.repo.Commit(nil, "Unsigned")
		w.repo.Git("push", "-q", "--force", w.bare, "HEAD:main")
		return c
	}(), "verify", "not signed")

	if now := w.published("prod", good); now.Manifest != before.Manifest || now.Serial != before.Serial {
		t.Fatalf("published changed: %+v → %+v", before, now)
	}
	resp, metrics := w.metrics()
	if resp.StatusCode != http.StatusOK || !strings.Contains(metrics, `apex_controller_commit_refused{network="acme",stage="verify"} 1`) {
		t.Fatalf("metrics: %s", metrics)
	}

	w.repo.Git("reset", "-q", "--hard", good)
	w.node("prod", "d", "10.1.0.4")
	mended := w.push("Mend")
	w.mustApply(mended)
	if f := w.fleet(); f.Refused != nil || f.Accepted != mended {
		t.Fatalf("status after the mend: %+v", f)
	}
}

func (w *world) metrics() (*http.Response, string) {
	w.t.Helper()
	resp, err := http.Get("http://" + w.addr.Metrics + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := protocol.ReadAll(resp.Body, 8<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, string(data)
}

func TestRestartServesFromDiskWithoutTheRepository(t *testing.T) {
	w := newWorld(t)
	commit := w.repo.Head()
	w.start()
	before := w.published("prod", commit)
	a := w.agent("prod", "a")
	a.take(a.open().next(t))
	w.stop()

	w.repo.Git("-C", w.bare, "update-ref", "-d", "refs/heads/main") // nothing to fetch any more
	w.start()
	now := w.published("prod", commit)
	if now.Manifest != before.Manifest {
		t.Fatalf("another generation: %+v → %+v", before, now)
	}
	if msg := a.open().next(t); msg.Timestamp == nil {
		t.Fatalf("an agent that is current got %+v", msg)
	} else {
		a.take(msg)
	}
	fresh := w.agent("prod", "b")
	if m := fresh.take(fresh.open().next(t)); peerNames(m) != "a c" {
		t.Fatalf("b sees %s", peerNames(m))
	}
	if f := w.await("the failed fetch", func(f protocol.FleetStatus) bool { return f.FetchError != "" }); f.Accepted != commit {
		t.Fatalf("%+v", f)
	}
}

// TestStateThatCouldNotBeKeptIsKeptLater: what was accepted is not forgotten at the next start because its record could not be
// written the first time.
func TestStateThatCouldNotBeKeptIsKeptLater(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.published("prod", w.repo.Head())
	w.mustApply(w.repo.Head()) // answered once its record is written
	records, err := filepath.Glob(filepath.Join(w.dir, "state", "networks", "*", "state.json"))
	if err != nil || len(records) != 1 {
		t.Fatalf("%v, %v", records, err)
	}
	if err := errors.Join(os.Remove(records[0]), os.MkdirAll(filepath.Join(records[0], "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	w.node("prod", "d", "10.1.0.4")
	commit := w.push("Add d")
	for range 2 {
		if resp, body := w.apply(commit); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("apply whose record cannot be written: %s %s", resp.Status, body)
		}
	}
	if err := os.RemoveAll(records[0]); err != nil {
		t.Fatal(err)
	}
	w.mustApply(commit)
	if record, err := os.ReadFile(records[0]); err != nil || !bytes.Contains(record, []byte(commit)) {
		t.Errorf("the record names another commit than %s: %s, %v", commit, record, err)
	}
}

func TestLostFolderContinuesAfterTheOldSerials(t *testing.T) {
	w := newWorld(t)
	commit := w.repo.Head()
	w.start()
	before := w.published("prod", commit)
	a := w.agent("prod", "a")
	a.take(a.open().next(t))
	w.stop()
	w.dir = t.TempDir()
	w.writeConfig("")
	w.start()
	if now := w.published("prod", commit); now.Serial <= before.Serial {
		t.Fatalf("serial %d after %d", now.Serial, before.Serial)
	}
	a.take(a.open().next(t)) // no rollback, no fork
}

func TestShrinkGuard(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.published("prod", w.repo.Head())
	w.repo.Remove("zones/prod/b.yaml")
	w.repo.Remove("zones/prod/c.yaml")
	w.mustRefuse(w.push("Remove two of three"), "shrink", "Apex-Allow-Shrink: prod")
	w.repo.Write("README.md", "meant")
	allowed := w.push("Yes, remove them\n\nApex-Allow-Shrink: prod")
	w.mustApply(allowed)
	w.published("prod", allowed)
	// The permission is used up.
	w.repo.Remove("zones/prod/a.yaml")
	w.mustRefuse(w.push("Empty the zone"), "shrink", "100 %")
}

func TestSuspendFreezesAndThaws(t *testing.T) {
	// A third of a timestamp's life, when it is renewed, passes by the test's clock; how often that is looked at depends on
	// real time.
	w := newWorld(t, func(w *world) { w.root.Spec.Validity.Timestamp = spec.Duration(4 * time.Second) })
	w.zone("lab", "10.2.0.0/24", "")
	w.node("lab", "x", "10.2.0.1")
	w.repo.Write("zones/lab/policy.yaml", "")
	w.repo.Remove("zones/lab/policy.yaml")
	first := w.push("Second zone")
	w.start()
	frozen := w.published("prod", first)
	w.zone("prod", "10.1.0.0/24", "  suspend: true\n")
	w.node("prod", "d", "10.1.0.4")
	second := w.push("Suspend prod, and change it")
	w.mustApply(second)
	w.published("lab", second)
	f := w.fleet()
	z := zoneOf(f, "prod")
	if !z.Suspended || z.Current.Commit != frozen.Commit || f.Accepted != second {
		t.Fatalf("%+v", z)
	}
	// Agents are told so, and its timestamps go on.
	a := w.agent("prod", "a")
	s := a.open()
	if m := a.take(s.next(t)); peerNames(m) != "b c" {
		t.Fatalf("a sees %s", peerNames(m))
	}
	frozen = *z.Current
	if m, _ := a.state.Manifest(); !m.Suspended || m.Commit != first {
		t.Fatalf("%+v", m)
	}
	old := z.Current.TimestampExpires
	w.clock.Advance(2 * time.Second)
	w.await("a new timestamp", func(f protocol.FleetStatus) bool {
		z := zoneOf(f, "prod")
		return z.Current.TimestampExpires.After(old) && z.Current.Manifest == frozen.Manifest
	})
	if msg := s.next(t); msg.Timestamp == nil {
		t.Fatalf("%+v", msg)
	} else {
		a.take(msg)
	}
	w.zone("prod", "10.1.0.0/24", "")
	third := w.push("Go on")
	w.mustApply(third)
	w.published("prod", third)
	if m := a.take(s.next(t)); peerNames(m) != "b c d" {
		t.Fatalf("a sees %s", peerNames(m))
	}
}
