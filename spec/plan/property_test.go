package plan

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

func asOf() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }

func key(parts ...any) spec.Key { return spec.Key(sha256.Sum256([]byte(fmt.Sprint(parts...)))) }

// random is a small repository in which every kind of overlap happens often.
func random(rng *rand.Rand) *spec.Repository {
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	prefixes := []string{"192.168.0.0/16", "192.168.4.0/24", "192.168.4.128/25", "172.20.0.0/16"}
	repo := &spec.Repository{Network: &spec.Document[spec.Network]{Value: spec.Network{Metadata: spec.Metadata{Name: "net"}}}}
	zone := spec.Zone{Metadata: spec.Metadata{Name: "z"}, Spec: spec.ZoneSpec{Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}}
	zone.Spec.Default = spec.Default(pick("deny", "deny", "mesh"))
	repo.Zones = []*spec.Document[spec.Zone]{{Value: zone}}
	for i := range 7 {
		if rng.IntN(4) == 0 && i > 0 {
			continue
		}
		n := spec.Node{Metadata: spec.Metadata{Name: fmt.Sprintf("n%d", i), Zone: "z", Labels: map[string]string{"t": pick("a", "b")}}}
		n.Spec.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}
		n.Spec.PublicKey, n.Spec.IdentityKey = key("wg", i), key("id", i)
		if i == 0 {
			for _, p := range []string{"192.168.0.0/16", "172.20.0.0/16"} {
				n.Spec.Routes = append(n.Spec.Routes, spec.NodeRoute{Prefix: netip.MustParsePrefix(p), Shared: true, Priority: 9})
			}
		} else if rng.IntN(3) == 0 {
			n.Spec.Routes = []spec.NodeRoute{{Prefix: netip.MustParsePrefix(pick(prefixes...)), Shared: true, Priority: rng.IntN(12)}}
		}
		repo.Nodes = append(repo.Nodes, &spec.Document[spec.Node]{Value: n})
	}
	selector := func() spec.Selector {
		switch rng.IntN(5) {
		case 0:
			return spec.Selector{Any: true}
		case 1:
			return spec.Selector{Node: fmt.Sprintf("n%d", rng.IntN(7))}
		case 2:
			return spec.Selector{CIDR: netip.MustParsePrefix(pick(prefixes...))}
		}
		return spec.Selector{Labels: map[string]string{"t": pick("a", "b")}}
	}
	p := spec.Policy{Metadata: spec.Metadata{Name: "p", Zone: "z"}}
	for range rng.IntN(5) {
		r := spec.Rule{From: []spec.Selector{selector()}, To: []spec.Selector{selector()}}
		for range rng.IntN(3) {
			first := uint16(80 + rng.IntN(3))
			r.Ports = append(r.Ports, spec.Port{Protocol: peermap.TCP, First: first, Last: first + uint16(rng.IntN(2))})
		}
		if rng.IntN(4) == 0 {
			end := asOf().Add(time.Duration(rng.IntN(4)-1) * time.Hour)
			r.NotAfter = &end
		}
		p.Spec.Allow = append(p.Spec.Allow, r)
	}
	repo.Policies = []*spec.Document[spec.Policy]{{Value: p}}
	return repo
}

// TestPlanIsExact expands plans of random changes and wants them to be what asking both policies about every pair says.
func TestPlanIsExact(t *testing.T) {
	gained, lost := 0, 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 11))
		old, new := random(rng), random(rng)
		if rng.IntN(3) == 0 {
			// A smaller change: the same nodes, other rules, or the other way round.
			if rng.IntN(2) == 0 {
				new.Nodes = old.Nodes
			} else {
				new.Policies, new.Zones = old.Policies, old.Zones
			}
		}
		p := Diff(old, new, asOf())
		var z Zone
		if len(p.Zones) == 1 {
			z = p.Zones[0]
		}
		was, is := policy.New(old, "z"), policy.New(new, "z")
		ends := []string{"192.168.0.1", "192.168.4.1", "192.168.4.200", "172.20.0.1"}
		for i := range 7 {
			ends = append(ends, fmt.Sprintf("n%d", i))
		}
		for _, from := range ends {
			for _, to := range ends {
				for _, port := range []spec.Port{tcp(80), tcp(82), tcp(83), {Protocol: peermap.ICMP}} {
					before, after := was.Can(from, to, &port, asOf()).Allowed, is.Can(from, to, &port, asOf()).Allowed
					// A host reaches itself in no state, which Can leaves undecided.
					if got := named(z.Gained, from, to, port); got != (after && !before) {
						t.Fatalf("seed %d: %s to %s on %s: before %v, after %v, gained %v\n%+v", seed, from, to, port, before, after, got, z.Gained)
					}
					if got := named(z.Lost, from, to, port); got != (before && !after) {
						t.Fatalf("seed %d: %s to %s on %s: before %v, after %v, lost %v\n%+v", seed, from, to, port, before, after, got, z.Lost)
					}
					if named(z.Limits, from, to, port) && !(before && after) {
						t.Fatalf("seed %d: %s to %s on %s: before %v, after %v, but said to end at another time", seed, from, to, port, before, after)
					}
					if after && !before {
						gained++
					}
					if before && !after {
						lost++
					}
				}
			}
		}
	}
	t.Logf("%d flows gained, %d lost", gained, lost)
	if gained < 1000 || lost < 1000 {
		t.Errorf("%d flows gained and %d lost: the test compares too little", gained, lost)
	}
}

func tcp(port uint16) spec.Port { return spec.Port{Protocol: peermap.TCP, First: port, Last: port} }

// named reports whether some line says it.
func named(lines []Reach, from, to string, port spec.Port) bool {
	ask := flows(policy.NewPorts([]spec.Port{port}))
	return slices.ContainsFunc(lines, func(r Reach) bool {
		return r.holds(readEndpoint(from, nil), readEndpoint(to, nil)) && len(r.flows().and(ask)) > 0
	})
}

func TestNothingChanges(t *testing.T) {
	for seed := range uint64(20) {
		a, b := random(rand.New(rand.NewPCG(seed, 1))), random(rand.New(rand.NewPCG(seed, 1)))
		if p := Diff(a, b, asOf()); !p.Empty() {
			t.Fatalf("seed %d: %+v", seed, p)
		}
	}
	if !Diff(nil, nil, asOf()).Empty() {
		t.Error("nothing became something")
	}
}

func TestFlows(t *testing.T) {
	parse := func(list ...string) flows {
		var ports []spec.Port
		for _, s := range list {
			p, err := spec.ParsePort(s)
			if err != nil {
				t.Fatal(err)
			}
			ports = append(ports, p)
		}
		return flowsOf(policy.NewPorts(ports))
	}
	for _, c := range []struct {
		a, b flows
		want string
	}{
		{parse(), parse(), "[] []"},
		{parse(), parse("tcp/22"), "[all] [tcp/22]"},
		{parse(), parse("tcp", "icmp"), "[all] [icmp tcp]"},
		{parse("tcp"), parse("tcp/1-65534"), "[tcp/0 tcp/65535] []"},
		{parse("tcp/10-20"), parse("tcp/12", "tcp/15-30"), "[tcp/10-11 tcp/13-14] []"},
		{parse("tcp/10-20"), parse("udp/10-20"), "[tcp/10-20] []"},
		{parse("tcp/10-20"), nil, "[tcp/10-20] []"},
		{nil, parse(), "[] []"},
	} {
		ports, except := c.a.minus(c.b).names()
		if got := fmt.Sprint(ports, except); got != c.want {
			t.Errorf("%v minus %v is %s, want %s", c.a, c.b, got, c.want)
		}
	}
}

// TestManyNodes keeps a plan readable, and quick, where a zone is large.
func TestManyNodes(t *testing.T) {
	repo := func(n int) *spec.Repository {
		r := random(rand.New(rand.NewPCG(1, 1)))
		r.Zones[0].Value.Spec.Default, r.Nodes = spec.DefaultDeny, nil
		p := spec.Policy{Metadata: spec.Metadata{Name: "p", Zone: "z"}}
		for i := range n {
			group := fmt.Sprintf("g%d", i%50)
			d := spec.Node{Metadata: spec.Metadata{Name: fmt.Sprintf("n%d", i), Zone: "z", Labels: map[string]string{"g": group}}}
			d.Spec.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)})}
			d.Spec.PublicKey, d.Spec.IdentityKey = key("wg", i), key("id", i)
			r.Nodes = append(r.Nodes, &spec.Document[spec.Node]{Value: d})
			if i < 50 {
				s := []spec.Selector{{Labels: map[string]string{"g": group}}}
				p.Spec.Allow = append(p.Spec.Allow, spec.Rule{From: s, To: s})
			}
		}
		r.Policies = []*spec.Document[spec.Policy]{{Value: p}}
		return r
	}
	old, new := repo(2000), repo(2000)
	everyone := []spec.Selector{{Any: true}}
	rules := slices.Clone(new.Policies[0].Value.Spec.Allow)
	new.Policies[0] = &spec.Document[spec.Policy]{Value: spec.Policy{Metadata: spec.Metadata{Name: "p", Zone: "z"},
		Spec: spec.PolicySpec{Allow: append(rules, spec.Rule{From: everyone, To: everyone, Ports: []spec.Port{tcp(9100)}})}}}
	z := Diff(old, new, asOf()).Zones[0]
	// What a group's nodes may do among themselves they could before.
	if len(z.Gained) != 1 || z.Gained[0].From.Text != "every node (2000)" || len(z.Gained[0].Apart) != 50 || len(z.Hosts) != 2000 {
		t.Errorf("%d lines, first from %s, %d hosts", len(z.Gained), z.Gained[0].From.Text, len(z.Hosts))
	}
	if m := z.Gained[0].Missing; m != "allow: {from: n0, to: n1, ports: [tcp/9100]}" {
		t.Errorf("proposes %q", m)
	}
}
