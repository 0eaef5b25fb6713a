package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

// effects tells whether two views make a host do the same. Views can differ in bytes without that: the partition into
// groups and blocks, and the names of rules, change nothing on a host.
type effects struct {
	zone    *compile.Zone
	classes map[peermap.Digest]sum
	blocks  map[peermap.Digest]sum
}

// sum is a commutative digest of a set: the sum of its members' hashes, so that it does not matter how the set is cut.
// It is for telling states of an honest compiler apart, not for trust.
type sum [4]uint64

func (s *sum) add(o sum) {
	for i := range s {
		s[i] += o[i]
	}
}

func hashed(v any) sum {
	b, err := json.Marshal(v)
	if err != nil {
		b = fmt.Append(nil, v)
	}
	h := sha256.Sum256(b)
	var s sum
	for i := range s {
		s[i] = binary.BigEndian.Uint64(h[8*i:])
	}
	return s
}

func newEffects(z *compile.Zone) *effects {
	return &effects{zone: z, classes: map[peermap.Digest]sum{}, blocks: map[peermap.Digest]sum{}}
}

// of is equal for views of a node that make its host do the same; zero for a node that is not there.
func (e *effects) of(node string) sum {
	if e.zone == nil {
		return sum{}
	}
	nv, ok := e.zone.View(node)
	if !ok {
		return sum{}
	}
	v, err := peermap.DecodeView(nv.Leaf)
	if err != nil {
		return hashed(nv.Digest)
	}
	class := e.class(v.Class)
	v.Class = peermap.Digest{}
	out := hashed(v)
	out.add(class)
	return out
}

func (e *effects) class(d peermap.Digest) sum {
	if s, known := e.classes[d]; known {
		return s
	}
	c, err := peermap.DecodeClass(e.zone.Classes[d])
	if err != nil {
		return hashed(d)
	}
	groups := make([]sum, len(c.Groups))
	var peers sum
	for i, g := range c.Groups {
		for _, b := range g.Blocks {
			groups[i].add(e.block(b))
		}
		peers.add(groups[i])
	}
	type set struct {
		Peers    sum
		Prefixes []string
	}
	resolve := func(s peermap.Set) set {
		var out set
		for _, g := range s.Groups {
			out.Peers.add(groups[g])
		}
		for _, p := range s.Prefixes {
			out.Prefixes = append(out.Prefixes, p.String())
		}
		return out
	}
	var rules sum
	for _, r := range c.Rules {
		rules.add(hashed([]any{r.Hook, resolve(r.From), resolve(r.To), r.Ports, r.NotAfter}))
	}
	s := hashed([]any{peers, rules, c.Vias})
	e.classes[d] = s
	return s
}

func (e *effects) block(d peermap.Digest) sum {
	if s, known := e.blocks[d]; known {
		return s
	}
	b, err := peermap.DecodeBlock(e.zone.Blocks[d])
	if err != nil {
		return hashed(d)
	}
	var s sum
	for p := range slices.Values(b.Peers) {
		s.add(hashed(p))
	}
	e.blocks[d] = s
	return s
}
