package build

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/identity"
)

// Members are the nodes of the generation that a change is compared with: those of git, and those that had enrolled.
type Members struct {
	Static, Enrolled []string
}

// Shrinkage is what a commit takes from a zone. Nodes that leave by themselves — their binding expired, was revoked by
// name, or was given back — are counted neither before nor after: a zone of enrolled nodes alone may run empty.
type Shrinkage struct {
	Zone          string
	Before, After int
	// Gone counts the nodes that the commit takes: nodes of git that are no longer there (a renamed one counts), and
	// enrolled ones whose binding the rules as they stand now do not admit.
	Gone int
	// Percent is their share, rounded up; where it is greater, the share among the nodes of git alone, so that a crowd of
	// laptops does not hide that the servers are gone.
	Percent int
}

// Emptied reports whether the commit takes the last node.
func (s Shrinkage) Emptied() bool { return s.Gone > 0 && s.After == 0 }

func (s Shrinkage) String() string {
	return fmt.Sprintf("zone %s loses %d of %d nodes (%d %%)", s.Zone, s.Gone, s.Before, s.Percent)
}

// Guard is the shrink guard of controller and witness: it refuses to go on from before to zones if a zone that is not
// among allowed loses more than the network's share. A zone of before that is missing in zones loses everything; one that
// is suspended loses nothing. rejected says why bindings are no longer among the members. The error is a *Refusal that
// says which trailer to add.
func (l *Loaded) Guard(
	before map[string]Members, zones map[string]*compile.Zone, rejected []identity.Rejected, allowed []string,
) error {
	limit := l.MaxShrinkPercent()
	taken := map[string]map[string]bool{}
	for _, r := range rejected {
		if !slices.Contains(byCommit[:], r.Reason) {
			continue
		}
		if taken[r.Zone] == nil {
			taken[r.Zone] = map[string]bool{}
		}
		taken[r.Zone][r.Node] = true
	}
	var over []error
	for _, name := range slices.Sorted(maps.Keys(before)) {
		z := zones[name]
		if z != nil && z.Suspended {
			continue
		}
		s := shrink(name, before[name], z, taken[name])
		if (s.Emptied() || s.Percent > limit) && !slices.Contains(allowed, name) {
			over = append(over, fmt.Errorf(
				"%s, the network allows %d %%: if that is meant, add a signed commit with the trailer \"Apex-Allow-Shrink: %s\"",
				s, limit, name))
		}
	}
	if len(over) > 0 {
		return final(StageShrink, errors.Join(over...))
	}
	return nil
}

// byCommit are the reasons for which a commit takes members away: their binding is as good as before, the rules are not.
var byCommit = [...]identity.Reason{
	identity.NoRule, identity.NotGranted, identity.Unapproved, identity.NotDynamic, identity.OverMax,
}

// shrink compares. taken are the enrolled nodes that no rule admits any more; of a zone that is gone (nil), all are.
func shrink(name string, before Members, after *compile.Zone, taken map[string]bool) Shrinkage {
	s := Shrinkage{Zone: name, Before: len(before.Static)}
	if after != nil {
		s.After = len(after.Views)
	}
	here := func(node string) bool {
		if after == nil {
			return false
		}
		_, ok := after.View(node)
		return ok
	}
	for _, n := range before.Static {
		if !here(n) {
			s.Gone++
		}
	}
	s.Percent = percent(s.Gone, s.Before)
	for _, n := range before.Enrolled {
		switch {
		case here(n):
			s.Before++
		case after == nil || taken[n]:
			s.Before++
			s.Gone++
		}
	}
	s.Percent = max(s.Percent, percent(s.Gone, s.Before))
	return s
}

func percent(gone, of int) int {
	if of == 0 {
		return 0
	}
	return (100*gone + of - 1) / of
}
