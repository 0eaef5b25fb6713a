package compile

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
	"github.com/apex-network/apex/spec/policy"
)

// world makes random repositories: small, so that every kind of overlap happens often.
type world struct {
	rng  *rand.Rand
	repo *spec.Repository
	now  time.Time
	next int
}

func newWorld(seed uint64) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 7)), now: asOf()}
	w.repo = newRepo(newZone("a", spec.DefaultDeny, "10.1.0.0/16"), newZone("b", spec.DefaultMesh, "10.2.0.0/16"))
	// A last resort for every prefix, so that most states compile.
	for zone, addr := range map[string]string{"a": "10.1.255.1", "b": "10.2.255.1"} {
		all, more := route("192.168.0.0/16"), route("172.20.0.0/16")
		all.Shared, all.Priority, more.Shared, more.Priority = true, 9, true, 9
		w.repo.Nodes = append(w.repo.Nodes, doc(newNode(zone, "gw-"+zone, addr, nil, all, more)))
	}
	slices.SortFunc(w.repo.Nodes, func(x, y *spec.Document[spec.Node]) int {
		return strings.Compare(x.Value.Metadata.Name, y.Value.Metadata.Name)
	})
	for range 12 {
		w.addNode()
	}
	for range 4 {
		w.addPolicy()
	}
	return w
}

func (w *world) pick(s ...string) string { return s[w.rng.IntN(len(s))] }

func (w *world) zone() string { return w.pick("a", "a", "b") }

func (w *world) labels() map[string]string {
	out := map[string]string{}
	for _, k := range []string{"tier", "site"} {
		if w.rng.IntN(3) > 0 {
			out[k] = w.pick("x", "y", "z")
		}
	}
	return out
}

// prefix is one of a few prefixes that nest in each other.
func (w *world) prefix() string {
	return w.pick("192.168.0.0/16", "192.168.0.0/20", "192.168.4.0/24", "192.168.4.128/25", "172.20.0.0/16", "172.20.1.0/24")
}

func (w *world) routes() []spec.NodeRoute {
	var out []spec.NodeRoute
	for range w.rng.IntN(3) {
		r := route(w.prefix())
		r.Shared, r.Priority = true, w.rng.IntN(3)
		out = append(out, r)
	}
	return out
}

func (w *world) addNode() {
	w.next++
	zone := w.zone()
	addr := fmt.Sprintf("10.%d.%d.%d", map[string]int{"a": 1, "b": 2}[zone], w.next/200, w.next%200+1)
	n := newNode(zone, fmt.Sprintf("n%d", w.next), addr, w.labels())
	if w.rng.IntN(3) == 0 {
		n.Spec.Routes = w.routes()
	}
	w.repo.Nodes = append(w.repo.Nodes, doc(n))
}

func (w *world) selector() spec.Selector {
	switch w.rng.IntN(6) {
	case 0:
		return anyone()
	case 1:
		return byName(fmt.Sprintf("n%d", 1+w.rng.IntN(w.next+1)))
	case 2:
		return byCIDR(w.prefix())
	}
	if l := w.labels(); len(l) > 0 {
		return spec.Selector{Labels: l}
	}
	return byLabel("tier", "x")
}

func (w *world) rule() spec.Rule {
	var r spec.Rule
	for range 1 + w.rng.IntN(2) {
		r.From = append(r.From, w.selector())
		r.To = append(r.To, w.selector())
	}
	for range w.rng.IntN(3) {
		r.Ports = append(r.Ports, tcp(uint16(80+w.rng.IntN(3))))
	}
	if w.rng.IntN(5) == 0 {
		end := w.now.Add(time.Duration(w.rng.IntN(6)-1) * time.Hour)
		r.NotAfter = &end
	}
	return r
}

func (w *world) addPolicy() {
	w.next++
	p := newPolicy(w.zone(), fmt.Sprintf("p%d", w.next))
	for range 1 + w.rng.IntN(3) {
		p.Spec.Allow = append(p.Spec.Allow, w.rule())
	}
	w.repo.Policies = append(w.repo.Policies, doc(p))
}

// step changes one thing, the way a commit does: what changes is another document, all else is the same pointers.
func (w *world) step() {
	r := *w.repo
	r.Zones, r.Nodes, r.Policies = slices.Clone(r.Zones), slices.Clone(r.Nodes), slices.Clone(r.Policies)
	w.repo = &r
	node := func(change func(*spec.Node)) {
		if len(r.Nodes) == 0 {
			return
		}
		i := w.rng.IntN(len(r.Nodes))
		n := r.Nodes[i].Value
		change(&n)
		r.Nodes[i] = doc(n)
	}
	lastResort := func(n *spec.Node) bool { return strings.HasPrefix(n.Metadata.Name, "gw-") && w.rng.IntN(20) > 0 }
	switch w.rng.IntN(13) {
	case 0, 1:
		w.addNode()
	case 2:
		if i := w.rng.IntN(len(r.Nodes) + 1); i < len(r.Nodes) && !lastResort(&r.Nodes[i].Value) {
			r.Nodes = slices.Delete(r.Nodes, i, i+1)
		}
	case 3:
		node(func(n *spec.Node) { n.Metadata.Labels = w.labels() })
	case 4:
		node(func(n *spec.Node) {
			if !lastResort(n) {
				n.Spec.Routes = w.routes()
			}
		})
	case 5:
		node(func(n *spec.Node) { n.Spec.PublicKey = key("rekey", w.rng.Uint64()) })
	case 6:
		w.addPolicy()
	case 7:
		if len(r.Policies) > 0 {
			i := w.rng.IntN(len(r.Policies))
			r.Policies = slices.Delete(r.Policies, i, i+1)
		}
	case 8:
		if len(r.Policies) > 0 {
			i := w.rng.IntN(len(r.Policies))
			p := r.Policies[i].Value
			p.Spec.Allow = slices.Clone(p.Spec.Allow)
			p.Spec.Allow[w.rng.IntN(len(p.Spec.Allow))] = w.rule()
			r.Policies[i] = doc(p)
		}
	case 9:
		i := w.rng.IntN(len(r.Zones))
		z := r.Zones[i].Value
		switch w.rng.IntN(4) {
		case 0:
			z.Spec.Default = []spec.Default{"", spec.DefaultDeny, spec.DefaultMesh}[w.rng.IntN(3)]
		case 1:
			z.Spec.MTU = 1300 + w.rng.IntN(3)
		case 2:
			z.Spec.Suspend = !z.Spec.Suspend
		case 3:
			z.Spec.Dynamic = []netip.Prefix{netip.MustParsePrefix(w.pick("10.1.0.0/30", "10.2.200.0/24"))}
		}
		r.Zones[i] = doc(z)
	case 10:
		w.now = w.now.Add(time.Duration(w.rng.IntN(5)-1) * time.Hour)
	case 11:
		// The same content in another document: nothing may change.
		node(func(*spec.Node) {})
	case 12:
		w.toggleZone()
	}
	shuffle(w.rng, r.Nodes)
}

// toggleZone adds zone c with two nodes, or takes it away with all its documents.
func (w *world) toggleZone() {
	r := w.repo
	if len(r.Zones) == 2 {
		r.Zones = append(r.Zones, doc(newZone("c", spec.DefaultMesh, "10.1.0.0/16")))
		r.Nodes = append(r.Nodes, doc(newNode("c", "c1", "10.1.0.1", nil)), doc(newNode("c", "c2", "10.1.0.2", nil)))
		return
	}
	r.Zones = slices.DeleteFunc(r.Zones, func(z *spec.Document[spec.Zone]) bool { return z.Value.Metadata.Name == "c" })
	r.Nodes = slices.DeleteFunc(r.Nodes, func(n *spec.Document[spec.Node]) bool { return n.Value.Metadata.Zone == "c" })
}

func (w *world) input() Input {
	f := facts()
	f.AsOf = w.now
	return Input{Repo: w.repo, Facts: f, Files: []Blob{{"x", peermap.DigestOf(fmt.Append(nil, w.next))}}}
}

// TestIncrementalEqualsCold drives random histories through one Incremental and compares every state with a compile that
// knows no past, errors included.
func TestIncrementalEqualsCold(t *testing.T) {
	histories, refused, total := 60, 0, 0
	if testing.Short() {
		histories = 10
	}
	for seed := range uint64(histories) {
		w := newWorld(seed)
		inc := NewIncremental()
		for step := range 40 {
			total++
			want, werr := Compile(w.input())
			got, _, gerr := inc.Compile(w.input())
			if fmt.Sprint(werr) != fmt.Sprint(gerr) {
				t.Fatalf("seed %d step %d: cold says %v, incremental %v", seed, step, werr, gerr)
			}
			if werr == nil {
				equalZones(t, want, got)
			} else {
				refused++
			}
			w.step()
		}
	}
	t.Logf("%d states, %d of them refused", total, refused)
	if refused > total*3/4 {
		t.Errorf("%d of %d states do not compile: the test compares too little", refused, total)
	}
}

// TestIncrementalWorksOnlyWhereItMust counts what a change of one node rebuilds.
func TestIncrementalWorksOnlyWhereItMust(t *testing.T) {
	repo := fleet(2000, spec.DefaultDeny)
	inc := NewIncremental()
	if _, _, err := inc.Compile(Input{Repo: repo, Facts: facts()}); err != nil {
		t.Fatal(err)
	}
	_, same, err := inc.Compile(Input{Repo: repo, Facts: facts()})
	if err != nil || same != (Stats{Zones: 1}) {
		t.Errorf("no change rebuilds %+v, %v", same, err)
	}
	// The 10 nodes of its group and the 10 of the monitoring group see it.
	_, one, err := inc.Compile(Input{Repo: touched(repo, 1001, "x"), Facts: facts()})
	if err != nil || one != (Stats{Zones: 1, Records: 1, Blocks: 1, Classes: 2, Views: 20}) {
		t.Errorf("one node rebuilds %+v, %v", one, err)
	}
}

// TestHostsEnforceWhatPolicySays compiles random repositories and lets packets through exactly as agents would, at both
// ends: cryptokey routing, then the firewall. Every answer must be the one policy gives.
func TestHostsEnforceWhatPolicySays(t *testing.T) {
	flows := 0
	for seed := range uint64(80) {
		w := newWorld(1000 + seed)
		for range 6 {
			w.step()
		}
		zones, err := Compile(w.input())
		if err != nil {
			continue
		}
		for name, z := range zones {
			h := newHosts(t, z)
			p := policy.New(w.repo, name)
			h.checkPeers(t, p, w.now)
			for _, from := range h.endpoints() {
				for _, to := range h.endpoints() {
					for _, port := range []uint16{80, 81, 443} {
						ask := tcp(port)
						v := p.Can(from, to, &ask, w.now)
						if v.Undecided {
							continue
						}
						flows++
						if got := h.passes(from, to, port); got != v.Allowed {
							t.Fatalf("seed %d zone %s: %s to %s port %d: hosts say %v, policy %v (%s)", seed, name, from, to, port,
								got, v.Allowed, v.Reason)
						}
					}
				}
			}
		}
	}
	t.Logf("%d flows", flows)
	if flows < 10_000 {
		t.Errorf("only %d flows were compared", flows)
	}
}

// hosts are the agents of a zone.
type hosts struct {
	maps map[string]*peermap.Map
}

func newHosts(t *testing.T, z *Zone) *hosts {
	h := &hosts{map[string]*peermap.Map{}}
	for _, v := range z.Views {
		h.maps[v.Node] = assemble(t, z, v.Node)
	}
	return h
}

// checkPeers wants two nodes to know each other if some rule connects them or what is behind them, and only then.
func (h *hosts) checkPeers(t *testing.T, p *policy.Policy, now time.Time) {
	t.Helper()
	for a, am := range h.maps {
		for b, bm := range h.maps {
			if a == b {
				continue
			}
			want := h.connected(p, am, bm, now) || h.connected(p, bm, am, now)
			got := slices.ContainsFunc(am.Peers, func(q peermap.PeerEntry) bool { return q.Name == b })
			if got != want {
				t.Fatalf("%s knows %s: %v, policy connects them: %v", a, b, got, want)
			}
		}
	}
}

func (h *hosts) connected(p *policy.Policy, a, b *peermap.Map, now time.Time) bool {
	ends := func(m *peermap.Map) []string {
		out := []string{m.View.Node}
		for _, r := range m.View.Routes {
			out = append(out, r.String())
		}
		return out
	}
	for _, from := range ends(a) {
		for _, to := range ends(b) {
			if p.CanAny(from, to, nil, now).Allowed {
				return true
			}
		}
	}
	return false
}

func (h *hosts) endpoints() []string {
	out := []string{"192.168.0.1", "192.168.4.1", "192.168.4.200", "192.168.99.1", "172.20.1.5", "172.20.2.5"}
	for name := range h.maps {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// end is an endpoint as a host sees it: the host that stands for it and, behind a router, the address.
func (h *hosts) end(endpoint string) (host string, addr netip.Addr, behind bool) {
	if m := h.maps[endpoint]; m != nil {
		return endpoint, m.View.Addresses[0], false
	}
	addr = netip.MustParseAddr(endpoint)
	for name, m := range h.maps {
		if slices.ContainsFunc(m.View.Routes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return name, addr, true
		}
	}
	return "", addr, true
}

func (h *hosts) passes(from, to string, port uint16) bool {
	src, srcAddr, srcBehind := h.end(from)
	dst, dstAddr, dstBehind := h.end(to)
	if src == "" || dst == "" {
		return false
	}
	out, in := peermap.HookOutput, peermap.HookInput
	if srcBehind {
		out = peermap.HookForward
	}
	if dstBehind {
		in = peermap.HookForward
	}
	return tunnel(h.maps[src], dst, dstAddr) && tunnel(h.maps[dst], src, srcAddr) &&
		filter(h.maps[src], out, srcAddr, dstAddr, port) && filter(h.maps[dst], in, srcAddr, dstAddr, port)
}

// tunnel reports whether addr is an allowed IP of the peer.
func tunnel(m *peermap.Map, peer string, addr netip.Addr) bool {
	for _, p := range m.Peers {
		if p.Name == peer {
			return slices.Contains(p.Addresses, addr) ||
				slices.ContainsFunc(p.Routes, func(r netip.Prefix) bool { return r.Contains(addr) })
		}
	}
	return false
}

func filter(m *peermap.Map, hook peermap.Hook, from, to netip.Addr, port uint16) bool {
	in := func(s peermap.Set, a netip.Addr) bool {
		if len(s.Groups)+len(s.Prefixes) == 0 {
			return true
		}
		return slices.ContainsFunc(s.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) ||
			slices.ContainsFunc(m.Peers, func(p peermap.PeerEntry) bool {
				return slices.Contains(s.Groups, p.Group) && slices.Contains(p.Addresses, a)
			})
	}
	for _, r := range m.Class.Rules {
		if r.Hook == hook && in(r.From, from) && in(r.To, to) && policy.Ports(r.Ports).Covers(policy.Ports{{Protocol: peermap.TCP, First: port, Last: port}}) {
			return true
		}
	}
	return false
}
