package plan

import (
	"cmp"
	"slices"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// flows is a set of flows by protocol and port: sorted ranges that neither overlap nor touch. Protocol 0 stands for every
// protocol that rules cannot name, so that "every port" is a set like any other and can be subtracted from.
type flows []peermap.PortRange

func everything() flows {
	return flows{
		{}, {Protocol: peermap.ICMP}, {Protocol: peermap.TCP, Last: 65535}, {Protocol: peermap.UDP, Last: 65535},
	}
}

func flowsOf(p policy.Ports) flows {
	if len(p) == 0 {
		return everything()
	}
	return flows(p)
}

func (f flows) plus(o flows) flows {
	all := slices.Concat(f, o)
	slices.SortFunc(all, func(a, b peermap.PortRange) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First))
	})
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && out[n-1].Protocol == r.Protocol && int(out[n-1].Last)+1 >= int(r.First) {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

func (f flows) minus(o flows) flows {
	var out flows
	for _, r := range f {
		first, last := int(r.First), int(r.Last)
		for _, cut := range o {
			if cut.Protocol != r.Protocol || int(cut.Last) < first || int(cut.First) > last {
				continue
			}
			if int(cut.First) > first {
				out = append(out, peermap.PortRange{Protocol: r.Protocol, First: uint16(first), Last: cut.First - 1})
			}
			first = int(cut.Last) + 1
		}
		if first <= last {
			out = append(out, peermap.PortRange{Protocol: r.Protocol, First: uint16(first), Last: uint16(last)})
		}
	}
	return out
}

// and gives what is in both.
func (f flows) and(o flows) flows { return f.minus(f.minus(o)) }

// names gives the flows as a list of ports, or as "all" with exceptions.
func (f flows) names() (ports, except []string) {
	if len(f) > 0 && f[0].Protocol == 0 {
		return []string{"all"}, list(everything().minus(f))
	}
	return list(f), nil
}

func list(f flows) []string {
	var out []string
	for _, r := range f {
		out = append(out, spec.Port{Protocol: r.Protocol, First: r.First, Last: r.Last}.String())
	}
	return out
}
