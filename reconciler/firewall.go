package reconciler

import (
	"context"
	"fmt"
	"slices"
)

// Table is the observed firewall table of an interface.
type Table struct {
	Exists bool
	// Foreign: a table of this name exists that we did not make.
	Foreign bool
	// Form is a digest of chains, rules and set definitions, counters and handles left out; see FirewallBackend.Form.
	Form string
	// Sets are the elements of every set by name, sorted.
	Sets map[string][]Range
}

// SetUpdate adds and deletes elements of one host set.
type SetUpdate struct {
	Set         string
	V6          bool
	Add, Remove []Range
}

// FirewallBackend holds one table per interface. Every method that writes is one transaction: it happens as a whole
// or not at all, and no packet meets a state in between.
type FirewallBackend interface {
	// Generation changes whenever anybody changes the host's packet filter.
	Generation(ctx context.Context) (uint32, error)
	// Table reads a table; a missing one is not an error.
	Table(ctx context.Context, name string) (Table, error)
	// Form is the digest Table would report for r.
	Form(r Ruleset) (string, error)
	// Replace puts r in the place of whatever its table held.
	Replace(ctx context.Context, r Ruleset) error
	// UpdateSets changes the elements of host sets of a table that stands.
	UpdateSets(ctx context.Context, table string, updates []SetUpdate) error
	Delete(ctx context.Context, table string) error
	// Counters reads the counters of a table's rules, in the order of its rules; one rule of a policy may stand there
	// several times.
	Counters(ctx context.Context, table string) ([]RuleCounter, error)
}

// firewallChange is what brings a table to a ruleset: nothing, new elements, or a new table.
type firewallChange struct {
	replace bool
	reason  string
	sets    []SetUpdate
}

func (c firewallChange) isZero() bool { return !c.replace && len(c.sets) == 0 }

// elements counts the set elements the change touches.
func (c firewallChange) elements() int {
	n := 0
	for _, s := range c.sets {
		n += len(s.Add) + len(s.Remove)
	}
	return n
}

// diffTable compares an observed table with the ruleset it should hold.
func diffTable(want *Ruleset, form string, got Table) firewallChange {
	switch {
	case !got.Exists:
		return firewallChange{replace: true, reason: "new table"}
	case got.Form != form:
		return firewallChange{replace: true, reason: "other rules"}
	}
	return diffSets(want.Sets, func(name string) ([]Range, bool) { s, ok := got.Sets[name]; return s, ok })
}

// diffRulesets compares two rulesets of which the first is known to be in force.
func diffRulesets(have, want *Ruleset) firewallChange {
	if have.Shape() != want.Shape() {
		return firewallChange{replace: true, reason: "other rules"}
	}
	return diffSets(want.Sets, func(name string) ([]Range, bool) {
		i := slices.IndexFunc(have.Sets, func(s AddressSet) bool { return s.Name == name })
		if i < 0 {
			return nil, false
		}
		return have.Sets[i].Elements, true
	})
}

func diffSets(want []AddressSet, have func(string) ([]Range, bool)) firewallChange {
	var c firewallChange
	for _, s := range want {
		got, ok := have(s.Name)
		if !ok {
			return firewallChange{replace: true, reason: "set " + s.Name + " is missing"}
		}
		add, remove := diffSorted(s.Elements, got, compareRange)
		if len(add)+len(remove) == 0 {
			continue
		}
		if s.Interval {
			return firewallChange{replace: true, reason: "set " + s.Name + " has other ranges"}
		}
		c.sets = append(c.sets, SetUpdate{Set: s.Name, V6: s.V6, Add: add, Remove: remove})
	}
	return c
}

// checkTable refuses a table of our name that is not ours.
func checkTable(name string, t Table) error {
	if t.Exists && t.Foreign {
		return fmt.Errorf("nftables table inet %s exists and was not made by Apex: %w; rename or delete it, or configure another interface name", name, ErrForeign)
	}
	return nil
}

// IDs of the rules that drop, as counters report them.
const (
	dropInput   = "drop input"
	dropOutput  = "drop output"
	dropForward = "drop forward"
	dropInvalid = "drop invalid"
	dropStray   = "drop stray"
)

// mergeCounters adds up counters of the same ID, keeping the order of first appearance.
func mergeCounters(in []RuleCounter) []RuleCounter {
	at := make(map[string]int, len(in))
	var out []RuleCounter
	for _, c := range in {
		i, ok := at[c.ID]
		if !ok {
			at[c.ID] = len(out)
			out = append(out, c)
			continue
		}
		out[i].Packets += c.Packets
		out[i].Bytes += c.Bytes
	}
	return out
}
