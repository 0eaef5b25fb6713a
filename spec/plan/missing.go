package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/policy"
)

// tests are the assertions of the new state about one zone.
type tests struct {
	side       *side
	assertions []assertion
}

type assertion struct {
	mode     string // "allow" or "deny"
	from, to endpoint
	ports    flows
}

// endpoint is a node or a prefix.
type endpoint struct {
	node   string
	prefix netip.Prefix
}

func newTests(s *side) *tests {
	t := &tests{side: s}
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
					mode, readEndpoint(a.From, held), readEndpoint(a.To, held), flowsOf(policy.NewPorts(a.Ports)),
				})
			}
		}
	}
	return t
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
	from, to, ok := t.example(r)
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

// example gives the first pair of the line that exists in the new state.
func (t *tests) example(r *Reach) (from, to string, ok bool) {
	for _, f := range t.present(&r.From) {
		for _, x := range t.present(&r.To) {
			if r.holds(readEndpoint(f, nil), readEndpoint(x, nil)) {
				return f, x, true
			}
		}
	}
	return "", "", false
}

// present gives the nodes and prefixes of a set that exist in the new state.
func (t *tests) present(s *Set) []string {
	var out []string
	for _, n := range s.Nodes {
		if t.side.nodes[n] != nil {
			out = append(out, n)
		}
	}
	for _, text := range s.Prefixes {
		if p, err := netip.ParsePrefix(text); err == nil && t.side.policy.Routes().Carriers(p) != nil {
			out = append(out, text)
		}
	}
	return out
}
