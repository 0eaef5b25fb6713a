package compile

import (
	"maps"
	"slices"

	"github.com/apex-network/apex/spec"
)

// Shrinkage is how many nodes a zone has before and after a change.
type Shrinkage struct {
	Zone          string
	Before, After int
	// Gone counts the nodes before that are not there after; a renamed node is gone.
	Gone int
	// Percent is the share of the nodes before that are gone, rounded up.
	Percent int
	// Emptied says that no node is left, or that the zone itself is gone.
	Emptied bool
}

// Shrink lists the zones of old that lose nodes, sorted by name. The caller holds Percent against the network's
// MaxShrinkPercent of the old state, so that a change cannot raise its own limit.
func Shrink(old, new *spec.Repository) []Shrinkage {
	if old == nil {
		return nil
	}
	before, after := members(old), members(new)
	var out []Shrinkage
	for _, zone := range slices.Sorted(maps.Keys(before)) {
		s := Shrinkage{Zone: zone, Before: len(before[zone]), After: len(after[zone])}
		for name := range before[zone] {
			if _, stays := after[zone][name]; !stays {
				s.Gone++
			}
		}
		if s.Gone == 0 {
			continue
		}
		s.Percent = (100*s.Gone + s.Before - 1) / s.Before
		s.Emptied = s.After == 0
		out = append(out, s)
	}
	return out
}

// members gives the names of the nodes of every zone.
func members(repo *spec.Repository) map[string]map[string]struct{} {
	out := map[string]map[string]struct{}{}
	if repo == nil {
		return out
	}
	for _, n := range repo.Nodes {
		m := n.Value.Metadata
		if out[m.Zone] == nil {
			out[m.Zone] = map[string]struct{}{}
		}
		out[m.Zone][m.Name] = struct{}{}
	}
	return out
}
