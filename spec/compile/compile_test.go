package compile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// office is a zone with every kind of selector: labels, names, prefixes behind two sites, a shared route.
func office(def spec.Default) *spec.Repository {
	r := newRepo(newZone("prod", def, "10.0.0.0/16", "fd00::/64"))
	shared := route("172.16.0.0/16")
	shared.Shared = true
	standby := shared
	standby.Priority = 5
	inner := route("172.16.9.0/24")
	inner.Shared, inner.Priority = true, -1
	r.Nodes = []*spec.Document[spec.Node]{
		doc(newNode("prod", "web-1", "10.0.0.1", map[string]string{"tier": "web"})),
		doc(newNode("prod", "web-2", "10.0.0.2", map[string]string{"tier": "web"})),
		doc(newNode("prod", "db-1", "10.0.0.3", map[string]string{"tier": "db"})),
		doc(newNode("prod", "gw-a", "10.0.0.4", nil, route("192.168.1.0/24"))),
		doc(newNode("prod", "gw-b", "10.0.0.5", nil, shared)),
		doc(newNode("prod", "gw-c", "10.0.0.6", nil, standby)),
		doc(newNode("prod", "gw-d", "10.0.0.7", nil, inner)),
		doc(newNode("prod", "lone", "fd00::1", nil)),
	}
	r.Policies = []*spec.Document[spec.Policy]{
		doc(newPolicy("prod", "app",
			spec.Rule{From: sel(byLabel("tier", "web")), To: sel(byLabel("tier", "db")), Ports: []spec.Port{tcp(5432)}})),
		doc(newPolicy("prod", "sites",
			spec.Rule{From: sel(byLabel("tier", "web"), byName("gw-c")), To: sel(byCIDR("172.16.0.0/16"))},
			spec.Rule{From: sel(byCIDR("192.168.1.0/25")), To: sel(byName("db-1"), byCIDR("172.16.9.0/24"))},
			spec.Rule{From: sel(byLabel("tier", "web")), To: sel(byName("gw-a")), Ports: []spec.Port{tcp(22)}})),
	}
	return r
}

func TestViewHoldsWhatRulesConnect(t *testing.T) {
	z := mustCompile(t, office(spec.DefaultDeny))["prod"]
	for node, want := range map[string]string{
		"web-1": "db-1 gw-a gw-b gw-d", "db-1": "gw-a web-1 web-2", "gw-a": "db-1 gw-d web-1 web-2", "gw-b": "web-1 web-2",
		// The standby of a shared route has it on its own side; it sees the carrier of the part it does not declare: none.
		"gw-c": "", "gw-d": "gw-a web-1 web-2", "lone": "",
	} {
		var got []string
		for _, p := range assemble(t, z, node).Peers {
			got = append(got, p.Name)
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s sees %q, want %q", node, g, want)
		}
	}
	routes := map[string][]netip.Prefix{}
	for _, p := range assemble(t, z, "web-1").Peers {
		routes[p.Name] = p.Routes
	}
	if len(routes["gw-a"]) != 0 {
		t.Errorf("reaching only the router gives its routes: %v", routes["gw-a"])
	}
	if !slices.Equal(routes["gw-d"], []netip.Prefix{netip.MustParsePrefix("172.16.9.0/24")}) {
		t.Errorf("gw-d carries %v", routes["gw-d"])
	}
	if slices.ContainsFunc(routes["gw-b"], routes["gw-d"][0].Overlaps) || len(routes["gw-b"]) != 8 {
		t.Errorf("gw-b carries %v, want 172.16.0.0/16 less 172.16.9.0/24", routes["gw-b"])
	}
	if v, _ := z.View("gw-b"); v.Index != 2 {
		t.Errorf("gw-b has index %d", v.Index)
	}
}

func TestOrderOfDocumentsMeansNothing(t *testing.T) {
	for _, def := range []spec.Default{spec.DefaultDeny, spec.DefaultMesh} {
		repo := office(def)
		files := []Blob{{"a.yaml", peermap.DigestOf([]byte("a"))}, {"b/c.yaml", peermap.DigestOf([]byte("b"))}}
		want, err := Compile(Input{Repo: repo, Files: files, Facts: facts()})
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			shuffle(rng, repo.Nodes)
			shuffle(rng, repo.Policies)
			shuffle(rng, files)
			for _, p := range repo.Policies {
				for i := range p.Value.Spec.Allow {
					shuffle(rng, p.Value.Spec.Allow[i].From)
					shuffle(rng, p.Value.Spec.Allow[i].To)
				}
			}
			got, err := Compile(Input{Repo: repo, Files: files, Facts: facts()})
			if err != nil {
				t.Fatal(err)
			}
			equalZones(t, want, got)
		}
	}
}

func shuffle[T any](rng *rand.Rand, s []T) {
	rng.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

// equalZones compares everything a generation consists of.
func equalZones(t *testing.T, want, got map[string]*Zone) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d zones, want %d", len(got), len(want))
	}
	for name, w := range want {
		g := got[name]
		if g == nil {
			t.Fatalf("no zone %s", name)
		}
		if w.Network != g.Network || w.Suspended != g.Suspended || w.Facts != g.Facts || w.InputsDigest != g.InputsDigest {
			t.Fatalf("zone %s: heads differ", name)
		}
		if w.Tree.Root() != g.Tree.Root() || len(w.Views) != len(g.Views) {
			t.Fatalf("zone %s: views differ", name)
		}
		for i := range w.Views {
			a, b := w.Views[i], g.Views[i]
			if a.Node != b.Node || !bytes.Equal(a.Leaf, b.Leaf) || a.Digest != b.Digest || a.Index != b.Index || a.IdentityKey != b.IdentityKey {
				t.Fatalf("zone %s: view of %s differs from that of %s", name, a.Node, b.Node)
			}
			if p, q := w.Tree.Proof(uint64(i)), g.Tree.Proof(uint64(i)); !slices.Equal(p, q) {
				t.Fatalf("zone %s: proof of %s differs", name, a.Node)
			}
		}
		equalArtefacts(t, name, w.Classes, g.Classes)
		equalArtefacts(t, name, w.Blocks, g.Blocks)
	}
}

func equalArtefacts(t *testing.T, zone string, want, got map[peermap.Digest][]byte) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("zone %s: %d artefacts, want %d", zone, len(got), len(want))
	}
	for d, b := range want {
		if !bytes.Equal(got[d], b) || peermap.DigestOf(b) != d {
			t.Fatalf("zone %s: artefact %s differs", zone, d)
		}
	}
}

func TestRulesEndAtTheirInstant(t *testing.T) {
	repo := office(spec.DefaultDeny)
	end := asOf().Add(time.Hour)
	repo.Policies[0].Value.Spec.Allow[0].NotAfter = &end
	z := mustCompile(t, repo)["prod"]
	m := assemble(t, z, "db-1")
	found := false
	for _, r := range m.Class.Rules {
		if r.ID == "app/0" {
			found = r.NotAfter == end.Unix()
		}
	}
	if !found {
		t.Fatal("the agent does not learn when app/0 ends")
	}
	inc := NewIncremental()
	f := facts()
	if _, _, err := inc.Compile(Input{Repo: repo, Facts: f}); err != nil {
		t.Fatal(err)
	}
	f.AsOf = end
	after, _, err := inc.Compile(Input{Repo: repo, Facts: f})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range assemble(t, after["prod"], "db-1").Peers {
		if p.Name != "gw-a" {
			t.Errorf("db-1 still sees %s", p.Name)
		}
	}
	cold, err := Compile(Input{Repo: repo, Facts: f})
	if err != nil {
		t.Fatal(err)
	}
	equalZones(t, cold, after)
}

// TestViewRevealsNothing changes what a node has no part in and wants its view to stay what it was.
func TestViewRevealsNothing(t *testing.T) {
	before := mustCompile(t, office(spec.DefaultDeny))["prod"]
	repo := office(spec.DefaultDeny)
	repo.Nodes = append(repo.Nodes,
		doc(newNode("prod", "secret-1", "10.0.7.1", map[string]string{"tier": "secret"})),
		doc(newNode("prod", "secret-2", "10.0.7.2", map[string]string{"tier": "secret"}, route("198.51.100.0/24"))))
	repo.Policies = append(repo.Policies, doc(newPolicy("prod", "aaa-hidden",
		spec.Rule{From: sel(byLabel("tier", "secret")), To: sel(byLabel("tier", "secret"), byCIDR("198.51.100.0/24"))})))
	after := mustCompile(t, repo)["prod"]
	for _, v := range before.Views {
		w, ok := after.View(v.Node)
		if !ok || !bytes.Equal(v.Leaf, w.Leaf) {
			t.Errorf("view of %s changed", v.Node)
		}
		m := assemble(t, after, v.Node)
		for d := range digests(m) {
			b, _ := after.Artefact(d)
			for _, word := range []string{"secret", "hidden", string([]byte{198, 51, 100})} {
				if bytes.Contains(b, []byte(word)) {
					t.Errorf("%s learns of %q", v.Node, word)
				}
			}
		}
	}
}

// digests gives the digests of all artefacts of a map.
func digests(m *peermap.Map) map[peermap.Digest]bool {
	out := map[peermap.Digest]bool{m.View.Class: true}
	for _, d := range m.Class.Blocks() {
		out[d] = true
	}
	return out
}

// TestForeignRuleLeavesGroupsAlone adds a rule that tells two of a viewer's peers apart without naming the viewer: the
// class must not gain a group by it.
func TestForeignRuleLeavesGroupsAlone(t *testing.T) {
	repo := office(spec.DefaultDeny)
	before := assemble(t, mustCompile(t, repo)["prod"], "db-1")
	repo.Policies = append(repo.Policies, doc(newPolicy("prod", "extra",
		spec.Rule{From: sel(byName("web-1")), To: sel(byName("lone"))})))
	after := assemble(t, mustCompile(t, repo)["prod"], "db-1")
	if len(after.Class.Groups) != len(before.Class.Groups) || len(after.Class.Rules) != len(before.Class.Rules) {
		t.Errorf("db-1 has %d groups and %d rules, before %d and %d", len(after.Class.Groups), len(after.Class.Rules),
			len(before.Class.Groups), len(before.Class.Rules))
	}
}

func TestRefusals(t *testing.T) {
	node := func(r *spec.Repository, name string) *spec.Node {
		for _, n := range r.Nodes {
			if n.Value.Metadata.Name == name {
				return &n.Value
			}
		}
		t.Fatalf("no node %s", name)
		return nil
	}
	for name, c := range map[string]struct {
		spoil func(*spec.Repository)
		want  string
	}{
		"no network": {func(r *spec.Repository) { r.Network = nil }, "no Network document"},
		"zone twice": {func(r *spec.Repository) { r.Zones = append(r.Zones, r.Zones[0]) }, "same name"},
		"node in no zone": {func(r *spec.Repository) {
			r.Nodes = append(r.Nodes, doc(newNode("dev", "x", "10.0.0.9", nil)))
		}, `node x: there is no zone "dev"`},
		"policy in no zone": {func(r *spec.Repository) {
			r.Policies = append(r.Policies, doc(newPolicy("dev", "x")))
		}, `policy x: there is no zone "dev"`},
		"node twice": {func(r *spec.Repository) {
			n := newNode("prod", "web-1", "10.0.0.77", nil)
			n.Spec.PublicKey, n.Spec.IdentityKey = key("other"), key("another")
			r.Nodes = append(r.Nodes, doc(n))
		}, "node web-1 exists twice in zone prod"},
		"policy twice": {func(r *spec.Repository) { r.Policies = append(r.Policies, r.Policies[0]) }, "policy app exists twice"},
		"public key twice": {func(r *spec.Repository) {
			node(r, "web-1").Spec.PublicKey = node(r, "db-1").Spec.PublicKey
		}, "same public key as node"},
		"identity key twice": {func(r *spec.Repository) {
			node(r, "web-1").Spec.IdentityKey = node(r, "db-1").Spec.IdentityKey
		}, "same identity key as node"},
		"no identity key": {func(r *spec.Repository) { node(r, "web-1").Spec.IdentityKey = spec.Key{} }, "no identityKey"},
		"no public key":   {func(r *spec.Repository) { node(r, "web-1").Spec.PublicKey = spec.Key{} }, "node web-1: breaks an invariant: public key"},
		"address twice": {func(r *spec.Repository) {
			node(r, "web-1").Spec.Addresses = node(r, "db-1").Spec.Addresses
		}, "same address 10.0.0.3 as node"},
		"address outside": {func(r *spec.Repository) {
			node(r, "web-1").Spec.Addresses[0] = netip.MustParseAddr("10.1.0.1")
		}, "web-1: address 10.1.0.1 lies outside the ranges of zone prod"},
		"address dynamic": {func(r *spec.Repository) {
			r.Zones[0].Value.Spec.Dynamic = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
		}, "lies in the dynamic range"},
		"no address":   {func(r *spec.Repository) { node(r, "web-1").Spec.Addresses = nil }, "web-1: breaks an invariant: 0 addresses"},
		"bad endpoint": {func(r *spec.Repository) { node(r, "web-1").Spec.Endpoints = []string{"x"} }, "web-1: breaks an invariant: endpoint"},
		"route over nodes": {func(r *spec.Repository) {
			node(r, "web-1").Spec.Routes = []spec.NodeRoute{route("10.0.0.0/8")}
		}, "route 10.0.0.0/8 overlaps the range 10.0.0.0/16"},
		"route clash": {func(r *spec.Repository) {
			node(r, "web-1").Spec.Routes = []spec.NodeRoute{route("192.168.0.0/16")}
		}, "route 192.168.0.0/16 of node web-1 overlaps route 192.168.1.0/24 of node gw-a"},
		"route not claimed": {func(r *spec.Repository) {
			r.TrustRoot = doc(spec.TrustRoot{Spec: spec.TrustRootSpec{Routes: []spec.RouteClaim{
				{Zone: "prod", Prefixes: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}},
				{Zone: "dev", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}}}})
		}, "gw-a: route 192.168.1.0/24: the trust root lets zone prod claim no such prefix"},
		"cidr nobody carries": {func(r *spec.Repository) {
			r.Policies[0].Value.Spec.Allow[0].To = sel(byCIDR("192.168.0.0/16"))
		}, "rule app/0 of zone prod: cidr 192.168.0.0/16 lies in no node's routes"},
		"mtu":       {func(r *spec.Repository) { r.Zones[0].Value.Spec.MTU = 500 }, "mtu 500"},
		"keepalive": {func(r *spec.Repository) { r.Zones[0].Value.Spec.Keepalive = 1500 }, "keepalive"},
		"no range":  {func(r *spec.Repository) { r.Zones[0].Value.Spec.Ranges = nil }, "0 ranges"},
		"one host, two overlapping zones": {func(r *spec.Repository) {
			r.Zones = append(r.Zones, doc(newZone("dev", "", "10.0.4.0/24")))
			r.Nodes = append(r.Nodes, doc(newNode("dev", "web-1", "10.0.4.1", nil)))
		}, "host web-1 is in zone dev and in zone prod"},
	} {
		t.Run(name, func(t *testing.T) {
			inc := NewIncremental()
			good, _, err := inc.Compile(Input{Repo: office(spec.DefaultDeny), Facts: facts()})
			if err != nil {
				t.Fatal(err)
			}
			repo := office(spec.DefaultDeny)
			c.spoil(repo)
			for range 2 {
				zones, _, err := inc.Compile(Input{Repo: repo, Facts: facts()})
				if !errors.Is(err, ErrInvalid) && !errors.Is(err, peermap.ErrInvalid) || zones != nil {
					t.Fatalf("accepted: %v", err)
				}
				if !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v\nwant %q", err, c.want)
				}
			}
			again, _, err := inc.Compile(Input{Repo: office(spec.DefaultDeny), Facts: facts()})
			if err != nil {
				t.Fatal(err)
			}
			equalZones(t, good, again)
		})
	}
}

func TestInputs(t *testing.T) {
	d := peermap.DigestOf([]byte("x"))
	z, err := Compile(Input{Repo: office(""), Facts: facts(), Files: []Blob{{"b.yaml", d}, {"a.yaml", d}}})
	if err != nil {
		t.Fatal(err)
	}
	want := d.String() + "  a.yaml\n" + d.String() + "  b.yaml\n"
	if got := string(z["prod"].Inputs); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m := z["prod"].Manifest(1, 2, d, asOf().Add(time.Hour))
	if m.Inputs != peermap.DigestOf([]byte(want)) || m.Views != 8 {
		t.Errorf("manifest %+v", m)
	}
	if _, err := m.Encode(); err != nil {
		t.Error(err)
	}
	for _, files := range [][]Blob{{{"a", d}, {"a", d}}, {{"a\nb", d}}, {{"", d}}} {
		if _, err := Compile(Input{Repo: office(""), Facts: facts(), Files: files}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", files, err)
		}
	}
}

func TestShrink(t *testing.T) {
	old, new := office(""), office("")
	new.Nodes = new.Nodes[3:]
	if got := Shrink(old, new); len(got) != 1 || got[0] != (Shrinkage{Zone: "prod", Before: 8, After: 5, Gone: 3, Percent: 38}) {
		t.Errorf("%+v", got)
	}
	new.Nodes = nil
	if got := Shrink(old, new); len(got) != 1 || !got[0].Emptied || got[0].Percent != 100 {
		t.Errorf("%+v", got)
	}
	if got := Shrink(old, office("")); got != nil {
		t.Errorf("%+v", got)
	}
	if got := Shrink(nil, old); got != nil {
		t.Errorf("%+v", got)
	}
}
