package controller_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
)

func TestBrokenNetworkStopsNoOther(t *testing.T) {
	w := newWorld(t)
	first := w.repo.Head()
	w.writeConfig(`  - name: gone
    repository: {url: /nonexistent/repository.git}
    trustRoot: ` + w.root.Pin().String() + `
    keys: {manifestFiles: [controller.key], timestampFiles: [controller.key]}
  - name: keyless
    repository: {url: /nonexistent/repository.git}
    trustRoot: ` + w.root.Pin().String() + `
    keys: {manifestFiles: [missing.key], timestampFiles: [controller.key]}
`)
	w.start()
	w.published("prod", first)
	client := unixClient(w.addr.Admin)
	resp, err := client.Get("http://admin" + protocol.FleetPath("gone"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var f protocol.FleetStatus
	if err := protocol.Read(resp.Body, protocol.MaxFleetBytes, &f); err != nil || f.Accepted != "" {
		t.Fatalf("%+v, %v", f, err)
	}
}

func TestReloadAddsRemovesAndRestartsNetworks(t *testing.T) {
	w := newWorld(t)
	first := w.repo.Head()
	w.start()
	w.published("prod", first)
	a := w.agent("prod", "a")
	s := a.open()
	a.take(s.next(t))

	// A mistake changes nothing; a changed network starts anew, and a webhook works from then on.
	if err := os.WriteFile(filepath.Join(w.dir, "hook"), []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.writeConfig("    webhookSecretFile: 7\n")
	w.writeConfig("    webhookSecretFile: hook\n")
	hook := call{method: http.MethodPost, path: protocol.WebhookPath(w.name), header: http.Header{"X-Gitlab-Token": {"0123456789abcdef"}}}
	w.await("the webhook", func(protocol.FleetStatus) bool {
		resp, _ := w.do(hook)
		return resp.StatusCode == http.StatusAccepted
	})
	for {
		if _, err := s.Next(); err != nil {
			break
		}
	}
	if msg := a.open().next(t); msg.Timestamp == nil {
		t.Fatalf("after the restart: %+v", msg)
	}
}

func TestSecondControllerOnOneFolderIsRefused(t *testing.T) {
	w := newWorld(t)
	w.start()
	if err := startAnother(t, w); err == nil || !strings.Contains(err.Error(), "another controller") {
		t.Fatal(err)
	}
}

func TestRuleEndsWithoutACommit(t *testing.T) {
	w := newWorld(t)
	w.repo.Write("zones/prod/policy.yaml", fmt.Sprintf(`apiVersion: apex/v1alpha1
kind: Policy
metadata: {name: all, zone: prod}
spec:
  allow:
    - {from: [{node: a}], to: [{node: b}]}
    - {from: [{node: a}], to: [{node: c}], notAfter: %s}
`, w.clock.Now().Add(time.Minute).UTC().Format(time.RFC3339)))
	commit := w.push("A rule with an end")
	w.start()
	w.published("prod", commit)
	a := w.agent("prod", "a")
	s := a.open()
	if m := a.take(s.next(t)); peerNames(m) != "b c" {
		t.Fatalf("a sees %s", peerNames(m))
	}
	w.clock.Advance(time.Minute)
	w.mustApply(commit) // the poll of this world is a day
	for {
		msg := s.next(t)
		m := a.take(msg)
		if msg.Update == nil {
			continue
		}
		if peerNames(m) != "b" {
			t.Fatalf("a sees %s", peerNames(m))
		}
		return
	}
}

func TestRotatedRootIsServedAndRaisedEpochRecovers(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.published("prod", w.repo.Head())
	a := w.agent("prod", "a")
	s := a.open()
	a.take(s.next(t))
	w.root.Spec.Version, w.root.Spec.Epoch = 2, 2
	w.root.Write(w.repo, w.owner)
	commit := w.push("Raise the epoch")
	w.mustApply(commit)
	a.take(s.next(t))
	if m, _ := a.state.Manifest(); m.Epoch != 2 || m.Serial != 1 || m.Commit != commit || a.state.RootVersion() != 2 {
		t.Fatalf("%+v", m)
	}
}

func TestManifestIsRenewedBeforeItExpires(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.root.Spec.Validity = spec.Validity{Manifest: spec.Duration(time.Hour), Timestamp: spec.Duration(4 * time.Second)}
	})
	first := w.repo.Head()
	w.start()
	before := w.published("prod", first)
	a := w.agent("prod", "a")
	s := a.open()
	a.take(s.next(t))
	w.clock.Advance(45 * time.Minute)
	msg := s.next(t)
	for msg.Update == nil {
		a.take(msg)
		msg = s.next(t)
	}
	if msg.Update.View != nil || len(msg.Update.Artefacts) != 0 {
		t.Fatal("a renewal brought map bytes")
	}
	a.take(msg)
	if m, _ := a.state.Manifest(); m.Serial != before.Serial+1 || m.Commit != first || m.Expires <= before.Expires.Unix() {
		t.Fatalf("%+v after %+v", m, before)
	}
}

func TestSlowHeadersAreCutOff(t *testing.T) {
	t.Parallel() // it waits for the time-out
	w := newWorld(t)
	w.start()
	conn, err := net.Dial("tcp", w.addr.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(hung)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, err := conn.Read(buf)
	if err == nil && !strings.Contains(string(buf[:n]), "408") {
		t.Fatalf("answered %q", buf[:n])
	}
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatal("the connection was left open")
	}
}
