package peermap

import (
	"slices"
	"strings"
)

// NameHash is the key of a peer in the hash trie of its group.
func NameHash(name string) Digest { return DigestOf([]byte(name)) }

// Chunk cuts a group into blocks: the leaves, in order, of a binary trie over the bits of hash(item), in which a leaf
// of more than MaxBlockPeers items splits. The leaf an item falls into depends on nothing but the set of hashes, so a
// change of one item touches one leaf (or the few that split or merge). Within a leaf items are sorted by name. The
// hashes must be distinct, as those of distinct names are; items are reordered in place and the leaves alias them.
func Chunk[T any](items []T, hash func(T) *Digest, name func(T) string) [][]T {
	var leaves [][]T
	var split func(items []T, bit int)
	split = func(items []T, bit int) {
		switch {
		case len(items) == 0:
			return
		case len(items) <= MaxBlockPeers || bit == 8*len(Digest{}):
			slices.SortFunc(items, func(a, b T) int { return strings.Compare(name(a), name(b)) })
			leaves = append(leaves, items[:len(items):len(items)])
			return
		}
		ones := partition(items, func(t T) bool { return hash(t)[bit/8]>>(7-bit%8)&1 == 0 })
		split(items[:ones], bit+1)
		split(items[ones:], bit+1)
	}
	split(items, 0)
	return leaves
}

// partition moves the items that satisfy first to the front and gives their number. The order within the halves is
// arbitrary but of no consequence: leaves are sorted.
func partition[T any](items []T, first func(T) bool) int {
	n := 0
	for i := range items {
		if first(items[i]) {
			items[n], items[i] = items[i], items[n]
			n++
		}
	}
	return n
}
