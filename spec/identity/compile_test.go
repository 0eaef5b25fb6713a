package identity

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/peermap"
)

const policies = `---
apiVersion: apex/v1alpha1
kind: Policy
metadata: {name: p, zone: prod}
spec:
  allow:
    - {from: [{groups: ["corp:ops"]}], to: [{any: true}], ports: [tcp/22]}
    - {from: [{users: ["corp:eva@acme.example"]}], to: [{node: db}], ports: [tcp/5432]}
    - {from: [{labels: {role: ci}}], to: [{node: db}, {cidr: 192.168.7.0/25}], ports: [tcp/5432]}
    - {from: [{node: db}], to: [{cidr: 192.168.8.0/24}]}
---
`

// TestEveryHostileListCompiles: whatever bindings come and go, in whatever order, the nodes that are admitted compile, and
// an incremental compile gives the bytes of a cold one.
func TestEveryHostileListCompiles(t *testing.T) {
	extra := func(change ...string) *spec.Repository {
		return load(t, append([]string{"---\napiVersion: apex/v1alpha1\nkind: Node", policies + "apiVersion: apex/v1alpha1\nkind: Node"}, change...)...)
	}
	repos := []*spec.Repository{extra(), extra(), extra("maxNodes: 2", "maxNodes: 1"), extra("ttl: 1h, routes", "ttl: 2h, routes"),
		extra("role: laptop", "role: ci"), extra("192.168.7.0/24}]", "192.168.7.0/24}, {prefix: 192.168.8.0/23}]")}
	facts := func(asOf time.Time) compile.Facts {
		return compile.Facts{Commit: "0123456789abcdef0123456789abcdef01234567", AsOf: asOf, RootVersion: 1}
	}
	enrolled := 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		admitter, incremental := NewAdmitter(), compile.NewIncremental()
		var list []*binding.Signed
		now := issued
		for step := range 25 {
			list = append(list, hostile(r, r.IntN(8))...)
			r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			list = list[:len(list)-r.IntN(1+len(list)/4)]
			now = now.Add(time.Duration(r.IntN(300)) * time.Second)
			repo := repos[r.IntN(len(repos))]

			warm := admitter.Admit(repo, list, now)
			got, _, err := incremental.Compile(compile.Input{Repo: warm.Repo, Bindings: warm.Lists, Facts: facts(now)})
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			slices.Reverse(list)
			cold := Admit(repo, list, now)
			want, err := compile.Compile(compile.Input{Repo: cold.Repo, Bindings: cold.Lists, Facts: facts(now)})
			if err != nil {
				t.Fatal(err)
			}
			for name, z := range want {
				enrolled += len(z.Views)
				other := got[name]
				if z.Tree.Root() != other.Tree.Root() || z.BindingsDigest != other.BindingsDigest || !bytes.Equal(z.Bindings, other.Bindings) ||
					!reflect.DeepEqual(z.Classes, other.Classes) || !reflect.DeepEqual(z.Blocks, other.Blocks) {
					t.Fatalf("seed %d step %d: zone %s differs from a cold compile", seed, step, name)
				}
				m := z.Manifest(1, 1, peermap.Digest{}, now.Add(time.Hour))
				if (len(z.Bindings) == 0) != m.Bindings.IsZero() {
					t.Fatalf("manifest names the bindings %s of %d bytes", m.Bindings, len(z.Bindings))
				}
			}
		}
	}
	if enrolled < 1000 {
		t.Errorf("%d views: the test compares too little", enrolled)
	}
}

func TestPeersCarryTheEndOfMembership(t *testing.T) {
	repo := load(t, "---\napiVersion: apex/v1alpha1\nkind: Node", policies+"apiVersion: apex/v1alpha1\nkind: Node")
	a := Admit(repo, []*binding.Signed{node(1, "eva-laptop", eva())}, issued)
	zones, err := compile.Compile(compile.Input{Repo: a.Repo, Bindings: a.Lists, Facts: compile.Facts{AsOf: issued}})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, b := range zones["prod"].Blocks {
		block, err := peermap.DecodeBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range block.Peers {
			if p.Name == "eva-laptop" {
				found = p.NotAfter == issued.Add(12*time.Hour).Unix()
			}
			if p.Name == "db" && p.NotAfter != 0 {
				t.Error("a static node ends")
			}
		}
	}
	if !found {
		t.Error("the policy for the user does not reach db with an end")
	}
	if _, err := compile.Compile(compile.Input{Repo: a.Repo, Facts: compile.Facts{AsOf: issued}}); err == nil {
		t.Error("enrolled nodes compile without the list of their bindings")
	}
	if _, err := compile.Compile(compile.Input{Repo: repo, Bindings: a.Lists, Facts: compile.Facts{AsOf: issued}}); err == nil {
		t.Error("a list compiles without its nodes")
	}
}

// TestIssuersGiveNamesTheirMeaning: a policy that names a group without an issuer means another one once the network's
// issuers change, although no policy did.
func TestIssuersGiveNamesTheirMeaning(t *testing.T) {
	open := []string{"---\napiVersion: apex/v1alpha1\nkind: Node", policies + "apiVersion: apex/v1alpha1\nkind: Node", `"corp:ops"`, "dev",
		"\n    - {name: ci, url: \"https://ci.example\"}", ""}
	one := load(t, open...)
	renamed := *one
	network := *one.Network
	network.Value.Spec.Issuers = []spec.Issuer{{Name: "other", URL: "https://other.example"}}
	renamed.Network = &network
	both := *one
	network2 := *one.Network
	network2.Value.Spec.Issuers = append([]spec.Issuer{{Name: "other", URL: "https://other.example"}}, one.Network.Value.Spec.Issuers...)
	both.Network = &network2
	list := []*binding.Signed{node(1, "eva-laptop", eva())}
	incremental := compile.NewIncremental()
	for i, c := range []struct {
		repo  *spec.Repository
		rules int
	}{{one, 2}, {&both, 1}, {one, 2}, {&renamed, 0}} {
		a := Admit(c.repo, list, issued)
		in := compile.Input{Repo: a.Repo, Bindings: a.Lists, Facts: compile.Facts{AsOf: issued}}
		got, _, err := incremental.Compile(in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := compile.Compile(in)
		if err != nil {
			t.Fatal(err)
		}
		if got["prod"].Tree.Root() != want["prod"].Tree.Root() {
			t.Errorf("%d: an incremental compile keeps the old meaning", i)
		}
		rules := map[string]bool{}
		for _, b := range want["prod"].Classes {
			class, err := peermap.DecodeClass(b)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range class.Rules {
				if r.ID == "p/0" || r.ID == "p/1" {
					rules[r.ID] = true
				}
			}
		}
		if len(rules) != c.rules {
			t.Errorf("%d: rules %v hold for eva, want %d", i, rules, c.rules)
		}
	}
}
