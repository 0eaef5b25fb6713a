package peermap

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// ErrProof says that a Merkle proof does not lead from the leaf to the root.
var ErrProof = errors.New("merkle proof does not lead to the signed root")

// LeafHash is the RFC 9162 leaf hash, SHA-256(0x00 || data).
func LeafHash(data []byte) Digest {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(data)
	var d Digest
	h.Sum(d[:0])
	return d
}

// nodeHash is the RFC 9162 hash of an inner node, SHA-256(0x01 || left || right).
func nodeHash(left, right *Digest) Digest {
	var buf [1 + 2*sha256.Size]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+sha256.Size:], right[:])
	return sha256.Sum256(buf[:])
}

// Tree is an immutable Merkle tree (RFC 9162, section 2.1) over an ordered list of leaves. It keeps every level, so that
// a proof costs a lookup per level and a successor with k changed leaves costs k·log n hashes.
type Tree struct {
	// levels[0] are the leaf hashes; each level above pairs the one below, an odd last node rises unchanged, which gives
	// exactly the RFC's split at the largest power of two.
	levels [][]Digest
}

// NewTree hashes leafData in order.
func NewTree(leafData [][]byte) *Tree {
	leaves := make([]Digest, len(leafData))
	for i, d := range leafData {
		leaves[i] = LeafHash(d)
	}
	return (&Tree{}).With(leaves)
}

// With gives the tree over leaves (leaf hashes, see LeafHash; not copied, not to be changed afterwards). It equals a tree
// built anew; inner nodes whose children stand where they stood in t are taken from t instead of hashed again.
func (t *Tree) With(leaves []Digest) *Tree {
	next := &Tree{levels: [][]Digest{leaves}}
	for below := leaves; len(below) > 1; {
		above := make([]Digest, (len(below)+1)/2)
		var oldBelow, oldAbove []Digest
		if n := len(next.levels); n < len(t.levels) {
			oldBelow, oldAbove = t.levels[n-1], t.levels[n]
		}
		for i := range above {
			l, r := 2*i, 2*i+1
			switch {
			case r == len(below):
				above[i] = below[l]
			case r < len(oldBelow) && oldBelow[l] == below[l] && oldBelow[r] == below[r]:
				above[i] = oldAbove[i]
			default:
				above[i] = nodeHash(&below[l], &below[r])
			}
		}
		next.levels = append(next.levels, above)
		below = above
	}
	return next
}

// Size is the number of leaves.
func (t *Tree) Size() uint64 {
	if len(t.levels) == 0 {
		return 0
	}
	return uint64(len(t.levels[0]))
}

// Root is the tree's root hash; of an empty tree, SHA-256 of nothing.
func (t *Tree) Root() Digest {
	if t.Size() == 0 {
		return DigestOf(nil)
	}
	return t.levels[len(t.levels)-1][0]
}

// Proof is the audit path of leaf i, from the leaf upwards, at most MaxProofHashes long; nil if there is no leaf i or
// only one leaf.
func (t *Tree) Proof(i uint64) []Digest {
	if i >= t.Size() {
		return nil
	}
	var path []Digest
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := i ^ 1; sibling < uint64(len(level)) {
			path = append(path, level[sibling])
		}
		i >>= 1
	}
	return path
}

// VerifyInclusion checks that leafData is leaf number index of the tree with size leaves and the given root (RFC 9162,
// section 2.1.3.2). It fails with ErrProof.
func VerifyInclusion(root Digest, index, size uint64, leafData []byte, proof []Digest) error {
	if index >= size || len(proof) > MaxProofHashes {
		return fmt.Errorf("leaf %d of %d with %d hashes: %w", index, size, len(proof), ErrProof)
	}
	hash, fn, sn := LeafHash(leafData), index, size-1
	for i := range proof {
		if sn == 0 {
			return fmt.Errorf("leaf %d of %d: proof too long: %w", index, size, ErrProof)
		}
		if fn&1 == 0 && fn != sn {
			hash = nodeHash(&hash, &proof[i])
		} else {
			hash = nodeHash(&proof[i], &hash)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 || hash != root {
		return fmt.Errorf("leaf %d of %d: %w", index, size, ErrProof)
	}
	return nil
}

// Leaf is the hash of leaf i, which must be below Size.
func (t *Tree) Leaf(i uint64) Digest { return t.levels[0][i] }
