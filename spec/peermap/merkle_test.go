package peermap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// rootByDefinition is MTH of RFC 9162, section 2.1.1, written down as it stands there.
func rootByDefinition(leaves [][]byte) Digest {
	switch len(leaves) {
	case 0:
		return DigestOf(nil)
	case 1:
		return LeafHash(leaves[0])
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	l, r := rootByDefinition(leaves[:k]), rootByDefinition(leaves[k:])
	return nodeHash(&l, &r)
}

func leavesOf(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = fmt.Append(nil, "leaf ", i)
	}
	return out
}

func TestTreeIsThatOfTheRFC(t *testing.T) {
	for n := range 70 {
		data := leavesOf(n)
		tree := NewTree(data)
		if tree.Root() != rootByDefinition(data) || tree.Size() != uint64(n) {
			t.Fatalf("tree of %d leaves has another root", n)
		}
		for i := range uint64(n) {
			proof := tree.Proof(i)
			if err := VerifyInclusion(tree.Root(), i, uint64(n), data[i], proof); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
			refuseSpoiltProofs(t, tree.Root(), i, uint64(n), data[i], proof)
		}
	}
}

func refuseSpoiltProofs(t *testing.T, root Digest, i, n uint64, leaf []byte, proof []Digest) {
	t.Helper()
	refuse := func(what string, index, size uint64, leaf []byte, proof []Digest) {
		t.Helper()
		if err := VerifyInclusion(root, index, size, leaf, proof); !errors.Is(err, ErrProof) {
			t.Fatalf("leaf %d of %d, %s: %v", i, n, what, err)
		}
	}
	refuse("another leaf", i, n, append(bytes.Clone(leaf), 'x'), proof)
	refuse("beyond the end", n, n, leaf, proof)
	refuse("longer proof", i, n, leaf, append(slices.Clone(proof), Digest{}))
	if i > 0 {
		refuse("another index", i-1, n, leaf, proof)
	}
	if len(proof) > 0 {
		refuse("shorter proof", i, n, leaf, proof[:len(proof)-1])
		spoilt := slices.Clone(proof)
		spoilt[0][0] ^= 1
		refuse("altered proof", i, n, leaf, spoilt)
		// An inner node must not pass for a leaf.
		inner := append(append([]byte{}, spoilt[0][:]...), proof[0][:]...)
		refuse("inner node as leaf", i/2, (n+1)/2, inner, proof[1:])
	}
}

// TestKnownRoots holds the tree against the vectors of Certificate Transparency (the RFC 6962 reference implementation).
func TestKnownRoots(t *testing.T) {
	var data [][]byte
	for _, h := range []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, b)
	}
	for n, want := range map[int]string{
		0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	} {
		if got := NewTree(data[:n]).Root().String(); got != want {
			t.Errorf("root of %d leaves is %s, want %s", n, got, want)
		}
	}
}

func TestTreeWithEqualsNewTree(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	tree := NewTree(nil)
	var leaves []Digest
	for range 300 {
		leaves = slices.Clone(leaves)
		switch i := rng.IntN(len(leaves) + 1); rng.IntN(4) {
		case 0, 1:
			leaves = slices.Insert(leaves, i, DigestOf(fmt.Append(nil, rng.Uint64())))
		case 2:
			if i < len(leaves) {
				leaves = slices.Delete(leaves, i, i+1)
			}
		case 3:
			if i < len(leaves) {
				leaves[i] = DigestOf(fmt.Append(nil, rng.Uint64()))
			}
		}
		tree = tree.With(leaves)
		fresh := NewTree(nil).With(leaves)
		if tree.Root() != fresh.Root() || len(tree.levels) != len(fresh.levels) {
			t.Fatalf("successor of %d leaves differs from a new tree", len(leaves))
		}
		for i := range fresh.levels {
			if !slices.Equal(fresh.levels[i], tree.levels[i]) {
				t.Fatalf("level %d differs", i)
			}
		}
	}
}

func BenchmarkTree10000OneLeaf(b *testing.B) {
	leaves := make([]Digest, 10_000)
	for i := range leaves {
		leaves[i] = DigestOf(fmt.Append(nil, i))
	}
	tree := NewTree(nil).With(leaves)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		next := slices.Clone(leaves)
		next[i%len(next)][0]++
		tree = tree.With(next)
	}
}

func BenchmarkVerifyInclusion10000(b *testing.B) {
	data := leavesOf(10_000)
	tree := NewTree(data)
	proof := tree.Proof(1234)
	b.ReportAllocs()
	for b.Loop() {
		if err := VerifyInclusion(tree.Root(), 1234, 10_000, data[1234], proof); err != nil {
			b.Fatal(err)
		}
	}
}
