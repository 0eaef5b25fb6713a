package controller_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/witness"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// recheck is a twin of enrol.Recheck that believes goodEvidence and counts.
type recheck struct {
	calls, hangs atomic.Int32
	past         map[peermap.Key][]*binding.Signed // what the binding of a WireGuard key leans on
	patience     time.Duration                     // of the witness with it; 0: it waits for who is only slow
}

func (r *recheck) judge(ctx context.Context, _ witness.Commit, record protocol.BindingRecord) ([]*binding.Signed, error) {
	r.calls.Add(1)
	env, err := signer.ParseEnvelope(record.Envelope, binding.MaxEnvelopeBytes)
	if err != nil {
		return nil, err
	}
	b, err := binding.Parse(env.Payload)
	switch {
	case err != nil:
		return nil, err
	case b.Evidence != peermap.DigestOf(record.Evidence):
		return nil, errors.New("the evidence is not the one that it names")
	case bytes.Equal(record.Evidence, goodEvidence):
		return r.past[b.PublicKey], nil
	case bytes.HasPrefix(record.Evidence, []byte("hang")):
		r.hangs.Add(1)
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", witness.ErrLater, ctx.Err())
	}
	return nil, errors.New("token: it commits to other keys")
}

// judging runs a witness that judges bindings.
func (w *world) judging(key signer.PrivateKey, dir string, r *recheck) (stop func()) {
	return w.witnessAs(key, dir, func(c *witness.Config) { c.Recheck, c.Patience = r.judge, cmp.Or(r.patience, hung) })
}

// evidence gives a binding other evidence, which it names.
func evidence(text string) func(*binding.Binding, *protocol.BindingRecord) {
	return func(b *binding.Binding, r *protocol.BindingRecord) {
		r.Evidence = []byte(text)
		b.Evidence = peermap.DigestOf(r.Evidence)
	}
}

func TestWitnessJudgesEachBindingOnce(t *testing.T) {
	var key signer.PrivateKey
	w, e := newEnrolled(t, twoSigners(t, &key))
	w.startWith(e)
	r, dir := &recheck{}, t.TempDir()
	stop := w.judging(key, dir, r)
	w.published("prod", w.repo.Head())
	const burst = 450 // more than one question's worth
	for n := range burst {
		e.bind(n)
	}
	w.count(burst)
	if got := r.calls.Load(); got != burst {
		t.Fatalf("%d judgements of %d bindings", got, burst)
	}
	stop()
	stop = w.judging(key, dir, r)
	e.bind(burst)
	w.count(burst + 1)
	e.drop("h3")
	w.count(burst)
	if got := r.calls.Load(); got != burst+1 {
		t.Fatalf("%d judgements of %d bindings after a restart", got, burst+1)
	}
	// What ends by itself leaves without a word of anybody.
	w.clock.Advance(31 * time.Minute)
	e.changed()
	w.count(0)
	// And a damaged memory is no reason to stop.
	stop()
	e.bind(7)
	w.judging(key, t.TempDir(), r)
	w.count(1)
}

// A stolen controller with the enrolment key invents bindings: the witness signs none of them.
func TestWitnessRefusesInventedBindings(t *testing.T) {
	stranger, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		forge func(e *enrolled)
		words string
	}{
		"a token for other keys": {func(e *enrolled) { e.bind(66, evidence("stolen")) }, "commits to other keys"},
		"no evidence": {func(e *enrolled) {
			s, _ := e.make(66)
			e.edit(func() { e.held["prod/h66"] = s })
		}, "no evidence"},
		"another's evidence": {func(e *enrolled) {
			e.bind(66, func(b *binding.Binding, r *protocol.BindingRecord) { b.Evidence = peermap.Digest{9} })
		}, "evidence is not the one"},
		"another's record": {func(e *enrolled) {
			s, _ := e.make(66)
			_, other := e.make(67)
			e.put(s, other)
		}, "gives another's"},
		"signed by a stranger": {func(e *enrolled) {
			own := e.key
			e.key = stranger
			defer func() { e.key = own }()
			e.bind(66)
		}, "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			var key signer.PrivateKey
			w, e := newEnrolled(t, twoSigners(t, &key))
			w.startWith(e)
			w.judging(key, t.TempDir(), &recheck{})
			w.published("prod", w.repo.Head())
			e.bind(1)
			before := w.count(1)
			row.forge(e)
			r := w.unwitnessed("h66")
			if z := zoneOf(w.fleet(), "prod"); z.Current.Serial != before.Serial || !strings.Contains(r.Detail, row.words) {
				t.Fatalf("%s\nwant %q", r.Detail, row.words)
			}
			e.bind(2)
			w.count(2) // the honest ones go on, and so does everything else
			w.repo.Write("README.md", "go on")
			next := w.push("Go on")
			w.mustApply(next)
			w.published("prod", next)
		})
	}
}

// Keys that were replaced do not come back, not even by way of a list without the node.
func TestWitnessRefusesReplacedKeys(t *testing.T) {
	atOnce := func(*world, *enrolled) {}
	without := func(w *world, e *enrolled) {
		e.drop("h1")
		w.count(0)
	}
	for name, row := range map[string]struct {
		between func(*world, *enrolled)
		fork    bool // other keys that lean on the replaced ones, and not those themselves
	}{
		"at once":                        {atOnce, false},
		"after a list without it":        {without, false},
		"a fork":                         {atOnce, true},
		"a fork after a list without it": {without, true},
	} {
		t.Run(name, func(t *testing.T) {
			var key signer.PrivateKey
			w, e := newEnrolled(t, twoSigners(t, &key))
			w.startWith(e)
			forked := peermap.Key(peermap.DigestOf([]byte("fork")))
			old, record := e.make(1)
			w.judging(key, t.TempDir(), &recheck{past: map[peermap.Key][]*binding.Signed{forked: {old}}})
			w.published("prod", w.repo.Head())
			e.put(old, record)
			before := w.count(1)
			w.clock.Advance(time.Minute)
			e.bind(1, func(b *binding.Binding, _ *protocol.BindingRecord) {
				b.PublicKey = peermap.Key(peermap.DigestOf([]byte("next")))
			})
			w.await("the rotation", func(f protocol.FleetStatus) bool { return zoneOf(f, "prod").Current.Serial > before.Serial })
			row.between(w, e)
			if row.fork {
				w.clock.Advance(time.Minute)
				e.bind(1, func(b *binding.Binding, _ *protocol.BindingRecord) { b.PublicKey = forked })
			} else {
				e.put(old, record)
			}
			if r := w.unwitnessed("h1"); !strings.Contains(r.Detail, "replaced at") && !strings.Contains(r.Detail, "has other keys") {
				t.Fatal(r.Detail)
			}
		})
	}
}

// A provider that hangs keeps the witness from nothing but the generations that it has a part in.
func TestHangingProviderHoldsUpNobodyElse(t *testing.T) {
	var key signer.PrivateKey
	w, e := newEnrolled(t, twoSigners(t, &key))
	w.zone("lab", "10.9.0.0/16", "  dynamic: [10.9.128.0/17]\n  members: [{name: staff, issuer: corp, groups: [ops], ttl: 1h}]\n")
	head := w.push("Another zone")
	w.startWith(e)
	r := &recheck{patience: 2 * time.Second}
	w.judging(key, t.TempDir(), r)
	w.published("prod", head)
	w.published("lab", head)
	e.bind(66, evidence("hang"))
	w.await("a binding that hangs", func(protocol.FleetStatus) bool { return r.hangs.Load() > 0 })
	e.bind(2, func(b *binding.Binding, _ *protocol.BindingRecord) {
		b.Zone, b.Addresses = "lab", []netip.Addr{netip.MustParseAddr("10.9.128.1")}
	})
	// A commit does not wait for bindings.
	w.repo.Write("README.md", "go on")
	next := w.push("Go on")
	w.mustApply(next)
	w.published("lab", next)
	// Nor does the zone itself, whose other new members wait no longer than the witness asks.
	if p := w.published("prod", next); p.Enrolled != 0 {
		t.Fatalf("%+v", p)
	}
	e.bind(3)
	w.count(1)
	if r := w.unwitnessed("h66"); !strings.Contains(r.Detail, "cannot be judged now") {
		t.Fatal(r.Detail)
	}
	// One whose renewal hangs stays with what it has; revocations and leaving are published.
	old := e.bind(4)
	w.count(2)
	w.clock.Advance(time.Minute)
	e.bind(4, evidence("hang"), func(b *binding.Binding, _ *protocol.BindingRecord) {
		b.IdentityKey, b.PublicKey, b.Addresses = old.Binding.IdentityKey, old.Binding.PublicKey, old.Binding.Addresses
	})
	w.unwitnessed("h4")
	e.drop("h3")
	w.count(1)
	w.repo.Write("network.yaml", "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: "+w.name+"}\nspec:\n"+
		"  issuers: [{name: corp, url: \"https://login.example\"}]\n  revoked: [{zone: prod, node: h4}]\n")
	w.mustApply(w.push("Revoke h4"))
	w.count(0)
}

// unwitnessed waits until a node is listed as one that a witness does not sign.
func (w *world) unwitnessed(node string) protocol.RejectedBinding {
	w.t.Helper()
	is := func(r protocol.RejectedBinding) bool { return r.Node == node && r.Reason == "unwitnessed" }
	f := w.await("a doubt", func(f protocol.FleetStatus) bool { return slices.ContainsFunc(f.Rejected, is) })
	return f.Rejected[slices.IndexFunc(f.Rejected, is)]
}

func TestWitnessWithoutAVerifierRefusesBindings(t *testing.T) {
	var key signer.PrivateKey
	w, e := newEnrolled(t, twoSigners(t, &key))
	w.startWith(e)
	w.witness(key, t.TempDir())
	w.published("prod", w.repo.Head())
	e.bind(1)
	if r := w.unwitnessed("h1"); !strings.Contains(r.Detail, "no way to judge enrolments") {
		t.Fatal(r.Detail)
	}
}

func TestOnlyWitnessesReadEvidence(t *testing.T) {
	var key signer.PrivateKey
	w, e := newEnrolled(t, twoSigners(t, &key))
	w.startWith(e)
	w.judging(key, t.TempDir(), &recheck{})
	w.published("prod", w.repo.Head())
	s := e.bind(1)
	w.count(1)
	list := peermap.DigestOf(binding.List([]binding.Entry{{Digest: s.Digest, Node: "h1"}}))
	body, err := protocol.Encode(protocol.BindingsQuery{Digests: []peermap.Digest{s.Digest}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []call{
		{path: protocol.BindingsPath(w.name, "prod", list)},
		{method: "POST", path: protocol.RecordsPath(w.name), body: body},
	} {
		if resp, data := w.do(c); resp.StatusCode != 401 {
			t.Errorf("nobody: %d %s", resp.StatusCode, data)
		}
		if resp, data := w.do(w.as("a", c)); resp.StatusCode != 401 {
			t.Errorf("a node: %d %s", resp.StatusCode, data)
		}
		if resp, data := w.do(w.prove(c, protocol.WitnessSubject(key.Public().ID()), key)); resp.StatusCode != 200 {
			t.Errorf("the witness: %d %s", resp.StatusCode, data)
		}
	}
	for _, d := range []peermap.Digest{{}, {5}} {
		c := w.prove(call{path: protocol.BindingsPath(w.name, "prod", d)}, protocol.WitnessSubject(key.Public().ID()), key)
		if resp, _ := w.do(c); resp.StatusCode != 404 {
			t.Errorf("list %s: %d", d, resp.StatusCode)
		}
	}
}

// witnessAs is witness with changes.
func (w *world) witnessAs(key signer.PrivateKey, dir string, change func(*witness.Config)) (stop func()) {
	cfg := witness.Config{
		Network: w.name, TrustRoot: w.root.Pin(), Remote: gitsource.Remote{URL: w.bare, Branch: "main"}, Dir: dir,
		Controller: w.url(""), Client: w.client, Key: key, Now: w.clock.Now,
	}
	change(&cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- witness.Run(ctx, cfg) }()
	var done atomic.Bool
	stop = func() {
		if done.CompareAndSwap(false, true) {
			cancel()
			if err := <-ended; err != nil {
				w.t.Errorf("witness: %v", err)
			}
		}
	}
	w.t.Cleanup(stop)
	return stop
}
