package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// Enrolled says whether the plan covers the nodes that are enrolled now.
type Enrolled struct {
	// Known is false if nobody could say which nodes are enrolled: what the change does to them is then not in the plan.
	Known bool `json:"known"`
	// Before and After count the members of the two states; 0 if not known.
	Before int `json:"before"`
	After  int `json:"after"`
}

// Member is an enrolled node to which the change does something by itself: what it gains and loses by policy stands among
// the lines of reachability.
type Member struct {
	Node string `json:"node"`
	// Who is "<issuer>:<username or subject>".
	Who    string `json:"who"`
	Change Kind   `json:"change"`
	// Reason and Detail say why a removed node is no member of the new state.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Fields are rule, labels and end of membership where they differ.
	Fields []Field `json:"fields,omitempty"`
}

// enrolledOf says what is known, or nil if neither state lets anybody enrol.
func enrolledOf(old, new *spec.Repository, before, after *identity.Admitted) *Enrolled {
	enrols := func(z *spec.Document[spec.Zone]) bool { return len(z.Value.Spec.Members) > 0 }
	if before == nil {
		if !slices.ContainsFunc(old.Zones, enrols) && !slices.ContainsFunc(new.Zones, enrols) {
			return nil
		}
		return &Enrolled{}
	}
	return &Enrolled{Known: true, Before: len(before.Members), After: len(after.Members)}
}

// note is what people must know before they trust the plan; "" if nothing.
func (e *Enrolled) note() string {
	if e == nil || e.Known {
		return ""
	}
	return "Which nodes are enrolled is not known here: what this does to them is not shown."
}

// members compares the enrolled nodes of a zone.
func members(zone string, before, after *identity.Admitted) []Member {
	if before == nil {
		return nil
	}
	in := func(a *identity.Admitted) map[peermap.Digest]*identity.Member {
		out := map[peermap.Digest]*identity.Member{}
		for i := range a.Members {
			if m := &a.Members[i]; m.Signed.Binding.Zone == zone {
				out[m.Signed.Digest] = m
			}
		}
		return out
	}
	old, new := in(before), in(after)
	var out []Member
	for digest, m := range old {
		b := &m.Signed.Binding
		line := Member{Node: b.Node, Who: identity.Describe(b.Identity), Change: Changed}
		switch is := new[digest]; {
		case is == nil:
			line.Change = Removed
			line.Reason, line.Detail = rejection(after, digest)
		default:
			if line.Fields = memberFields(m, is); len(line.Fields) == 0 {
				continue
			}
		}
		out = append(out, line)
	}
	for digest, m := range new {
		if old[digest] == nil {
			b := &m.Signed.Binding
			out = append(out, Member{Node: b.Node, Who: identity.Describe(b.Identity), Change: Added,
				Fields: []Field{{Field: "rule", New: m.Grant.Rule.Name}}})
		}
	}
	slices.SortFunc(out, func(a, b Member) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(string(a.Change), string(b.Change)))
	})
	return out
}

func rejection(a *identity.Admitted, digest peermap.Digest) (reason, detail string) {
	for _, r := range a.Rejected {
		if r.Binding == digest {
			return string(r.Reason), r.Detail
		}
	}
	return "", ""
}

func memberFields(x, y *identity.Member) []Field {
	end := func(m *identity.Member) string {
		return time.Unix(m.Node.Value.Enrolled.Expires, 0).UTC().Format(time.RFC3339)
	}
	return compareFields([][3]string{
		{"rule", x.Grant.Rule.Name, y.Grant.Rule.Name},
		{"labels", labelText(x.Node.Value.Metadata.Labels), labelText(y.Node.Value.Metadata.Labels)},
		{"ends", end(x), end(y)},
	})
}

func labelText(labels map[string]string) string {
	out := make([]string, 0, len(labels))
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return strings.Join(out, ", ")
}

// memberRules compares the member rules of a zone by name. That their order differs shows in the zone's settings.
func memberRules(a, b *spec.Zone) []Node {
	byName := func(z *spec.Zone) map[string]*spec.MemberRule {
		out := map[string]*spec.MemberRule{}
		for i := 0; z != nil && i < len(z.Spec.Members); i++ {
			out[z.Spec.Members[i].Name] = &z.Spec.Members[i]
		}
		return out
	}
	old, new := byName(a), byName(b)
	names := maps.Clone(old)
	maps.Copy(names, new)
	var out []Node
	for _, name := range slices.Sorted(maps.Keys(names)) {
		x, y := old[name], new[name]
		n := Node{Name: name, Change: kind(x != nil, y != nil)}
		if n.Fields = ruleFields(x, y); n.Change != Changed || len(n.Fields) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// ruleFields compares two rules; nil stands for one without any field.
func ruleFields(x, y *spec.MemberRule) []Field {
	row := func(name string, text func(r *spec.MemberRule) string) [3]string {
		show := func(r *spec.MemberRule) string {
			if r == nil {
				return ""
			}
			return text(r)
		}
		return [3]string{name, show(x), show(y)}
	}
	yes := func(b bool) string { return map[bool]string{true: "true"}[b] }
	return compareFields([][3]string{
		row("issuer", func(r *spec.MemberRule) string { return r.Issuer }),
		row("users", func(r *spec.MemberRule) string { return strings.Join(shorten(r.Users), ", ") + total(r.Users) }),
		row("groups", func(r *spec.MemberRule) string { return strings.Join(shorten(r.Groups), ", ") + total(r.Groups) }),
		row("match", func(r *spec.MemberRule) string { return labelText(r.Match) }),
		row("labels", func(r *spec.MemberRule) string { return labelText(r.Labels) }),
		row("ttl", func(r *spec.MemberRule) string {
			return cmp.Or(time.Duration(r.TTL), spec.DefaultMemberTTL).String()
		}),
		row("maxNodes", func(r *spec.MemberRule) string { return fmt.Sprint(cmp.Or(r.MaxNodes, spec.DefaultMaxNodes)) }),
		row("approval", func(r *spec.MemberRule) string { return string(cmp.Or(r.Approval, spec.ApprovalAuto)) }),
		row("routes", func(r *spec.MemberRule) string { return joined(r.Routes) }),
		row("relay", func(r *spec.MemberRule) string { return yes(r.Relay) }),
		row("ephemeral", func(r *spec.MemberRule) string { return yes(r.Ephemeral) }),
	})
}

// policyRules lists the policy rules that differ, where people can join: what a rule gives or takes from whoever enrols next,
// and from those that nobody here knows of, no line of reachability can say.
func policyRules(a, b *side) []Node {
	if a.zone == nil || b.zone == nil || len(a.zone.Spec.Members)+len(b.zone.Spec.Members) == 0 {
		return nil
	}
	old, new := a.rulesByPolicy(), b.rulesByPolicy()
	names := maps.Clone(old)
	maps.Copy(names, new)
	var out []Node
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, in := old[name]
		is, stays := new[name]
		n := Node{Name: name, Change: kind(in, stays)}
		for _, text := range unmatched(was, is) {
			n.Fields = append(n.Fields, Field{Field: "allow", Old: text})
		}
		for _, text := range unmatched(is, was) {
			n.Fields = append(n.Fields, Field{Field: "allow", New: text})
		}
		if len(n.Fields) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// unmatched gives the texts of list that other lacks, each as often as it lacks it.
func unmatched(list, other []string) []string {
	left := map[string]int{}
	for _, text := range other {
		left[text]++
	}
	var out []string
	for _, text := range list {
		if left[text]--; left[text] < 0 {
			out = append(out, text)
		}
	}
	return out
}

// total makes texts of long lists differ where the lists do.
func total(list []string) string {
	if len(list) <= listed+1 {
		return ""
	}
	text, err := json.Marshal(slices.Sorted(slices.Values(list)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (%d, %.8s)", len(list), peermap.DigestOf(text))
}

// networkFields compares what the Network document says of everybody: issuers and revocations.
func networkFields(old, new *spec.Repository) []Field {
	var x, y spec.NetworkSpec
	if old.Network != nil {
		x = old.Network.Value.Spec
	}
	if new.Network != nil {
		y = new.Network.Value.Spec
	}
	texts := func(s *spec.NetworkSpec) map[string]string {
		out := map[string]string{}
		for _, i := range s.Issuers {
			out["issuer "+i.Name] = compact(i)
		}
		for _, r := range s.Revoked {
			text := compact(r)
			out["revoked "+text] = text
		}
		return out
	}
	a, b := texts(&x), texts(&y)
	names := maps.Clone(a)
	maps.Copy(names, b)
	var rows [][3]string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		what := name
		if strings.HasPrefix(name, "revoked ") {
			what = "revoked"
		}
		rows = append(rows, [3]string{what, a[name], b[name]})
	}
	return compareFields(rows)
}

// compact writes a value of the language on one line.
func compact(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}
