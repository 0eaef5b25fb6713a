package enrol

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// errAgain says that somebody else wrote in between, so that all has to be looked at again.
var errAgain = errors.New("somebody else was faster")

// maxRaces bounds how often a request is begun anew because of others that write the same node.
const maxRaces = 3

// commit turns an admitted attempt into a binding, a place in the waiting list or a refusal. What one identity does in one
// zone goes one after the other; identities go side by side, and the store decides between them.
func (s *Service) commit(ctx context.Context, a *attempt) (protocol.EnrolResult, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	defer s.identities.lock(a.req.Zone + "\x00" + a.identity.URL + "\x00" + a.identity.Subject)()
	var result protocol.EnrolResult
	err := errAgain
	for race := 0; errors.Is(err, errAgain) && race < maxRaces; race++ {
		result, err = s.tryCommit(ctx, a)
	}
	if errors.Is(err, errAgain) {
		return result, problem(http.StatusConflict, protocol.CodeNameTaken,
			"node %s of zone %s is being enrolled by others too: try again", a.req.Node, a.req.Zone)
	}
	return result, err
}

func (s *Service) tryCommit(ctx context.Context, a *attempt) (result protocol.EnrolResult, err error) {
	if err := s.checkConflicts(ctx, a); err != nil {
		return result, err
	}
	var past []link
	if a.renewal {
		if past, err = s.linksOf(ctx, a.held); err != nil {
			return result, err
		}
		past = signedBy(a.pub.Root, past)
	}
	approved := s.approval(a, past)
	links, err := a.chain(past, approved.link)
	if err != nil {
		return result, err
	}
	waits := a.grant.Review && !approved.given
	if !waits && len(past) > 0 && a.early() {
		return resultOf(a.held.Signed), nil // no token is spent, nothing has to be published
	}
	fresh, err := s.useToken(ctx, a)
	if err != nil {
		return result, err
	}
	if waits {
		result, err = s.wait(ctx, a)
	} else {
		result, err = s.bind(ctx, a, approved, links)
	}
	switch {
	case definite(err) && fresh && !errors.Is(err, errAgain):
		// Nothing came of it: the person need not sign in again. Where somebody else was faster it may have been this very
		// request at another replica, whose binding rests on the token.
		s.unuseToken(a)
	case err == nil && !waits:
		s.spendToken(a)
	}
	return result, err
}

// approval says whether a rule that asks for a review has got it, for the attempt's keys or for those they came from.
func (s *Service) approval(a *attempt, past []link) approval {
	none := approval{link: len(past)}
	if !a.grant.Review {
		return none
	}
	decision := a.decision
	if len(decision) == 0 && len(past) > 0 {
		decision = past[len(past)-1].evidence.Decision
	}
	asked := spec.Approval{
		Node: a.req.Node, Issuer: a.identity.Issuer, Subject: a.identity.Subject, Rule: a.grant.Rule.Name,
		Routes: binding.SortRoutes(a.req.Routes), Relay: a.req.Relay,
	}
	keys := pairs(past, keyPair{a.req.PublicKey, a.req.IdentityKey})
	if got := judgeApproval(a.pub, s.opts.Network, a.req.Zone, asked, keys, decision); got.given {
		return got
	}
	return none
}

// definite reports errors after which nothing was written.
func definite(err error) bool {
	var p *protocol.Problem
	return errors.As(err, &p) || errors.Is(err, errAgain)
}

// early reports that a binding is young and the next one would say nothing new.
func (a *attempt) early() bool {
	b := &a.held.Binding
	zone := &a.pub.Repo.Zone(a.req.Zone).Value
	outside := func(addr netip.Addr) bool { return identity.CheckAddress(zone, addr) != nil }
	return !slices.ContainsFunc(b.Addresses, outside) && a.now.Unix() < b.Issued+(b.Expires-b.Issued)/2 && b.Rule.Name == a.grant.Rule.Name &&
		b.Relay == a.req.Relay &&
		b.Ephemeral == a.grant.Rule.Ephemeral && (b.Approved || !a.grant.Review) &&
		b.Expires <= b.Issued+int64(a.grant.TTL/time.Second) &&
		slices.Equal(b.Routes, binding.SortRoutes(a.req.Routes)) && sameClaims(b.Identity, a.identity)
}

func sameClaims(a, b binding.Identity) bool {
	return a.Issuer == b.Issuer && sameIdentity(a, b) && a.Username == b.Username && slices.Equal(a.Groups, b.Groups) &&
		slices.EqualFunc(a.Claims, b.Claims, func(x, y binding.Claim) bool {
			return x.Name == y.Name &&
				slices.Equal(x.Values, y.Values)
		})
}

// bind claims addresses, signs and stores.
func (s *Service) bind(ctx context.Context, a *attempt, approved approval, links []link) (protocol.EnrolResult, error) {
	if !approved.given && a.now.Sub(a.verifiedAt) > maxDelay {
		return protocol.EnrolResult{}, badToken("the token was shown too long ago: ask again with a new one")
	}
	zone := &a.pub.Repo.Zone(a.req.Zone).Value
	wanted := a.req.Address
	if a.held != nil {
		wanted = slices.Concat(a.held.Binding.Addresses, wanted)
	}
	addresses, err := s.allocate(ctx, zone, a.req.Node, a.req.IdentityKey, wanted)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	evidence, err := a.evidence(approved, links)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	b := binding.Binding{
		Network: s.opts.Network, Zone: a.req.Zone, Node: a.req.Node, Identity: a.identity, PublicKey: a.req.PublicKey,
		IdentityKey: a.req.IdentityKey, Addresses: addresses, Routes: binding.SortRoutes(a.req.Routes), Relay: a.req.Relay,
		Approved: approved.given, Issued: a.now.Unix(), Expires: a.now.Add(a.grant.TTL).Unix(), Commit: a.pub.Commit,
	}
	a.describeRule(&b)
	signed, err := s.store(ctx, a.pub, a.held, b, evidence)
	if err != nil {
		if definite(err) {
			s.release(a.key, addresses)
		}
		return protocol.EnrolResult{}, err
	}
	s.forgetWaiting(ctx, a.req.Zone, protocol.WaitingID(a.req.Zone, a.req.Node, a.req.PublicKey, a.req.IdentityKey))
	return resultOf(signed), nil
}

// describeRule writes into a binding what the rule gave when it was made.
func (a *attempt) describeRule(b *binding.Binding) {
	rule := a.grant.Rule
	b.Ephemeral = rule.Ephemeral
	b.Rule = binding.Rule{Name: rule.Name, File: a.grant.Pos.File, Line: a.grant.Pos.Line}
	b.Labels = []binding.Pair{}
	for _, k := range slices.Sorted(maps.Keys(rule.Labels)) {
		b.Labels = append(b.Labels, binding.Pair{Key: k, Value: rule.Labels[k]})
	}
}

// store signs a binding and writes it in place of old (nil: where there is none). Errors: errAgain if something else is
// there; after others it may have been written.
func (s *Service) store(ctx context.Context, pub *Published, old *held, b binding.Binding,
	evidence protocol.Evidence) (*binding.Signed, error) {
	key := nodeKey{b.Zone, b.Node}
	signed, record, err := s.sign(pub, b, evidence)
	if err != nil {
		return nil, err
	}
	// What a witness would refuse must not be stored: it would keep the zone from being published.
	judge := Judge{Network: s.opts.Network, Published: pub, Judged: func(peermap.Digest) bool { return true }}
	if _, err := judge.Recheck(ctx, record); err != nil {
		s.opts.Logger.Warn("enrolment whose evidence convinces nobody", "node", key.String(), "error", err)
		return nil, refused("what node %s showed would convince no third party: %s", b.Node, err)
	}
	data, err := protocol.Encode(record)
	if err != nil {
		return nil, err
	}
	var revision uint64
	if old != nil {
		if revision, err = s.revisionOf(ctx, key, old); err != nil {
			return nil, err
		}
		if err := s.noteIfRevoked(ctx, pub, old); err != nil {
			return nil, err
		}
	}
	revision, err = s.opts.Buckets.Bindings.Update(ctx, s.bindingKey(key), data, revision)
	if errors.Is(err, store.ErrConflict) {
		return nil, errors.Join(errAgain, s.refresh(ctx, key))
	}
	if err != nil {
		return nil, fmt.Errorf("store binding of %s: %w", key, err)
	}
	if s.bindings.put(key, signed, revision) {
		s.opts.Changed()
	}
	if old != nil {
		s.release(key, gone(old.Binding.Addresses, b.Addresses))
	}
	return signed, nil
}

// gone gives the addresses of before that are not in now.
func gone(before, now []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(before), func(a netip.Addr) bool { return slices.Contains(now, a) })
}

// revisionOf gives the revision of the binding that memory has.
func (s *Service) revisionOf(ctx context.Context, key nodeKey, h *held) (uint64, error) {
	if h.revision != 0 {
		return h.revision, nil
	}
	record, revision, err := s.load(ctx, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	if signed, openErr := openRecord(record); err != nil || openErr != nil || signed.Digest != h.Digest {
		return 0, errors.Join(errAgain, s.refresh(ctx, key))
	}
	return revision, nil
}

// refresh reads one binding from the store into memory.
func (s *Service) refresh(ctx context.Context, key nodeKey) error {
	data, revision, err := s.opts.Buckets.Bindings.GetRevision(ctx, s.bindingKey(key))
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.take(store.Change{Key: s.bindingKey(key), Deleted: true})
	case err != nil:
		return err
	default:
		s.take(store.Change{Key: s.bindingKey(key), Value: data, Revision: revision})
	}
	return nil
}

// sign makes the record of a binding: evidence first, for the binding names its digest.
func (s *Service) sign(pub *Published, b binding.Binding, evidence protocol.Evidence) (*binding.Signed,
	protocol.BindingRecord, error) {
	var record protocol.BindingRecord
	key, err := s.signingKey(pub.Root)
	if err != nil {
		return nil, record, err
	}
	own, err := ownEvidence(evidence)
	if err != nil {
		return nil, record, err
	}
	if record.Evidence, err = protocol.Encode(evidence); err != nil {
		return nil, record, err
	}
	if len(record.Evidence) > protocol.MaxEvidenceBytes {
		return nil, record, badToken("the evidence of this node has grown over %d bytes by renewals and rotations: enrol with a token that commits to its keys",
			protocol.MaxEvidenceBytes)
	}
	b.Type, b.Evidence = binding.Type, peermap.DigestOf(own)
	payload, err := b.Encode()
	if err != nil {
		return nil, record, fmt.Errorf("binding of %s/%s: %w", b.Zone, b.Node, err)
	}
	env, err := signer.SignEd25519(binding.Type, payload, key)
	if err != nil {
		return nil, record, err
	}
	if record.Envelope, err = env.Encode(); err != nil {
		return nil, record, err
	}
	signed, err := binding.NewSigned(payload, record.Envelope)
	return signed, record, err
}

// signingKey is the first of this controller's enrolment keys that the trust root lists.
func (s *Service) signingKey(root *signer.Root) (signer.PrivateKey, error) {
	for _, k := range s.opts.Keys {
		if root.HasRole(k.Public().ID(), signer.RoleEnrolment) {
			return k, nil
		}
	}
	return signer.PrivateKey{}, protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady,
		"no enrolment key of this controller is in the network's trust root: its operator has to add one")
}

// use is what a token was used for.
type use struct {
	Zone        string      `json:"zone"`
	Node        string      `json:"node"`
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
	// Spent says that a binding came of it. Until then the same request may be finished; afterwards it is answered while
	// that binding stands, and once it is gone (left, replaced by other keys, run out) the token brings nothing back.
	Spent bool `json:"spent"`
}

func useOf(r protocol.EnrolRequest) use {
	return use{Zone: r.Zone, Node: r.Node, PublicKey: r.PublicKey, IdentityKey: r.IdentityKey}
}

func (u *use) by(r protocol.EnrolRequest) bool {
	mine := useOf(r)
	mine.Spent = u.Spent
	return *u == mine
}

// useToken claims the token for this node and these keys. fresh is false if it was claimed for just that before. Errors:
// a problem if it was used for anything else.
func (s *Service) useToken(ctx context.Context, a *attempt) (fresh bool, err error) {
	value, err := protocol.Encode(useOf(a.req))
	if err != nil {
		return false, err
	}
	err = s.opts.Buckets.Tokens.Create(ctx, s.opts.Network+"."+a.verified.ID, value)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, store.ErrExists) {
		return false, fmt.Errorf("remember that the token is used: %w", err)
	}
	was, err := s.readUse(ctx, a.verified.ID)
	if err != nil {
		return false, err
	}
	if was == nil || !was.by(a.req) {
		return false, problem(http.StatusUnauthorized, protocol.CodeReplay,
			"the token was used before, for another node or other keys: get a new one")
	}
	if was.Spent {
		return false, problem(http.StatusUnauthorized, protocol.CodeReplay,
			"the token was used before, and the binding that came of it is gone: get a new one")
	}
	return false, nil
}

// spendToken notes that a binding came of the token. If that cannot be written, the token can bring the same binding back
// to the holder of the same keys, as after a crash at this point.
func (s *Service) spendToken(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	u := useOf(a.req)
	u.Spent = true
	value, err := protocol.Encode(u)
	if err == nil {
		err = s.opts.Buckets.Tokens.Put(ctx, s.opts.Network+"."+a.verified.ID, value)
	}
	if err != nil {
		s.opts.Logger.Warn("a used token is not marked as spent", "node", a.key.String(), "error", err)
	}
}

func (s *Service) unuseToken(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if err := s.opts.Buckets.Tokens.Delete(ctx, s.opts.Network+"."+a.verified.ID); err != nil {
		s.opts.Logger.Warn("the token of a refused enrolment stays used", "error", err)
	}
}

// usedFor gives what the token of a request was used for, nil for nothing, without verifying it.
func (s *Service) usedFor(ctx context.Context, a *attempt) (*use, error) {
	issuer := identity.IssuerNamed(a.pub.Repo, a.req.Issuer)
	if issuer == nil {
		return nil, nil
	}
	return s.readUse(ctx, tokens.ID(issuer.URL, a.req.Token))
}

func (s *Service) readUse(ctx context.Context, id string) (*use, error) {
	if id == "" {
		return nil, nil
	}
	data, err := s.opts.Buckets.Tokens.Get(ctx, s.opts.Network+"."+id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var u use
	if protocol.Decode(data, 1<<10, &u) != nil {
		return &use{}, nil // used for something that is no enrolment
	}
	return &u, nil
}

// gitIndex is what git's nodes hold.
type gitIndex struct {
	repo *spec.Repository
	keys map[peermap.Key]string
}

func (g *gitIndex) has(k nodeKey) bool { return g.repo.Node(k.zone, k.node) != nil }

// gitOf gives the index of a commit; the last one asked for is kept.
func (s *Service) gitOf(pub *Published) *gitIndex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil || s.index.repo != pub.Repo {
		g := &gitIndex{repo: pub.Repo, keys: make(map[peermap.Key]string, 2*len(pub.Repo.Nodes))}
		for _, n := range pub.Repo.Nodes {
			v := &n.Value
			g.keys[peermap.Key(v.Spec.PublicKey)], g.keys[peermap.Key(v.Spec.IdentityKey)] = v.Metadata.Name, v.Metadata.Name
		}
		s.index = g
	}
	return s.index
}
