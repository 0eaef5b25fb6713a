package publish

import (
	"fmt"
	"maps"
	"slices"

	"github.com/apex-network/apex/spec/compile"
)

// Shrinkage is a zone that a change takes nodes from, compared with what is published.
type Shrinkage struct {
	Zone          string
	Before, After int
	// Gone counts the published nodes that are no longer there; a renamed node counts. Percent is their share, rounded up.
	Gone, Percent int
}

// Emptied reports whether nothing is left.
func (s Shrinkage) Emptied() bool { return s.After == 0 }

func (s Shrinkage) String() string {
	return fmt.Sprintf("zone %s loses %d of %d nodes (%d %%)", s.Zone, s.Gone, s.Before, s.Percent)
}

// Shrinkages compares zones with what is published and lists those that lose nodes, sorted by name. Zones that are
// suspended lose nothing. A zone that is missing loses everything.
func (p *Publisher) Shrinkages(zones map[string]*compile.Zone) []Shrinkage {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Shrinkage
	for _, name := range slices.Sorted(maps.Keys(p.zones)) {
		g := p.zones[name].currentGeneration()
		if g == nil || len(g.Nodes) == 0 {
			continue
		}
		s := Shrinkage{Zone: name, Before: len(g.Nodes)}
		next := map[string]bool{}
		if z, ok := zones[name]; ok {
			if z.Suspended {
				continue
			}
			s.After = len(z.Views)
			for _, v := range z.Views {
				next[v.Node] = true
			}
		}
		for _, n := range g.Nodes {
			if !next[n.Name] {
				s.Gone++
			}
		}
		if s.Gone > 0 {
			s.Percent = (100*s.Gone + s.Before - 1) / s.Before
			out = append(out, s)
		}
	}
	return out
}
