package enrol

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// held is a stored binding in memory; its evidence stays in the store. It is not changed, and nobody has judged it: whoever can
// write to the store makes one. See registry.accepts.
type held struct {
	*binding.Signed
	revision uint64 // 0: not known, the store says
	// verdict is the last one on its signature.
	verdict atomic.Pointer[verdict]
}

// verdict is whether the trust root of this digest (zero: none yet) lets a binding count.
type verdict struct {
	under  peermap.Digest
	counts bool
}

func (h *held) expired(now time.Time) bool { return now.Unix() >= h.Binding.Expires }

// holds reports whether the binding is of these keys.
func (h *held) holds(public, identity peermap.Key) bool {
	return h.Binding.PublicKey == public && h.Binding.IdentityKey == identity
}

func (h *held) keys() []peermap.Key { return []peermap.Key{h.Binding.PublicKey, h.Binding.IdentityKey} }

// sameIdentity compares who two identities are, not what is said of them.
func sameIdentity(a, b binding.Identity) bool { return a.URL == b.URL && a.Subject == b.Subject }

// zoneKey is a key in a zone: one host may use its keys in several.
type zoneKey struct {
	zone string
	key  peermap.Key
}

// place is an address in a zone.
type place struct {
	zone string
	addr netip.Addr
}

// registry is the memory of the bindings bucket, by everything it is asked for.
type registry struct {
	own []signer.PrivateKey // what they signed counts before there is a trust root

	mu        sync.RWMutex
	version   uint64
	nodes     map[nodeKey]*held
	keys      map[zoneKey]nodeKey
	addresses map[place]nodeKey
	digests   map[peermap.Digest]nodeKey
	owners    map[owner][]nodeKey
	// gone holds the revision at which a binding was removed here, until the store says so too: what it tells in between is
	// older.
	gone map[nodeKey]uint64

	// The newest snapshot, and the trust root and version it is of.
	list   []*binding.Signed
	listAt uint64
	under  peermap.Digest
	// changed are the nodes that were put or removed since; nil: too many to tell, or there is no snapshot yet.
	changed map[nodeKey]bool
}

// maxChanged bounds what is remembered between snapshots: of more, all are looked at. A replica that does not lead makes
// none.
const maxChanged = 1 << 12

// owner is an identity in a zone.
type owner struct{ zone, url, subject string }

func ownerOf(zone string, id binding.Identity) owner { return owner{zone, id.URL, id.Subject} }

func newRegistry(own []signer.PrivateKey) *registry {
	return &registry{
		own: own, version: 1, nodes: map[nodeKey]*held{}, keys: map[zoneKey]nodeKey{}, addresses: map[place]nodeKey{},
		digests: map[peermap.Digest]nodeKey{}, owners: map[owner][]nodeKey{}, gone: map[nodeKey]uint64{},
	}
}

// put takes a binding unless a newer one is known, and reports whether the list changed.
func (r *registry) put(key nodeKey, s *binding.Signed, revision uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.gone[key]; ok {
		if revision <= last {
			return false
		}
		delete(r.gone, key)
	}
	old := r.nodes[key]
	if old != nil && old.Digest == s.Digest {
		r.nodes[key] = &held{Signed: old.Signed, revision: max(old.revision, revision)} // the same, told by the store
		return false
	}
	if old != nil && revision != 0 && revision <= old.revision {
		return false
	}
	r.drop(key)
	h := &held{Signed: s, revision: revision}
	r.nodes[key] = h
	for _, k := range h.keys() {
		r.keys[zoneKey{key.zone, k}] = key
	}
	for _, a := range h.Binding.Addresses {
		r.addresses[place{key.zone, a}] = key
	}
	r.digests[h.Digest] = key
	o := ownerOf(key.zone, h.Binding.Identity)
	r.owners[o] = append(r.owners[o], key)
	r.change(key)
	return true
}

// change notes that the list is another one by this node.
func (r *registry) change(key nodeKey) {
	r.version++
	if r.changed == nil {
		return
	}
	if r.changed[key] = true; len(r.changed) > maxChanged {
		r.changed = nil
	}
}

// remove forgets a binding unless a newer one is known. Revision 0 says that it was removed here.
func (r *registry) remove(key nodeKey, revision uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.nodes[key]
	if revision == 0 {
		if old != nil {
			r.gone[key] = old.revision
		}
	} else {
		delete(r.gone, key)
		if old != nil && old.revision > revision {
			return false
		}
	}
	if old == nil {
		return false
	}
	r.drop(key)
	r.change(key)
	return true
}

// drop takes a node out of all indexes. What another node has taken over since stays with it.
func (r *registry) drop(key nodeKey) {
	old := r.nodes[key]
	if old == nil {
		return
	}
	delete(r.nodes, key)
	for _, k := range old.keys() {
		if z := (zoneKey{key.zone, k}); r.keys[z] == key {
			delete(r.keys, z)
		}
	}
	for _, a := range old.Binding.Addresses {
		if p := (place{key.zone, a}); r.addresses[p] == key {
			delete(r.addresses, p)
		}
	}
	delete(r.digests, old.Digest)
	o := ownerOf(key.zone, old.Binding.Identity)
	if r.owners[o] = slices.DeleteFunc(r.owners[o], func(k nodeKey) bool { return k == key }); len(r.owners[o]) == 0 {
		delete(r.owners, o)
	}
}

func (r *registry) get(key nodeKey) *held {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.nodes[key]
}

// byKey gives the node of a zone that holds a WireGuard or identity key.
func (r *registry) byKey(zone string, k peermap.Key) (nodeKey, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	key, ok := r.keys[zoneKey{zone, k}]
	return key, ok
}

func (r *registry) byDigest(d peermap.Digest) (nodeKey, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	key, ok := r.digests[d]
	return key, ok
}

// byAddress gives the node that holds an address.
func (r *registry) byAddress(zone string, a netip.Addr) (nodeKey, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	key, ok := r.addresses[place{zone, a}]
	return key, ok
}

// of gives the bindings of one identity in a zone.
func (r *registry) of(zone string, id binding.Identity) []*held {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := r.owners[ownerOf(zone, id)]
	out := make([]*held, 0, len(keys))
	for _, k := range keys {
		out = append(out, r.nodes[k])
	}
	return out
}

// where gives the bindings for which keep holds, in no order.
func (r *registry) where(keep func(*held) bool) []*held {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*held
	for _, h := range r.nodes {
		if keep(h) {
			out = append(out, h)
		}
	}
	return out
}

func (r *registry) count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.nodes)
}

// snapshot lists what root accepts. The list is made once per version and root.
func (r *registry) snapshot(root *signer.Root) ([]*binding.Signed, uint64) {
	var under peermap.Digest
	if root != nil {
		under = root.Digest()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.under != under {
		r.version++ // another trust root may let others count
	}
	if r.listAt == r.version {
		return r.list, r.version
	}
	list := make([]*binding.Signed, 0, len(r.nodes))
	take := func(key nodeKey) {
		if h := r.nodes[key]; h != nil && r.accepts(h, root) {
			list = append(list, h.Signed)
		}
	}
	if r.under == under && r.changed != nil {
		for _, s := range r.list {
			if !r.changed[nodeKey{s.Binding.Zone, s.Binding.Node}] {
				list = append(list, s) // judged under this root already
			}
		}
		for key := range r.changed {
			take(key)
		}
	} else {
		for key := range r.nodes {
			take(key)
		}
	}
	// Few are new at the end of what is sorted, which costs the sort little more than to look.
	slices.SortFunc(list, func(a, b *binding.Signed) int {
		return cmp.Or(strings.Compare(a.Binding.Zone, b.Binding.Zone), strings.Compare(a.Binding.Node, b.Binding.Node))
	})
	r.list, r.listAt, r.under, r.changed = list, r.version, under, map[nodeKey]bool{}
	return list, r.version
}

// accepts says whether a binding counts under root. It looks at the signature once.
func (r *registry) accepts(h *held, root *signer.Root) bool {
	var under peermap.Digest
	if root != nil {
		under = root.Digest()
	}
	if v := h.verdict.Load(); v != nil && v.under == under {
		return v.counts
	}
	v := &verdict{under, r.counts(h.Envelope, root)}
	h.verdict.Store(v)
	return v.counts
}

// counts says whether root accepts an envelope; without a root, whether a key of this controller signed it.
func (r *registry) counts(envelope []byte, root *signer.Root) bool {
	env, err := signer.ParseEnvelope(envelope, binding.MaxEnvelopeBytes)
	if err != nil {
		return false
	}
	if root != nil {
		return root.CheckBinding(env) == nil
	}
	pae := env.PAE()
	for _, sig := range env.Signatures {
		for _, k := range r.own {
			if sig.KeyID == k.Public().ID() && bytes.Equal(k.Sign(pae), sig.Sig) { // Ed25519 signs alike each time
				return true
			}
		}
	}
	return false
}
