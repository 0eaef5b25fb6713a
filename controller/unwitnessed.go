package controller

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// unwitnessed keeps bindings that no witness has judged from standing in the way of everything else. It decides which of
// them take part in the next compile; without witnesses, all do.
//
//	                    a commit, or a binding ends
//	new ──▶ proposed ──────────────────────────────▶ left out of that one, proposed with the next
//	          │   ▲
//	 a witness│   │ pause over: 30 s, twice as long each time, at most 15 min
//	 doubts it▼   │
//	         left out
//
// A commit's generation holds only bindings that are published already, so no provider holds up a commit or revocation.
// After a doubt, what was proposed along with the doubted one goes first: the witness knows it, and whoever enrols in the
// meantime cannot make it wait again. A member whose renewal is left out stays with the binding that is published.
type unwitnessed struct {
	// known are the bindings of the last list, and those that are published.
	known  map[peermap.Digest]*binding.Signed
	doubts map[peermap.Digest]*doubt
	// first are, by zone, those that are proposed before all others.
	first map[string]map[peermap.Digest]bool
	// heard are the witnesses' words that led to the next compile, by manifest and name.
	heard map[string]bool
	// later says that some were left out which may take part in the next compile; left are those that were doubted.
	later bool
	left  []protocol.RejectedBinding
}

// doubt is a witness's word against a binding.
type doubt struct {
	witness, why string
	refused      bool // for good, as far as the witness goes
	pause        time.Duration
	again        time.Time
}

const (
	firstDoubt = 30 * time.Second
	maxDoubt   = 15 * time.Minute
)

// published gives the digest of the binding by which a node is a member in what is served.
type published func(zone, node string) (peermap.Digest, bool)

// pick gives those of list that take part in a compile at now; pressing says that it is for a commit, which witnesses shall
// sign without a look at new evidence. What it gives may be list itself.
func (u *unwitnessed) pick(
	list []*binding.Signed, published published, now time.Time, pressing bool,
) []*binding.Signed {
	known := make(map[peermap.Digest]*binding.Signed, len(list))
	doubts := map[peermap.Digest]*doubt{}
	out := make([]*binding.Signed, 0, len(list))
	u.later, u.left, u.heard = false, nil, map[string]bool{}
	for _, s := range list {
		b := &s.Binding
		known[s.Digest] = s
		digest, member := published(b.Zone, b.Node)
		old := u.known[digest]
		if member && old != nil {
			known[digest] = old
		}
		same := member && digest == s.Digest
		d := u.doubts[s.Digest]
		if same && d != nil && !d.refused {
			d = nil // another witness signed it
		}
		if d != nil {
			doubts[s.Digest] = d
		}
		first, some := u.first[b.Zone]
		switch {
		case d != nil && (pressing || now.Before(d.again)):
			u.left = append(u.left, protocol.RejectedBinding{
				Zone: b.Zone, Node: b.Node, Binding: s.Digest, Reason: "unwitnessed",
				Detail: fmt.Sprintf("witness %s: %s", d.witness, d.why),
			})
		case d != nil:
			d.pause = min(2*d.pause, maxDoubt)
			d.again = now.Add(d.pause)
			out = append(out, s)
			continue
		case same || !pressing && (!some || first[s.Digest]):
			out = append(out, s)
			continue
		case member && !renews(s, old):
			out = append(out, s) // the node would lose its place
			continue
		default:
			u.later = true
		}
		if !same && member && renews(s, old) {
			out = append(out, old)
		}
	}
	u.known, u.doubts = known, doubts
	if !pressing {
		u.first = nil
	}
	return out
}

// renews says whether s is of the same node, identity and keys as old.
func renews(s, old *binding.Signed) bool {
	if old == nil || s.Digest == old.Digest {
		return false
	}
	a, b := &s.Binding, &old.Binding
	return a.Zone == b.Zone && a.Node == b.Node && a.PublicKey == b.PublicKey && a.IdentityKey == b.IdentityKey &&
		a.Identity.URL == b.Identity.URL && a.Identity.Subject == b.Identity.Subject
}

// hear notes what a witness says of a generation that was proposed with these bindings, and reports whether the next
// compile is another for it.
func (u *unwitnessed) hear(
	p *publish.Pending, proposed []binding.Entry, witness string, published published, now time.Time,
) bool {
	r, at := p.Refusals[witness], p.Digest.String()+" "+witness
	if u.heard[at] {
		return false
	}
	news := false
	for _, digest := range r.Bindings {
		s := u.known[digest]
		if s == nil {
			continue // it has gone
		}
		if d, ok := published(s.Binding.Zone, s.Binding.Node); r.Later && ok && d == digest {
			continue // providers that are down take nobody's membership
		}
		if d := u.doubts[digest]; d != nil {
			d.witness, d.why, d.refused, d.again = witness, r.Why, !r.Later, now.Add(d.pause)
		} else {
			u.doubts[digest] = &doubt{
				witness: witness, why: r.Why, refused: !r.Later, pause: firstDoubt, again: now.Add(firstDoubt),
			}
		}
		news = true
	}
	if !news {
		return false
	}
	first := map[peermap.Digest]bool{}
	for _, e := range proposed {
		first[e.Digest] = true
	}
	if u.first == nil {
		u.first = map[string]map[peermap.Digest]bool{}
	}
	u.first[p.Zone] = first
	u.heard[at] = true
	return true
}

// next is when a doubted binding is tried again; zero if there is none.
func (u *unwitnessed) next() time.Time {
	var next time.Time
	for d := range maps.Values(u.doubts) {
		if next.IsZero() || d.again.Before(next) {
			next = d.again
		}
	}
	return next
}

// needsWitness says whether the controller's own keys are too few for a manifest.
func (n *network) needsWitness(root *signer.Root) bool { return !n.publisher.Suffices(root) }

// serving gives, zone by zone, what is served at this moment.
func (n *network) serving() published {
	zones := map[string]*publish.Snapshot{}
	return func(zone, node string) (peermap.Digest, bool) {
		s, asked := zones[zone]
		if !asked {
			if z, ok := n.publisher.Zone(zone); ok {
				s, _ = z.Snapshot()
			}
			zones[zone] = s
		}
		if s == nil {
			return peermap.Digest{}, false
		}
		return s.Enrolled(node)
	}
}

// hearWitnesses takes what witnesses say against bindings. Where others could still sign, they are given some time first, so
// that one witness cannot keep out what the others would sign.
func (n *network) hearWitnesses() {
	if n.current == nil {
		return
	}
	pending, _ := n.publisher.Pending()
	for i := range pending {
		p := &pending[i]
		if !doubted(p) || open(p) && time.Now().Before(n.batch.floor()) {
			continue
		}
		z, ok := n.publisher.Zone(p.Zone)
		if !ok {
			continue
		}
		list, _ := z.Bindings(p.Manifest.Bindings)
		entries, err := binding.ParseList(list)
		if err != nil {
			continue // it is the controller's own
		}
		for _, name := range slices.Sorted(maps.Keys(p.Refusals)) {
			if r := p.Refusals[name]; n.unwitnessed.hear(p, entries, name, n.serving(), time.Now()) {
				n.log.Warn("bindings that a witness does not sign are left out for now", "zone", p.Zone, "witness", name,
					"bindings", len(r.Bindings), "reason", r.Why)
				n.seen = 0
				n.batch.change()
			}
		}
	}
}

// doubted says whether a witness has spoken against bindings of a generation, open whether others could still sign it.
func doubted(p *publish.Pending) bool {
	for _, r := range p.Refusals {
		if len(r.Bindings) > 0 {
			return true
		}
	}
	return false
}

func open(p *publish.Pending) bool {
	return slices.ContainsFunc(p.Quorum.Missing, func(name string) bool {
		_, answered := p.Refusals[name]
		return !answered
	})
}
