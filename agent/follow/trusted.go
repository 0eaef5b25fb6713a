package follow

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/apex-network/apex/agent/cache"
	"github.com/apex-network/apex/agent/desired"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Trusted is what has been verified about a zone, complete to the last block. It is also the form on disk: State holds
// signed envelopes only and verifies them again when it is read.
//
// State's timestamp may already name a newer manifest than the one in force; the manifest in force is always the one
// that View belongs to.
type Trusted struct {
	State signer.State `json:"state"`
	// View is the digest of this node's view, the leaf Index of Size with Proof under the manifest; zero before the first.
	View  peermap.Digest   `json:"view"`
	Index uint64           `json:"index"`
	Size  uint64           `json:"size"`
	Proof []peermap.Digest `json:"proof"`
	// Rooted is when the newest trust root was accepted, Since when the manifest came into force here.
	Rooted time.Time `json:"rooted"`
	Since  time.Time `json:"since"`
}

// Complete says whether there is a generation to act on.
func (t Trusted) Complete() bool { return !t.View.IsZero() }

// Claims are the prefixes that the trust root lets the zone's nodes carry outside its ranges.
func (t Trusted) Claims() []netip.Prefix {
	root := t.State.Root()
	if root == nil {
		return nil
	}
	var out []netip.Prefix
	for _, claim := range root.Routes {
		if claim.Zone == t.State.Zone() {
			out = append(out, claim.Prefixes...)
		}
	}
	return out
}

// Map assembles the generation from the cache, with every check that does not need a clock.
func (t Trusted) Map(store *cache.Store, node string) (*peermap.Map, error) {
	view, ok := store.Artefact(t.View, peermap.MaxViewBytes)
	if !ok {
		return nil, fmt.Errorf("view %s: %w", t.View, peermap.ErrMissing)
	}
	if _, err := t.State.CheckNodeView(node, t.Index, t.Size, view, t.Proof); err != nil {
		return nil, err
	}
	return assemble(t, nil, store, node, view)
}

// assemble makes the map of t out of the one before, or, if that is nil, from nothing.
func assemble(t Trusted, before *peermap.Map, store *cache.Store, node string, view []byte) (*peermap.Map, error) {
	m, err := peermap.AssembleFrom(before, t.State.Network(), t.State.Zone(), node, view, func(d peermap.Digest) ([]byte, bool) {
		return store.Artefact(d, peermap.MaxClassBytes)
	})
	if err != nil {
		return nil, err
	}
	if err := desired.CheckClaims(m, t.Claims()); err != nil {
		return nil, err
	}
	return m, nil
}

// Load reads a record of what was trusted and verifies all of it again, from the pinned root to the last block. False
// if there is none. cache.ErrDamaged tells of what does not hold: if only artefacts are bad, State stands (it is what
// keeps older generations out) and the result is not Complete; otherwise the record is put aside and the result is false.
func Load(store *cache.Store, record, network, zone, node string, pin peermap.Digest) (Trusted, bool, error) {
	var t Trusted
	ok, err := store.Load(record, &t)
	if err != nil || !ok {
		return Trusted{}, false, err
	}
	if t.State.Network() != network || t.State.Zone() != zone || t.State.Pin() != pin {
		store.Discard(record)
		return Trusted{}, false, fmt.Errorf("record %s: %w: it is of network %q, zone %q and trust root %s, the configuration says %q, %q, %s",
			record, cache.ErrDamaged, t.State.Network(), t.State.Zone(), t.State.Pin(), network, zone, pin)
	}
	if !t.Complete() {
		return t, true, nil
	}
	if _, err := t.Map(store, node); err != nil {
		t.View, t.Index, t.Size, t.Proof = peermap.Digest{}, 0, 0, nil
		return t, true, fmt.Errorf("record %s: %w: %w", record, cache.ErrDamaged, err)
	}
	return t, true, nil
}

// Artefacts lists every artefact the generation needs, its view included.
func (t Trusted) Artefacts(store *cache.Store) ([]peermap.Digest, error) {
	view, ok := store.Artefact(t.View, peermap.MaxViewBytes)
	if !ok {
		return nil, fmt.Errorf("view %s: %w", t.View, peermap.ErrMissing)
	}
	v, err := peermap.DecodeView(view)
	if err != nil {
		return nil, err
	}
	encoded, ok := store.Artefact(v.Class, peermap.MaxClassBytes)
	if !ok {
		return nil, fmt.Errorf("class %s: %w", v.Class, peermap.ErrMissing)
	}
	class, err := peermap.DecodeClass(encoded)
	if err != nil {
		return nil, err
	}
	return append(class.Blocks(), t.View, v.Class), nil
}
