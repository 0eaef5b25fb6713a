package controller_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// isolated is a world in which a and b see each other and c sees nobody, beside a second zone with x.
func isolated(t *testing.T) (w *world, commit string) {
	w = newWorld(t)
	w.policy("prod", "node: a", "node: b")
	w.zone("lab", "10.1.0.0/24", "")
	w.node("lab", "x", "10.1.0.9")
	commit = w.push("Isolate")
	w.start()
	w.published("prod", commit)
	w.published("lab", commit)
	return w, commit
}

func TestNothingOutsideTheOwnView(t *testing.T) {
	w, _ := isolated(t)
	view := decode[protocol.ViewResponse](t, w.get("a", protocol.ViewPath(w.name, "prod", "a")), protocol.MaxViewResponseBytes)
	own, err := peermap.DecodeView(view.View)
	if err != nil {
		t.Fatal(err)
	}
	w.get("a", protocol.ArtefactPath(w.name, "prod", "a", own.Class))
	class, err := peermap.DecodeClass(w.get("a", protocol.ArtefactPath(w.name, "prod", "a", own.Class)))
	if err != nil {
		t.Fatal(err)
	}
	w.get("a", protocol.ArtefactPath(w.name, "prod", "a", class.Blocks()[0]))

	nothing, _ := w.do(w.as("c", call{path: protocol.ArtefactPath(w.name, "prod", "c", peermap.Digest{1})}))
	_, missing := w.do(w.as("c", call{path: protocol.ArtefactPath(w.name, "prod", "c", peermap.Digest{1})}))
	if nothing.StatusCode != http.StatusNotFound {
		t.Fatalf("what does not exist: %d", nothing.StatusCode)
	}
	for name, c := range map[string]call{
		"class of another":    w.as("c", call{path: protocol.ArtefactPath(w.name, "prod", "c", own.Class)}),
		"block of another":    w.as("c", call{path: protocol.ArtefactPath(w.name, "prod", "c", class.Blocks()[0])}),
		"through another":     w.as("c", call{path: protocol.ArtefactPath(w.name, "prod", "a", own.Class)}),
		"view of another":     w.as("c", call{path: protocol.ViewPath(w.name, "prod", "a")}),
		"view of nobody":      w.as("c", call{path: protocol.ViewPath(w.name, "prod", "nobody")}),
		"watch of another":    w.as("c", call{path: protocol.WatchPath(w.name, "prod", "a")}),
		"manifest of no one":  w.as("c", call{path: protocol.ManifestPath(w.name, "prod", peermap.Digest{2})}),
		"no digest":           w.as("c", call{path: protocol.NodePath(w.name, "prod", "c") + "/artefacts/zz"}),
		"a dictionary abroad": w.as("c", call{path: protocol.ArtefactPath(w.name, "prod", "c", own.Class), header: http.Header{"Accept-Encoding": {"dcz"}, "Available-Dictionary": {availableDictionary(own.Class)}}}),
	} {
		resp, body := w.do(c)
		if resp.StatusCode != http.StatusNotFound || !bytes.Equal(body, missing) {
			t.Errorf("%s: %d %s, want exactly what is said of nothing", name, resp.StatusCode, body)
		}
	}
}

func TestStrangersLearnNothing(t *testing.T) {
	w, _ := isolated(t)
	stranger, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, want := w.do(w.prove(call{path: protocol.ViewPath(w.name, "prod", "a")}, "a", stranger))
	for name, c := range map[string]call{
		"no such node":       w.prove(call{path: protocol.ViewPath(w.name, "prod", "ghost")}, "ghost", stranger),
		"no such zone":       w.prove(call{path: protocol.ViewPath(w.name, "ghost", "a")}, "a", stranger),
		"no such network":    w.prove(call{path: protocol.ViewPath("ghost", "prod", "a")}, "a", stranger),
		"another zone's key": w.as("x", call{path: protocol.ViewPath(w.name, "prod", "x")}),
		"a key for its peer": w.prove(call{path: protocol.ViewPath(w.name, "prod", "a")}, "a", w.ids["b"]),
		"timestamp":          w.prove(call{path: protocol.TimestampPath(w.name, "prod")}, "a", stranger),
	} {
		resp, body := w.do(c)
		if resp.StatusCode != http.StatusUnauthorized || !bytes.Equal(body, want) {
			t.Errorf("%s: %d %s, want %s", name, resp.StatusCode, body, want)
		}
	}
	if resp, _ := w.do(call{path: protocol.TimestampPath(w.name, "prod")}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without proof: %d", resp.StatusCode)
	}
	twice := w.as("a", call{path: protocol.TimestampPath(w.name, "prod")})
	twice.header[protocol.ProofHeader] = append(twice.header[protocol.ProofHeader], twice.header[protocol.ProofHeader]...)
	if resp, _ := w.do(twice); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("two proofs: %d", resp.StatusCode)
	}
}

func TestProofsCannotBeReplayedOrBorrowed(t *testing.T) {
	w, _ := isolated(t)
	c := w.as("a", call{path: protocol.TimestampPath(w.name, "prod")})
	if resp, body := w.do(c); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if resp, body := w.do(c); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), protocol.CodeReplay) {
		t.Fatalf("replay: %d %s", resp.StatusCode, body)
	}
	borrowed := w.as("a", call{path: protocol.ViewPath(w.name, "prod", "a")})
	borrowed.path = protocol.TimestampPath(w.name, "prod")
	if resp, _ := w.do(borrowed); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("for another resource: %d", resp.StatusCode)
	}
	late := w.as("a", call{path: protocol.TimestampPath(w.name, "prod")})
	w.clock.Advance(protocol.ProofSkew + time.Second)
	if resp, body := w.do(late); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), "clock") {
		t.Fatalf("late: %d %s", resp.StatusCode, body)
	}
}

func TestCachesAreToldTheTruth(t *testing.T) {
	w, _ := isolated(t)
	stamp, _ := w.do(w.as("a", call{path: protocol.TimestampPath(w.name, "prod")}))
	etag := stamp.Header.Get("ETag")
	if resp, body := w.do(w.as("a", call{path: protocol.TimestampPath(w.name, "prod"), header: http.Header{"If-None-Match": {etag}}})); resp.StatusCode != http.StatusNotModified || len(body) != 0 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	root, _ := w.do(call{path: protocol.RootPath(w.name, "prod", 1)})
	if !strings.Contains(root.Header.Get("Cache-Control"), "public") || !strings.Contains(root.Header.Get("Cache-Control"), "immutable") {
		t.Fatal(root.Header)
	}
	view, _ := w.do(w.as("a", call{path: protocol.ViewPath(w.name, "prod", "a")}))
	if strings.Contains(view.Header.Get("Cache-Control"), "public") {
		t.Fatal(view.Header)
	}
	for _, path := range []string{protocol.RootPath(w.name, "prod", 2), protocol.RootPath(w.name, "prod", 0), protocol.ZonePath(w.name, "prod") + "/roots/01"} {
		if resp, _ := w.do(call{path: path}); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

func TestApplyIsForAppliersOnceAndNamesTheHead(t *testing.T) {
	w := newWorld(t)
	first := w.repo.Head()
	w.start()
	w.published("prod", first)
	w.node("prod", "d", "10.1.0.4")
	second := w.push("Add d")

	other := w.env.SSHKey("other")
	payload, err := protocol.NewApply(w.name, second, w.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	good := w.signed(protocol.ApplyNamespace, payload, w.owner)
	for name, body := range map[string][]byte{
		"stranger":  w.signed(protocol.ApplyNamespace, payload, other),
		"namespace": w.signed("git", payload, w.owner),
		"tampered":  bytes.Replace(good, []byte(`"payload":"ey`), []byte(`"payload":"eY`), 1),
	} {
		if resp, answer := w.sendApply(body); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
		}
	}
	if resp, answer := w.sendApply([]byte("{}")); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("empty: %d %s", resp.StatusCode, answer)
	}
	if resp, answer := w.sendApply(make([]byte, protocol.MaxApplyBytes+1)); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("endless: %d %s", resp.StatusCode, answer)
	}
	if got := w.fleet().Accepted; got != first {
		t.Fatalf("something was applied: %s", got)
	}
	resp, answer := w.sendApply(good)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, answer)
	}
	if result := decode[protocol.ApplyResult](t, answer, protocol.MaxFleetBytes); result.Commit != second || result.Zones[0].Current.Commit != second {
		t.Fatalf("%+v", result)
	}
	if resp, answer := w.sendApply(good); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(answer), protocol.CodeReplay) {
		t.Fatalf("replay: %d %s", resp.StatusCode, answer)
	}
	if resp, answer := w.apply(first); resp.StatusCode != http.StatusConflict {
		t.Fatalf("an older commit: %d %s", resp.StatusCode, answer)
	}
	old, err := protocol.NewApply(w.name, second, w.clock.Now().Add(-protocol.RequestSkew-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if resp, answer := w.sendApply(w.signed(protocol.ApplyNamespace, old, w.owner)); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("old: %d %s", resp.StatusCode, answer)
	}
}

func TestFleetStatusNeedsASignature(t *testing.T) {
	w, commit := isolated(t)
	payload, err := protocol.NewStatusQuery(w.name, w.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(body []byte) (*http.Response, []byte) {
		h := http.Header{}
		if err := protocol.SetRequest(h, decode[protocol.SignedRequest](t, body, protocol.MaxApplyBytes)); err != nil {
			t.Fatal(err)
		}
		return w.do(call{path: protocol.FleetPath(w.name), header: h})
	}
	if resp, _ := ask(w.signed(protocol.StatusNamespace, payload, w.env.SSHKey("other"))); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a stranger: %d", resp.StatusCode)
	}
	if resp, _ := ask(w.signed(protocol.ApplyNamespace, payload, w.owner)); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a signature for something else: %d", resp.StatusCode)
	}
	resp, body := ask(w.signed(protocol.StatusNamespace, payload, w.owner))
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if f := decode[protocol.FleetStatus](t, body, protocol.MaxFleetBytes); f.Accepted != commit || len(f.Zones) != 2 {
		t.Fatalf("%+v", f)
	}
	if resp, _ := w.do(call{path: protocol.FleetPath(w.name)}); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("unsigned: %d", resp.StatusCode)
	}
}

func TestReportsAreOwnRateLimitedAndKept(t *testing.T) {
	w, commit := isolated(t)
	report := func(node, about string) (*http.Response, []byte) {
		body, err := protocol.Encode(protocol.NodeStatus{
			Network: w.name, Zone: "prod", Node: about, Agent: "test", Started: w.clock.Now().UTC(), Reported: w.clock.Now().UTC(),
			Applied: protocol.Generation{Commit: commit, Manifest: zoneOf(w.fleet(), "prod").Current.Manifest}, Conditions: []protocol.Condition{},
		})
		if err != nil {
			t.Fatal(err)
		}
		return w.do(w.as(node, call{method: http.MethodPost, path: protocol.ReportPath(w.name, "prod", node), body: body}))
	}
	if resp, body := report("a", "b"); resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("about another: %d %s", resp.StatusCode, body)
	}
	if resp, body := report("a", "a"); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if resp, body := report("a", "a"); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("at once again: %d %s", resp.StatusCode, body)
	}
	check := func() {
		t.Helper()
		for _, n := range zoneOf(w.fleet(), "prod").Nodes {
			if want := n.Node == "a"; (n.Status != nil && n.Behind == "") != want {
				t.Fatalf("%+v", n)
			}
		}
	}
	check()
	w.stop()
	w.start()
	check()
	big := call{method: http.MethodPost, path: protocol.ReportPath(w.name, "prod", "a"), body: make([]byte, protocol.MaxStatusBytes+1)}
	if resp, _ := w.do(w.as("a", big)); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("endless: %d", resp.StatusCode)
	}
}

func TestWebhookOnlyPokes(t *testing.T) {
	w := newWorld(t)
	secret := "0123456789abcdef0123"
	if err := os.WriteFile(filepath.Join(w.dir, "hook"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.writeConfig("    webhookSecretFile: hook\n")
	w.start()
	w.published("prod", w.repo.Head())
	body := []byte(`{"after":"` + strings.Repeat("0", 40) + `"}`)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	sum := hex.EncodeToString(mac.Sum(nil))
	for i, h := range []http.Header{
		{"X-Hub-Signature-256": {"sha256=" + sum}}, {"X-Gitlab-Token": {secret}}, {"X-Gitea-Signature": {sum}}, {"X-Apex-Signature": {sum}},
	} {
		w.node("prod", "n"+string(rune('0'+i)), "10.1.0."+string(rune('4'+i)))
		commit := w.push("Add one")
		if resp, _ := w.do(call{method: http.MethodPost, path: protocol.WebhookPath(w.name), body: body, header: h}); resp.StatusCode != http.StatusAccepted {
			t.Fatalf("%v: %d", h, resp.StatusCode)
		}
		w.published("prod", commit)
	}
	for _, h := range []http.Header{
		{}, {"X-Hub-Signature-256": {"sha256=00"}}, {"X-Gitlab-Token": {"wrong"}}, {"X-Apex-Signature": {strings.Repeat("0", 64)}}, {"X-Hub-Signature-256": {"sha256=zz"}},
	} {
		if resp, _ := w.do(call{method: http.MethodPost, path: protocol.WebhookPath(w.name), body: body, header: h}); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%v: %d", h, resp.StatusCode)
		}
	}
}

// What is kept of nodes that left while no controller ran, or the one before was slow to forget, goes once it is known who is left.
func TestStatusOfGoneNodesIsForgotten(t *testing.T) {
	w := newWorld(t)
	b, err := w.store.Bucket(t.Context(), serve.StatusBucket())
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"a", "gone"} {
		if err := b.Put(t.Context(), w.name+".prod."+node, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	w.start()
	w.await("the status of a node that is gone is forgotten", func(protocol.FleetStatus) bool {
		_, err := b.Get(t.Context(), w.name+".prod.gone")
		return errors.Is(err, store.ErrNotFound)
	})
	if _, err := b.Get(t.Context(), w.name+".prod.a"); err != nil {
		t.Errorf("the status of a node that is here: %v", err)
	}
}

func TestRemovedNodeIsCutOff(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.published("prod", w.repo.Head())
	c := w.agent("prod", "c")
	s := c.open()
	c.take(s.next(t))
	w.repo.Remove("zones/prod/c.yaml")
	w.mustApply(w.push("Remove c\n\nApex-Allow-Shrink: prod"))
	for {
		m, err := s.Next()
		if err != nil {
			break
		}
		if m.Update != nil {
			t.Fatal("a removed node was told of the generation without it")
		}
	}
	if resp, _ := w.do(w.as("c", call{path: protocol.ViewPath(w.name, "prod", "c")})); resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a removed node: %d", resp.StatusCode)
	}
}

func TestArtefactsTravelCompressedAndAsDeltas(t *testing.T) {
	w := newWorld(t)
	for i := range 10 {
		w.node("prod", fmt.Sprintf("more%d", i), fmt.Sprintf("10.1.0.%d", 100+i))
	}
	w.push("Enough to compress")
	w.start()
	w.published("prod", w.repo.Head())
	class := func() (peermap.Digest, []byte) {
		view := decode[protocol.ViewResponse](t, w.get("a", protocol.ViewPath(w.name, "prod", "a")), protocol.MaxViewResponseBytes)
		v, err := peermap.DecodeView(view.View)
		if err != nil {
			t.Fatal(err)
		}
		c, err := peermap.DecodeClass(w.get("a", protocol.ArtefactPath(w.name, "prod", "a", v.Class)))
		if err != nil {
			t.Fatal(err)
		}
		d := c.Blocks()[0]
		return d, w.get("a", protocol.ArtefactPath(w.name, "prod", "a", d))
	}
	oldDigest, old := class()
	w.node("prod", "d", "10.1.0.4")
	w.mustApply(w.push("Add d"))
	digest, block := class()
	path := protocol.ArtefactPath(w.name, "prod", "a", digest)
	resp, data := w.do(w.as("a", call{path: path, header: http.Header{"Accept-Encoding": {"gzip, zstd"}}}))
	if resp.Header.Get("Content-Encoding") != "zstd" {
		t.Fatal(resp.Header)
	}
	if got, err := protocol.Open(protocol.Zstd, data, nil, digest, peermap.MaxBlockBytes); err != nil || !bytes.Equal(got, block) {
		t.Fatal(err)
	}
	resp, data = w.do(w.as("a", call{path: path, header: http.Header{
		"Accept-Encoding": {"zstd, dcz"}, "Available-Dictionary": {availableDictionary(oldDigest)},
	}}))
	if resp.Header.Get("Content-Encoding") != "dcz" {
		t.Fatal(resp.Header)
	}
	from, rest, err := protocol.CutDictionaryHeader(data)
	if err != nil || from != oldDigest {
		t.Fatal(from, err)
	}
	if got, err := protocol.Open(protocol.Delta, rest, old, digest, peermap.MaxBlockBytes); err != nil || !bytes.Equal(got, block) {
		t.Fatal(err)
	}
}

func TestHealth(t *testing.T) {
	w, _ := isolated(t)
	for _, base := range []string{"http://" + w.addr.Metrics, "https://" + w.addr.API} {
		for _, path := range []string{"/healthz", "/readyz"} {
			resp, err := w.client.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("%s%s: %d", base, path, resp.StatusCode)
			}
		}
	}
	if resp, _ := w.do(call{path: "/metrics"}); resp.StatusCode != http.StatusNotFound {
		t.Errorf("metrics on the public address: %d", resp.StatusCode)
	}
	var p protocol.Problem
	_, body := w.do(call{path: protocol.TimestampPath(w.name, "prod")})
	if err := json.Unmarshal(body, &p); err != nil || p.Code != protocol.CodeProof {
		t.Errorf("%s", body)
	}
}
