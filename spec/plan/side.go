package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/policy"
)

// side is one of the two states, seen from one zone.
type side struct {
	repo   *spec.Repository
	zone   *spec.Zone // nil if the zone does not exist
	nodes  map[string]*spec.Node
	policy *policy.Policy
}

func newSide(repo *spec.Repository, zone string) *side {
	s := &side{repo: repo, nodes: map[string]*spec.Node{}, policy: policy.New(repo, zone)}
	for _, z := range repo.Zones {
		if z.Value.Metadata.Name == zone {
			s.zone = &z.Value
		}
	}
	for _, n := range repo.Nodes {
		if n.Value.Metadata.Zone == zone {
			s.nodes[n.Value.Metadata.Name] = &n.Value
		}
	}
	return s
}

// rulesByID gives the content of every rule as text; equal texts mean equal rules.
func (s *side) rulesByID(zone string) map[string]string {
	out := map[string]string{policy.DefaultRule: policy.DefaultRule}
	for _, p := range policy.InZone(s.repo.Policies, zone) {
		for i, r := range p.Value.Spec.Allow {
			out[fmt.Sprintf("%s/%d", p.Value.Metadata.Name, i)] = compact(r)
		}
	}
	return out
}

// rulesByPolicy gives the rules of each policy of the zone, as text for people.
func (s *side) rulesByPolicy() map[string][]string {
	out := map[string][]string{}
	for _, p := range policy.InZone(s.repo.Policies, s.zone.Metadata.Name) {
		name := p.Value.Metadata.Name
		for _, r := range p.Value.Spec.Allow {
			out[name] = append(out[name], ruleText(r))
		}
	}
	return out
}

// ruleText says a rule for people; rules that mean something else have another text.
func ruleText(r spec.Rule) string {
	ports := "all ports"
	if len(r.Ports) > 0 {
		ports = joined(r.Ports)
	}
	text := fmt.Sprintf("%s to %s on %s", names(r.From, selectorText), names(r.To, selectorText), ports)
	if r.NotAfter != nil {
		text += " until " + r.NotAfter.UTC().Format(time.RFC3339)
	}
	return text
}

func selectorText(s spec.Selector) string {
	switch {
	case s.Any:
		return "any"
	case s.Node != "":
		return "node " + s.Node
	case len(s.Labels) > 0:
		return "labels {" + labelText(s.Labels) + "}"
	case len(s.Groups) > 0:
		return fmt.Sprintf("groups %q", s.Groups)
	case len(s.Users) > 0:
		return fmt.Sprintf("users %q", s.Users)
	}
	return s.CIDR.String()
}

// both gives the sorted names of either side's nodes.
func both(a, b *side) []string {
	names := maps.Clone(a.nodes)
	maps.Copy(names, b.nodes)
	return slices.Sorted(maps.Keys(names))
}

// compareFields lists the values of the second and third columns that differ.
func compareFields(rows [][3]string) []Field {
	var out []Field
	for _, r := range rows {
		if r[1] != r[2] {
			out = append(out, Field{r[0], r[1], r[2]})
		}
	}
	return out
}

func settings(a, b *spec.Zone) []Field {
	if a == nil || b == nil {
		return nil
	}
	x, y := a.Spec, b.Spec
	orDefault := func(d spec.Default) string {
		if d == "" {
			d = spec.DefaultDeny
		}
		return string(d)
	}
	number := func(n, def int) string {
		if n == 0 {
			n = def
		}
		return fmt.Sprint(n)
	}
	return compareFields([][3]string{
		{"default", orDefault(x.Default), orDefault(y.Default)},
		{"ranges", joined(x.Ranges), joined(y.Ranges)},
		{"dynamic", joined(x.Dynamic), joined(y.Dynamic)},
		{"listenPort", number(int(x.ListenPort), spec.DefaultListenPort), number(int(y.ListenPort), spec.DefaultListenPort)},
		{"mtu", number(x.MTU, spec.DefaultMTU), number(y.MTU, spec.DefaultMTU)},
		{"keepalive", duration(&x.Keepalive), duration(&y.Keepalive)},
		{"members", names(x.Members, ruleName), names(y.Members, ruleName)},
		{"approved", names(x.Approved, approvedNode), names(y.Approved, approvedNode)},
		{"suspend", fmt.Sprint(x.Suspend), fmt.Sprint(y.Suspend)},
	})
}

// names joins what the items of a list are called.
func names[T any](list []T, of func(item T) string) string {
	out := make([]string, len(list))
	for i, item := range list {
		out[i] = of(item)
	}
	return strings.Join(out, ", ")
}

func ruleName(r spec.MemberRule) string   { return r.Name }
func approvedNode(a spec.Approval) string { return a.Node }

// inGit gives the node if its document stands in git.
func (s *side) inGit(name string) *spec.Node {
	if n := s.nodes[name]; n != nil && n.Enrolled == nil {
		return n
	}
	return nil
}

// nodeChanges compares the nodes in git; members compares those that are enrolled.
func nodeChanges(a, b *side) []Node {
	var out []Node
	for _, name := range both(a, b) {
		x, y := a.inGit(name), b.inGit(name)
		if x == nil && y == nil {
			continue
		}
		if x == nil || y == nil {
			out = append(out, Node{Name: name, Change: kind(x != nil, y != nil)})
			continue
		}
		if x == y {
			continue
		}
		fields := nodeFields(x, y)
		if len(fields) == 0 {
			continue
		}
		n := Node{Name: name, Change: Changed, Fields: fields}
		if x.Spec.PublicKey != y.Spec.PublicKey || x.Spec.IdentityKey != y.Spec.IdentityKey {
			n.Change = Rekeyed
		}
		out = append(out, n)
	}
	return out
}

func nodeFields(x, y *spec.Node) []Field {
	routes := func(n *spec.Node) string {
		var out []string
		for _, r := range n.Spec.Routes {
			text := r.Prefix.String()
			if r.Shared {
				text += fmt.Sprintf(" (shared, priority %d)", r.Priority)
			}
			out = append(out, text)
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	port := func(n *spec.Node) string {
		if n.Spec.ListenPort == 0 {
			return ""
		}
		return fmt.Sprint(n.Spec.ListenPort)
	}
	relay := func(n *spec.Node) string {
		if n.Spec.Relay {
			return "true"
		}
		return ""
	}
	return compareFields([][3]string{
		{"labels", labelText(x.Metadata.Labels), labelText(y.Metadata.Labels)},
		{"addresses", addresses(x), addresses(y)},
		{"publicKey", x.Spec.PublicKey.String(), y.Spec.PublicKey.String()},
		{"identityKey", x.Spec.IdentityKey.String(), y.Spec.IdentityKey.String()},
		{"endpoints", strings.Join(x.Spec.Endpoints, ", "), strings.Join(y.Spec.Endpoints, ", ")},
		{"routes", routes(x), routes(y)},
		{"listenPort", port(x), port(y)},
		{"keepalive", duration(x.Spec.Keepalive), duration(y.Spec.Keepalive)},
		{"relay", relay(x), relay(y)},
	})
}

func addresses(n *spec.Node) string {
	return joined(slices.SortedFunc(slices.Values(n.Spec.Addresses), netip.Addr.Compare))
}

func joined[T fmt.Stringer](items []T) string {
	out := make([]string, len(items))
	for i, v := range items {
		out[i] = v.String()
	}
	return strings.Join(out, ", ")
}

func duration(d *spec.Duration) string {
	switch {
	case d == nil:
		return ""
	case *d == 0:
		return "off"
	}
	return time.Duration(*d).String()
}
