package policy

import (
	"fmt"

	"github.com/apex-network/apex/spec"
)

// members gives the points that an endpoint user:NAME or group:NAME stands for: one for each member rule by which such
// somebody may enrol, with the labels of the rule. So a policy can be asked about people before any of them has a node. The
// string says why there are none; ok is false for any other endpoint.
//
// Git does not know who is in which group: user:NAME is asked about as a member of none, and group:NAME as no user at all.
// Each side of a question has points of its own, so one user is asked about as two hosts of theirs.
func (p *Policy) members(endpoint string) (points []Point, why string, ok bool) {
	who, ok := spec.ParseMemberEndpoint(endpoint)
	if !ok {
		return nil, "", false
	}
	issuer, name, clear := p.names.Split(who.User + who.Group)
	if !clear {
		return nil, fmt.Sprintf("the network has %d issuers, and %s does not say which", len(p.names.Issuers()), endpoint), true
	}
	who = who.Named(name)
	var rules []*spec.MemberRule
	if p.spec != nil {
		rules = p.spec.RulesFor(issuer, who)
	}
	for _, r := range rules {
		s := Subject{Labels: r.Labels}
		if who.User != "" {
			s.User = spec.QualifiedIdentity(issuer, name)
		} else {
			s.Groups = []string{spec.QualifiedIdentity(issuer, name)}
		}
		m := &member{name: endpoint, terms: p.rules.Match(s)}
		if len(rules) > 1 {
			m.name += " (member rule " + r.Name + ")"
		}
		points = append(points, Point{node: m})
	}
	if points == nil {
		return nil, fmt.Sprintf("no member rule of zone %s admits %s", p.zone, endpoint), true
	}
	return points, "", true
}
