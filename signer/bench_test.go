package signer

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/apex-network/apex/spec/peermap"
)

// BenchmarkVerifyGeneration is what an agent does for a new generation: timestamp, manifest and its own view, at zones of
// several sizes and with one or two signatures on the manifest.
func BenchmarkVerifyGeneration(b *testing.B) {
	for _, witnesses := range []int{0, 1} {
		for _, size := range []int{10, 1_000, 50_000} {
			b.Run(fmt.Sprintf("witnesses=%d/nodes=%d", witnesses, size), func(b *testing.B) {
				s, g, view, proof := bigGeneration(b, size, witnesses)
				b.ReportAllocs()
				for b.Loop() {
					next, err := s.WithTimestamp(g.stampEnv, now)
					if err != nil {
						b.Fatal(err)
					}
					if next, err = next.WithManifest(g.env, now); err != nil {
						b.Fatal(err)
					}
					if err := next.CheckView(0, uint64(size), view, proof); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func bigGeneration(b *testing.B, size, witnesses int) (State, *generation, []byte, []peermap.Digest) {
	b.Helper()
	r := testRoot(b).Clone()
	r.Manifest.Threshold = 1 + witnesses
	s := must(NewState("acme", "prod", r.Digest()).WithRoot(signRoot(b, r, "ada", "bob"), now))(b)
	leaves := make([][]byte, size)
	leaves[0] = testView(b, "acme", "prod", "node-0", 1)
	for i := 1; i < size; i++ {
		leaves[i] = binary.BigEndian.AppendUint64(nil, uint64(i))
	}
	tree := peermap.NewTree(leaves)
	g := newGeneration(b, 1, 5, peermap.Digest{}, func(m *peermap.Manifest, _ *peermap.Timestamp) {
		m.ViewsRoot, m.Views = tree.Root(), tree.Size()
	})
	g.sign(b, manifestSigners[:1+witnesses]...)
	return s, g, leaves[0], tree.Proof(0)
}

// BenchmarkVerifyTimestamp is what an agent does every few minutes when nothing has changed.
func BenchmarkVerifyTimestamp(b *testing.B) {
	s, g := current(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.WithTimestamp(g.stampEnv, now); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseState is what a boot costs: the whole proof again, from the pin.
func BenchmarkParseState(b *testing.B) {
	s, _ := current(b)
	stored := must(s.MarshalJSON())(b)
	for b.Loop() {
		if _, err := ParseState(stored); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSignGeneration is the controller's cost of signing.
func BenchmarkSignGeneration(b *testing.B) {
	_, g := current(b)
	controller, clock := testKey("controller"), testKey("clock")
	for b.Loop() {
		if _, _, err := SignManifest(g.manifest, controller); err != nil {
			b.Fatal(err)
		}
		if _, err := SignTimestamp(g.stamp, clock); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyCommit is the cost of one SSH-signed commit.
func BenchmarkVerifyCommit(b *testing.B) {
	r, msg := testRoot(b), make([]byte, 500)
	sig := must(SSHSign(testSSH("ada"), NamespaceGit, msg))(b)
	for b.Loop() {
		if _, err := r.VerifyCommit(msg, sig); err != nil {
			b.Fatal(err)
		}
	}
}
