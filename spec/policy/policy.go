// Package policy is the one place where the meaning of policy is decided: which nodes a selector matches, who carries a
// prefix, and whether one endpoint may open a flow to another. The compiler builds views from the same Rules and Routes
// that Can and RunTests judge by, so what a test promises is what hosts enforce. docs/policy.md states it for people; its
// truth table is run as a test. The package is pure: values in, values out.
package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

// Policy answers questions about one zone. It is immutable.
type Policy struct {
	zone   string
	spec   *spec.ZoneSpec // nil if the zone does not exist
	names  spec.IdentityNames
	rules  *Rules
	routes *Routes
	nodes  map[string]*member
	addrs  map[netip.Addr]*member
	// cuts are all prefixes at whose borders an answer may change, sorted: declared routes and cidr selectors.
	cuts []netip.Prefix
}

type member struct {
	name   string
	terms  []Term
	routes []Route
}

// New reads the policy of a zone. A zone that does not exist has no nodes, so every answer about it is a denial.
func New(repo *spec.Repository, zone string) *Policy {
	p := &Policy{zone: zone, names: repo.IdentityNames(), nodes: map[string]*member{}, addrs: map[netip.Addr]*member{}}
	def := spec.DefaultDeny
	for _, z := range repo.Zones {
		if z.Value.Metadata.Name == zone {
			def, p.spec = z.Value.Spec.Default, &z.Value.Spec
		}
	}
	var routes []Route
	var docs []*spec.Document[spec.Node]
	for _, n := range repo.Nodes {
		if n.Value.Metadata.Zone == zone {
			docs = append(docs, n)
			routes = append(routes, RoutesOf(&n.Value)...)
		}
	}
	p.routes = NewRoutes(routes)
	p.rules = NewRules(def, InZone(repo.Policies, zone), p.routes, p.names, time.Time{})
	for _, n := range docs {
		m := &member{n.Value.Metadata.Name, p.rules.Match(SubjectOf(&n.Value)), RoutesOf(&n.Value)}
		p.nodes[m.name] = m
		for _, a := range n.Value.Spec.Addresses {
			p.addrs[a] = m
		}
	}
	p.cuts = slices.Clone(p.routes.sorted)
	for _, r := range p.rules.List {
		p.cuts = append(append(p.cuts, r.From.CIDRs...), r.To.CIDRs...)
	}
	slices.SortFunc(p.cuts, peermap.ComparePrefixes)
	p.cuts = slices.Compact(p.cuts)
	return p
}

// InZone gives the policies of one zone.
func InZone(policies []*spec.Document[spec.Policy], zone string) []*spec.Document[spec.Policy] {
	var out []*spec.Document[spec.Policy]
	for _, d := range policies {
		if d.Value.Metadata.Zone == zone {
			out = append(out, d)
		}
	}
	return out
}

// Verdict answers whether a flow is allowed, and why.
type Verdict struct {
	Allowed bool
	// Rule is the deciding rule: "<policy>/<index>", or "default" in a mesh zone; empty if none allows.
	Rule string
	// Pos is where the rule stands; zero for the default.
	Pos diag.Position
	// Reason is one sentence for people.
	Reason string
	// Undecided says that Apex does not carry such a flow (one host, one site) or does not know an endpoint: it is
	// neither allowed nor denied, and no test about it passes.
	Undecided bool
}

// Can says whether from may open flows to to on all of port (nil: on every protocol and port). Endpoints are node names,
// node addresses, addresses and prefixes behind a router, or user:NAME and group:NAME for whoever a member rule admits; for
// a prefix the answer holds for each of its addresses, for a user or group under each rule that admits them.
// Replies need no rule of their own. Rules void at asOf do not count.
func (p *Policy) Can(from, to string, port *spec.Port, asOf time.Time) Verdict {
	a := p.ask(from, to, portSet(port), asOf)
	return a.all
}

// CanAny says whether from may open any flow to to within port (nil: on any protocol and port): a denied verdict means
// that no address of either side and no port is allowed. It is the question deny assertions ask.
func (p *Policy) CanAny(from, to string, port *spec.Port, asOf time.Time) Verdict {
	a := p.ask(from, to, portSet(port), asOf)
	return a.any
}

func portSet(port *spec.Port) Ports {
	if port == nil {
		return nil
	}
	return NewPorts([]spec.Port{*port})
}

// Point is one endpoint about which every rule and route says one thing: a node, or a prefix that no cut divides.
type Point struct {
	node    *member // nil for a prefix
	prefix  netip.Prefix
	carrier *member
}

func (q Point) String() string {
	if q.node != nil {
		return q.node.name
	}
	return q.prefix.String()
}

// resolve turns an endpoint into points; the string says why there are none.
func (p *Policy) resolve(endpoint string) ([]Point, string) {
	if m := p.nodes[endpoint]; m != nil {
		return []Point{{node: m}}, ""
	}
	if points, why, ok := p.members(endpoint); ok {
		return points, why
	}
	prefix, err := netip.ParsePrefix(endpoint)
	if addr, aerr := netip.ParseAddr(endpoint); aerr == nil {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return nil, fmt.Sprintf("zone %s has no node %q", p.zone, endpoint)
	}
	prefix = prefix.Masked()
	if m := p.addrs[prefix.Addr()]; m != nil && prefix.IsSingleIP() {
		return []Point{{node: m}}, ""
	}
	var points []Point
	for _, part := range Cut(prefix, p.cuts) {
		pieces := p.routes.Carriers(part)
		if pieces == nil {
			return nil, fmt.Sprintf("no node of zone %s routes %s", p.zone, part)
		}
		for _, piece := range pieces {
			points = append(points, Point{prefix: piece.Prefix, carrier: p.nodes[piece.Node]})
		}
	}
	return points, ""
}

// Rules are the zone's rules, void ones included.
func (p *Policy) Rules() []Rule { return p.rules.List }

// Routes are the zone's declared routes.
func (p *Policy) Routes() *Routes { return p.routes }

// Cuts are all prefixes at whose borders an answer may change, sorted.
func (p *Policy) Cuts() []netip.Prefix { return p.cuts }

// Node gives the point of a node.
func (p *Policy) Node(name string) (Point, bool) {
	m := p.nodes[name]
	return Point{node: m}, m != nil
}

// Prefix gives the point of a prefix that none of Cuts divides, if a node carries it.
func (p *Policy) Prefix(prefix netip.Prefix) (Point, bool) {
	pieces := p.routes.Carriers(prefix)
	if len(pieces) != 1 {
		return Point{}, false
	}
	return Point{prefix: prefix, carrier: p.nodes[pieces[0].Node]}, true
}

// Carrier names the node that carries the point's prefix; "" for a node.
func (q Point) Carrier() string {
	if q.carrier == nil {
		return ""
	}
	return q.carrier.name
}

// Traits is equal for nodes that no rule and no declared route of this zone tells apart.
func (p *Policy) Traits(node string) string {
	m := p.nodes[node]
	if m == nil {
		return ""
	}
	return fmt.Sprint(m.terms, m.routes)
}

// Cut divides prefix at the borders of every one of cuts (sorted with peermap.ComparePrefixes) that lies inside it.
func Cut(prefix netip.Prefix, cuts []netip.Prefix) []netip.Prefix {
	if len(prefixesInside(cuts, prefix)) == 0 {
		return []netip.Prefix{prefix}
	}
	low, high := halves(prefix)
	return append(Cut(low, cuts), Cut(high, cuts)...)
}

// Local says why a flow between two points never enters a tunnel; "" if it does.
func Local(from, to Point) string {
	switch {
	case from.node != nil && to.node != nil:
		if from.node == to.node {
			return fmt.Sprintf("%s is one host; its own traffic does not pass through Apex", from.node.name)
		}
	case from.node != nil:
		if from.node == to.carrier || Declares(from.node.routes, to.prefix) {
			return fmt.Sprintf("%s lies behind %s itself and is not reached through Apex", to.prefix, from.node.name)
		}
	case to.node != nil:
		if to.node == from.carrier || Declares(to.node.routes, from.prefix) {
			return fmt.Sprintf("%s lies behind %s itself and does not come through Apex", from.prefix, to.node.name)
		}
	case from.carrier == to.carrier || Declares(from.carrier.routes, to.prefix) || Declares(to.carrier.routes, from.prefix):
		return fmt.Sprintf("%s and %s are of one site; Apex does not stand between them", from.prefix, to.prefix)
	}
	return ""
}

// Holds reports whether the side of a rule selects the point.
func (s *Side) Holds(q Point) bool {
	if q.node != nil {
		_, found := slices.BinarySearch(q.node.terms, s.Term)
		return found
	}
	return slices.ContainsFunc(s.CIDRs, func(c netip.Prefix) bool {
		return c.Bits() <= q.prefix.Bits() && c.Contains(q.prefix.Addr())
	})
}

// answer holds both readings of one question: every flow, any flow.
type answer struct{ all, any Verdict }

func (p *Policy) ask(from, to string, ports Ports, asOf time.Time) answer {
	undecided := func(reason string) answer {
		v := Verdict{Undecided: true, Reason: reason}
		return answer{v, v}
	}
	sources, why := p.resolve(from)
	if why != "" {
		return undecided(why)
	}
	targets, why := p.resolve(to)
	if why != "" {
		return undecided(why)
	}
	var out answer
	judged, first := false, ""
	for _, f := range sources {
		for _, t := range targets {
			if why := Local(f, t); why != "" {
				if first == "" {
					first = why
				}
				continue
			}
			a := p.flow(f, t, ports, asOf)
			if !judged || out.all.Allowed && !a.all.Allowed {
				out.all = a.all
			}
			if !judged || !out.any.Allowed && a.any.Allowed {
				out.any = a.any
			}
			judged = true
		}
	}
	if !judged {
		return undecided(first)
	}
	return out
}

// flow judges one pair of points.
func (p *Policy) flow(from, to Point, ports Ports, asOf time.Time) answer {
	var union Ports
	var some, whole, expired *Rule
	for i := range p.rules.List {
		r := &p.rules.List[i]
		if !r.From.Holds(from) || !r.To.Holds(to) || !r.Ports.Overlaps(ports) {
			continue
		}
		if !r.Live(asOf) {
			expired = r
			continue
		}
		if some == nil {
			some = r
		}
		if whole == nil && r.Ports.Covers(ports) {
			whole = r
		}
		union = append(union, r.Ports...)
	}
	union = union.merge()
	if whole == nil && some != nil && union.Covers(ports) {
		whole = some
	}
	asked := ports.String()
	switch {
	case whole != nil:
		v := allowed(whole, fmt.Sprintf("rule %s allows %s to %s on %s", whole.ID, from, to, asked))
		return answer{v, v}
	case some != nil:
		only := union.String()
		return answer{
			all: Verdict{Reason: fmt.Sprintf("%s reaches %s on %s only (rule %s), not on %s", from, to, only, some.ID, asked)},
			any: allowed(some, fmt.Sprintf("rule %s allows %s to %s on %s", some.ID, from, to, only)),
		}
	}
	v := Verdict{Reason: fmt.Sprintf("no rule allows %s to %s on %s", from, to, asked)}
	if expired != nil {
		until := time.Unix(expired.NotAfter, 0).UTC().Format(time.RFC3339)
		v.Pos = expired.Pos
		v.Reason += fmt.Sprintf("; rule %s did until %s", expired.ID, until)
	}
	return answer{v, v}
}

func allowed(r *Rule, reason string) Verdict {
	return Verdict{Allowed: true, Rule: r.ID, Pos: r.Pos, Reason: reason}
}

// TestResult is the outcome of one assertion on one port.
type TestResult struct {
	Zone, Test string
	// Assertion is the flow in words: "allow web-1 -> db-1 tcp/5432".
	Assertion string
	Passed    bool
	Verdict   Verdict
	Pos       diag.Position // of the assertion
}

// RunTests runs every assertion of every PolicyTest as of an instant, once per port that it lists, in the order of the
// repository's tests. An allow assertion passes if every flow is allowed, a deny assertion if none is; neither passes
// about endpoints that do not exist or a flow that Apex does not carry.
func RunTests(repo *spec.Repository, asOf time.Time) []TestResult {
	policies := map[string]*Policy{}
	var out []TestResult
	for _, doc := range repo.Tests {
		zone := doc.Value.Metadata.Zone
		p := policies[zone]
		if p == nil {
			p = New(repo, zone)
			policies[zone] = p
		}
		t := tester{p, doc, asOf}
		out = append(out, t.run("allow", doc.Value.Spec.Allow)...)
		out = append(out, t.run("deny", doc.Value.Spec.Deny)...)
	}
	return out
}

type tester struct {
	policy *Policy
	doc    *spec.Document[spec.PolicyTest]
	asOf   time.Time
}

func (t tester) run(mode string, assertions []spec.Assertion) []TestResult {
	var out []TestResult
	for i, a := range assertions {
		ports := []*spec.Port{nil}
		if len(a.Ports) > 0 {
			ports = ports[:0]
			for j := range a.Ports {
				ports = append(ports, &a.Ports[j])
			}
		}
		for _, port := range ports {
			r := TestResult{
				Zone: t.policy.zone, Test: t.doc.Value.Metadata.Name,
				Assertion: strings.TrimSpace(fmt.Sprintf("%s %s -> %s %s", mode, a.From, a.To, portName(port))),
				Pos:       t.doc.At(fmt.Sprintf("spec.%s[%d]", mode, i)),
			}
			if mode == "allow" {
				r.Verdict = t.policy.Can(a.From, a.To, port, t.asOf)
				r.Passed = r.Verdict.Allowed
			} else {
				r.Verdict = t.policy.CanAny(a.From, a.To, port, t.asOf)
				r.Passed = !r.Verdict.Allowed && !r.Verdict.Undecided
			}
			out = append(out, r)
		}
	}
	return out
}

func portName(p *spec.Port) string {
	if p == nil {
		return ""
	}
	return p.String()
}
