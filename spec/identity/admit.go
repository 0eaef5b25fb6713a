package identity

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// Reason says why a binding is no node.
type Reason string

// The reasons. Expired follows from the instant; Revoked, NoRule, NotGranted and Unapproved from what git says.
const (
	Expired    Reason = "expired"
	Revoked    Reason = "revoked"
	NoRule     Reason = "no-rule"     // no rule of the zone admits the identity
	NotGranted Reason = "not-granted" // the rule does not allow its routes or relay
	Unapproved Reason = "unapproved"
	NotDynamic Reason = "not-dynamic" // an address outside of the zone's dynamic ranges
	OverMax    Reason = "over-max"
	Clash      Reason = "clash"      // a name, key, address or route that another node has
	Superseded Reason = "superseded" // a later binding of the same node and identity counts
	Invalid    Reason = "invalid"    // no honest controller makes such a binding
)

// MaxAhead is how far in the future a binding may have been issued: what the clocks of replicas may differ. A binding from
// further on would outlive its rule's ttl and escape revocations that end at an instant.
const MaxAhead = 5 * time.Minute

// Rejected is a binding that is no node at the commit and instant.
type Rejected struct {
	Binding    peermap.Digest
	Zone, Node string
	Reason     Reason
	// Detail is one sentence for people. It may name other nodes of the network.
	Detail string
}

// Member is a binding that is a node.
type Member struct {
	Signed *binding.Signed
	Grant  Grant
	Node   *spec.Document[spec.Node]
}

// Admitted is a repository with the nodes that bindings add to it. It is immutable.
type Admitted struct {
	// Repo is the repository with a Node document for each member, marked by Enrolled. Zones, policies and tests are the
	// repository's own documents.
	Repo *spec.Repository
	// Members are sorted by zone and node.
	Members []Member
	// Lists are the artefacts of binding.List, by zone; zones without members have none.
	Lists map[string][]byte
	// Rejected are sorted by zone, node and digest.
	Rejected []Rejected
	// NextExpiry is the first instant at which one of the members ends; zero if there are none.
	NextExpiry time.Time
}

// Admitter makes the nodes of bindings and keeps them, so that a node which did not change is the same document in the next
// round and an incremental compile passes it over. What it keeps never changes what it gives. Not for use by several
// goroutines at once.
type Admitter struct {
	known   map[peermap.Digest]*entry
	revoked revocations
}

// NewAdmitter gives one that knows nothing.
func NewAdmitter() *Admitter { return &Admitter{} }

// Admit is Admitter.Admit of one that knows nothing.
func Admit(repo *spec.Repository, list []*binding.Signed, asOf time.Time) *Admitted {
	return NewAdmitter().Admit(repo, list, asOf)
}

// Admit picks the bindings that are nodes at a commit and instant, and never fails: a binding that does not fit is left
// out and reported. The order of list means nothing.
//
// A binding must fit by itself: in life, not revoked, admitted by a rule as it stands now that grants its routes, approved
// if the rule asks for that, with addresses of the zone's dynamic ranges. Of several for one node and identity the latest
// counts. The rest take their places in order of (issued, node, zone, digest); one that clashes with a node in git or with
// one before it is out, and so is one beyond its rule's maxNodes. It follows that every part of an admitted list is
// admitted whole, in any order: a witness that is given the list of one zone arrives at the same nodes.
func (a *Admitter) Admit(repo *spec.Repository, list []*binding.Signed, asOf time.Time) *Admitted {
	out := &Admitted{Repo: repo, Lists: map[string][]byte{}}
	if a.revoked.network != repo.Network {
		a.revoked = newRevocations(repo)
	}
	known := make(map[peermap.Digest]*entry, len(list))
	fit := make([]*entry, 0, len(list))
	for _, s := range list {
		if known[s.Digest] != nil {
			continue
		}
		e := a.judge(repo, s)
		known[s.Digest] = e
		if reason, detail := e.verdict(asOf); reason != "" {
			out.reject(e, reason, detail)
			continue
		}
		fit = append(fit, e)
	}
	a.known = known
	fit = out.latest(fit)
	turns := slices.Clone(fit)
	slices.SortFunc(turns, func(x, y *entry) int { return x.compare(y) })
	seats, standing := newSeats(repo, turns), map[*entry]bool{}
	for _, e := range turns {
		if reason, detail := seats.take(e); reason != "" {
			out.reject(e, reason, detail)
			standing[e] = true
		}
	}
	// In the order that they came, which is mostly the one that finish wants.
	out.finish(repo, slices.DeleteFunc(fit, func(e *entry) bool { return standing[e] }))
	return out
}

func (a *Admitted) reject(e *entry, reason Reason, detail string) {
	b := &e.signed.Binding
	a.Rejected = append(a.Rejected, Rejected{Binding: e.signed.Digest, Zone: b.Zone, Node: b.Node, Reason: reason, Detail: detail})
}

// latest keeps of several bindings of one node and identity the one issued last: a renewal or rotation replaces what it
// follows.
func (a *Admitted) latest(fit []*entry) []*entry {
	type holder struct{ zone, node, url, subject string }
	last := make(map[holder]*entry, len(fit))
	of := func(e *entry) holder {
		b := &e.signed.Binding
		return holder{b.Zone, b.Node, b.Identity.URL, b.Identity.Subject}
	}
	for _, e := range fit {
		if o := last[of(e)]; o == nil || o.compare(e) < 0 {
			last[of(e)] = e
		}
	}
	if len(last) == len(fit) {
		return fit
	}
	return slices.DeleteFunc(fit, func(e *entry) bool {
		by := last[of(e)]
		if by != e {
			a.reject(e, Superseded, fmt.Sprintf("binding %s of the same node and identity is later", by.signed.Digest))
		}
		return by != e
	})
}

// finish puts the members into the repository.
func (a *Admitted) finish(repo *spec.Repository, kept []*entry) {
	slices.SortFunc(a.Rejected, func(x, y Rejected) int {
		return cmp.Or(strings.Compare(x.Zone, y.Zone), strings.Compare(x.Node, y.Node), slices.Compare(x.Binding[:], y.Binding[:]))
	})
	if len(kept) == 0 {
		return
	}
	byName := func(x, y *spec.Document[spec.Node]) int {
		m, n := &x.Value.Metadata, &y.Value.Metadata
		return cmp.Or(strings.Compare(m.Zone, n.Zone), strings.Compare(m.Name, n.Name))
	}
	slices.SortFunc(kept, func(x, y *entry) int { return byName(x.doc, y.doc) })
	a.Members = make([]Member, len(kept))
	docs := make([]*spec.Document[spec.Node], len(kept))
	entries := map[string][]binding.Entry{}
	next := kept[0].doc.Value.Enrolled.Expires
	for i, e := range kept {
		a.Members[i] = Member{Signed: e.signed, Grant: e.grant, Node: e.doc}
		docs[i] = e.doc
		next = min(next, e.doc.Value.Enrolled.Expires)
		b := &e.signed.Binding
		entries[b.Zone] = append(entries[b.Zone], binding.Entry{Digest: e.signed.Digest, Node: b.Node})
	}
	for _, zone := range slices.Sorted(maps.Keys(entries)) {
		a.Lists[zone] = binding.List(entries[zone])
	}
	a.NextExpiry = time.Unix(next, 0).UTC()
	merged := *repo
	merged.Nodes = merge(repo.Nodes, docs, byName)
	a.Repo = &merged
}

// merge joins two sorted lists.
func merge[T any](a, b []T, compare func(x, y T) int) []T {
	out := make([]T, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if compare(a[0], b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}
