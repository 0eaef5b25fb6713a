package spec

import (
	"slices"

	"github.com/apex-network/apex/spec/diag"
)

// checkKeys reports keys that two nodes share, that serve two purposes, or that protect nothing. One host may use its
// keys in all its zones.
func (c *checker) checkKeys() {
	type use struct {
		doc  *Document[Node]
		path string
	}
	seen := make(map[Key]use, 2*len(c.repo.Nodes))
	for _, n := range c.repo.Nodes {
		for _, k := range []struct {
			key  Key
			path string
			weak func(Key) bool
		}{
			{n.Value.Spec.PublicKey, "spec.publicKey", isLowOrderX25519},
			{n.Value.Spec.IdentityKey, "spec.identityKey", isLowOrderEd25519},
		} {
			if k.key.IsZero() {
				continue
			}
			if k.weak(k.key) {
				c.errorf(n, k.path, diag.WeakKey, "make new keys with `apex node init`", "the key is a point of low order, which protects nothing")
			}
			first, taken := seen[k.key]
			if !taken {
				seen[k.key] = use{n, k.path}
			} else if first.path != k.path || first.doc.Value.Metadata.Name != n.Value.Metadata.Name {
				c.errorf(n, k.path, diag.DuplicatePublicKey, "make new keys with `apex node init`", "the key is %s of node %s already, at %s",
					first.path, first.doc.Value.Metadata.Name, first.doc.At(first.path))
			}
		}
	}
}

// IsWeak reports whether a key protects nothing: a WireGuard key (identity false) or an Ed25519 key of low order.
func (k Key) IsWeak(identity bool) bool {
	if identity {
		return isLowOrderEd25519(k)
	}
	return isLowOrderX25519(k)
}

// isLowOrderX25519 reports u-coordinates of order 1, 2, 4 and 8 on Curve25519 and its twist, in any encoding: with them
// every shared secret is zero (RFC 7748, section 6.1).
func isLowOrderX25519(k Key) bool {
	k[31] &= 0x7f // X25519 ignores the top bit
	return slices.Contains([]Key{
		{},     // 0
		{0: 1}, // 1
		orderEightA,
		orderEightB,
		fieldPrime(-1),
		fieldPrime(0),
		fieldPrime(1),
	}, k)
}

// isLowOrderEd25519 reports points of order 1, 2, 4 and 8, in any encoding: anyone can sign for them.
func isLowOrderEd25519(k Key) bool {
	k[31] &= 0x7f // the sign of x
	return slices.Contains([]Key{
		{},     // order 4
		{0: 1}, // the neutral element
		edwardsEightA,
		edwardsEightB,
		fieldPrime(-1), // order 2
		fieldPrime(0),
		fieldPrime(1),
	}, k)
}

// fieldPrime gives 2^255 - 19 + delta in little-endian bytes, for small deltas.
func fieldPrime(delta int) Key {
	var k Key
	for i := range k {
		k[i] = 0xff
	}
	k[0], k[31] = byte(0xed+delta), 0x7f
	return k
}

// The u-coordinates of the points of order 8 on Curve25519, and the y-coordinates of those on edwards25519.
var (
	orderEightA = Key{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00}
	orderEightB = Key{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57}
	edwardsEightA = Key{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05}
	edwardsEightB = Key{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a}
)
