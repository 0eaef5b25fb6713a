package enrol

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// Verify holds a proof against a key and a body, for the request it came with (protocol.Token.Verify).
type Verify func(t *protocol.Token, key peermap.Key, body []byte) error

// unproven is the one answer to whoever has not shown the key of an enrolled node.
func unproven() error {
	return problem(http.StatusUnauthorized, protocol.CodeProof,
		"the request is not proven by the identity key of an enrolled node of this zone")
}

// Rotate gives a node new keys. The old identity key signs the request (proof), the new ones are proven in it; from then
// on this service refuses the old ones, and so does everybody else once the next generation is out. The binding ends when
// the one before would have: for a longer life a token is needed. A repeated request gives the same binding.
func (s *Service) Rotate(ctx context.Context, from netip.Addr, zone, node string, proof *protocol.Token, body []byte,
	verify Verify) (protocol.EnrolResult, error) {
	result, err := s.rotate(ctx, from, zone, node, proof, body, verify)
	return result, s.lasting(ctx, err)
}

func (s *Service) rotate(ctx context.Context, from netip.Addr, zone, node string, proof *protocol.Token, body []byte,
	verify Verify) (protocol.EnrolResult, error) {
	pub, now := s.opts.Published(), s.opts.Now()
	if pub == nil {
		return protocol.EnrolResult{}, s.notReady()
	}
	key := nodeKey{zone, node}
	h := s.bindings.get(key)
	proven := h != nil && !h.expired(now) && proof.Proof.Subject == node && verify(proof, h.Binding.IdentityKey, body) == nil
	if err := s.limits.sender(from, key, proven, now); err != nil {
		return protocol.EnrolResult{}, err
	}
	req, err := protocol.DecodeRotate(body)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	if h == nil || h.expired(now) || !s.bindings.accepts(h, pub.Root) {
		return protocol.EnrolResult{}, unproven()
	}
	next, err := protocol.ParseToken(req.Proof)
	if err != nil || next.Proof.Subject != node || verify(next, req.IdentityKey, nil) != nil {
		return protocol.EnrolResult{}, problem(http.StatusUnauthorized, protocol.CodeProof,
			"the new identity key is not proven")
	}
	if h.holds(req.PublicKey, req.IdentityKey) {
		return resultOf(h.Signed), nil // done before; the proof is by the key that counts
	}
	if !proven {
		return protocol.EnrolResult{}, unproven()
	}
	if !s.macOfRotation(zone, node, req) {
		return protocol.EnrolResult{}, macProblem()
	}
	id := h.Binding.Identity
	defer s.identities.lock(zone + "\x00" + id.URL + "\x00" + id.Subject)()
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if again := s.bindings.get(key); again == nil || again.Digest != h.Digest {
		return protocol.EnrolResult{}, problem(http.StatusConflict, protocol.CodeConflict,
			"the node's binding has just changed: try again")
	}
	return s.rebind(ctx, pub, h, req, proof, body)
}

func (s *Service) macOfRotation(zone, node string, req protocol.RotateRequest) bool {
	return slices.ContainsFunc(s.challenges, func(c challenge) bool {
		want, err := protocol.RotateMac(c.private, req.PublicKey, s.opts.Network, zone, node, req)
		return err == nil && protocol.EqualMac(want, req.Mac)
	})
}

func (s *Service) rebind(ctx context.Context, pub *Published, h *held, req protocol.RotateRequest,
	proof *protocol.Token, body []byte) (protocol.EnrolResult, error) {
	now := s.opts.Now()
	a := &attempt{now: now, pub: pub, key: nodeKey{h.Binding.Zone, h.Binding.Node}, held: h,
		identity: h.Binding.Identity, req: protocol.EnrolRequest{
			Network: s.opts.Network, Zone: h.Binding.Zone, Node: h.Binding.Node, PublicKey: req.PublicKey, IdentityKey: req.IdentityKey,
			Routes: h.Binding.Routes, Relay: h.Binding.Relay,
		}}
	if s.ended(a, h) {
		return protocol.EnrolResult{}, refused("node %s of zone %s is revoked", h.Binding.Node, h.Binding.Zone)
	}
	if err := s.admit(a); err != nil {
		return protocol.EnrolResult{}, err
	}
	if err := s.checkKeys(a); err != nil {
		return protocol.EnrolResult{}, err
	}
	past, err := s.linksOf(ctx, h)
	if err != nil {
		return protocol.EnrolResult{}, retry(err)
	}
	// Everything since the last enrolment carries this one; what is not needed is left out at the next renewal.
	links := trim(append(slices.Clone(past), link{}))
	links = links[:len(links)-1] // the empty one stood for this rotation
	decision := past[len(past)-1].evidence.Decision
	evidence, err := leaning(protocol.Evidence{Verified: now.Unix(), Request: body, Proof: proof.Compact(),
		Decision: decision}, links)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	b := h.Binding
	b.PublicKey, b.IdentityKey, b.Issued, b.Commit = req.PublicKey, req.IdentityKey, now.Unix(), pub.Commit
	for i := len(past) - 1; i >= 0; i-- {
		if !past[i].rotation() {
			b.Expires = min(b.Expires, past[i].binding.Issued+int64(a.grant.TTL/time.Second))
			break
		}
	}
	b.Approved = s.approval(a, past).given
	a.describeRule(&b)
	if a.grant.Review && !b.Approved {
		return protocol.EnrolResult{}, refused("rule %s asks for a review, and the one that node %s had no longer counts: enrol again", a.grant.Rule.Name, b.Node)
	}
	signed, err := s.store(ctx, pub, h, b, evidence)
	if err != nil {
		return protocol.EnrolResult{}, retry(err)
	}
	s.opts.Logger.Info("keys rotated", "zone", b.Zone, "node", b.Node)
	return resultOf(signed), nil
}

func retry(err error) error {
	if errors.Is(err, errAgain) {
		return problem(http.StatusConflict, protocol.CodeConflict, "the node's binding has just changed: try again")
	}
	return err
}

// Leave ends a node's binding. Each proof is good for one leave.
func (s *Service) Leave(ctx context.Context, zone, node string, proof *protocol.Token, verify Verify) error {
	return s.lasting(ctx, s.leave(ctx, zone, node, proof, verify))
}

func (s *Service) leave(ctx context.Context, zone, node string, proof *protocol.Token, verify Verify) error {
	now := s.opts.Now()
	h := s.bindings.get(nodeKey{zone, node})
	if h == nil || h.expired(now) || proof.Proof.Subject != node || verify(proof, h.Binding.IdentityKey, nil) != nil {
		return unproven()
	}
	if pub := s.opts.Published(); pub != nil {
		if entry, _ := identity.FindRevocation(pub.Repo, &h.Binding, h.Digest); entry != nil {
			return unproven() // there is nothing to leave, and its keys stay known as revoked
		}
	}
	sum := sha256.Sum256([]byte("apex-leave@v1\n" + proof.Compact()))
	err := s.opts.Buckets.Tokens.Create(ctx, s.opts.Network+"."+hex.EncodeToString(sum[:]), nil)
	if errors.Is(err, store.ErrExists) {
		return problem(http.StatusUnauthorized, protocol.CodeReplay, "this proof was used before")
	}
	if err != nil {
		return err
	}
	return s.end(ctx, h, "left")
}
