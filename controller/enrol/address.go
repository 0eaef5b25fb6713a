package enrol

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

const (
	// writeTimeout bounds what one request writes, and so how long its claims may be without a binding.
	writeTimeout = 20 * time.Second
	// claimLife is the age from which a claim without a binding is nobody's.
	claimLife = 3 * writeTimeout
)

// claim is the value of an address: who claims it and since when, Unix seconds.
type claim struct {
	Node        string      `json:"node"`
	IdentityKey peermap.Key `json:"identityKey"`
	At          int64       `json:"at"`
}

// maxTries bounds how many addresses one request finds taken in the store that memory calls free.
const maxTries = 256

// allocate claims one address of each family that the zone keeps for enrolled nodes: one of wanted where that is free, the
// one that the identity key leads to otherwise, so that a node that comes back finds its address again. Errors: a 409
// problem if there is none.
func (s *Service) allocate(ctx context.Context, zone *spec.Zone, node string, key peermap.Key,
	wanted []netip.Addr) ([]netip.Addr, error) {
	var out []netip.Addr
	pool := newPool(zone)
	if len(pool) == 0 {
		return nil, protocol.NewProblem(http.StatusConflict, protocol.CodeExhausted,
			fmt.Sprintf("zone %s keeps no addresses for enrolled nodes: add spec.dynamic to the zone",
				zone.Metadata.Name))
	}
	for _, family := range pool {
		a, err := s.allocateOne(ctx, family, nodeKey{zone.Metadata.Name, node}, key, wanted)
		if err != nil {
			s.release(nodeKey{zone.Metadata.Name, node}, out)
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func (s *Service) allocateOne(ctx context.Context, f family, node nodeKey, key peermap.Key,
	wanted []netip.Addr) (netip.Addr, error) {
	a, err := s.findAddress(ctx, f, node, key, wanted)
	if err == nil && !a.IsValid() && s.makeRoom(ctx, f, node) {
		a, err = s.findAddress(ctx, f, node, key, wanted)
	}
	if err != nil || a.IsValid() {
		return a, err
	}
	return a, protocol.NewProblem(http.StatusConflict, protocol.CodeExhausted,
		fmt.Sprintf("zone %s has no free address left in its dynamic ranges %v: enlarge spec.dynamic, or let nodes leave", node.zone, f.ranges))
}

// room is how many bindings give their addresses back at once.
const room = 8

// makeRoom removes those bindings of a zone that ended longest ago and were kept for their nodes to come back, and reports
// whether there were any: else a few identities with short-lived nodes could use up the addresses of all.
func (s *Service) makeRoom(ctx context.Context, f family, node nodeKey) bool {
	now := s.opts.Now()
	ended := s.bindings.where(func(h *held) bool {
		b := &h.Binding
		return b.Zone == node.zone && b.Node != node.node && h.expired(now) && slices.ContainsFunc(b.Addresses, f.has)
	})
	slices.SortFunc(ended, func(a, b *held) int { return cmp.Compare(a.Binding.Expires, b.Binding.Expires) })
	ended = ended[:min(len(ended), room)]
	for _, h := range ended {
		if err := s.end(ctx, h, "expired"); err != nil {
			s.opts.Logger.Warn("address of an ended binding not given back yet", "zone", h.Binding.Zone,
				"node", h.Binding.Node, "error", err)
		}
	}
	return len(ended) > 0
}

// findAddress claims a free address; none is no error.
func (s *Service) findAddress(ctx context.Context, f family, node nodeKey, key peermap.Key,
	wanted []netip.Addr) (netip.Addr, error) {
	tries := 0
	for a := range f.candidates(wanted, node.zone, key) {
		holder, taken := s.bindings.byAddress(node.zone, a)
		if taken && holder != node {
			continue
		}
		got, err := s.claim(ctx, node, key, a, taken)
		if err != nil || got {
			return a, err
		}
		if tries++; tries >= maxTries {
			break
		}
	}
	return netip.Addr{}, nil
}

// claim takes an address that no binding in memory holds, or (own) that of the node itself. A claim that another request
// made before claimLife is nobody's any more: no request lives that long, and a binding would show.
func (s *Service) claim(ctx context.Context, node nodeKey, key peermap.Key, a netip.Addr, own bool) (bool, error) {
	now := s.opts.Now()
	value, err := protocol.Encode(claim{Node: node.node, IdentityKey: key, At: now.Unix()})
	if err != nil {
		return false, err
	}
	at := s.addressKey(node.zone, a)
	_, err = s.opts.Buckets.Addresses.Update(ctx, at, value, 0)
	if err == nil || !errors.Is(err, store.ErrConflict) {
		return err == nil, err
	}
	data, revision, err := s.opts.Buckets.Addresses.GetRevision(ctx, at)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil // given back this moment: the next address is as good
	}
	if err != nil {
		return false, err
	}
	var old claim
	if err := protocol.Decode(data, 1<<10, &old); err == nil && !own &&
		(old.Node != node.node || old.IdentityKey != key) {
		if now.Sub(time.Unix(old.At, 0)) < claimLife {
			return false, nil
		}
		if holds, err := s.stored(ctx, nodeKey{node.zone, old.Node}, a); err != nil || holds {
			return false, err
		}
	}
	_, err = s.opts.Buckets.Addresses.Update(ctx, at, value, revision)
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// stored asks the store itself whether a node's binding has an address: memory may lag behind another controller.
func (s *Service) stored(ctx context.Context, node nodeKey, a netip.Addr) (bool, error) {
	record, _, err := s.load(ctx, node)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	signed, err := openRecord(record)
	if err != nil {
		return false, nil //nolint:nilerr // what cannot be read holds nothing
	}
	for _, have := range signed.Binding.Addresses {
		if have == a {
			return true, nil
		}
	}
	return false, nil
}

// release gives addresses back that a node claimed and whose stored binding does not hold them. It outlives the request, and
// what it cannot do is found later as a claim without a binding.
func (s *Service) release(node nodeKey, addresses []netip.Addr) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	for _, a := range addresses {
		if err := s.releaseOne(ctx, node, a); err != nil {
			s.opts.Logger.Warn("address not given back yet", "node", node.String(), "address", a, "error", err)
		}
	}
}

func (s *Service) releaseOne(ctx context.Context, node nodeKey, a netip.Addr) error {
	at := s.addressKey(node.zone, a)
	data, revision, err := s.opts.Buckets.Addresses.GetRevision(ctx, at)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var c claim
	if err := protocol.Decode(data, 1<<10, &c); err == nil && c.Node != node.node {
		return nil // somebody else's by now
	}
	if holds, err := s.stored(ctx, node, a); err != nil || holds {
		return err
	}
	err = s.opts.Buckets.Addresses.Remove(ctx, at, revision)
	if errors.Is(err, store.ErrConflict) {
		return nil
	}
	return err
}

// family is the dynamic ranges of one address family, with the zone's ranges whose first and last address nobody may have.
type family struct {
	ranges, within []netip.Prefix
}

// newPool gives the families that a zone has dynamic ranges of, IPv4 first.
func newPool(zone *spec.Zone) []family {
	var out []family
	for _, is4 := range []bool{true, false} {
		f := family{within: zone.Spec.Ranges}
		for _, p := range zone.Spec.Dynamic {
			if p.Addr().Is4() == is4 {
				f.ranges = append(f.ranges, p)
			}
		}
		if len(f.ranges) > 0 {
			out = append(out, f)
		}
	}
	return out
}

// has reports whether a node may hold a.
func (f family) has(a netip.Addr) bool {
	inside := false
	for _, p := range f.ranges {
		inside = inside || p.Contains(a)
	}
	for _, p := range f.within {
		inside = inside && !(p.Contains(a) && spec.IsReserved(p, a))
	}
	return inside
}

// candidates gives every address that a node may hold, each once: first those wanted, then all others from the place to
// which the identity key leads.
func (f family) candidates(wanted []netip.Addr, zone string, key peermap.Key) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, a := range wanted {
			if f.has(a) && !yield(a) {
				return
			}
		}
		var size uint64
		for _, p := range f.ranges {
			size += sizeOf(p)
		}
		sum := sha256.Sum256(append([]byte("apex-enrol-address@v1\n"+zone+"\n"), key[:]...))
		start := binary.BigEndian.Uint64(sum[:]) % size
		for i := range size {
			if a := f.at((start + i) % size); f.has(a) && !yield(a) {
				return
			}
		}
	}
}

// at gives the i-th address of the ranges together.
func (f family) at(i uint64) netip.Addr {
	for _, p := range f.ranges {
		if n := sizeOf(p); i >= n {
			i -= n
			continue
		}
		b := p.Masked().Addr().As16()
		low := binary.BigEndian.Uint64(b[8:])
		binary.BigEndian.PutUint64(b[8:], low+i) // no carry: i counts host bits of p alone, at most 58 of them
		if p.Addr().Is4() {
			return netip.AddrFrom16(b).Unmap()
		}
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

// sizeOf counts the addresses of a range; of a large IPv6 one only the first 2^58 are used.
func sizeOf(p netip.Prefix) uint64 { return 1 << min(p.Addr().BitLen()-p.Bits(), 58) }
