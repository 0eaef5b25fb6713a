package controller_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// enrolled is the twin of the enrolment service: whoever the test names holds a binding.
type enrolled struct {
	w   *world
	key signer.PrivateKey

	mu      sync.Mutex
	version uint64
	held    map[string]*binding.Signed
	records map[peermap.Digest]protocol.BindingRecord
	changed func()
}

// newEnrolled makes a world in which people of corp's group ops may enrol in the zone prod, and who has.
func newEnrolled(t *testing.T, change ...func(*world)) (*world, *enrolled) {
	t.Helper()
	e := &enrolled{version: 1, held: map[string]*binding.Signed{}, records: map[peermap.Digest]protocol.BindingRecord{}, changed: func() {}}
	var err error
	if e.key, err = signer.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, append(change, func(w *world) {
		w.root.Spec.Keys = append(w.root.Spec.Keys, spec.TrustKey{Name: "enrolment", Ed25519: e.key.Raw()})
		w.root.Spec.Enrolment = spec.Role{Keys: []string{"enrolment"}}
	})...)
	e.w = w
	w.repo.Write("network.yaml", "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: "+w.name+"}\nspec:\n  issuers: [{name: corp, url: \"https://login.example\"}]\n")
	w.members("ops")
	w.push("Let people enrol")
	return w, e
}

// members says which group may enrol.
func (w *world) members(group string) {
	w.zone("prod", "10.1.0.0/16", "  dynamic: [10.1.128.0/17]\n  members: [{name: staff, issuer: corp, groups: ["+group+"], ttl: 1h, maxNodes: 5000}]\n")
}

// startWith is start with e as the source of bindings.
func (w *world) startWith(e *enrolled, change ...func(*config.Config, *controller.Options)) {
	w.t.Helper()
	w.startAs(func(cfg *config.Config, o *controller.Options) {
		o.Bindings = func(_ string, changed func()) (build.Bindings, serve.Records) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.changed = changed
			return e, e.give
		}
		for _, f := range change {
			f(cfg, o)
		}
	})
}

func (e *enrolled) Snapshot() ([]*binding.Signed, uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.held)), e.version
}

func (e *enrolled) give(_ context.Context, digests []peermap.Digest) ([]protocol.BindingRecord, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []protocol.BindingRecord
	for _, d := range digests {
		if r, ok := e.records[d]; ok {
			out = append(out, r)
		}
	}
	return out, nil
}

func (e *enrolled) edit(f func()) {
	e.mu.Lock()
	f()
	e.version++
	changed := e.changed
	e.mu.Unlock()
	changed()
}

// bind gives host hN a binding for half an hour.
func (e *enrolled) bind(n int, change ...func(*binding.Binding, *protocol.BindingRecord)) *binding.Signed {
	s, r := e.make(n, change...)
	e.put(s, r)
	return s
}

func (e *enrolled) put(s *binding.Signed, r protocol.BindingRecord) {
	e.edit(func() { e.held[s.Binding.Zone+"/"+s.Binding.Node], e.records[s.Digest] = s, r })
}

func (e *enrolled) drop(names ...string) {
	e.edit(func() {
		for _, n := range names {
			delete(e.held, "prod/"+n)
		}
	})
}

var goodEvidence = []byte("evidence")

// make signs a binding; a change of the record comes after the signature.
func (e *enrolled) make(n int, change ...func(*binding.Binding, *protocol.BindingRecord)) (*binding.Signed, protocol.BindingRecord) {
	e.w.t.Helper()
	id, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		e.w.t.Fatal(err)
	}
	now := e.w.clock.Now()
	b := binding.Binding{
		Type: binding.Type, Network: e.w.name, Zone: "prod", Node: fmt.Sprintf("h%d", n),
		Identity:  binding.Identity{Issuer: "corp", URL: "https://login.example", Subject: fmt.Sprint(n), Groups: []string{"ops"}, Claims: []binding.Claim{}},
		PublicKey: peermap.Key(peermap.DigestOf(fmt.Append(nil, "wg", n))), IdentityKey: peermap.Key(id.Raw()),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 128 + byte(n/250), 1 + byte(n%250)})}, Labels: []binding.Pair{}, Routes: []netip.Prefix{},
		Rule: binding.Rule{Name: "staff", File: "zones/prod/zone.yaml", Line: 1}, Commit: strings.Repeat("a", 40),
		Issued: now.Unix(), Expires: now.Add(30 * time.Minute).Unix(), Evidence: peermap.DigestOf(goodEvidence),
	}
	r := protocol.BindingRecord{Evidence: goodEvidence}
	for _, f := range change {
		f(&b, &r)
	}
	payload, err := b.Encode()
	if err != nil {
		e.w.t.Fatal(err)
	}
	if r.Envelope == nil {
		env, err := signer.SignEd25519(binding.Type, payload, e.key)
		if err == nil {
			r.Envelope, err = env.Encode()
		}
		if err != nil {
			e.w.t.Fatal(err)
		}
	}
	s, err := binding.NewSigned(payload, r.Envelope)
	if err != nil {
		e.w.t.Fatal(err)
	}
	return s, r
}

// count waits until the zone prod serves that many enrolled nodes.
func (w *world) count(n uint64) protocol.Published {
	w.t.Helper()
	f := w.await(fmt.Sprintf("%d enrolled nodes", n), func(f protocol.FleetStatus) bool {
		z := zoneOf(f, "prod")
		return z != nil && z.Current != nil && z.Current.Enrolled == n
	})
	return *zoneOf(f, "prod").Current
}

func TestEnrolledNodesArePublishedWithoutACommit(t *testing.T) {
	w, e := newEnrolled(t)
	w.startWith(e)
	first := w.published("prod", w.repo.Head())
	e.bind(1)
	e.bind(2, func(b *binding.Binding, _ *protocol.BindingRecord) { b.Identity.Groups = []string{"dev"} })
	p := w.count(1)
	if p.Commit != first.Commit || p.Serial <= first.Serial || p.Views != 4 {
		t.Fatalf("%+v", p)
	}
	f := w.await("a rejection in the status", func(f protocol.FleetStatus) bool { return len(f.Rejected) == 1 })
	if r := f.Rejected[0]; r.Node != "h2" || r.Reason != "no-rule" || r.Detail == "" {
		t.Fatalf("%+v", r)
	}
	e.drop("h1")
	w.count(0)
}

const window = config.DefaultBatch // between two generations of bindings

func TestBurstOfEnrolmentsMakesFewGenerations(t *testing.T) {
	w, e := newEnrolled(t)
	w.startWith(e)
	first := w.published("prod", w.repo.Head())
	const burst = 1000
	began := time.Now()
	e.bind(0)
	one := w.count(1)
	t.Logf("the first was published after %s", time.Since(began))
	put := make([]func(), burst) // signed before, or the burst would last as long as this machine takes to sign
	for n := range burst {
		signed, record := e.make(n)
		put[n] = func() { e.put(signed, record) }
	}
	began = time.Now()
	for _, f := range put {
		f()
	}
	sent := time.Since(began)
	last := w.count(burst)
	took := time.Since(began)
	t.Logf("%d enrolments over %s: %d generations, all published after %s", burst, sent, last.Serial-one.Serial, took)
	// The burst ends within one window, so three are enough: the first host's, one with what is there by then, the rest. A
	// machine that stalls sends for longer, but between two stand a window at least.
	made, most := last.Serial-first.Serial, 3+uint64(took/window)
	if made > most {
		t.Fatalf("%d enrolments over %s made %d generations, want at most %d", burst, took, made, most)
	}
}

// However many renew, however fast a generation is made: there is one per window. The zone is small, so that without windows
// there would be dozens.
func TestRenewalsMakeAGenerationPerWindow(t *testing.T) {
	const hosts, renewals = 10, 1000
	w, e := newEnrolled(t)
	w.startWith(e)
	first := w.published("prod", w.repo.Head())
	began := time.Now()
	for n := range renewals {
		e.bind(n % hosts)
	}
	e.bind(hosts) // comes last
	last := w.count(hosts + 1)
	took := time.Since(began)
	made := last.Serial - first.Serial
	t.Logf("%d renewals over %s: %d generations", renewals, took, made)
	if most := uint64(took/window) + 2; made > most { // one at once, and the window that has begun
		t.Fatalf("%d renewals over %s made %d generations, want at most %d", renewals, took, made, most)
	}
}

// hanging is a source whose fetch hangs, or fails, while the test says so.
type hanging struct {
	build.Source
	mu      sync.Mutex
	hangs   chan struct{} // hangs until it is closed
	failure error
}

func (h *hanging) set(hangs chan struct{}, failure error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hangs, h.failure = hangs, failure
}

func (h *hanging) Fetch(ctx context.Context) (string, error) {
	h.mu.Lock()
	hangs, failure := h.hangs, h.failure
	h.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if failure != nil {
		return "", failure
	}
	return h.Source.Fetch(ctx)
}

func withSource(h *hanging) func(*config.Config, *controller.Options) {
	return func(_ *config.Config, o *controller.Options) {
		o.OpenSource = func(n config.Network, dir string, log *slog.Logger) (build.Source, error) {
			src, err := gitsource.Open(dir, gitsource.Remote{URL: n.Repository.URL, Branch: n.Repository.Branch}, gitsource.Options{Logger: log})
			h.Source = src
			return h, err
		}
	}
}

func TestBindingsComeAndEndWhileTheRepositoryHangs(t *testing.T) {
	w, e := newEnrolled(t)
	h := &hanging{}
	w.startWith(e, withSource(h))
	w.published("prod", w.repo.Head())
	hang := make(chan struct{})
	h.set(hang, nil)
	answered := make(chan int)
	go func() {
		resp, _ := w.apply(w.repo.Head())
		answered <- resp.StatusCode
	}()
	e.bind(1)
	e.bind(2, func(b *binding.Binding, _ *protocol.BindingRecord) { b.Expires += 600 })
	w.count(2)
	w.clock.Advance(31 * time.Minute)
	e.changed() // the loop measured its wait by the clock before it was turned
	w.count(1)
	close(hang)
	if code := <-answered; code != 200 {
		t.Fatalf("apply after the repository came back: %d", code)
	}
}

func TestBindingsGoOnAfterARestartWithoutTheRepository(t *testing.T) {
	w, e := newEnrolled(t)
	h := &hanging{}
	w.startWith(e, withSource(h))
	first := w.published("prod", w.repo.Head())
	e.bind(1)
	w.count(1)
	w.stop()
	h.set(nil, errors.New("the forge is down"))
	w.clock.Advance(time.Second)
	w.startWith(e, withSource(h))
	e.bind(2)
	if p := w.count(2); p.Commit != first.Commit {
		t.Fatalf("%+v", p)
	}
	if f := w.fleet(); !strings.Contains(f.FetchError, "forge is down") {
		t.Fatalf("%+v", f)
	}
}

func TestRefusedHeadKeepsNobodyFromEnrolling(t *testing.T) {
	w, e := newEnrolled(t)
	w.startWith(e)
	w.published("prod", w.repo.Head())
	w.node("prod", "d", "10.99.0.4")
	bad := w.push("A node outside the ranges")
	w.mustRefuse(bad, "validate", "10.99.0.4")
	e.bind(1)
	w.count(1)
	w.stop()
	w.clock.Advance(time.Second)
	w.startWith(e)
	e.bind(2)
	w.count(2)
	w.clock.Advance(31 * time.Minute)
	e.changed()
	w.count(0)
}

func TestSuspendedZoneDoesNotMoveWithBindings(t *testing.T) {
	w, e := newEnrolled(t)
	w.startWith(e)
	w.published("prod", w.repo.Head())
	e.bind(1)
	w.count(1)
	w.zone("lab", "10.9.0.0/16", "  dynamic: [10.9.128.0/17]\n  members: [{name: staff, issuer: corp, groups: [ops]}]\n")
	w.zone("prod", "10.1.0.0/16", "  suspend: true\n  dynamic: [10.1.128.0/17]\n  members: [{name: staff, issuer: corp, groups: [ops], ttl: 1h}]\n")
	w.mustApply(w.push("Suspend"))
	frozen := zoneOf(w.fleet(), "prod").Current
	e.bind(2)
	e.bind(3, func(b *binding.Binding, _ *protocol.BindingRecord) {
		b.Zone, b.Addresses = "lab", []netip.Addr{netip.MustParseAddr("10.9.128.1")}
	})
	f := w.await("an enrolment in the other zone", func(f protocol.FleetStatus) bool {
		z := zoneOf(f, "lab")
		return z != nil && z.Current != nil && z.Current.Enrolled == 1
	})
	if z := zoneOf(f, "prod").Current; z.Serial != frozen.Serial || z.Enrolled != 1 {
		t.Fatalf("was %+v, is %+v", frozen, z)
	}
}

func TestCommitThatTakesEnrolledNodesNeedsTheTrailer(t *testing.T) {
	w, e := newEnrolled(t)
	w.startWith(e)
	w.published("prod", w.repo.Head())
	for n := range 8 {
		e.bind(n)
	}
	w.count(8)
	w.members("dev")
	w.mustRefuse(w.push("Another group"), "shrink", "Apex-Allow-Shrink: prod")
	w.repo.Write("README.md", "meant")
	w.mustApply(w.push("It is meant\n\nApex-Allow-Shrink: prod"))
	w.count(0)
	// That all leave by themselves needs nothing.
	w.members("ops")
	w.mustApply(w.push("And back"))
	w.count(8)
	w.clock.Advance(time.Hour)
	e.changed()
	w.count(0)
}

func TestTrustRootWithoutTheEnrolmentKeyEndsItsBindings(t *testing.T) {
	w, e := newEnrolled(t)
	w.startWith(e)
	w.published("prod", w.repo.Head())
	e.bind(1)
	w.count(1)
	w.root.Spec.Version = 2
	w.root.Spec.Enrolment = spec.Role{}
	w.root.Write(w.repo, w.owner)
	w.mustApply(w.push("Take the enrolment key away"))
	w.count(0)
}
