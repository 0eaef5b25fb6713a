package controller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/controller/witness"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// host is a host that enrols, as far as evidence shows it.
type host struct {
	id     signer.PrivateKey
	public peermap.Key
}

func newHost(t *testing.T, name string) host {
	t.Helper()
	seed := peermap.DigestOf([]byte(name))
	id, err := signer.GenerateKey(bytes.NewReader(append(seed[:], seed[:]...)))
	if err != nil {
		t.Fatal(err)
	}
	return host{id, peermap.Key(peermap.DigestOf([]byte("wg " + name)))}
}

func (h host) commitment(w *world) string {
	return protocol.Commitment(w.name, h.public, peermap.Key(h.id.Raw()))
}

// person gives a token of somebody in a group, for the keys that nonce commits to.
func (w *world) person(issuer *tokens.Memory, sub, group, nonce string) string {
	now := w.clock.Now()
	return issuer.Issue(map[string]any{
		"iss": "https://login.example", "sub": sub, "aud": "apex", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"groups": []string{group}, "nonce": nonce, "jti": fmt.Sprint(sub, group, nonce),
	})
}

// forge signs a binding for h with the enrolment key, resting on token: what a controller does that checked everything,
// and what a stolen one does with whatever token it got hold of.
func (e *enrolled) forge(h host, n int, token string, change ...func(*binding.Binding)) {
	e.w.t.Helper()
	w := e.w
	node := fmt.Sprintf("h%d", n)
	req := protocol.NewEnrol(protocol.EnrolRequest{
		Network: w.name, Zone: "prod", Node: node, PublicKey: h.public, IdentityKey: peermap.Key(h.id.Raw()), Mac: make([]byte, 32), Issuer: "corp",
		Token: token,
	})
	encode := func(v any) []byte {
		data, err := protocol.Encode(v)
		if err != nil {
			w.t.Fatal(err)
		}
		return data
	}
	body := encode(req)
	proof, err := protocol.NewProof(node, "POST", &url.URL{Scheme: "https", Host: "controller.example", Path: protocol.EnrolPath(w.name, "prod")}, body, w.clock.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	compact, err := proof.Sign(h.id.Sign)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Token = ""
	evidence := encode(protocol.Evidence{
		Token: token, Key: []byte("{}"), Verified: w.clock.Now().Unix(), Request: encode(req), Proof: compact, Previous: [][]byte{},
	})
	e.bind(n, func(b *binding.Binding, r *protocol.BindingRecord) {
		b.PublicKey, b.IdentityKey, b.Commit = h.public, peermap.Key(h.id.Raw()), w.repo.Head()
		b.Identity.Username = b.Identity.Subject
		r.Evidence, b.Evidence = evidence, peermap.DigestOf(evidence)
		for _, f := range change {
			f(b)
		}
	})
}

// What a controller can make of real tokens, and the real judge.
func TestWitnessSeesThroughForgedEvidence(t *testing.T) {
	const review = "{name: guests, issuer: corp, groups: [guests], ttl: 1h, approval: review}"
	for name, row := range map[string]struct {
		forge func(*world, *enrolled, *tokens.Memory)
		words string
	}{
		"a stolen token and other keys": {func(w *world, e *enrolled, issuer *tokens.Memory) {
			token := w.person(issuer, "66", "ops", newHost(w.t, "victim").commitment(w))
			e.forge(newHost(w.t, "thief"), 66, token)
		}, "commits to other keys"},
		"a token that nobody bound": {func(w *world, e *enrolled, issuer *tokens.Memory) {
			e.forge(newHost(w.t, "thief"), 66, w.person(issuer, "66", "ops", ""))
		}, "commits to no keys"},
		"a token of a controller's own making": {func(w *world, e *enrolled, _ *tokens.Memory) {
			h := newHost(w.t, "thief")
			e.forge(h, 66, w.person(&tokens.Memory{Now: w.clock.Now}, "66", "ops", h.commitment(w)))
		}, "signature"},
		"an identity that the token does not say": {func(w *world, e *enrolled, issuer *tokens.Memory) {
			h := newHost(w.t, "thief")
			e.forge(h, 66, w.person(issuer, "66", "dev", h.commitment(w)))
		}, "something else of the identity"},
		"a request of another's key": {func(w *world, e *enrolled, issuer *tokens.Memory) {
			h := newHost(w.t, "victim")
			thief := host{newHost(w.t, "thief").id, h.public}
			e.forge(thief, 66, w.person(issuer, "66", "ops", h.commitment(w)))
		}, "commits to other keys"},
		"no word of a maintainer": {func(w *world, e *enrolled, issuer *tokens.Memory) {
			h := newHost(w.t, "guest")
			e.forge(h, 66, w.person(issuer, "66", "guests", h.commitment(w)), func(b *binding.Binding) {
				b.Identity.Groups, b.Approved, b.Rule.Name = []string{"guests"}, true, "guests"
			})
		}, "prove"},
		"a token kept for later": {func(w *world, e *enrolled, issuer *tokens.Memory) {
			h := newHost(w.t, "guest")
			e.forge(h, 66, w.person(issuer, "66", "ops", h.commitment(w)), func(b *binding.Binding) { b.Issued += 240 })
		}, "after what it rests on was verified"},
	} {
		t.Run(name, func(t *testing.T) {
			var key signer.PrivateKey
			w, e := newEnrolled(t, twoSigners(t, &key))
			w.zone("prod", "10.1.0.0/16", "  dynamic: [10.1.128.0/17]\n  members: [{name: staff, issuer: corp, groups: [ops], ttl: 1h}, "+review+"]\n")
			head := w.push("Guests need a review")
			issuer := &tokens.Memory{Now: w.clock.Now}
			w.startWith(e)
			w.witnessAs(key, t.TempDir(), func(c *witness.Config) {
				c.Recheck = func(ctx context.Context, at witness.Commit, record protocol.BindingRecord) ([]*binding.Signed, error) {
					past, err := enrol.Judge{
						Network: w.name, Published: &enrol.Published{Commit: at.ID, Repo: at.Repo, Root: at.Root}, Verifier: issuer, Judged: at.Judged,
					}.Recheck(ctx, record)
					var down *tokens.Unavailable
					if errors.As(err, &down) {
						return nil, fmt.Errorf("%w: %w", witness.ErrLater, err)
					}
					return past, err
				}
			})
			w.published("prod", head)
			honest := newHost(t, "honest")
			e.forge(honest, 1, w.person(issuer, "1", "ops", honest.commitment(w)))
			before := w.count(1)
			row.forge(w, e, issuer)
			r := w.unwitnessed("h66")
			if z := zoneOf(w.fleet(), "prod"); z.Current.Serial != before.Serial || !strings.Contains(r.Detail, row.words) {
				t.Fatalf("%s\nwant %q", r.Detail, row.words)
			}
			// A provider that is down stops nothing but its own people.
			e.drop("h66")
			issuer.Break("https://login.example", errors.New("maintenance"))
			w.repo.Write("README.md", "go on")
			next := w.push("Go on")
			w.mustApply(next)
			w.published("prod", next)
		})
	}
}
