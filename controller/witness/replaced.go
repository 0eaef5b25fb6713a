package witness

import (
	"slices"
	"time"

	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// replaced are keys that a node gave up by a rotation, or by enrolling again. No binding from before that may bring them
// back while it would still hold: its key may be why it was replaced. Nor may one that leans on such a binding, unless it
// leans on what took its place too: otherwise who has the old key, and a stolen controller, go another way from there.
//
//	signed   K0 ──▶ K1
//	forged   K0 ──▶ K2     refused
//	honest   K0 ──▶ K1 ──▶ K2
type replaced struct {
	Node        string      `json:"node"`
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
	By          keys        `json:"by"`
	Since       int64       `json:"since"` // when the binding that replaced it was issued
	Until       int64       `json:"until"` // when the replaced one ends by itself
}

// keys are the two of a node.
type keys struct {
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
}

func keysOf(b *binding.Binding) keys { return keys{b.PublicKey, b.IdentityKey} }

// rotate refuses bindings that bring replaced keys back or lead away from them elsewhere, and gives what is replaced once
// list is signed.
func (w *witness) rotate(list []*binding.Signed, last *signed, asOf int64) ([]replaced, error) {
	if last == nil {
		return nil, nil
	}
	before := map[string]*binding.Binding{}
	for _, e := range last.entries() {
		if s := w.memory.judged[e.Digest]; s != nil {
			before[e.Node] = &s.Binding
		}
	}
	var next []replaced
	gone := map[peermap.Key]replaced{}
	for _, r := range last.Replaced {
		if r.Until > asOf {
			next = append(next, r)
			gone[r.IdentityKey], gone[r.PublicKey] = r, r
		}
	}
	for _, s := range list {
		b := &s.Binding
		chain := w.memory.judged[s.Digest].chain()
		if r := revived(chain, gone); r != nil {
			return nil, refuseBinding(s.Digest, "binding %s of node %s has a key, or leans on one, that was replaced at %s",
				s.Digest, b.Node, time.Unix(r.Since, 0).UTC())
		}
		old := before[b.Node]
		if old == nil || keysOf(old) == keysOf(b) {
			continue
		}
		if b.Issued < old.Issued {
			return nil, refuseBinding(s.Digest, "binding %s of node %s is older than the one that was signed last, and has other keys",
				s.Digest, b.Node)
		}
		if chain[0].Issued < old.Issued && !passes(chain, keysOf(old)) {
			return nil, refuseBinding(s.Digest, "binding %s of node %s leans on one from before that which was signed last, and not on that",
				s.Digest, b.Node)
		}
		next = append(next, replaced{b.Node, old.PublicKey, old.IdentityKey, keysOf(b), b.Issued, old.Expires})
	}
	return next[max(0, len(next)-maxReplaced):], nil
}

// revived gives the entry whose keys a chain has from before they were replaced, without going on to those that replaced
// them; nil if there is none.
func revived(chain []*binding.Binding, gone map[peermap.Key]replaced) *replaced {
	for i, b := range chain {
		for _, key := range []peermap.Key{b.IdentityKey, b.PublicKey} {
			if r, ok := gone[key]; ok && b.Issued < r.Since && !passes(chain[i+1:], r.By) {
				return &r
			}
		}
	}
	return nil
}

// passes reports whether a binding of a chain has these keys. From there on each change of keys was signed by them.
func passes(chain []*binding.Binding, k keys) bool {
	return slices.ContainsFunc(chain, func(b *binding.Binding) bool { return keysOf(b) == k })
}

// maxReplaced bounds what is remembered of a zone; the oldest go first.
const maxReplaced = 20_000
