package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

// DefaultRule is the ID of the rule that a zone's default mesh stands for: any node to any node on every port.
const DefaultRule = "default"

// Subject is what selectors look at. Groups and User come from the identity an enrolled node is bound to; a node whose
// keys stand in git has none, so no group or user selector matches it. Both are qualified: "<issuer>:<name>".
type Subject struct {
	Name   string
	Labels map[string]string
	Groups []string
	User   string
}

// SubjectOf is the subject of a Node document.
func SubjectOf(n *spec.Node) Subject {
	s := Subject{Name: n.Metadata.Name, Labels: n.Metadata.Labels}
	if n.Enrolled != nil {
		s.User, s.Groups = n.Enrolled.User, n.Enrolled.Groups
	}
	return s
}

// Term is one distinct union of node selectors, as it stands on a side of a rule: an index from 0 to Rules.Terms-1.
type Term int32

// Side is one side of a rule: the nodes of a term, and prefixes behind routers.
type Side struct {
	// Term is -1 if the side selects no nodes.
	Term Term
	// CIDRs are as written; Pieces are the same addresses, cut by who carries them (indexes into Rules.Pieces).
	CIDRs  []netip.Prefix
	Pieces []int32
}

// Rule is one allow rule, ready to be judged.
type Rule struct {
	ID       string // "<policy>/<index>" or DefaultRule
	From, To Side
	Ports    Ports
	// NotAfter is the instant, in Unix seconds, from which the rule is void; 0: never.
	NotAfter int64
	Pos      diag.Position
}

// Live reports whether the rule still holds at asOf.
func (r *Rule) Live(asOf time.Time) bool { return r.NotAfter == 0 || asOf.Unix() < r.NotAfter }

// Unrouted is a cidr selector that lies in no declared route of its zone, so that nobody carries it.
type Unrouted struct {
	Rule string
	CIDR netip.Prefix
	Pos  diag.Position
}

// Rules are the rules of one zone with the index that matches nodes to them. Immutable.
type Rules struct {
	List     []Rule // sorted by policy name, then by index; the default of a mesh zone first
	Pieces   []Piece
	Terms    int
	Unrouted []Unrouted

	any             []Term
	byNode          map[string][]Term
	byGroup, byUser map[string][]Term
	byLabel         map[label][]labelTerm
}

// label is one key and value; a labels selector is filed under its first label in key order.
type label struct{ key, value string }

type labelTerm struct {
	labels map[string]string
	term   Term
}

// NewRules reads the policies of one zone, in any order. Names tells which issuer's users and groups they name; a name that
// is of no issuer selects nobody. Rules that are void at asOf are left out, unless asOf is zero.
func NewRules(def spec.Default, policies []*spec.Document[spec.Policy], routes *Routes, names spec.IdentityNames, asOf time.Time) *Rules {
	b := &ruleBuilder{
		Rules: Rules{
			byNode: map[string][]Term{}, byGroup: map[string][]Term{}, byUser: map[string][]Term{},
			byLabel: map[label][]labelTerm{},
		},
		routes: routes, names: names, terms: map[string]Term{}, pieces: map[Piece]int32{},
	}
	if def == spec.DefaultMesh {
		everyone := b.term([]spec.Selector{{Any: true}})
		b.List = append(b.List, Rule{ID: DefaultRule, From: Side{Term: everyone}, To: Side{Term: everyone}})
	}
	sorted := slices.SortedFunc(slices.Values(policies), func(a, c *spec.Document[spec.Policy]) int {
		return strings.Compare(a.Value.Metadata.Name, c.Value.Metadata.Name)
	})
	for _, doc := range sorted {
		for i := range doc.Value.Spec.Allow {
			b.rule(doc, i, asOf)
		}
	}
	b.Terms = len(b.terms)
	return &b.Rules
}

// ruleBuilder numbers terms and pieces while it reads.
type ruleBuilder struct {
	Rules
	routes *Routes
	names  spec.IdentityNames
	terms  map[string]Term
	pieces map[Piece]int32
}

func (b *ruleBuilder) rule(doc *spec.Document[spec.Policy], i int, asOf time.Time) {
	src := &doc.Value.Spec.Allow[i]
	path := "spec.allow[" + strconv.Itoa(i) + "]"
	r := Rule{
		ID:    doc.Value.Metadata.Name + "/" + strconv.Itoa(i),
		Ports: NewPorts(src.Ports),
		Pos:   doc.At(path),
	}
	if src.NotAfter != nil {
		r.NotAfter = src.NotAfter.Unix()
		if !asOf.IsZero() && !r.Live(asOf) {
			return
		}
	}
	r.From = b.side(src.From, r.ID, func(j int) diag.Position { return doc.At(fmt.Sprintf("%s.from[%d].cidr", path, j)) })
	r.To = b.side(src.To, r.ID, func(j int) diag.Position { return doc.At(fmt.Sprintf("%s.to[%d].cidr", path, j)) })
	b.List = append(b.List, r)
}

func (b *ruleBuilder) side(sels []spec.Selector, id string, pos func(int) diag.Position) Side {
	s := Side{Term: b.term(sels)}
	for j, sel := range sels {
		if !sel.CIDR.IsValid() {
			continue
		}
		cidr := sel.CIDR.Masked()
		pieces := b.routes.Carriers(cidr)
		if pieces == nil {
			b.Unrouted = append(b.Unrouted, Unrouted{Rule: id, CIDR: cidr, Pos: pos(j)})
			continue
		}
		s.CIDRs = append(s.CIDRs, cidr)
		for _, p := range pieces {
			s.Pieces = append(s.Pieces, b.piece(p))
		}
	}
	slices.Sort(s.Pieces)
	s.Pieces = slices.Compact(s.Pieces)
	return s
}

func (b *ruleBuilder) piece(p Piece) int32 {
	if i, known := b.pieces[p]; known {
		return i
	}
	i := int32(len(b.Pieces))
	b.pieces[p], b.Pieces = i, append(b.Pieces, p)
	return i
}

// term numbers the union of the node selectors among sels; -1 if there are none.
func (b *ruleBuilder) term(sels []spec.Selector) Term {
	named := map[string]spec.Selector{}
	for _, s := range sels {
		if name := selectorName(s, b.names); name != "" {
			named[name] = s
		}
	}
	if s, everyone := named["any"]; everyone {
		named = map[string]spec.Selector{"any": s}
	}
	if len(named) == 0 {
		return -1
	}
	key := strings.Join(slices.Sorted(maps.Keys(named)), "\n")
	if t, known := b.terms[key]; known {
		return t
	}
	t := Term(len(b.terms))
	b.terms[key] = t
	for _, s := range named {
		b.file(s, t)
	}
	return t
}

// selectorName is a canonical name of a selector of nodes; "" for any other.
func selectorName(s spec.Selector, names spec.IdentityNames) string {
	switch {
	case s.Any:
		return "any"
	case s.Node != "":
		return "node " + strconv.Quote(s.Node)
	case len(s.Labels) > 0:
		var b strings.Builder
		b.WriteString("labels")
		for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
			fmt.Fprintf(&b, " %q=%q", k, s.Labels[k])
		}
		return b.String()
	case len(s.Groups) > 0:
		return fmt.Sprintf("groups %q", qualified(names, s.Groups))
	case len(s.Users) > 0:
		return fmt.Sprintf("users %q", qualified(names, s.Users))
	}
	return ""
}

// qualified gives the distinct users or groups that are meant, sorted.
func qualified(names spec.IdentityNames, written []string) []string {
	out := make([]string, 0, len(written))
	for _, w := range written {
		if q := names.Qualify(w); q != "" {
			out = append(out, q)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// file enters a selector into the index by which Match finds it.
func (b *ruleBuilder) file(s spec.Selector, t Term) {
	switch {
	case s.Any:
		b.any = append(b.any, t)
	case s.Node != "":
		b.byNode[s.Node] = append(b.byNode[s.Node], t)
	case len(s.Labels) > 0:
		k := slices.Min(slices.Collect(maps.Keys(s.Labels)))
		at := label{k, s.Labels[k]}
		b.byLabel[at] = append(b.byLabel[at], labelTerm{s.Labels, t})
	}
	for _, g := range qualified(b.names, s.Groups) {
		b.byGroup[g] = append(b.byGroup[g], t)
	}
	for _, u := range qualified(b.names, s.Users) {
		b.byUser[u] = append(b.byUser[u], t)
	}
}

// Match gives the terms that select the subject, ascending. Its cost follows the subject's labels, not the rules.
func (r *Rules) Match(s Subject) []Term {
	out := slices.Concat(r.any, r.byNode[s.Name])
	for k, v := range s.Labels {
		for _, lt := range r.byLabel[label{k, v}] {
			if carriesAll(s.Labels, lt.labels) {
				out = append(out, lt.term)
			}
		}
	}
	for _, g := range s.Groups {
		out = append(out, r.byGroup[g]...)
	}
	if s.User != "" {
		out = append(out, r.byUser[s.User]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func carriesAll(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Ports is a set of flows by protocol and port, sorted and merged; empty means every protocol and port.
type Ports []peermap.PortRange

// NewPorts merges ports into a set.
func NewPorts(ports []spec.Port) Ports {
	out := make(Ports, 0, len(ports))
	for _, p := range ports {
		out = append(out, peermap.PortRange{Protocol: p.Protocol, First: p.First, Last: p.Last})
	}
	return out.merge()
}

// merge sorts p and joins ranges that overlap or touch.
func (p Ports) merge() Ports {
	slices.SortFunc(p, func(a, b peermap.PortRange) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	out := p[:0]
	for _, r := range p {
		if n := len(out); n > 0 && out[n-1].Protocol == r.Protocol && int(out[n-1].Last)+1 >= int(r.First) {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// Covers reports whether every flow of q is in p.
func (p Ports) Covers(q Ports) bool {
	if len(p) == 0 {
		return true
	}
	if len(q) == 0 {
		return false
	}
	for _, r := range q {
		if !slices.ContainsFunc(p, func(h peermap.PortRange) bool {
			return h.Protocol == r.Protocol && h.First <= r.First && r.Last <= h.Last
		}) {
			return false
		}
	}
	return true
}

// Overlaps reports whether some flow is in both.
func (p Ports) Overlaps(q Ports) bool {
	if len(p) == 0 || len(q) == 0 {
		return true
	}
	for _, a := range p {
		for _, b := range q {
			if a.Protocol == b.Protocol && a.First <= b.Last && b.First <= a.Last {
				return true
			}
		}
	}
	return false
}

// String lists the ports the way YAML writes them; "all" for every port.
func (p Ports) String() string {
	if len(p) == 0 {
		return "all ports"
	}
	parts := make([]string, len(p))
	for i, r := range p {
		parts[i] = spec.Port{Protocol: r.Protocol, First: r.First, Last: r.Last}.String()
	}
	return strings.Join(parts, ", ")
}
