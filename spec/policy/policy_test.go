package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

func ports(t testing.TB, list string) Ports {
	t.Helper()
	var out []spec.Port
	for _, f := range strings.Fields(list) {
		p, err := spec.ParsePort(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return NewPorts(out)
}

func TestPorts(t *testing.T) {
	for in, want := range map[string]string{
		"": "all ports", "tcp/2 tcp/1": "tcp/1-2", "tcp/1-5 tcp/3-9 tcp/11": "tcp/1-9, tcp/11", "udp/1 tcp/2": "tcp/2, udp/1",
		"tcp/65535 tcp": "tcp", "icmp icmp": "icmp",
	} {
		if got := ports(t, in).String(); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
	for _, c := range []struct {
		a, b             string
		covers, overlaps bool
	}{
		{"", "", true, true}, {"", "tcp/1", true, true}, {"tcp/1", "", false, true}, {"tcp/1-9", "tcp/2-3", true, true},
		{"tcp/1-9", "tcp/9-10", false, true}, {"tcp/1", "udp/1", false, false}, {"tcp", "tcp/1 udp/1", false, true},
	} {
		a, b := ports(t, c.a), ports(t, c.b)
		if a.Covers(b) != c.covers || a.Overlaps(b) != c.overlaps {
			t.Errorf("%s and %s: covers %v, overlaps %v", a, b, a.Covers(b), a.Overlaps(b))
		}
	}
}

// TestCarriersByAddress holds Carriers against the definition, address by address.
func TestCarriersByAddress(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		var routes []Route
		for i := range 1 + rng.IntN(6) {
			bits := 24 + rng.IntN(9)
			p, err := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(256))}).Prefix(bits)
			if err != nil {
				t.Fatal(err)
			}
			routes = append(routes, Route{p, fmt.Sprintf("n%d", i%4), true, rng.IntN(3)})
		}
		table := NewRoutes(routes)
		for _, ask := range []string{"10.0.0.0/24", "10.0.0.0/25", "10.0.0.64/26", "10.0.0.7/32"} {
			p := netip.MustParsePrefix(ask)
			pieces := table.Carriers(p)
			covered := slices.ContainsFunc(routes, func(r Route) bool { return Declares([]Route{r}, p) })
			if covered != (pieces != nil) {
				t.Fatalf("%v: %s has pieces %v", routes, p, pieces)
			}
			if !covered {
				continue
			}
			for a := p.Addr(); p.Contains(a); a = a.Next() {
				var best *Route
				for i := range routes {
					if routes[i].Prefix.Contains(a) && (best == nil || compareRank(routes[i], *best) < 0) {
						best = &routes[i]
					}
				}
				holders := 0
				for _, piece := range pieces {
					if piece.Prefix.Contains(a) {
						holders++
						if piece.Node != best.Node {
							t.Fatalf("%v: %s is carried by %s, want %s", routes, a, piece.Node, best.Node)
						}
					}
				}
				if holders != 1 {
					t.Fatalf("%v: %s has %d carriers", routes, a, holders)
				}
			}
			if !slices.IsSortedFunc(pieces, func(a, b Piece) int { return peermap.ComparePrefixes(a.Prefix, b.Prefix) }) {
				t.Fatalf("pieces %v are out of order", pieces)
			}
		}
	}
}

func TestClashes(t *testing.T) {
	r := func(prefix, node string, shared bool) Route {
		return Route{netip.MustParsePrefix(prefix), node, shared, 0}
	}
	for _, c := range []struct {
		routes []Route
		want   int
	}{
		{nil, 0},
		{[]Route{r("10.0.0.0/8", "a", false), r("10.0.0.0/8", "b", true)}, 1},
		{[]Route{r("10.0.0.0/8", "a", true), r("10.1.0.0/16", "b", true)}, 0},
		{[]Route{r("10.0.0.0/8", "a", false), r("10.1.0.0/16", "a", false)}, 0},
		{[]Route{r("10.0.0.0/8", "a", false), r("10.1.0.0/16", "a", true), r("10.1.2.0/24", "b", true)}, 1},
		{[]Route{r("10.0.0.0/9", "a", false), r("10.128.0.0/9", "b", false)}, 0},
	} {
		if got := NewRoutes(c.routes).Clashes(); len(got) != c.want {
			t.Errorf("%v: %v", c.routes, got)
		}
	}
}

func TestHalves(t *testing.T) {
	for in, want := range map[string]string{
		"0.0.0.0/0": "0.0.0.0/1 128.0.0.0/1", "10.0.0.0/31": "10.0.0.0/32 10.0.0.1/32", "::/0": "::/1 8000::/1",
		"2001:db8::/127": "2001:db8::/128 2001:db8::1/128",
	} {
		low, high := halves(netip.MustParsePrefix(in))
		if got := low.String() + " " + high.String(); got != want {
			t.Errorf("%s is cut into %s", in, got)
		}
	}
}

// TestIdentitySelectors shows the place where bindings plug in: a subject with an identity is matched by it.
func TestIdentitySelectors(t *testing.T) {
	network := spec.Network{Spec: spec.NetworkSpec{Issuers: []spec.Issuer{{Name: "corp"}}}}
	names := (&spec.Repository{Network: &spec.Document[spec.Network]{Value: network}}).IdentityNames()
	rules := NewRules(spec.DefaultDeny, []*spec.Document[spec.Policy]{{Value: spec.Policy{
		Metadata: spec.Metadata{Name: "p", Zone: "z"},
		Spec: spec.PolicySpec{Allow: []spec.Rule{
			{From: []spec.Selector{{Groups: []string{"ops"}}}, To: []spec.Selector{{Users: []string{"eva"}}}}}},
	}}}, NewRoutes(nil), names, time.Time{})
	for want, s := range map[int]Subject{
		0: SubjectOf(&spec.Node{Metadata: spec.Metadata{Name: "eva", Labels: map[string]string{"group": "ops"}}}),
		1: {Name: "n", Groups: []string{"corp:ops", "ci:eva"}, User: "ci:eva"},
		2: SubjectOf(&spec.Node{Enrolled: &spec.Enrolled{User: "corp:eva", Groups: []string{"corp:dev", "corp:ops"}}}),
	} {
		if got := rules.Match(s); len(got) != want {
			t.Errorf("%+v is selected by %v, want %d terms", s, got, want)
		}
	}
}
