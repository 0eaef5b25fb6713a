package enrol

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// ErrEvidence says that the evidence of a binding does not carry it: no honest controller gives out such a record.
var ErrEvidence = errors.New("the evidence does not carry the binding")

// maxReviewed is how long after its token a binding may be issued that a maintainer approved, maxDelay any other: from
// the verification of the token (of a rotation's proofs) to the signature.
const (
	maxReviewed = waitingLife + time.Hour
	maxDelay    = 2 * writeTimeout
)

// Judge is what a third party judges bindings with: all of it its own, nothing of the controller's.
type Judge struct {
	Network string
	// Published is the commit, repository and trust root that it arrived at by itself.
	Published *Published
	// Verifier asks the issuers themselves for their keys. The key that the controller archived is not looked at.
	Verifier tokens.Verifier
	// Judged reports that a binding, by the digest of its payload, was found good before. Its token is not verified again:
	// issuers drop keys, and a renewal may lean on an enrolment of long ago. Nil: none was.
	Judged func(peermap.Digest) bool
}

// Recheck judges a binding anew from its evidence, and gives the bindings that it leans on, the oldest first.
//
// It proves: enrolment keys of the trust root signed the binding and each one that it leans on. The issuer itself (by the keys that it publishes now)
// signed an ID token for the network's audience that says what the binding says of the identity, and that was valid when
// it was used; the binding was issued right then (within a week of it, where a maintainer approved it), so that one token
// cannot carry a node for ever: the compile lets none live longer than the rule's ttl.
// The holder of the identity key signed a request for this node, zone and WireGuard key that contains this token. The
// token commits to the node's keys, or it stands in a chain of such links: each later one signed by the identity key of
// the one before, for the same identity. A rule of the zone at the commit given admits the identity, as the binding and as
// the whole token tells it, and gives what the binding says; where the rule asks for a review, a maintainer who may change the zone's document at that commit signed an
// approval of this identity with one of the node's keys, by this rule, with these routes, or git lists it.
//
// It cannot prove: that the token was not used for another node as well (replays are the controller's to refuse, but
// every node would need a request signed by keys that the token commits to); that the WireGuard key is the node's own (a
// node that names another's gets a binding that it cannot use); that the address was free (the compile drops clashes);
// that the node did not leave, nor go on to other keys than the chain's: whoever remembers what it judged sees that. And where the issuer's tokenBinding is optional and the token commits to nothing, a stolen
// controller can have put its own keys in the place of those of whoever sent the token: then only a review, or the issuer's
// audit log, shows it.
//
// Errors: ErrEvidence, *tokens.Unavailable if an issuer cannot be asked (nothing is wrong as far as was judged), those of ctx.
func (j Judge) Recheck(ctx context.Context, record protocol.BindingRecord) (past []*binding.Signed, err error) {
	last, err := openLink(record)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEvidence, err)
	}
	fail := func(err error) ([]*binding.Signed, error) {
		var down *tokens.Unavailable
		if errors.As(err, &down) || ctx.Err() != nil {
			return nil, fmt.Errorf("binding of %s/%s: %w", last.binding.Zone, last.binding.Node, err)
		}
		return nil, fmt.Errorf("%w of %s/%s: %w", ErrEvidence, last.binding.Zone, last.binding.Node, err)
	}
	previous, err := last.previous()
	if err != nil {
		return fail(err)
	}
	links := append(previous, last)
	for i := range links {
		if err := links[i].checkSigned(j.Published.Root); err != nil {
			return fail(fmt.Errorf("link %d of %d: %w", i+1, len(links), err))
		}
	}
	if err := j.checkChain(ctx, links); err != nil {
		return fail(err)
	}
	if err := j.checkRule(&last, links); err != nil {
		return fail(err)
	}
	for _, l := range previous {
		signed, err := openRecord(l.record)
		if err != nil {
			return fail(err)
		}
		past = append(past, signed)
	}
	return past, nil
}

// checkChain walks from the first link to the binding itself.
func (j Judge) checkChain(ctx context.Context, links []link) error {
	issuer := identity.IssuerNamed(j.Published.Repo, links[0].binding.Identity.Issuer)
	if issuer == nil {
		return fmt.Errorf("the network has no issuer %q", links[0].binding.Identity.Issuer)
	}
	said := len(links) - 1 // the link whose token says of the identity what the binding does
	for said > 0 && links[said].rotation() {
		said--
	}
	var known []string // what tokens may commit to: the keys that the node had so far
	for i := range links {
		l := &links[i]
		var before *link
		if i > 0 {
			before = &links[i-1]
		}
		if err := j.checkPlace(l, before); err != nil {
			return err
		}
		if err := j.checkDelay(links, i); err != nil {
			return fmt.Errorf("link %d of %d: %w", i+1, len(links), err)
		}
		known = append(known, commitmentOf(&l.binding))
		var err error
		if l.rotation() {
			err = checkRotation(l, before)
		} else {
			err = j.checkEnrolment(ctx, issuer, l, before, known, i == said)
		}
		if err != nil {
			return fmt.Errorf("link %d of %d: %w", i+1, len(links), err)
		}
	}
	return nil
}

// checkPlace demands that a link is of the same node and identity as the one before.
func (j Judge) checkPlace(l, before *link) error {
	b := &l.binding
	switch {
	case b.Network != j.Network:
		return fmt.Errorf("a binding of network %s", b.Network)
	case before == nil:
		return nil
	case b.Zone != before.binding.Zone || b.Node != before.binding.Node ||
		!sameIdentity(b.Identity, before.binding.Identity):
		return errors.New("it leans on evidence of another node or identity")
	case b.Issued < before.binding.Issued:
		return errors.New("it leans on later evidence")
	}
	return nil
}

// checkDelay demands that a link was issued right after what it rests on was verified. Only what a maintainer approved may
// have waited, and it is not for the link itself to say so: the word must be with it, or with the binding that leans on it.
func (j Judge) checkDelay(links []link, i int) error {
	l := &links[i]
	b := &l.binding
	wait := time.Unix(b.Issued, 0).Sub(time.Unix(l.evidence.Verified, 0))
	delay := maxDelay
	if !l.rotation() && wait > delay {
		keys := pairs(links[:i], keyPair{b.PublicKey, b.IdentityKey})
		for _, word := range [][]byte{l.evidence.Decision, links[len(links)-1].evidence.Decision} {
			if judgeApproval(j.Published, j.Network, b.Zone, identity.Asked(b, b.Rule.Name), keys, word).given {
				delay = maxReviewed
			}
		}
	}
	if wait < 0 || wait > delay {
		return fmt.Errorf("issued %s after what it rests on was verified", wait)
	}
	return nil
}

// checkEnrolment judges a link with a token; whole says that the token has to be admitted as the binding is.
func (j Judge) checkEnrolment(ctx context.Context, issuer *spec.Issuer, l, before *link, known []string, whole bool) error {
	b, e := &l.binding, &l.evidence
	var req protocol.EnrolRequest
	if err := protocol.Decode(e.Request, protocol.MaxEnrolBytes, &req); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := req.Check(); err != nil {
		return err
	}
	if req.Network != b.Network || req.Zone != b.Zone || req.Node != b.Node || req.PublicKey != b.PublicKey ||
		req.IdentityKey != b.IdentityKey ||
		req.Issuer != b.Identity.Issuer || req.Relay != b.Relay ||
		!slices.Equal(binding.SortRoutes(req.Routes), b.Routes) {
		return errors.New("the request asks for something else than the binding gives")
	}
	verified := time.Unix(e.Verified, 0)
	req.Token = e.Token
	body, err := protocol.Encode(req)
	if err != nil {
		return err
	}
	if err := checkProof(e.Proof, protocol.EnrolPath(b.Network, b.Zone), b.IdentityKey, b.Node, body,
		verified); err != nil {
		return err
	}
	if before != nil && (before.binding.PublicKey != b.PublicKey || before.binding.IdentityKey != b.IdentityKey) {
		return errors.New("it leans on evidence of other keys")
	}
	return j.checkToken(ctx, issuer, l, before, known, whole)
}

// checkToken judges the token of a link, unless that was done before.
func (j Judge) checkToken(ctx context.Context, issuer *spec.Issuer, l, before *link, known []string, whole bool) error {
	if j.Judged != nil && j.Judged(l.digest) {
		return nil
	}
	want := demand(issuer, commitmentOf(&l.binding))
	want.At = time.Unix(l.evidence.Verified, 0)
	v, err := j.Verifier.Verify(ctx, want, l.evidence.Token)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if err := checkParty(issuer, v); err != nil {
		return err
	}
	id, err := identity.FromClaims(*issuer, v.Claims, claimNames(l.binding.Identity))
	if err != nil {
		return err
	}
	if !sameClaims(id, l.binding.Identity) {
		return errors.New("the token says something else of the identity than the binding")
	}
	if whole {
		if err := j.checkLeftOut(issuer, &l.binding, v.Claims); err != nil {
			return err
		}
	}
	found := commitments(issuer, v)
	for _, c := range found {
		if !slices.Contains(known, c) {
			return errors.New("the token commits to other keys than the node's")
		}
	}
	bound := slices.Contains(found, commitmentOf(&l.binding))
	if !bound && before == nil && (mustBind(issuer) || len(found) > 0) {
		return errors.New("the token commits to no keys of the node, and there is no earlier evidence")
	}
	return nil
}

// checkLeftOut demands that the token, with every claim that rules match on now, is admitted by the rule that admits the
// binding, which decides by the claims that the binding keeps: without one of them a later, laxer rule could take it.
//
// A binding of before keeps the claims that rules matched on then, and counts as well as long as those that they match on
// since make no difference to it. The commit that it names is not asked: a stolen controller would name an old one.
func (j Judge) checkLeftOut(issuer *spec.Issuer, b *binding.Binding, token map[string]any) error {
	id, err := identity.FromClaims(*issuer, token, identity.Wanted(j.Published.Repo, issuer.Name))
	if err != nil {
		return err
	}
	wanted, err := identity.Match(j.Published.Repo, b.Zone, id)
	if err != nil {
		return err
	}
	if got, err := identity.Match(j.Published.Repo, b.Zone, b.Identity); err != nil || got.Rule != wanted.Rule {
		return fmt.Errorf("the token has claims that the binding leaves out, by which rule %s (%s) admits it: enrol again",
			wanted.Rule.Name, wanted.Pos)
	}
	return nil
}

func claimNames(id binding.Identity) []string {
	var out []string
	for _, c := range id.Claims {
		out = append(out, c.Name)
	}
	return out
}

// checkRotation judges a link by which the key before names its successors.
func checkRotation(l, before *link) error {
	if before == nil {
		return errors.New("new keys without the old")
	}
	b, e := &l.binding, &l.evidence
	req, err := protocol.DecodeRotate(e.Request)
	if err != nil {
		return err
	}
	if req.PublicKey != b.PublicKey || req.IdentityKey != b.IdentityKey {
		return errors.New("the rotation names other keys than the binding")
	}
	if b.Expires > before.binding.Expires {
		return errors.New("a rotation gave a longer life")
	}
	if b.Relay != before.binding.Relay || !slices.Equal(b.Routes, before.binding.Routes) ||
		!sameClaims(b.Identity, before.binding.Identity) {
		return errors.New("a rotation changed more than keys")
	}
	path, at := protocol.RotatePath(b.Network, b.Zone, b.Node), time.Unix(e.Verified, 0)
	if err := checkProof(e.Proof, path, before.binding.IdentityKey, b.Node, e.Request, at); err != nil {
		return fmt.Errorf("old key: %w", err)
	}
	if err := checkProof(req.Proof, path, b.IdentityKey, b.Node, nil, at); err != nil {
		return fmt.Errorf("new key: %w", err)
	}
	return nil
}

// checkRule asks the rules at the commit that the judge arrived at.
func (j Judge) checkRule(l *link, links []link) error {
	b := &l.binding
	grant, err := identity.Match(j.Published.Repo, b.Zone, b.Identity)
	if err != nil {
		return err
	}
	if err := grant.Check(j.Published.Repo, b.Zone, b.Routes, b.Relay); err != nil {
		return err
	}
	if l.rotation() {
		// A node and a controller that conspire could go on for ever by rotations, which need no token.
		token := len(links) - 1
		for links[token].rotation() {
			token-- // the first link is none: checkRotation demands one before
		}
		if end := links[token].binding.Issued + int64(grant.TTL/time.Second); b.Expires > end {
			return errors.New("it lives longer than the rule's ttl after its last token")
		}
	}
	if b.Approved {
		keys := pairs(links[:len(links)-1], keyPair{b.PublicKey, b.IdentityKey})
		asked := identity.Asked(b, grant.Rule.Name)
		if b.Rule.Name != grant.Rule.Name || !judgeApproval(j.Published, j.Network, b.Zone, asked, keys, l.evidence.Decision).given {
			return fmt.Errorf("it is called approved, which no maintainer says of this identity, rule %s, routes and relay", grant.Rule.Name)
		}
	} else if grant.Review {
		return fmt.Errorf("rule %s asks for a review, and nobody approved it", grant.Rule.Name)
	}
	return nil
}
