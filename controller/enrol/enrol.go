package enrol

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

func problem(status int, code, format string, args ...any) error {
	return protocol.NewProblem(status, code, fmt.Sprintf(format, args...))
}

func refused(format string, args ...any) error {
	return problem(http.StatusForbidden, protocol.CodeEnrolRefused, format, args...)
}

func badToken(format string, args ...any) error {
	return problem(http.StatusUnauthorized, protocol.CodeToken, format, args...)
}

// attempt is one request on its way to a binding.
type attempt struct {
	now   time.Time
	pub   *Published
	req   protocol.EnrolRequest
	proof *protocol.Token
	key   nodeKey
	// held is the binding that the node has now, if any; renewal says that its own keys ask for the next one.
	held    *held
	renewal bool

	issuer   *spec.Issuer
	verified *tokens.Verified
	// bound says that the token commits to the keys of the request.
	bound    bool
	identity binding.Identity
	grant    identity.Grant
	// verifiedAt is when the token was verified; decision is a maintainer's word that came with the attempt.
	verifiedAt time.Time
	decision   []byte
}

// Enrol gives a host a binding, a later one in place of the one it has, or a place among those who wait. proof must have
// been verified against req.IdentityKey and the request's body; from is where the request came from.
//
// The same node with the same keys and the same token gets the same answer again, so that a lost response costs no token. A
// renewal before half of the binding's life is over gives the binding it has, unless something about it would change.
// Errors: *protocol.Problem for all that the caller can mend.
func (s *Service) Enrol(ctx context.Context, from netip.Addr, proof *protocol.Token,
	req protocol.EnrolRequest) (protocol.EnrolResult, error) {
	start := time.Now()
	result, err := s.enrol(ctx, from, proof, req)
	err = s.lasting(ctx, err)
	s.opts.Metrics.enrolled(s.opts.Network, result, err, time.Since(start))
	return result, err
}

func (s *Service) enrol(ctx context.Context, from netip.Addr, proof *protocol.Token,
	req protocol.EnrolRequest) (protocol.EnrolResult, error) {
	a := &attempt{now: s.opts.Now(), pub: s.opts.Published(), req: req, proof: proof, key: nodeKey{req.Zone, req.Node}}
	if a.pub == nil {
		return protocol.EnrolResult{}, s.notReady()
	}
	h := s.bindings.get(a.key)
	proven := h != nil && !s.ended(a, h) && h.holds(req.PublicKey, req.IdentityKey)
	if err := s.limits.sender(from, a.key, proven, a.now); err != nil {
		return protocol.EnrolResult{}, err
	}
	if err := s.checkMac(req); err != nil {
		return protocol.EnrolResult{}, err
	}
	if result, done, err := s.again(ctx, a); done || err != nil {
		return result, err
	}
	if err := s.identify(ctx, a); err != nil {
		return protocol.EnrolResult{}, err
	}
	if err := s.admit(a); err != nil {
		return protocol.EnrolResult{}, err
	}
	if !a.renewal {
		if err := s.limits.issuer(a.issuer.Name, a.now); err != nil {
			return protocol.EnrolResult{}, err
		}
	}
	return s.commit(ctx, a)
}

// checkMac demands that the sender has the private half of the WireGuard key. All challenges of this controller count, so
// that its enrolment key can be replaced while nodes enrol.
func (s *Service) checkMac(req protocol.EnrolRequest) error {
	for _, c := range s.challenges {
		want, err := protocol.EnrolMac(c.private, req.PublicKey, req)
		if err == nil && protocol.EqualMac(want, req.Mac) {
			return nil
		}
	}
	return macProblem()
}

func macProblem() error {
	return problem(http.StatusUnauthorized, protocol.CodeProof,
		"the WireGuard key is not proven: make the mac with its private key and the challenge that the controller gives now")
}

// again answers a request that was answered before: by node, keys and token. done is false if it is a new one, or one that
// was never finished.
func (s *Service) again(ctx context.Context, a *attempt) (result protocol.EnrolResult, done bool, err error) {
	held := s.bindings.get(a.key)
	if held != nil && !held.holds(a.req.PublicKey, a.req.IdentityKey) {
		held = nil
	}
	waiting := s.waiting.get(a.req.Zone, protocol.WaitingID(a.req.Zone, a.req.Node, a.req.PublicKey, a.req.IdentityKey))
	if held == nil && waiting == nil {
		return result, false, nil
	}
	use, err := s.usedFor(ctx, a)
	if err != nil || use == nil || !use.by(a.req) {
		return result, false, err // another token; if it was used by somebody else, that shows when it is claimed
	}
	if held != nil && !s.ended(a, held) {
		return resultOf(held.Signed), true, nil
	}
	if waiting != nil {
		result, err = s.lookAgain(ctx, a, waiting)
		return result, true, err
	}
	return result, false, nil
}

// identify verifies the token and reads who it is of. Nothing is locked meanwhile: providers may be slow.
func (s *Service) identify(ctx context.Context, a *attempt) error {
	issuer := identity.IssuerNamed(a.pub.Repo, a.req.Issuer)
	if issuer == nil {
		return refused("the network has no issuer %q: `apex login` lists those it has", a.req.Issuer)
	}
	a.issuer = issuer
	if h := s.bindings.get(a.key); h != nil && !s.ended(a, h) {
		a.held = h
		a.renewal = h.holds(a.req.PublicKey, a.req.IdentityKey)
	}
	err := s.verify(ctx, a)
	if err != nil {
		return err
	}
	a.verifiedAt = a.now
	if a.identity, err = identity.FromClaims(*a.issuer, a.verified.Claims,
		identity.Wanted(a.pub.Repo, a.issuer.Name)); err != nil {
		return badToken("the token of issuer %s: %s", a.issuer.Name, err)
	}
	// Whoever has seen a token can show it with other keys: that must not count against whose it is.
	if err := s.checkCommitment(a); err != nil || a.renewal {
		return err
	}
	return s.limits.identity(a.identity.URL, a.identity.Subject, a.now)
}

// verify asks the issuer's keys. Only so many at once wait for one issuer: if it hangs, the others' turn comes still.
func (s *Service) verify(ctx context.Context, a *attempt) (err error) {
	leave, ok := s.verifying.enter(ctx, a.issuer.URL)
	if !ok {
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeUnavailable,
			fmt.Sprintf("too many wait for issuer %s already: it may be slow", a.issuer.Name)).RetryIn(5 * time.Second)
	}
	defer leave()
	wanted := demand(a.issuer, protocol.Commitment(s.opts.Network, a.req.PublicKey, a.req.IdentityKey))
	wanted.At = a.now.Truncate(time.Second) // the instant that is archived, by which a third party judges
	if a.verified, err = s.opts.Verifier.Verify(ctx, wanted, a.req.Token); err != nil {
		return tokenProblem(a.issuer, err)
	}
	return checkParty(a.issuer, a.verified)
}

// checkCommitment demands that the token is for these keys. A renewal is signed by a key that a token was for, so its own
// need not be; but one that commits to keys that are not the node's is refused whoever sends it.
func (s *Service) checkCommitment(a *attempt) error {
	bound, err := a.verified.Bound(identity.Audience(a.issuer),
		protocol.Commitment(s.opts.Network, a.req.PublicKey, a.req.IdentityKey))
	a.bound = bound
	switch {
	case bound:
		return nil
	case a.renewal && sameIdentity(a.identity, a.held.Binding.Identity):
		return nil // an older commitment, as in a refreshed token after a rotation, is judged with the chain it leans on
	case err != nil:
		return tokenProblem(a.issuer, err)
	case mustBind(a.issuer):
		return badToken("the token of issuer %s commits to no keys: its nonce must be the node's commitment, or its aud %q and the commitment",
			a.issuer.Name, identity.Audience(a.issuer)+":")
	}
	return nil
}

// admit asks the rules of the zone at the published commit. What a zone's rules are, and whether there is such a zone, is
// told to nobody whom they do not admit.
func (s *Service) admit(a *attempt) error {
	grant, err := identity.Match(a.pub.Repo, a.req.Zone, a.identity)
	if err != nil {
		s.opts.Logger.Info("enrolment refused", "zone", a.req.Zone, "node", a.req.Node, "issuer", a.identity.Issuer,
			"subject", a.identity.Subject, "reason", err)
		return s.notAdmitted(a, err)
	}
	a.grant = grant
	if err := s.notRevoked(a); err != nil {
		return err
	}
	return a.checkAsked()
}

// ended reports that a binding counts for nothing any more: it has expired, git revokes it, or no key signed it that the
// trust root has. It can be replaced, not renewed or rotated: what is revoked must not live on under another digest or a later
// instant, and what nobody signed must not be signed for what it says.
func (s *Service) ended(a *attempt, h *held) bool {
	if h.expired(a.now) || !s.bindings.accepts(h, a.pub.Root) {
		return true
	}
	entry, _ := identity.FindRevocation(a.pub.Repo, &h.Binding, h.Digest)
	return entry != nil
}

// notAdmitted is the one answer to whom no rule admits, and for zones that do not exist. Whoever held a binding here is no
// stranger, and learns which claim of which rule does not fit any more.
func (s *Service) notAdmitted(a *attempt, reason error) error {
	member := len(s.bindings.of(a.req.Zone, a.identity)) > 0
	if member {
		return refused("no member rule of zone %s admits %s any more: %s", a.req.Zone, describe(a.identity), reason)
	}
	return refused("no member rule of zone %s admits %s: compare these claims with the rules in git; the controller's log says which claim fails",
		a.req.Zone, describe(a.identity))
}

// describe names an identity by what rules look at.
func describe(id binding.Identity) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%s", id.Issuer, id.Subject)
	if id.Username != "" {
		fmt.Fprintf(&b, " (username %s)", id.Username)
	}
	if len(id.Groups) > 0 {
		fmt.Fprintf(&b, " (groups %s)", strings.Join(id.Groups[:min(len(id.Groups), 20)], ", "))
	}
	for _, c := range id.Claims {
		fmt.Fprintf(&b, " (%s %s)", c.Name, strings.Join(c.Values[:min(len(c.Values), 20)], ", "))
	}
	return b.String()
}

// checkAsked compares what is asked for with what the rule gives.
func (a *attempt) checkAsked() error {
	rule := a.grant.Rule
	if err := a.grant.Check(a.pub.Repo, a.req.Zone, a.req.Routes, a.req.Relay); err != nil {
		return refused("asked for routes %s and relay %t: %s; the rule gives routes %s and relay %t",
			orNone(a.req.Routes), a.req.Relay, err, orNone(rule.Routes), rule.Relay)
	}
	zone := &a.pub.Repo.Zone(a.req.Zone).Value
	for _, addr := range a.req.Address {
		if err := identity.CheckAddress(zone, addr); err != nil {
			return refused("address %s was asked for: %s, which are %s", addr, err, orNone(zone.Spec.Dynamic))
		}
	}
	return nil
}

func orNone(list []netip.Prefix) string {
	if len(list) == 0 {
		return "none"
	}
	texts := make([]string, 0, len(list))
	for _, p := range list {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// checkConflicts demands that name and keys are the node's to have, and that the identity has not too many nodes by its
// rule. It is to be called with the identity's lock held.
func (s *Service) checkConflicts(ctx context.Context, a *attempt) error {
	a.held, a.renewal = nil, false
	if s.gitOf(a.pub).has(a.key) {
		return s.nameTaken(a, "git")
	}
	if err := s.checkKeys(a); err != nil {
		return err
	}
	if err := s.checkRoutes(a); err != nil {
		return err
	}
	if h := s.bindings.get(a.key); h != nil {
		a.held = h
		same := sameIdentity(h.Binding.Identity, a.identity)
		switch {
		case s.ended(a, h):
		case !same:
			return s.nameTaken(a, describe(h.Binding.Identity))
		case h.holds(a.req.PublicKey, a.req.IdentityKey):
			a.renewal = true
		default:
			here, err := s.connected(ctx, h)
			if err != nil {
				return err
			}
			if here {
				return taken("node %s of zone %s is connected with other keys: stop or leave it first, or choose another name",
					a.req.Node, a.req.Zone)
			}
		}
	}
	return s.checkCount(a)
}

// nameTaken tells the log who has the name, and whoever asks for it no more than that it is taken: a rule that admits somebody
// shows them nobody else's nodes.
func (s *Service) nameTaken(a *attempt, holder string) error {
	s.tellTaken(a, holder)
	return taken("the name %s is taken in zone %s: choose another; the controller's log says who has it", a.req.Node, a.req.Zone)
}

// routeTaken is nameTaken for a route.
func (s *Service) routeTaken(a *attempt, route netip.Prefix, holder string) error {
	s.tellTaken(a, holder)
	return taken("route %s was asked for and is taken in zone %s: ask for another; the controller's log says who has it",
		route, a.req.Zone)
}

func (s *Service) tellTaken(a *attempt, holder string) {
	s.opts.Logger.Info("enrolment refused: taken", "zone", a.req.Zone, "node", a.req.Node, "issuer", a.identity.Issuer,
		"subject", a.identity.Subject, "holder", holder)
}

func taken(format string, args ...any) error {
	return problem(http.StatusConflict, protocol.CodeNameTaken, format, args...)
}

// checkKeys demands that no other node has the keys: every key appears once.
func (s *Service) checkKeys(a *attempt) error {
	if spec.Key(a.req.PublicKey).IsWeak(false) || spec.Key(a.req.IdentityKey).IsWeak(true) {
		return refused("a key of node %s is of low order, which protects nothing: make new keys", a.req.Node)
	}
	for _, k := range []peermap.Key{a.req.PublicKey, a.req.IdentityKey} {
		if holder, ok := s.gitOf(a.pub).keys[k]; ok {
			return taken("a key of node %s is a key of %s in git already: make new keys", a.req.Node, holder)
		}
		holder, ok := s.bindings.byKey(a.req.Zone, k)
		if !ok || holder == a.key {
			continue
		}
		if h := s.bindings.get(holder); h != nil && !s.ended(a, h) {
			return taken("a key of node %s is a key of node %s already: make new keys, or let that node leave",
				a.req.Node, holder.node)
		}
	}
	return nil
}

// checkRoutes demands that no other node carries what is asked for: the compile would leave the newer one out.
func (s *Service) checkRoutes(a *attempt) error {
	for _, p := range a.req.Routes {
		for _, n := range a.pub.Repo.ZoneNodes(a.req.Zone) {
			for _, r := range n.Value.Spec.Routes {
				if r.Prefix.Overlaps(p) {
					return s.routeTaken(a, p, "node "+n.Value.Metadata.Name)
				}
			}
		}
		carries := func(h *held) bool {
			return h.Binding.Zone == a.req.Zone && h.Binding.Node != a.req.Node && slices.ContainsFunc(h.Binding.Routes, p.Overlaps)
		}
		for _, h := range s.bindings.where(carries) {
			if !s.ended(a, h) {
				return s.routeTaken(a, p, "node "+h.Binding.Node)
			}
		}
	}
	return nil
}

// checkCount counts the nodes that the identity holds in the zone by the rule that admits it now. As in the compile, a node
// counts for the rule that admits the claims of its binding at this commit, whichever did when it was bound.
func (s *Service) checkCount(a *attempt) error {
	all := s.bindings.of(a.req.Zone, a.identity)
	if len(all) < a.grant.MaxNodes {
		return nil // few enough, whatever their rules: there is nothing to match
	}
	var names []string
	for _, h := range all {
		if h.Binding.Node == a.req.Node || s.ended(a, h) {
			continue
		}
		grant, err := identity.Match(a.pub.Repo, a.req.Zone, h.Binding.Identity)
		if err == nil && grant.Rule.Name == a.grant.Rule.Name {
			names = append(names, h.Binding.Node)
		}
	}
	if len(names) < a.grant.MaxNodes {
		return nil
	}
	slices.Sort(names)
	return problem(http.StatusConflict, protocol.CodeExhausted,
		"%s:%s holds %d nodes in zone %s by rule %s (%s), which gives %d: let one leave of %s",
		a.identity.Issuer, a.identity.Subject, len(names), a.req.Zone, a.grant.Rule.Name, a.grant.Pos, a.grant.MaxNodes,
		strings.Join(names[:min(len(names), 10)], ", "))
}

// tokenProblem says what is wrong with a token, never what it holds. Why an issuer cannot be asked is in the log, where package
// tokens says it: strangers would learn from it what this host reaches.
func tokenProblem(issuer *spec.Issuer, err error) error {
	var down *tokens.Unavailable
	if errors.As(err, &down) {
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeUnavailable,
			fmt.Sprintf("issuer %s cannot be asked now: try again; members stay members meanwhile", issuer.Name)).RetryIn(10 * time.Second)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return badToken("the token of issuer %s is refused: %s", issuer.Name, err)
}

func resultOf(s *binding.Signed) protocol.EnrolResult {
	b := s.Binding
	return protocol.EnrolResult{Binding: s.Envelope, RenewAfter: b.Issued + (b.Expires-b.Issued)*2/3}
}
