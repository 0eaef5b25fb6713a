package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/apex-network/apex/internal/gitobject"
)

// randomHistory stores n commits, each with one or two random earlier parents.
func randomHistory(t *testing.T, rng *rand.Rand, n int) (*gitobject.Memory, []string, map[string][]string) {
	t.Helper()
	m := &gitobject.Memory{}
	tree, err := m.PutTree(nil)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	parents := map[string][]string{}
	for i := range n {
		raw := "tree " + tree + "\n"
		var ps []string
		for range min(i, 1+rng.IntN(2)) {
			p := ids[max(0, i-1-rng.IntN(5))]
			if !slices.Contains(ps, p) {
				ps = append(ps, p)
				raw += "parent " + p + "\n"
			}
		}
		// Dates run at random: nothing may depend on them.
		raw += fmt.Sprintf("author A <a@x> %d +0000\ncommitter A <a@x> %d +0000\n\nc%d\n", rng.IntN(1000), rng.IntN(1000), i)
		id, err := m.Put(gitobject.KindCommit, []byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		parents[id] = ps
	}
	return m, ids, parents
}

func reachable(parents map[string][]string, from string) map[string]bool {
	seen := map[string]bool{from: true}
	todo := []string{from}
	for len(todo) > 0 {
		id := todo[0]
		todo = todo[1:]
		for _, p := range parents[id] {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return seen
}

// compare equals the plain definition on random histories.
func TestCompareEqualsDefinition(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m, ids, parents := randomHistory(t, rng, 40)
		s := newSession(context.Background(), m, Trust{})
		for range 20 {
			a, b := ids[rng.IntN(len(ids))], ids[rng.IntN(len(ids))]
			only, bases, err := s.graph.compare(a, b)
			if err != nil {
				t.Fatal(err)
			}
			fromA, fromB := reachable(parents, a), reachable(parents, b)
			for i, id := range only {
				for _, later := range only[i+1:] {
					if reachable(parents, id)[later] {
						t.Fatalf("seed %d: %s stands before its ancestor %s", seed, id, later)
					}
				}
			}
			var wantOnly, wantBases []string
			for id := range fromB {
				if !fromA[id] {
					wantOnly = append(wantOnly, id)
					continue
				}
				best := true
				for other := range fromA {
					if other != id && fromB[other] && reachable(parents, other)[id] {
						best = false
					}
				}
				if best {
					wantBases = append(wantBases, id)
				}
			}
			slices.Sort(only)
			slices.Sort(wantOnly)
			slices.Sort(bases)
			slices.Sort(wantBases)
			if !slices.Equal(only, wantOnly) || !slices.Equal(bases, wantBases) {
				t.Fatalf("seed %d, %s..%s: only %v want %v, bases %v want %v", seed, a, b, only, wantOnly, bases, wantBases)
			}
			is, err := s.isAncestor(a, b)
			if err != nil || is != fromB[a] {
				t.Fatalf("seed %d: isAncestor(%s, %s) = %v, %v", seed, a, b, is, err)
			}
		}
	}
}
