package identity

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

// entry is a binding judged by itself against the documents that bear on it. It is immutable.
type entry struct {
	signed *binding.Signed
	// zone, network and trust are the documents it was judged by: while they are the same, so is the entry.
	zone    *spec.Document[spec.Zone]
	network *spec.Document[spec.Network]
	trust   *spec.Document[spec.TrustRoot]
	// reason and detail say why it does not fit, whatever the instant.
	reason Reason
	detail string
	grant  Grant
	doc    *spec.Document[spec.Node] // nil if there is a reason
}

// compare orders by (issued, node, zone, digest): who comes first keeps what two want.
func (e *entry) compare(o *entry) int {
	x, y := &e.signed.Binding, &o.signed.Binding
	if x.Issued != y.Issued { // nearly always, and cmp.Or would compare the rest as well
		return cmp.Compare(x.Issued, y.Issued)
	}
	return cmp.Or(strings.Compare(x.Node, y.Node), strings.Compare(x.Zone, y.Zone),
		slices.Compare(e.signed.Digest[:], o.signed.Digest[:]))
}

// verdict says why the binding does not fit at an instant; "" if it does. What git says comes before what the clock says,
// so that a node which a commit takes away is told so.
func (e *entry) verdict(asOf time.Time) (Reason, string) {
	if e.reason != "" {
		return e.reason, e.detail
	}
	if end := e.doc.Value.Enrolled.Expires; asOf.Unix() >= end {
		return Expired, "it ended at " + instant(end)
	}
	if b := &e.signed.Binding; b.Issued > asOf.Add(MaxAhead).Unix() {
		return Invalid, "it was issued in the future, at " + instant(b.Issued)
	}
	return "", ""
}

func instant(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// judge takes over what is known of a binding if the documents that bear on it are the same, and otherwise judges anew;
// the node stays the same document if it says the same.
func (a *Admitter) judge(repo *spec.Repository, s *binding.Signed) *entry {
	old := a.known[s.Digest]
	zone := repo.Zone(s.Binding.Zone)
	if old != nil && old.zone == zone && old.network == repo.Network && old.trust == repo.TrustRoot {
		return old
	}
	e := &entry{signed: s, zone: zone, network: repo.Network, trust: repo.TrustRoot}
	if e.reason, e.detail = e.fit(repo, &a.revoked); e.reason != "" {
		return e
	}
	e.doc = e.node()
	if old != nil && old.doc != nil && reflect.DeepEqual(old.doc.Value, e.doc.Value) {
		e.doc = old.doc
	}
	return e
}

// fit says why the binding does not fit, and otherwise finds its grant.
func (e *entry) fit(repo *spec.Repository, revoked *revocations) (Reason, string) {
	b := &e.signed.Binding
	if err := b.Check(); err != nil {
		return Invalid, err.Error()
	}
	if repo.Network == nil {
		return NoRule, "there is no network any more"
	}
	if b.Network != repo.Network.Value.Metadata.Name {
		return Invalid, fmt.Sprintf("it is of network %s", b.Network)
	}
	if spec.Key(b.PublicKey).IsWeak(false) || spec.Key(b.IdentityKey).IsWeak(true) {
		return Invalid, "a key is a point of low order, which protects nothing"
	}
	if at, found := revoked.find(b, e.signed.Digest); found {
		return Revoked, "it is revoked at " + at.String()
	}
	grant, err := Match(repo, b.Zone, b.Identity)
	var none *NoRuleError
	if errors.As(err, &none) {
		return NoRule, none.Error()
	}
	e.grant = grant
	if err := grant.Check(repo, b.Zone, b.Routes, b.Relay); err != nil {
		return NotGranted, err.Error()
	}
	// An approval is for the rule that the maintainer saw: another one may give other labels.
	approved := b.Approved && b.Rule.Name == grant.Rule.Name
	if grant.Review && !approved && !ApprovedInGit(&e.zone.Value, Asked(b, grant.Rule.Name)) {
		return Unapproved, fmt.Sprintf("rule %s (%s) asks for a review, and no maintainer approved the node for it", grant.Rule.Name, grant.Pos)
	}
	for _, addr := range b.Addresses {
		if err := CheckAddress(&e.zone.Value, addr); err != nil {
			return NotDynamic, err.Error()
		}
	}
	return "", ""
}

// node makes the Node document: keys and addresses from the binding, all else from the rule.
func (e *entry) node() *spec.Document[spec.Node] {
	b := &e.signed.Binding
	n := spec.Node{
		Metadata: spec.Metadata{Name: b.Node, Zone: b.Zone, Labels: e.grant.Rule.Labels},
		Spec: spec.NodeSpec{Addresses: b.Addresses, PublicKey: spec.Key(b.PublicKey), IdentityKey: spec.Key(b.IdentityKey),
			Relay: b.Relay},
		Enrolled: &spec.Enrolled{
			Rule: e.grant.Rule.Name, Binding: e.signed.Digest.String(),
			Expires: min(b.Expires, b.Issued+int64(e.grant.TTL/time.Second)),
		},
	}
	for _, p := range b.Routes {
		n.Spec.Routes = append(n.Spec.Routes, spec.NodeRoute{Prefix: p})
	}
	if b.Identity.Username != "" {
		n.Enrolled.User = spec.QualifiedIdentity(b.Identity.Issuer, b.Identity.Username)
	}
	for _, g := range b.Identity.Groups {
		n.Enrolled.Groups = append(n.Enrolled.Groups, spec.QualifiedIdentity(b.Identity.Issuer, g))
	}
	return &spec.Document[spec.Node]{Value: n, Pos: diag.Position{File: "enrolled/" + b.Zone + "/" + b.Node}}
}

// revocations finds the entry that ends a binding without looking at each: by the rarest thing an entry names.
type revocations struct {
	network *spec.Document[spec.Network]
	by      map[revokedBy][]int
}

// revokedBy is what an entry names: one field is set.
type revokedBy struct{ binding, subject, user, node string }

func newRevocations(repo *spec.Repository) revocations {
	out := revocations{network: repo.Network, by: map[revokedBy][]int{}}
	if repo.Network == nil {
		return out
	}
	for i, r := range repo.Network.Value.Spec.Revoked {
		var k revokedBy
		switch {
		case r.Binding != "":
			k.binding = r.Binding
		case r.Subject != "":
			k.subject = r.Subject
		case r.User != "":
			k.user = r.User
		case r.Node != "":
			k.node = r.Node
		default:
			continue
		}
		out.by[k] = append(out.by[k], i)
	}
	return out
}

// find gives where the first entry stands that ends the binding.
func (r *revocations) find(b *binding.Binding, digest peermap.Digest) (diag.Position, bool) {
	if len(r.by) == 0 {
		return diag.Position{}, false
	}
	first := -1
	for _, k := range []revokedBy{{binding: digest.String()}, {subject: b.Identity.Subject}, {user: b.Identity.Username}, {node: b.Node}} {
		for _, i := range r.by[k] {
			if (first < 0 || i < first) && revokes(&r.network.Value.Spec.Revoked[i], b, digest) {
				first = i
			}
		}
	}
	if first < 0 {
		return diag.Position{}, false
	}
	return r.network.At(fmt.Sprintf("spec.revoked[%d]", first)), true
}

// Labels gives the labels of the grant as a binding writes them.
func (g Grant) Labels() []binding.Pair {
	out := make([]binding.Pair, 0, len(g.Rule.Labels))
	for _, k := range slices.Sorted(maps.Keys(g.Rule.Labels)) {
		out = append(out, binding.Pair{Key: k, Value: g.Rule.Labels[k]})
	}
	return out
}
