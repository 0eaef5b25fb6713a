package enrol

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
)

// TestSnapshotsAreWholeWhateverChanged: a list that is made from the one before is the list that is made from nothing, in
// the same order, for whatever comes, goes and is replaced in between, however much, and under whatever trust root.
func TestSnapshotsAreWholeWhateverChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("", "", wide)
	s := w.service(func(o *Options) { o.Limits = Limits{PerIssuer: -1, PerSubject: -1, PerAddress: -1} })
	var all []*binding.Signed // two of each node
	for i := range 60 {
		for range 2 {
			m := w.machine(fmt.Sprintf("host-%d", i))
			m.join(s, "corp", m.token(w.person(m.name, "ops")))
			all = append(all, s.bindings.get(nodeKey{"prod", m.name}).Signed)
			w.pass(13 * 3600e9) // the next one is no early renewal
		}
	}
	stranger := w.newRoot("zones/**")
	stranger.Keys = append(stranger.Keys, signer.NewRootKey("another", testKey("another").Public()))
	stranger.Enrolment = signer.Role{Keys: []string{"another"}}
	stranger = must(stranger.Canonical())(t)
	r := rand.New(rand.NewPCG(7, 7))
	warm, root := newRegistry(nil), w.root
	for step := range 400 {
		for range r.IntN(5) {
			b := all[r.IntN(len(all))]
			key := nodeKey{b.Binding.Zone, b.Binding.Node}
			if r.IntN(3) == 0 {
				warm.remove(key, uint64(step+1))
			} else {
				warm.put(key, b, uint64(step+1))
			}
		}
		switch r.IntN(20) {
		case 0:
			root = stranger
		case 1, 2:
			root = w.root
		case 3:
			warm.changed = nil // as after more changes than are remembered
		}
		got, _ := warm.snapshot(root)
		cold := newRegistry(nil)
		for key, h := range warm.nodes {
			cold.put(key, h.Signed, h.revision)
		}
		if want, _ := cold.snapshot(root); !slices.Equal(got, want) || root == w.root && len(got) != len(warm.nodes) {
			t.Fatalf("step %d: %d bindings, a cold snapshot has %d", step, len(got), len(want))
		}
	}
}

// BenchmarkSnapshot is the list of 10 000 bindings after one more came.
func BenchmarkSnapshot(b *testing.B) {
	w := newWorld(b)
	w.publish("", "", wide)
	s := w.service(func(o *Options) { o.Limits = Limits{PerIssuer: -1, PerSubject: -1, PerAddress: -1} })
	for i := range 10_000 {
		m := w.machine(fmt.Sprintf("host-%d", i))
		m.join(s, "corp", m.token(w.person(m.name, "ops")), inWide)
	}
	key := nodeKey{"wide", "host-4321"}
	one := s.bindings.get(key)
	s.Snapshot()
	for b.Loop() {
		b.StopTimer()
		s.bindings.remove(key, one.revision)
		s.bindings.put(key, one.Signed, one.revision+1)
		b.StartTimer()
		if list, _ := s.Snapshot(); len(list) != 10_000 {
			b.Fatal(len(list))
		}
	}
}
