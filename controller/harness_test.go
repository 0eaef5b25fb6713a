package controller_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/gittest"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// hung is how long tests wait for what they wait for. It is only for what hangs: no good run comes near it.
const hung = 5 * time.Minute

// clock is a clock that tests turn.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a network repository with its people, and a controller that follows it.
type world struct {
	t     *testing.T
	env   *gittest.Env
	repo  *gittest.Repo
	bare  string
	root  *gittest.TrustRoot
	owner *gittest.SSHKey // root key, maintainer of everything, applier
	name  string
	dir   string
	clock *clock
	store store.Store
	ids   map[string]signer.PrivateKey // node → identity

	config string
	addr   controller.Addresses
	client *http.Client
	stop   func()
}

// newWorld makes a repository of one network with the zone "prod": nodes a, b, c, all connected.
func newWorld(t *testing.T, change ...func(*world)) *world {
	t.Helper()
	env := gittest.New(t)
	w := &world{
		t: t, env: env, repo: env.Repo("net"), owner: env.SSHKey("owner"), name: "acme", dir: t.TempDir(),
		clock: &clock{now: time.Now().Truncate(time.Second)}, ids: map[string]signer.PrivateKey{},
	}
	w.store = store.NewMemory(w.clock.Now)
	w.root = env.TrustRoot(w.name, 1, w.owner)
	w.root.Maintainer("all", w.owner, []string{"**"})
	w.root.Spec.Appliers.Keys = []string{w.owner.Name()}
	for _, f := range change {
		f(w)
	}
	w.root.Write(w.repo, w.owner)
	w.repo.Write("network.yaml", "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: "+w.name+"}\n")
	w.zone("prod", "10.1.0.0/24", "")
	for i, n := range []string{"a", "b", "c"} {
		w.node("prod", n, fmt.Sprintf("10.1.0.%d", i+1))
	}
	w.policy("prod", "any: true", "any: true")
	w.repo.Commit(w.owner, "Begin")
	w.bare = w.repo.Bare()
	w.writeConfig("")
	return w
}

func (w *world) zone(name, cidr, more string) {
	w.repo.Write("zones/"+name+"/zone.yaml", "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: "+name+"}\nspec:\n  ranges: ["+cidr+"]\n"+more)
}

func (w *world) node(zone, name, addr string) {
	w.t.Helper()
	id, ok := w.ids[name]
	if !ok {
		var err error
		if id, err = signer.GenerateKey(rand.Reader); err != nil {
			w.t.Fatal(err)
		}
		w.ids[name] = id
	}
	wg := wireGuardKey(w.t)
	w.repo.Write("zones/"+zone+"/"+name+".yaml", fmt.Sprintf(`apiVersion: apex/v1alpha1
kind: Node
metadata: {name: %s, zone: %s}
spec:
  addresses: [%s]
  publicKey: %s
  identityKey: %s
`, name, zone, addr, wg, spec.Key(id.Raw())))
}

func wireGuardKey(t *testing.T) spec.Key {
	t.Helper()
	k, err := keyfile.NewWireGuard(filepath.Join(t.TempDir(), "wg"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return spec.Key(k.Public())
}

func (w *world) policy(zone, from, to string) {
	w.repo.Write("zones/"+zone+"/policy.yaml", fmt.Sprintf(`apiVersion: apex/v1alpha1
kind: Policy
metadata: {name: all, zone: %s}
spec:
  allow:
    - from: [{%s}]
      to: [{%s}]
`, zone, from, to))
}

// push commits what was written and pushes it.
func (w *world) push(message string) string {
	w.t.Helper()
	commit := w.repo.Commit(w.owner, message)
	w.repo.Git("push", "-q", "--force", w.bare, "HEAD:main")
	return commit
}

// writeConfig writes the configuration file, with more YAML for the network.
func (w *world) writeConfig(more string) {
	w.t.Helper()
	key := filepath.Join(w.dir, "controller.key")
	if _, err := os.Stat(key); err != nil {
		text, err := signer.MarshalPrivate(w.env.ControllerKey())
		if err == nil {
			err = keyfile.Create(key, text)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	enrolment := ""
	if _, err := os.Stat(filepath.Join(w.dir, "enrolment.key")); err == nil {
		enrolment = ", enrolmentFiles: [enrolment.key]"
	}
	w.config = filepath.Join(w.dir, "controller.yaml")
	text := fmt.Sprintf(`storage: state
listen: {api: "127.0.0.1:0", metrics: "127.0.0.1:0", admin: admin.sock}
tls: {selfSigned: true}
networks:
  - name: %s
    repository: {url: %s}
    trustRoot: %s
    keys: {manifestFiles: [controller.key], timestampFiles: [controller.key]%s}
    poll: {interval: 24h, jitterPercent: 0}
%s`, w.name, w.bare, w.root.Pin(), enrolment, more)
	if err := os.WriteFile(w.config+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.config+".new", w.config); err != nil {
		w.t.Fatal(err)
	}
}

// start runs a controller until the test ends or stop is called.
func (w *world) start() {
	w.t.Helper()
	w.startAs(func(*config.Config, *controller.Options) {})
}

// startAs is start with changes.
func (w *world) startAs(change func(*config.Config, *controller.Options)) {
	w.t.Helper()
	cfg, err := config.Load(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	if !testing.Verbose() {
		log = slog.New(slog.DiscardHandler)
	}
	ready := make(chan controller.Addresses, 1)
	options := controller.Options{
		Path: w.config, Version: "test", Logger: log, Now: w.clock.Now, Store: w.store,
		Ready: func(a controller.Addresses) { ready <- a },
	}
	change(cfg, &options)
	c, err := controller.New(cfg, options)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				w.t.Errorf("controller ended: %v", err)
			}
		})
	}
	select {
	case w.addr = <-ready:
	case err := <-ended:
		cancel()
		w.t.Fatalf("controller did not start: %v", err)
	}
	w.t.Cleanup(w.stop)
	w.newClient()
}

func (w *world) newClient() {
	w.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // who serves is proven by signatures, not by TLS
		DisableCompression: true,
	}}
	w.t.Cleanup(w.client.CloseIdleConnections)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// call is one HTTP request to the controller.
type call struct {
	method, path string
	query        string
	body         []byte
	header       http.Header
}

func (w *world) url(path string) *url.URL {
	u, err := url.Parse("https://" + w.addr.API + path)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) do(c call) (*http.Response, []byte) {
	w.t.Helper()
	if c.method == "" {
		c.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(w.t.Context(), c.method, w.url(c.path).String()+c.query, bytes.NewReader(c.body))
	if err != nil {
		w.t.Fatal(err)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, data
}

// prove adds a proof by a node (or whoever subject is).
func (w *world) prove(c call, subject string, key signer.PrivateKey) call {
	w.t.Helper()
	method := c.method
	if method == "" {
		method = http.MethodGet
	}
	p, err := protocol.NewProof(subject, method, w.url(c.path), c.body, w.clock.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := p.Sign(key.Sign)
	if err != nil {
		w.t.Fatal(err)
	}
	h := http.Header{}
	for k, v := range c.header {
		h[k] = v
	}
	h.Set(protocol.ProofHeader, token)
	c.header = h
	return c
}

// as is prove for a node with its own key.
func (w *world) as(node string, c call) call { return w.prove(c, node, w.ids[node]) }

// get fetches what must be there.
func (w *world) get(node, path string) []byte {
	w.t.Helper()
	resp, data := w.do(w.as(node, call{path: path}))
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("GET %s as %s: %d %s", path, node, resp.StatusCode, data)
	}
	return data
}

// fleet asks over the admin socket.
func (w *world) fleet() protocol.FleetStatus {
	w.t.Helper()
	f, err := w.tryFleet()
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) tryFleet() (protocol.FleetStatus, error) {
	client := unixClient(w.addr.Admin)
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://admin" + protocol.FleetPath(w.name))
	if err != nil {
		return protocol.FleetStatus{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return protocol.FleetStatus{}, protocol.ReadProblem(resp)
	}
	var f protocol.FleetStatus
	return f, protocol.Read(resp.Body, protocol.MaxFleetBytes, &f)
}

// await polls the fleet until ok.
func (w *world) await(what string, ok func(protocol.FleetStatus) bool) protocol.FleetStatus {
	w.t.Helper()
	deadline := time.Now().Add(hung)
	var f protocol.FleetStatus
	for time.Now().Before(deadline) {
		var err error
		if f, err = w.tryFleet(); err == nil && ok(f) {
			return f
		}
		time.Sleep(5 * time.Millisecond)
	}
	text, _ := json.MarshalIndent(f, "", " ")
	w.t.Fatalf("%s: not within %s; status is %s", what, hung, text)
	return f
}

// published waits until a zone serves a commit.
func (w *world) published(zone, commit string) protocol.Published {
	w.t.Helper()
	f := w.await(zone+" at "+commit, func(f protocol.FleetStatus) bool {
		z := zoneOf(f, zone)
		return z != nil && z.Current != nil && z.Current.Commit == commit && z.Current.TimestampExpires.Unix() > 0
	})
	return *zoneOf(f, zone).Current
}

func zoneOf(f protocol.FleetStatus, name string) *protocol.ZoneStatus {
	for i := range f.Zones {
		if f.Zones[i].Zone == name {
			return &f.Zones[i]
		}
	}
	return nil
}

// apply signs and sends an apply.
func (w *world) apply(commit string) (*http.Response, []byte) {
	w.t.Helper()
	payload, err := protocol.NewApply(w.name, commit, w.clock.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return w.sendApply(w.signed(protocol.ApplyNamespace, payload, w.owner))
}

func (w *world) signed(namespace string, payload []byte, key *gittest.SSHKey) []byte {
	w.t.Helper()
	sig, err := signer.SSHSign(key.Signer(), namespace, payload)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := protocol.Encode(protocol.SignedRequest{Payload: payload, Signature: string(sig)})
	if err != nil {
		w.t.Fatal(err)
	}
	return body
}

func (w *world) sendApply(body []byte) (*http.Response, []byte) {
	w.t.Helper()
	return w.do(call{method: http.MethodPost, path: protocol.ApplyPath(w.name), body: body})
}

// mustApply pushes nothing and demands success.
func (w *world) mustApply(commit string) {
	w.t.Helper()
	if resp, body := w.apply(commit); resp.StatusCode != http.StatusOK {
		w.t.Fatalf("apply: %d %s", resp.StatusCode, body)
	}
}

// mustRefuse applies commit and gives the refusal.
func (w *world) mustRefuse(commit string, stage, words string) {
	w.t.Helper()
	resp, body := w.apply(commit)
	if resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(body), words) {
		w.t.Fatalf("apply: %d %s, want a refusal with %q", resp.StatusCode, body, words)
	}
	r := w.fleet().Refused
	if r == nil || r.Commit != commit || r.Stage != stage {
		w.t.Fatalf("status says %+v, want stage %s of %s", r, stage, commit)
	}
}

func decode[T any](t *testing.T, data []byte, limit int) T {
	t.Helper()
	var v T
	if err := protocol.Decode(data, limit, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func availableDictionary(d peermap.Digest) string {
	return ":" + base64.StdEncoding.EncodeToString(d[:]) + ":"
}

// startAnother tries to run a second controller with the same configuration.
func startAnother(t *testing.T, w *world) error {
	t.Helper()
	cfg, err := config.Load(w.config)
	if err != nil {
		t.Fatal(err)
	}
	c, err := controller.New(cfg, controller.Options{Now: w.clock.Now, Store: w.store})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hung)
	defer cancel()
	return c.Run(ctx)
}
