package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

func signedOf(node string, keys, digest byte) *binding.Signed {
	return &binding.Signed{Digest: peermap.Digest{digest}, Binding: binding.Binding{
		Zone: "prod", Node: node, PublicKey: peermap.Key{keys}, IdentityKey: peermap.Key{keys, 1},
		Identity: binding.Identity{URL: "https://login.example", Subject: node},
	}}
}

// What takes part in compiles while a witness doubts.
func TestUnwitnessed(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	served := map[string]peermap.Digest{}
	published := func(_, node string) (peermap.Digest, bool) { d, ok := served[node]; return d, ok }
	var u unwitnessed
	pick := func(pressing bool, list ...*binding.Signed) string {
		var got []string
		for _, s := range u.pick(list, published, now, pressing) {
			got = append(got, string('0'+rune(s.Digest[0])))
		}
		slices.Sort(got)
		return strings.Join(got, "")
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q take part, want %q", what, got, want)
		}
	}
	a, b := signedOf("a", 1, 1), signedOf("b", 2, 2)
	expect("a commit", pick(true, a, b), "")
	if !u.later {
		t.Error("those that a commit leaves out are forgotten")
	}
	expect("the turn after it", pick(false, a, b), "12")
	entries := []binding.Entry{{Digest: a.Digest, Node: "a"}, {Digest: b.Digest, Node: "b"}}
	doubt := func(later bool, digests ...peermap.Digest) bool {
		p := &publish.Pending{Zone: "prod", Refusals: map[string]publish.Refusal{"w": {Why: "no", Bindings: digests, Later: later}}}
		return u.hear(p, entries, "w", published, now)
	}
	if !doubt(true, a.Digest) || doubt(true, a.Digest) {
		t.Error("a doubt counts once")
	}
	c := signedOf("c", 3, 3)
	expect("those proposed with the doubted one go first", pick(false, a, b, c), "2")
	expect("then the others", pick(false, a, b, c), "23")
	served["b"], served["c"] = b.Digest, c.Digest
	expect("a commit leaves members alone", pick(true, a, b, c), "23")
	now = u.next()
	expect("tried again", pick(false, a, b, c), "123")
	if pause := u.next().Sub(now); pause != 2*firstDoubt {
		t.Errorf("the next time is after %s", pause)
	}
	// A renewal that is doubted leaves its node with what is published.
	renewed := signedOf("b", 2, 4)
	expect("a renewal waits for its turn", pick(true, renewed, c), "23")
	expect("and gets it", pick(false, renewed, c), "34")
	doubt(true, renewed.Digest)
	expect("in doubt, the binding before stays", pick(false, renewed, c), "23")
	// After a restart nobody knows the binding before.
	u = unwitnessed{}
	expect("a member keeps its place", pick(true, renewed, c), "34")
	// A provider that is down takes nobody's membership; evidence that is refused does.
	if doubt(true, c.Digest) {
		t.Error("a member is in doubt because its provider is down")
	}
	doubt(false, c.Digest)
	expect("a refused one is out", pick(true, renewed, c), "4")
	if len(u.left) != 1 || u.left[0].Node != "c" || u.left[0].Reason != "unwitnessed" {
		t.Errorf("%+v", u.left)
	}
	expect("whoever leaves is forgotten", pick(false, renewed), "4")
	if !u.next().IsZero() {
		t.Error("a doubt outlives its binding")
	}
}
