//go:build linux

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// patience bounds one test; reaching it is a failure.
const patience = 5 * time.Minute

// world is a fleet with the test that it belongs to. Its methods end the test where they fail.
type world struct {
	*fleet.Fleet
	t   *testing.T
	ctx context.Context
}

// newWorld makes a network whose first commit holds files. The controller is not started.
func newWorld(t *testing.T, opt fleet.Options, files map[string]string) *world {
	t.Helper()
	labtest.NeedTunnel(t)
	opt.Lab, opt.Binaries = labtest.New(t), binaries(t)
	ctx := labtest.Context(t, patience)
	f, err := fleet.New(ctx, opt, files)
	if err != nil {
		t.Fatal(err)
	}
	return &world{Fleet: f, t: t, ctx: ctx}
}

// in is the same world for a subtest.
func (w *world) in(t *testing.T) *world {
	return &world{Fleet: w.Fleet, t: t, ctx: labtest.Context(t, patience)}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// node adds a node to the clone.
func (w *world) node(s fleet.NodeSpec) *fleet.Node {
	w.t.Helper()
	n, err := w.AddNode(w.ctx, s)
	w.must(err)
	return n
}

// member is a node in one zone.
func (w *world) member(name, zone string, addrs ...string) *fleet.Node {
	w.t.Helper()
	return w.node(fleet.NodeSpec{Name: name, Zones: map[string][]netip.Addr{zone: addresses(addrs...)}})
}

// start starts the controller and every agent.
func (w *world) start() {
	w.t.Helper()
	w.must(w.Controller.Start(w.ctx))
	for _, n := range w.Nodes {
		w.must(n.Start(w.ctx))
	}
}

// begin commits what stands in the clone, starts everything, and waits until the commit is enforced everywhere.
func (w *world) begin() (commit string) {
	w.t.Helper()
	commit = w.merge("Add the nodes")
	w.start()
	w.enforced(commit)
	return commit
}

// write puts a file into the clone.
func (w *world) write(path, text string) {
	w.t.Helper()
	w.must(w.Repo.Write(path, text))
}

// merge commits and pushes what stands in the clone, signed.
func (w *world) merge(message string) string {
	w.t.Helper()
	commit, err := w.Merge(message)
	w.must(err)
	return commit
}

// taken waits until the controller has accepted commit; a refusal ends the test at once.
func (w *world) taken(commit string) {
	w.t.Helper()
	s, err := w.AwaitStatus(w.ctx, fmt.Sprintf("acceptance of %.12s", commit), func(s protocol.FleetStatus) error {
		if s.Accepted != commit && (s.Refused == nil || s.Refused.Commit != commit) {
			return fmt.Errorf("head %.12s, accepted %.12s, refused %+v, fetch %q", s.Head, s.Accepted, s.Refused, s.FetchError)
		}
		return nil
	})
	w.must(err)
	if s.Accepted != commit {
		w.t.Fatalf("commit %.12s is refused: %+v", commit, s.Refused)
	}
}

// enforced waits until every running agent enforces commit.
func (w *world) enforced(commit string) {
	w.t.Helper()
	w.taken(commit)
	w.must(w.AwaitEnforced(w.ctx, commit))
}

// snapshots takes the network state of every node's host, by name.
func (w *world) snapshots() map[string]lab.Snapshot {
	w.t.Helper()
	all := map[string]lab.Snapshot{}
	for name, n := range w.Nodes {
		s, err := n.Host.Snapshot(w.ctx)
		w.must(err)
		all[name] = s
	}
	return all
}

// untouched fails if a host is not as it was.
func (w *world) untouched(before map[string]lab.Snapshot) {
	w.t.Helper()
	for name, now := range w.snapshots() {
		if d := before[name].Diff(now); d != "" {
			w.t.Errorf("host %s was touched:\n%s", name, d)
		}
	}
}

// echo lets a node's host answer on ports.
func (w *world) echo(h *lab.Host, ports ...uint16) {
	w.t.Helper()
	for _, port := range ports {
		_, err := h.Echo(w.ctx, port)
		w.must(err)
	}
}

// quick is how long a probe of a test waits that may go unanswered: everything here is on one machine. That it is answered is
// never asked with that alone: see reaches and still.
const quick = 700 * time.Millisecond

func tcp(port uint16) lab.Probe { return lab.Probe{Protocol: lab.TCP, Port: port, Timeout: quick} }
func udp(port uint16) lab.Probe { return lab.Probe{Protocol: lab.UDP, Port: port, Timeout: quick} }
func icmp() lab.Probe           { return lab.Probe{Protocol: lab.ICMP, Timeout: quick} }

// reaches waits until a probe's outcome is as wanted.
func (w *world) reaches(from *lab.Host, to string, p lab.Probe, want bool) {
	w.t.Helper()
	_, err := lab.Converge(w.ctx, []lab.Source{{Host: from}}, []lab.Target{{Addr: netip.MustParseAddr(to), Probe: p}},
		func(lab.Source, lab.Target) bool { return want })
	w.must(err)
}

// still is reaches without patience: what the outcome is now.
func (w *world) still(from *lab.Host, to string, p lab.Probe, want bool) {
	w.t.Helper()
	if want {
		p.Timeout = time.Minute // a packet may get lost on a busy machine, and is sent again
	}
	if got := from.Probe(w.ctx, netip.MustParseAddr(to), p); (got.Verdict == lab.Reached) != want {
		w.t.Errorf("%s → %s %s: want reached=%t, got %s (%v)", from.Name(), to, p, want, got, got.Err)
	}
}

// repository reads the clone's working tree as the controller would read its commit.
func (w *world) repository() *spec.Repository {
	w.t.Helper()
	var files []spec.File
	w.must(filepath.WalkDir(w.Repo.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(w.Repo.Dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		files = append(files, spec.File{Path: filepath.ToSlash(rel), Data: data})
		return err
	}))
	repo, problems := spec.Load(files)
	w.must(problems.Err())
	return repo
}

// matrix is the sources, the targets and what policy says of each pair: every node of the running fleet, in every zone,
// with every probe.
func (w *world) matrix(probes ...lab.Probe) ([]lab.Source, []lab.Target, func(lab.Source, lab.Target) bool) {
	w.t.Helper()
	repo := w.repository()
	policies := map[string]*policy.Policy{}
	names := map[*lab.Host]string{}
	var sources []lab.Source
	for name, n := range w.Nodes {
		names[n.Host] = name
		sources = append(sources, lab.Source{Host: n.Host})
	}
	slices.SortFunc(sources, func(a, b lab.Source) int { return strings.Compare(a.Host.Name(), b.Host.Name()) })
	zones := map[string]map[string]bool{} // zone → members
	var targets []lab.Target
	for _, doc := range repo.Nodes {
		n := w.Nodes[doc.Value.Metadata.Name]
		zone := doc.Value.Metadata.Zone
		if n == nil {
			continue
		}
		if policies[zone] == nil {
			policies[zone], zones[zone] = policy.New(repo, zone), map[string]bool{}
		}
		zones[zone][n.Spec.Name] = true
		for _, addr := range doc.Value.Spec.Addresses {
			for _, p := range probes {
				targets = append(targets, lab.Target{Name: zone + "/" + n.Spec.Name, Addr: addr, Probe: p, Host: n.Host})
			}
		}
	}
	now := time.Now()
	return sources, targets, func(s lab.Source, to lab.Target) bool {
		zone, node, _ := strings.Cut(to.Name, "/")
		from := names[s.Host]
		return zones[zone][from] && policies[zone].Can(from, node, port(to.Probe), now).Allowed
	}
}

// agrees waits until packets pass exactly as policy says, and gives the measured matrix.
func (w *world) agrees(probes ...lab.Probe) *lab.Matrix {
	w.t.Helper()
	sources, targets, want := w.matrix(probes...)
	m, err := lab.Converge(w.ctx, sources, targets, want)
	w.must(err)
	return m
}

// port is a probe in the words of the language.
func port(p lab.Probe) *spec.Port {
	switch p.Protocol {
	case lab.TCP:
		return &spec.Port{Protocol: peermap.TCP, First: p.Port, Last: p.Port}
	case lab.UDP:
		return &spec.Port{Protocol: peermap.UDP, First: p.Port, Last: p.Port}
	}
	return &spec.Port{Protocol: peermap.ICMP}
}

func addresses(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// zoneDoc is a zone's document; extra are further lines of its spec.
func zoneDoc(name, ranges string, extra ...string) string {
	return doc("Zone", name, "", append([]string{"ranges: [" + ranges + "]"}, extra...)...)
}

// policyDoc is a policy of one-line rules.
func policyDoc(name, zone string, rules ...string) string {
	if len(rules) == 0 {
		return doc("Policy", name, zone, "allow: []")
	}
	lines := []string{"allow:"}
	for _, r := range rules {
		lines = append(lines, "  - "+r)
	}
	return doc("Policy", name, zone, lines...)
}

func doc(kind, name, zone string, lines ...string) string {
	meta := "name: " + name
	if zone != "" {
		meta += ", zone: " + zone
	}
	text := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {%s}\nspec:\n", spec.APIVersion, kind, meta)
	for _, line := range lines {
		text += "  " + line + "\n"
	}
	return text
}
