package enrol

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// maxLinks bounds a chain of evidence: one enrolment, and rotations since.
const maxLinks = 9

// link is one binding with what it rests on. Links that others lean on have no Previous of their own.
type link struct {
	record   protocol.BindingRecord
	binding  binding.Binding
	digest   peermap.Digest
	evidence protocol.Evidence
}

// rotation reports that no token was shown for the link.
func (l *link) rotation() bool { return l.evidence.Token == "" }

// openLink reads a record and checks that its evidence is the one that the binding names.
func openLink(r protocol.BindingRecord) (link, error) {
	l := link{record: r}
	signed, err := openRecord(r)
	if err != nil {
		return l, err
	}
	l.binding, l.digest = signed.Binding, signed.Digest
	if err := protocol.Decode(r.Evidence, protocol.MaxEvidenceBytes, &l.evidence); err != nil {
		return l, fmt.Errorf("evidence: %w", err)
	}
	own, err := ownEvidence(l.evidence)
	if err != nil {
		return l, err
	}
	if peermap.DigestOf(own) != l.binding.Evidence {
		return l, errors.New("the evidence is not the one that the binding names")
	}
	return l, nil
}

// checkSigned demands the signature of an enrolment key that the trust root lists.
func (l *link) checkSigned(root *signer.Root) error {
	env, err := envelopeOf(l.record)
	if err != nil {
		return err
	}
	return root.CheckBinding(env)
}

// signedBy gives the links that a new one can lean on: the last ones, as far back as enrolment keys of the trust root signed
// them. What the store holds besides, or a key signed that was taken away since, counts for nothing.
func signedBy(root *signer.Root, links []link) []link {
	for i := len(links) - 1; i >= 0; i-- {
		if links[i].checkSigned(root) != nil {
			return links[i+1:]
		}
	}
	return links
}

// previous reads the links that this one leans on.
func (l *link) previous() ([]link, error) {
	if len(l.evidence.Previous) >= maxLinks {
		return nil, fmt.Errorf("%d links of evidence, at most %d are read", len(l.evidence.Previous), maxLinks-1)
	}
	out := make([]link, 0, len(l.evidence.Previous))
	for _, data := range l.evidence.Previous {
		var r protocol.BindingRecord
		if err := protocol.Decode(data, protocol.MaxEvidenceBytes, &r); err != nil {
			return nil, fmt.Errorf("earlier evidence: %w", err)
		}
		p, err := openLink(r)
		if err != nil {
			return nil, fmt.Errorf("earlier evidence: %w", err)
		}
		if len(p.evidence.Previous) > 0 {
			return nil, errors.New("earlier evidence leans on more evidence")
		}
		out = append(out, p)
	}
	return out, nil
}

// bare gives the record without what the link leans on.
func (l *link) bare() ([]byte, error) {
	evidence, err := ownEvidence(l.evidence)
	if err != nil {
		return nil, err
	}
	return protocol.Encode(protocol.BindingRecord{Envelope: l.record.Envelope, Evidence: evidence})
}

// ownEvidence gives the bytes whose digest a binding names: all but what the evidence leans on, which is signed by itself.
func ownEvidence(e protocol.Evidence) ([]byte, error) {
	e.Previous = [][]byte{}
	return protocol.Encode(e)
}

// evidence gives what the attempt's binding rests on.
func (a *attempt) evidence(approved approval, links []link) (protocol.Evidence, error) {
	req := a.req
	req.Token = ""
	body, err := protocol.Encode(req)
	if err != nil {
		return protocol.Evidence{}, err
	}
	e := protocol.Evidence{
		Token: a.req.Token, Key: a.verified.Key, Verified: a.verifiedAt.Unix(), Request: body, Proof: a.proof.Compact(), Decision: approved.decision,
	}
	return leaning(e, links)
}

// leaning writes links into evidence. Errors: a 401 problem if they are more than anybody reads.
func leaning(e protocol.Evidence, links []link) (protocol.Evidence, error) {
	e.Previous = [][]byte{}
	if len(links) >= maxLinks {
		return e, badToken("the node's keys were changed too often since a token committed to them: enrol with a token for its keys first")
	}
	for i := range links {
		data, err := links[i].bare()
		if err != nil {
			return e, err
		}
		e.Previous = append(e.Previous, data)
	}
	return e, nil
}

// linksOf gives the chain that a stored binding ends, itself included.
func (s *Service) linksOf(ctx context.Context, h *held) ([]link, error) {
	key := nodeKey{h.Binding.Zone, h.Binding.Node}
	record, _, err := s.load(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errors.Join(errAgain, s.refresh(ctx, key))
	}
	if err != nil {
		return nil, err
	}
	last, err := openLink(record)
	if err != nil {
		return nil, fmt.Errorf("binding of %s: %w", key, err)
	}
	if last.digest != h.Digest {
		return nil, errors.Join(errAgain, s.refresh(ctx, key))
	}
	links, err := last.previous()
	return append(links, last), err
}

// chain gives what the attempt's binding leans on: nothing if its own token is for its keys. A renewal whose token is not
// leans on the enrolment whose token was, and on the rotations since; past are all links so far. approved is the first link
// that the approval needs. Errors: a 401 problem if nothing carries the binding.
func (a *attempt) chain(past []link, approved int) ([]link, error) {
	if !a.renewal {
		if !a.bound && (mustBind(a.issuer) || len(commitments(a.issuer, a.verified)) > 0) {
			// The binding that it was to renew has ended or gone since the token was looked at.
			return nil, badToken("the token of issuer %s does not commit to these keys, and there is no binding to renew: get one for this node", a.issuer.Name)
		}
		return nil, nil
	}
	first := len(past)
	if found := commitments(a.issuer, a.verified); !a.bound && (mustBind(a.issuer) || len(found) > 0) {
		for _, c := range found {
			if !slices.ContainsFunc(past, func(l link) bool { return c == commitmentOf(&l.binding) }) {
				return nil, badToken("the token of issuer %s commits to keys that this node never had (claims nonce, aud)", a.issuer.Name)
			}
		}
		first = len(past) - 1
	}
	if first = min(first, approved); first == len(past) {
		return nil, nil
	}
	// A chain begins with a token that stands for its keys.
	anchor := lastAnchor(a.issuer, past[:first+1])
	if anchor < 0 && mustBind(a.issuer) {
		return nil, badToken("the token of issuer %s commits to no keys, and no earlier one of this node did: get one for this node", a.issuer.Name)
	}
	return trim(past[max(anchor, 0):]), nil
}

func commitmentOf(b *binding.Binding) string {
	return protocol.Commitment(b.Network, b.PublicKey, b.IdentityKey)
}

// lastAnchor finds the last link whose token stands for its keys; -1 if there is none. Its token was verified when it
// came.
func lastAnchor(issuer *spec.Issuer, links []link) int {
	for i := len(links) - 1; i >= 0; i-- {
		if l := &links[i]; !l.rotation() && slices.Contains(archivedCommitments(issuer, l.evidence.Token),
			commitmentOf(&l.binding)) {
			return i
		}
	}
	return -1
}

// archivedCommitments reads what a token commits to that was verified before.
func archivedCommitments(issuer *spec.Issuer, raw string) []string {
	all, err := archivedClaims(raw)
	if err != nil {
		return nil
	}
	out, _ := claims.Lookup(all, "nonce")
	audiences, _ := claims.Lookup(all, "aud")
	for _, a := range audiences {
		if c, ok := strings.CutPrefix(a, identity.Audience(issuer)+":"); ok {
			out = append(out, c)
		}
	}
	return out
}

// archivedClaims reads the claims of a token that was verified before.
func archivedClaims(raw string) (map[string]any, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, errors.New("it is no token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	return claims.Decode(payload)
}

// trim leaves out renewals: what is leant on are the first link, rotations, and the link right before each of these, which
// has the expiry that the rotation kept.
func trim(links []link) []link {
	var out []link
	for i := range links {
		if i == 0 || links[i].rotation() || i+1 < len(links) && links[i+1].rotation() {
			out = append(out, links[i])
		}
	}
	return out
}

// proofSlack is how far an archived proof may lie from the instant that was noted for it: the skew that was allowed, and
// what passed between the proof's verification and the note.
const proofSlack = 2 * protocol.ProofSkew

// checkProof holds an archived Apex-Proof against the request that it was made for. The host is any: which names the
// controller had then is not known.
func checkProof(raw, path string, key peermap.Key, node string, body []byte, at time.Time) error {
	t, err := protocol.ParseToken(raw)
	if err != nil {
		return err
	}
	u, err := url.Parse(t.Proof.URL)
	if err != nil {
		return err
	}
	made := time.Unix(t.Proof.IssuedAt, 0)
	if t.Proof.Subject != node {
		return fmt.Errorf("the proof is of %.80q, not of node %s", t.Proof.Subject, node)
	}
	if away := at.Sub(made).Abs(); away > proofSlack {
		return fmt.Errorf("the proof was made %s from its use", away)
	}
	return t.Verify(key, "POST", path, []string{u.Host}, body, made)
}

// approval is a maintainer's word for a node. decision is empty if git says it; link is which of the keys it names.
type approval struct {
	given    bool
	decision []byte
	link     int
}

// keyPair is the two keys of a node at a time.
type keyPair struct{ public, identity peermap.Key }

// pairs gives the keys of links, and last those of today.
func pairs(links []link, now keyPair) []keyPair {
	out := make([]keyPair, 0, len(links)+1)
	for i := range links {
		out = append(out, keyPair{links[i].binding.PublicKey, links[i].binding.IdentityKey})
	}
	return append(out, now)
}

// judgeApproval says whether git or a decision (which may be empty) approves what is asked in a zone, with one of the node's
// keys, the newest first: keys that were rotated carry their approval on. All else must be what the maintainer saw. A
// decision counts as long as its signer may change the zone's document, so the word of a maintainer who has left has to be
// given again at the next renewal.
func judgeApproval(pub *Published, network, zone string, asked spec.Approval, keys []keyPair, decision []byte) approval {
	doc := pub.Repo.Zone(zone)
	if doc == nil {
		return approval{}
	}
	var decided *spec.Approval
	if len(decision) > 0 {
		if d, err := checkDecision(pub, network, decision); err == nil && d.Approve && d.Zone == zone {
			decided = &spec.Approval{
				Node: d.Node, PublicKey: spec.Key(d.PublicKey), IdentityKey: spec.Key(d.IdentityKey), Issuer: d.Issuer,
				Subject: d.Subject, Rule: d.Rule, Routes: d.Routes, Relay: d.Relay,
			}
		}
	}
	for i := len(keys) - 1; i >= 0; i-- {
		asked.PublicKey, asked.IdentityKey = spec.Key(keys[i].public), spec.Key(keys[i].identity)
		switch {
		case identity.ApprovedInGit(&doc.Value, asked):
			return approval{given: true, link: i}
		case decided != nil && decided.Equal(asked):
			return approval{given: true, decision: decision, link: i}
		}
	}
	return approval{}
}

// checkDecision verifies a signed decision of any age by who may change the zone's document in the commit.
func checkDecision(pub *Published, network string, signed []byte) (protocol.Decision, error) {
	var req protocol.SignedRequest
	if err := protocol.Decode(signed, 2*protocol.MaxApplyBytes, &req); err != nil {
		return protocol.Decision{}, err
	}
	who, err := pub.Root.VerifyRequest(protocol.EnrolNamespace, req.Payload, []byte(req.Signature),
		signer.RoleMaintainers)
	if err != nil {
		return protocol.Decision{}, err
	}
	d, err := protocol.DecodeDecision(req.Payload)
	if err != nil {
		return d, err
	}
	if d.Network != network {
		return d, fmt.Errorf("the decision is for network %.80q", d.Network)
	}
	zone := pub.Repo.Zone(d.Zone)
	if zone == nil {
		return d, errMayNot
	}
	id := who.Key.ID()
	if _, may := pub.Root.MayChange(id, zone.Pos.File); !may {
		return d, errMayNot
	}
	if _, may := pub.Root.MayName(id, zone.Pos.File, d.Zone); !may {
		return d, errMayNot
	}
	return d, nil
}

// errMayNot is the one answer for zones that there are not and zones that are not the signer's.
var errMayNot = errors.New("the signer may not change the document of this zone")
