// Package plan is the review artefact: what a change does to the network, in terms people decide by. Who gains and who
// loses which reachability, whose host changes, what moves, what overlaps, and which of it no test covers.
//
// A plan is exact: expanded, its lines name every pair of endpoints whose flows differ between the two states and no
// other. It is short because nodes that both policies treat alike are handled, and named, together. It is a pure function
// of two repositories and an instant.
package plan

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/identity"
)

// Schema names the JSON form of a plan. Fields may be added to it, never changed or taken away.
const Schema = "apex.plan/v1"

// Plan is the difference between two states of a repository.
type Plan struct {
	Schema string    `json:"schema"`
	AsOf   time.Time `json:"asOf"`
	// TrustRoot says what changes about whose signatures count; empty if nothing does.
	TrustRoot string `json:"trustRoot,omitempty"`
	// Network are issuers and revocations that differ.
	Network []Field `json:"network,omitempty"`
	// Enrolled says whether the nodes that are enrolled now are in the plan; nil if nobody may enrol.
	Enrolled *Enrolled `json:"enrolled,omitempty"`
	// Zones are those in which something changes, by name.
	Zones []Zone `json:"zones"`
	// Problems say why a state does not compile; Hosts are then unknown.
	Problems []string `json:"problems,omitempty"`
}

// Kind says how an object differs.
type Kind string

// Kinds of difference. Rekeyed is a changed node that has another WireGuard or identity key.
const (
	Added   Kind = "added"
	Removed Kind = "removed"
	Changed Kind = "changed"
	Rekeyed Kind = "rekeyed"
)

// Zone is what changes in one zone.
type Zone struct {
	Zone   string `json:"zone"`
	Change Kind   `json:"change"`
	// NodesBefore and NodesAfter count the zone's nodes, enrolled ones included as far as they are known.
	NodesBefore int     `json:"nodesBefore"`
	NodesAfter  int     `json:"nodesAfter"`
	Settings    []Field `json:"settings,omitempty"`
	Nodes       []Node  `json:"nodes,omitempty"`
	// MemberRules are the zone's rules of membership that differ, Members the enrolled nodes that join, leave or change.
	MemberRules []Node   `json:"memberRules,omitempty"`
	Members     []Member `json:"members,omitempty"`
	// PolicyRules are the policies whose rules differ, in a zone that nodes can join by identity.
	PolicyRules []Node `json:"policyRules,omitempty"`
	// Gained and Lost are flows allowed in one state only. Limits are flows allowed in both that end at another instant.
	Gained []Reach `json:"gained,omitempty"`
	Lost   []Reach `json:"lost,omitempty"`
	Limits []Reach `json:"limits,omitempty"`
	// Hosts are the nodes whose host will be reconfigured, by name; nodes that are removed are not among them.
	Hosts    []string  `json:"hosts,omitempty"`
	Moves    []Move    `json:"moves,omitempty"`
	Overlaps []Overlap `json:"overlaps,omitempty"`
}

// Field is one value that differs; Old or New is empty where there is none.
type Field struct {
	Field string `json:"field"`
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
}

// Node is a Node document that differs.
type Node struct {
	Name   string  `json:"name"`
	Change Kind    `json:"change"`
	Fields []Field `json:"fields,omitempty"`
}

// Reach is flows from each of From to each of To, but from no node to itself, nor within any one of Apart.
type Reach struct {
	From  Set   `json:"from"`
	To    Set   `json:"to"`
	Apart []Set `json:"apart,omitempty"`
	// Ports are in YAML form, or only "all". Except, beside "all", are the ports that do not change.
	Ports  []string `json:"ports"`
	Except []string `json:"except,omitempty"`
	// Until is when the flows end; null: not by themselves.
	Until *time.Time `json:"until,omitempty"`
	// Rules are the rules that allow the flows in the state that has them.
	Rules []string `json:"rules"`
	// Tested says that some PolicyTest of the new state covers a flow of this line the right way round.
	Tested bool `json:"tested"`
	// Missing is an assertion that would; empty if Tested, or if no such flow can be asserted any more.
	Missing string `json:"missing,omitempty"`
}

// Set names endpoints: Text for people, Nodes and Prefixes in full.
type Set struct {
	Text     string   `json:"text"`
	Nodes    []string `json:"nodes,omitempty"`
	Prefixes []string `json:"prefixes,omitempty"`
}

// Move is an address or a prefix that changes hands. From or To is empty if nobody held, or holds, it.
type Move struct {
	What string `json:"what"` // "address" or "route"
	Item string `json:"item"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Overlap is a pair of prefixes that overlap in the new state but did not in the old.
type Overlap struct {
	A    string `json:"a"`
	B    string `json:"b"`
	Note string `json:"note"`
}

// Diff compares two states as of one instant. Either may be nil, for a repository that is not there yet or any more. It
// knows of no enrolled nodes, and says so if there may be any.
func Diff(old, new *spec.Repository, asOf time.Time) *Plan { return diff(old, new, asOf, nil, false) }

// DiffEnrolled is Diff with the bindings that a controller holds now: the plan shows which nodes leave by the change, which
// come in, whose labels differ and what they can reach. No bindings means that nobody is enrolled.
func DiffEnrolled(old, new *spec.Repository, asOf time.Time, bindings []*binding.Signed) *Plan {
	return diff(old, new, asOf, bindings, true)
}

func diff(old, new *spec.Repository, asOf time.Time, bindings []*binding.Signed, known bool) *Plan {
	if old == nil {
		old = &spec.Repository{}
	}
	if new == nil {
		new = &spec.Repository{}
	}
	p := &Plan{Schema: Schema, AsOf: asOf.UTC().Truncate(time.Second), TrustRoot: trustRoot(old, new),
		Network: networkFields(old, new), Zones: []Zone{}}
	var before, after *identity.Admitted
	if known {
		before, after = identity.Admit(old, bindings, p.AsOf), identity.Admit(new, bindings, p.AsOf)
		old, new = before.Repo, after.Repo
	}
	p.Enrolled = enrolledOf(old, new, before, after)
	var changed map[string][]string
	changed, p.Problems = changedHosts(old, new, before, after, p.AsOf)
	names := map[string]bool{}
	for _, repo := range []*spec.Repository{old, new} {
		for _, z := range repo.Zones {
			names[z.Value.Metadata.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, b := newSide(old, name), newSide(new, name)
		z := Zone{
			Zone: name, Change: kind(a.zone != nil, b.zone != nil), NodesBefore: len(a.nodes), NodesAfter: len(b.nodes),
			Settings: settings(a.zone, b.zone), Nodes: nodeChanges(a, b), Hosts: changed[name],
			MemberRules: memberRules(a.zone, b.zone), Members: members(name, before, after),
			PolicyRules: policyRules(a, b), Moves: moves(a, b), Overlaps: overlaps(a, b),
		}
		z.Gained, z.Lost, z.Limits = reach(a, b, p.AsOf)
		if z.Change != Changed || z.differs() {
			p.Zones = append(p.Zones, z)
		}
	}
	return p
}

func kind(before, after bool) Kind {
	switch {
	case before && !after:
		return Removed
	case after && !before:
		return Added
	}
	return Changed
}

func (z *Zone) differs() bool {
	return len(z.Settings)+len(z.Nodes)+len(z.MemberRules)+len(z.Members)+len(z.PolicyRules)+
		len(z.Gained)+len(z.Lost)+len(z.Limits)+len(z.Hosts)+len(z.Moves)+len(z.Overlaps) > 0
}

// Empty reports whether nothing changes: no zone, no node, no reachability, no host, no identity, no trust.
func (p *Plan) Empty() bool {
	return len(p.Zones) == 0 && len(p.Network) == 0 && p.TrustRoot == "" && len(p.Problems) == 0
}

// Untested gives the lines of gained and lost reachability for which a test is missing.
func (z *Zone) Untested() []Reach {
	var out []Reach
	for _, r := range slices.Concat(z.Gained, z.Lost) {
		if r.Missing != "" {
			out = append(out, r)
		}
	}
	return out
}

// trustRoot says in a sentence how the trust root changes.
func trustRoot(old, new *spec.Repository) string {
	a, b := old.TrustRoot, new.TrustRoot
	switch {
	case a == nil && b == nil:
		return ""
	case a == nil:
		return fmt.Sprintf("version %d is new", b.Value.Spec.Version)
	case b == nil:
		return fmt.Sprintf("version %d is removed", a.Value.Spec.Version)
	case reflect.DeepEqual(a.Value, b.Value):
		return ""
	case a.Value.Spec.Version == b.Value.Spec.Version:
		return fmt.Sprintf("changes without a new version (%d)", a.Value.Spec.Version)
	}
	return fmt.Sprintf("version %d becomes %d", a.Value.Spec.Version, b.Value.Spec.Version)
}

// changedHosts compiles both states and gives, by zone, the nodes of the new one whose host must do something.
func changedHosts(old, new *spec.Repository, before, after *identity.Admitted, asOf time.Time) (map[string][]string, []string) {
	var problems []string
	compiled := func(which string, repo *spec.Repository, enrolled *identity.Admitted) map[string]*compile.Zone {
		if repo.Network == nil && len(repo.Zones) == 0 {
			return nil
		}
		in := compile.Input{Repo: repo, Facts: compile.Facts{AsOf: asOf}}
		if enrolled != nil {
			in.Bindings = enrolled.Lists
		}
		zones, err := compile.Compile(in)
		if err != nil {
			problems = append(problems, fmt.Sprintf("the %s state: %v", which, err))
		}
		return zones
	}
	olds, news := compiled("old", old, before), compiled("new", new, after)
	if len(problems) > 0 {
		return nil, problems
	}
	out := map[string][]string{}
	for name, z := range news {
		was := newEffects(olds[name])
		is := newEffects(z)
		for _, v := range z.Views {
			if was.of(v.Node) != is.of(v.Node) {
				out[name] = append(out[name], v.Node)
			}
		}
	}
	return out, nil
}

// compareSets orders by size, largest first, then by text.
func compareSets(a, b Set) int {
	return cmp.Or(cmp.Compare(len(b.Nodes)+len(b.Prefixes), len(a.Nodes)+len(a.Prefixes)), cmp.Compare(a.Text, b.Text))
}
