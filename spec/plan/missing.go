package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/policy"
)

// tests are the assertions of the new state about one zone.
type tests struct {
	side       *side
	asOf       time.Time
	assertions []assertion
}

type assertion struct {
	mode     string // "allow" or "deny"
	from, to endpoint
	ports    flows
}

// endpoint is a node, a prefix, or the enrolled nodes of a user or group.
type endpoint struct {
	node    string
	prefix  netip.Prefix
	members []string // sorted; nil for a node or prefix
}

func newTests(s *side, asOf time.Time) *tests {
	t := &tests{side: s, asOf: asOf}
	if s.zone == nil {
		return t
	}
	held := holders(s)
	for _, doc := range s.repo.Tests {
		if doc.Value.Metadata.Zone != s.zone.Metadata.Name {
			continue
		}
		for mode, list := range map[string][]spec.Assertion{"allow": doc.Value.Spec.Allow, "deny": doc.Value.Spec.Deny} {
			for _, a := range list {
				t.assertions = append(t.assertions, assertion{
					mode, t.endpoint(a.From, held), t.endpoint(a.To, held), flowsOf(policy.NewPorts(a.Ports)),
				})
			}
		}
	}
	return t
}

// endpoint reads how an assertion names one.
func (t *tests) endpoint(s string, held map[netip.Addr]string) endpoint {
	who, ok := spec.ParseMemberEndpoint(s)
	if !ok {
		return readEndpoint(s, held)
	}
	names := t.side.repo.IdentityNames()
	user, group := names.Qualify(who.User), names.Qualify(who.Group)
	e := endpoint{members: []string{}}
	for name, n := range t.side.nodes {
		if n.Enrolled != nil && (user != "" && n.Enrolled.User == user || group != "" && slices.Contains(n.Enrolled.Groups, group)) {
			e.members = append(e.members, name)
		}
	}
	slices.Sort(e.members)
	return e
}

func readEndpoint(s string, held map[netip.Addr]string) endpoint {
	if p, ok := spec.ParseEndpoint(s); ok {
		if name := held[p.Addr()]; name != "" && p.IsSingleIP() {
			return endpoint{node: name}
		}
		return endpoint{prefix: p}
	}
	return endpoint{node: s}
}

func (s *Set) holds(e endpoint) bool {
	if e.members != nil {
		return slices.ContainsFunc(e.members, func(name string) bool { return s.holds(endpoint{node: name}) })
	}
	if e.node != "" {
		_, found := slices.BinarySearch(s.Nodes, e.node)
		return found
	}
	return slices.ContainsFunc(s.Prefixes, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Overlaps(e.prefix)
	})
}

// holds reports whether the line is about flows between two endpoints.
func (r *Reach) holds(from, to endpoint) bool {
	return r.From.holds(from) && r.To.holds(to) && (from.node == "" || from.node != to.node) &&
		!slices.ContainsFunc(r.Apart, func(s Set) bool { return s.holds(from) && s.holds(to) })
}

// flows gives the ports of a line as a set.
func (r *Reach) flows() flows {
	parse := func(list []string) flows {
		var ports []spec.Port
		for _, text := range list {
			if p, err := spec.ParsePort(text); err == nil {
				ports = append(ports, p)
			}
		}
		return flows(policy.NewPorts(ports))
	}
	if slices.Equal(r.Ports, []string{"all"}) {
		return everything().minus(parse(r.Except))
	}
	return parse(r.Ports)
}

// covered reports whether some assertion is about a flow of the line.
func (t *tests) covered(r *Reach, mode string) bool {
	f := r.flows()
	return slices.ContainsFunc(t.assertions, func(a assertion) bool {
		return a.mode == mode && r.holds(a.from, a.to) && len(a.ports.and(f)) > 0
	})
}

// judge marks a line as tested, or proposes the assertion that is missing. What involves endpoints that the new state
// does not have cannot be asserted.
func (t *tests) judge(r *Reach, mode string) {
	if r.Tested = t.covered(r, mode); r.Tested {
		return
	}
	from, to, ok := t.example(r, mode)
	if !ok {
		return
	}
	ports := ""
	if !slices.Equal(r.Ports, []string{"all"}) {
		ports = fmt.Sprintf(", ports: [%s]", strings.Join(r.Ports, ", "))
	} else if mode == "deny" && len(r.Except) > 0 {
		return // "no port but these" takes a judgement that is the author's
	}
	r.Missing = fmt.Sprintf("%s: {from: %s, to: %s%s}", mode, quoted(from), quoted(to), ports)
}

// quoted writes an endpoint as YAML: one with a colon would read as a mapping.
func quoted(s string) string {
	if strings.Contains(s, ":") {
		return `"` + s + `"`
	}
	return s
}

// maxExamples bounds how many pairs are tried for an example.
const maxExamples = 256

// example gives the first pair of the line that exists in the new state, and of which an assertion would hold. A test cannot
// name enrolled nodes, so it names their users and groups; what holds of a node need not hold of all of those.
func (t *tests) example(r *Reach, mode string) (from, to string, ok bool) {
	tries := 0
	for _, f := range t.present(&r.From) {
		for _, x := range t.present(&r.To) {
			if !r.holds(f.endpoint, x.endpoint) {
				continue
			}
			if !f.member && !x.member || t.passes(r, mode, f.text, x.text) {
				return f.text, x.text, true
			}
			if tries++; tries == maxExamples {
				return "", "", false
			}
		}
	}
	return "", "", false
}

// passes reports whether an assertion about the ports of the line would hold in the new state.
func (t *tests) passes(r *Reach, mode, from, to string) bool {
	ports := []*spec.Port{nil}
	if !slices.Equal(r.Ports, []string{"all"}) {
		ports = nil
		for _, text := range r.Ports {
			p, err := spec.ParsePort(text)
			if err != nil {
				return false
			}
			ports = append(ports, &p)
		}
	}
	for _, p := range ports {
		if mode == "allow" && !t.side.policy.Can(from, to, p, t.asOf).Allowed {
			return false
		}
		if v := t.side.policy.CanAny(from, to, p, t.asOf); mode == "deny" && (v.Allowed || v.Undecided) {
			return false
		}
	}
	return true
}

// writable is an endpoint as an assertion may write it.
type writable struct {
	text     string
	endpoint endpoint
	member   bool
}

// present gives the nodes and prefixes of a set that exist in the new state; for enrolled nodes, their user and groups.
func (t *tests) present(s *Set) []writable {
	var out []writable
	for _, n := range s.Nodes {
		node := t.side.nodes[n]
		switch {
		case node == nil:
		case node.Enrolled == nil:
			out = append(out, writable{text: n, endpoint: endpoint{node: n}})
		default:
			if node.Enrolled.User != "" {
				out = append(out, writable{"user:" + node.Enrolled.User, endpoint{node: n}, true})
			}
			for _, g := range node.Enrolled.Groups {
				out = append(out, writable{"group:" + g, endpoint{node: n}, true})
			}
		}
	}
	for _, text := range s.Prefixes {
		if p, err := netip.ParsePrefix(text); err == nil && t.side.policy.Routes().Carriers(p) != nil {
			out = append(out, writable{text: text, endpoint: endpoint{prefix: p}})
		}
	}
	return out
}
