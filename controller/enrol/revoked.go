package enrol

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// revokedBindings remembers what git has ended, as long as the entry stands there. The bindings themselves are replaced, given
// back and forgotten, while the machine that they were of has its keys still, and often a refresh token for them: it must
// come back neither under another name nor later.
type revokedBindings struct {
	mu      sync.RWMutex
	digests map[peermap.Digest]*binding.Signed // without envelopes
	keys    map[zoneKey][]*binding.Signed
	owners  map[subject][]*binding.Signed
}

// subject is an identity in any zone.
type subject struct{ url, subject string }

func subjectOf(id binding.Identity) subject { return subject{id.URL, id.Subject} }

func newRevokedBindings() *revokedBindings {
	r := &revokedBindings{digests: map[peermap.Digest]*binding.Signed{}}
	r.index()
	return r
}

// index is made anew with each change: there are few.
func (r *revokedBindings) index() {
	r.keys, r.owners = map[zoneKey][]*binding.Signed{}, map[subject][]*binding.Signed{}
	for _, s := range r.digests {
		b := &s.Binding
		for _, k := range []peermap.Key{b.PublicKey, b.IdentityKey} {
			r.keys[zoneKey{b.Zone, k}] = append(r.keys[zoneKey{b.Zone, k}], s)
		}
		r.owners[subjectOf(b.Identity)] = append(r.owners[subjectOf(b.Identity)], s)
	}
}

func (r *revokedBindings) put(s *binding.Signed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.digests[s.Digest] == nil {
		r.digests[s.Digest] = s
		r.index()
	}
}

func (r *revokedBindings) remove(d peermap.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.digests[d] != nil {
		delete(r.digests, d)
		r.index()
	}
}

func (r *revokedBindings) has(d peermap.Digest) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.digests[d] != nil
}

func (r *revokedBindings) all() []*binding.Signed {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*binding.Signed, 0, len(r.digests))
	for _, s := range r.digests {
		out = append(out, s)
	}
	return out
}

// about gives what was of one of the keys in a zone, or of the identity.
func (r *revokedBindings) about(zone string, keys []peermap.Key, id binding.Identity) []*binding.Signed {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := append([]*binding.Signed{}, r.owners[subjectOf(id)]...)
	for _, k := range keys {
		out = append(out, r.keys[zoneKey{zone, k}]...)
	}
	return out
}

// notRevoked demands that git has ended nothing of the attempt's machine or person that still stands in its way:
//   - an entry that names a machine (by node or binding) means its keys, under any name, also with a `before`;
//   - one that names a person means the account behind the name, whatever it is called by now. With a `before`, who enrols
//     later is meant to.
func (s *Service) notRevoked(a *attempt) error {
	made := binding.Binding{Zone: a.req.Zone, Node: a.req.Node, Identity: a.identity, Issued: a.now.Unix()}
	if entry, pos := identity.FindRevocation(a.pub.Repo, &made, peermap.Digest{}); entry != nil {
		return refused("%s:%s may not enrol node %s in zone %s: revoked (%s) %s", a.identity.Issuer,
			a.identity.Subject, a.req.Node, a.req.Zone, pos, entry.Reason)
	}
	keys := []peermap.Key{a.req.PublicKey, a.req.IdentityKey}
	ofMachine := func(b *binding.Binding) bool {
		return b.Zone == a.req.Zone && (b.PublicKey == keys[0] || b.PublicKey == keys[1] || b.IdentityKey == keys[0] || b.IdentityKey == keys[1])
	}
	for _, r := range s.suspects(a.req.Zone, keys, a.identity) {
		for entry, pos := range identity.Revocations(a.pub.Repo, &r.Binding, r.Digest) {
			machine := entry.Binding != "" || entry.Node != ""
			switch {
			case machine && ofMachine(&r.Binding):
				return refused("node %s of zone %s may not enrol with these keys: they are those of a revoked binding of node %s (%s) %s: make new keys",
					a.req.Node, a.req.Zone, r.Binding.Node, pos, entry.Reason)
			case !machine && entry.Before == nil && (entry.Zone == "" || entry.Zone == a.req.Zone) && sameIdentity(r.Binding.Identity, a.identity):
				return refused("%s:%s may not enrol node %s in zone %s: revoked as %s (%s) %s", a.identity.Issuer,
					a.identity.Subject, a.req.Node, a.req.Zone, r.Binding.Identity.Username, pos, entry.Reason)
			}
		}
	}
	return nil
}

// suspects are the bindings, past and present, that a revocation of the machine or the person may be about. The present ones
// count too: a commit is in force before anybody has noted what it ends.
func (s *Service) suspects(zone string, keys []peermap.Key, id binding.Identity) []*binding.Signed {
	out := s.revoked.about(zone, keys, id)
	for _, k := range keys {
		if node, ok := s.bindings.byKey(zone, k); ok {
			if h := s.bindings.get(node); h != nil {
				out = append(out, h.Signed)
			}
		}
	}
	for _, h := range s.bindings.of(zone, id) {
		out = append(out, h.Signed)
	}
	return out
}

// noteRevoked writes down what the published commit revokes, and forgets what none of its entries means any more. It does so
// once per commit; what is replaced or removed before that, noteIfRevoked has written down.
func (s *Service) noteRevoked(ctx context.Context) error {
	pub := s.opts.Published()
	if pub == nil || pub.Commit == s.noted {
		return nil
	}
	var errs []error
	for _, h := range s.bindings.where(func(h *held) bool { return isRevoked(pub, h.Signed) }) {
		errs = append(errs, s.noteIfRevoked(ctx, pub, h))
	}
	for _, r := range s.revoked.all() {
		if isRevoked(pub, r) {
			continue
		}
		if err := s.opts.Buckets.Revoked.Delete(ctx, s.revokedKey(r)); err != nil {
			errs = append(errs, err)
			continue
		}
		s.revoked.remove(r.Digest)
	}
	err := errors.Join(errs...)
	if err == nil {
		s.noted = pub.Commit
	}
	return err
}

func isRevoked(pub *Published, s *binding.Signed) bool {
	entry, _ := identity.FindRevocation(pub.Repo, &s.Binding, s.Digest)
	return entry != nil
}

// noteIfRevoked writes a binding down if git revokes it. It is called before a binding is replaced or removed.
func (s *Service) noteIfRevoked(ctx context.Context, pub *Published, h *held) error {
	if pub == nil || s.revoked.has(h.Digest) || !isRevoked(pub, h.Signed) {
		return nil
	}
	payload, err := h.Binding.Encode()
	if err == nil {
		err = s.opts.Buckets.Revoked.Put(ctx, s.revokedKey(h.Signed), payload)
	}
	if err != nil {
		return fmt.Errorf("remember that the binding of %s/%s is revoked: %w", h.Binding.Zone, h.Binding.Node, err)
	}
	s.revoked.put(&binding.Signed{Binding: h.Binding, Digest: h.Digest})
	return nil
}

func (s *Service) revokedKey(r *binding.Signed) string {
	return s.opts.Network + "." + r.Binding.Zone + "." + r.Digest.String()
}

// takeRevoked brings the memory in line with a change of the revoked bucket.
func (s *Service) takeRevoked(c store.Change) {
	if c.Key == "" {
		return
	}
	_, word, err := splitKey(c.Key)
	var digest peermap.Digest
	if err == nil {
		err = digest.UnmarshalText([]byte(word))
	}
	if err == nil && c.Deleted {
		s.revoked.remove(digest)
		return
	}
	var r *binding.Signed
	if err == nil {
		r, err = binding.NewSigned(c.Value, nil)
	}
	if err == nil && (r.Digest != digest || r.Binding.Network != s.opts.Network) {
		err = errors.New("it is another binding")
	}
	if err != nil {
		s.opts.Logger.Error("stored revoked binding ignored", "key", c.Key, "error", err)
		return
	}
	s.revoked.put(r)
}
