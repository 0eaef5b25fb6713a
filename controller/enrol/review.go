package enrol

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/identity"
)

// askAgain is when a node that waits should ask again.
const askAgain = 15 * time.Second

// waitingRecord is a request that waits, with all that its binding will rest on. One that was denied stays for as long as
// one that waits, so that the node is told.
type waitingRecord struct {
	Waiting  protocol.Waiting `json:"waiting"`
	Request  []byte           `json:"request"` // protocol.EnrolRequest, the token in it
	Proof    string           `json:"proof"`
	Key      []byte           `json:"key"`
	TokenID  string           `json:"tokenID"`
	Nonce    string           `json:"nonce"`
	Audience []string         `json:"audience"`
	Verified int64            `json:"verified"`
	Identity binding.Identity `json:"identity"`
	Denied   bool             `json:"denied"`
	// Seal is an HMAC by a key of the controller over the rest: a maintainer's word makes a binding of what stands here, so
	// whoever can write to the store must not be able to say who it is that waits.
	Seal []byte `json:"seal"`
}

// sealInfo names the purpose of the key that seals.
const sealInfo = "apex-enrol-waiting@v1"

// sealed gives the record with its seal by k.
func (r waitingRecord) sealed(k signer.PrivateKey) (waitingRecord, error) {
	r.Seal = []byte{}
	data, err := protocol.Encode(r)
	if err != nil {
		return r, err
	}
	key, err := k.Derive(sealInfo)
	if err != nil {
		return r, err
	}
	mac := hmac.New(sha256.New, key[:])
	mac.Write(data)
	r.Seal = mac.Sum(nil)
	return r, nil
}

// openWaiting reads a stored record, which must be that of the zone and ID, sealed by one of this controller's keys.
func (s *Service) openWaiting(data []byte, zone, id string) (r waitingRecord, err error) {
	if err := protocol.Decode(data, maxRecordBytes, &r); err != nil {
		return r, err
	}
	if r.Waiting.Zone != zone || r.Waiting.ID != id {
		return r, errors.New("it is another request")
	}
	for _, k := range s.opts.Keys {
		if own, err := r.sealed(k); err == nil && hmac.Equal(own.Seal, r.Seal) {
			return r, nil
		}
	}
	return r, errors.New("it is not sealed by an enrolment key of this controller")
}

// waitingEntry is what memory keeps of it.
type waitingEntry struct {
	protocol.Waiting
	identity binding.Identity
	denied   bool
}

func (r waitingRecord) entry() waitingEntry { return waitingEntry{r.Waiting, r.Identity, r.Denied} }

// now gives what a maintainer decides on: the request, by the rule that admits it now. The rule that it met when it came may
// have another name by now.
func (e waitingEntry) now(repo *spec.Repository) protocol.Waiting {
	w := e.Waiting
	if grant, err := identity.Match(repo, e.Zone, e.identity); err == nil {
		w.Rule = grant.Rule.Name
	}
	return w
}

func (e waitingEntry) approvedInGit(repo *spec.Repository) bool {
	zone := repo.Zone(e.Zone)
	if zone == nil {
		return false
	}
	w := e.now(repo)
	return identity.ApprovedInGit(&zone.Value, spec.Approval{
		Node: w.Node, PublicKey: spec.Key(w.PublicKey), IdentityKey: spec.Key(w.IdentityKey), Issuer: w.Issuer, Subject: w.Subject,
		Rule: w.Rule, Routes: w.Routes, Relay: w.Relay,
	})
}

// waitingList is the memory of the waiting bucket.
type waitingList struct {
	mu      sync.RWMutex
	entries map[[2]string]waitingEntry // by zone and ID
}

func newWaitingList() *waitingList { return &waitingList{entries: map[[2]string]waitingEntry{}} }

func (l *waitingList) get(zone, id string) *waitingEntry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	e, ok := l.entries[[2]string{zone, id}]
	if !ok {
		return nil
	}
	return &e
}

func (l *waitingList) put(e waitingEntry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[[2]string{e.Zone, e.ID}] = e
}

func (l *waitingList) remove(zone, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.entries, [2]string{zone, id})
}

// all lists what waits, by zone and node; what was denied does not.
func (l *waitingList) all() []waitingEntry {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := make([]waitingEntry, 0, len(l.entries))
	for _, e := range l.entries {
		if !e.denied {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b waitingEntry) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// count says how many places are taken, in a zone and by one identity, and which of the zone's was denied longest ago (nil:
// none).
func (l *waitingList) count(zone, url, subject string) (all, own int, denied *waitingEntry) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, e := range l.entries {
		if e.identity.URL == url && e.Subject == subject {
			own++
		}
		if e.Zone != zone {
			continue
		}
		all++
		if e.denied && (denied == nil || e.Since.Before(denied.Since)) {
			denied = &e
		}
	}
	return all, own, denied
}

// drop forgets what its TTL has ended in the store, which tells nobody.
func (l *waitingList) drop(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, e := range l.entries {
		if e.Since.Before(before) {
			delete(l.entries, k)
		}
	}
}

// takeWaiting brings the memory in line with a change of the waiting bucket.
func (s *Service) takeWaiting(c store.Change) {
	if c.Key == "" {
		return
	}
	zone, id, err := splitKey(c.Key)
	if err == nil && c.Deleted {
		s.waiting.remove(zone, id)
		return
	}
	var r waitingRecord
	if err == nil {
		r, err = s.openWaiting(c.Value, zone, id)
	}
	if err != nil {
		s.opts.Logger.Error("stored request that waits ignored", "key", c.Key, "error", err)
		return
	}
	s.waiting.put(r.entry())
}

// wait puts an attempt among those that wait, or renews its evidence there. The list is bounded, for each zone and each
// identity, and so is how long anybody stays in it. A request is of one identity for as long as it waits: the list that a
// maintainer has read does not change into somebody else's.
func (s *Service) wait(ctx context.Context, a *attempt) (protocol.EnrolResult, error) {
	id := protocol.WaitingID(a.req.Zone, a.req.Node, a.req.PublicKey, a.req.IdentityKey)
	old := s.waiting.get(a.req.Zone, id)
	since := a.now.UTC()
	switch {
	case old != nil && old.denied:
		return protocol.EnrolResult{}, denied(old.Waiting)
	case old != nil && !sameIdentity(old.identity, a.identity):
		return protocol.EnrolResult{}, taken("node %s of zone %s waits with these keys for a review of another identity: sign in as that one, or make new keys",
			old.Node, old.Zone)
	case old != nil:
		since = old.Since
	default:
		all, own, denied := s.waiting.count(a.req.Zone, a.identity.URL, a.identity.Subject)
		if all >= s.limits.limits.Waiting && denied != nil {
			s.forgetWaiting(ctx, denied.Zone, denied.ID) // those that were refused keep nobody out
			all--
		}
		if all >= s.limits.limits.Waiting || own >= s.limits.limits.WaitingPerSubject {
			return protocol.EnrolResult{}, protocol.NewProblem(http.StatusTooManyRequests, protocol.CodeTooMany,
				"too many requests wait for a maintainer already: try again when some have been decided").RetryIn(300 * time.Second)
		}
	}
	body, err := protocol.Encode(a.req)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	r := waitingRecord{
		Waiting: protocol.Waiting{
			ID: id, Zone: a.req.Zone, Node: a.req.Node, PublicKey: a.req.PublicKey, IdentityKey: a.req.IdentityKey,
			Issuer: a.identity.Issuer, Subject: a.identity.Subject, Username: a.identity.Username, Groups: a.identity.Groups,
			Rule: a.grant.Rule.Name, Routes: binding.SortRoutes(a.req.Routes), Relay: a.req.Relay, Since: since,
		},
		Request: body, Proof: a.proof.Compact(), Key: a.verified.Key, TokenID: a.verified.ID, Nonce: a.verified.Nonce,
		Audience: a.verified.Audience, Verified: a.verifiedAt.Unix(), Identity: a.identity,
	}
	if err := s.putWaiting(ctx, r); err != nil {
		return protocol.EnrolResult{}, err
	}
	return s.stillWaits(id), nil
}

func (s *Service) stillWaits(id string) protocol.EnrolResult {
	return protocol.EnrolResult{Waiting: id, RenewAfter: s.opts.Now().Add(askAgain).Unix()}
}

func denied(w protocol.Waiting) error {
	return refused("a maintainer has denied node %s of zone %s with these keys", w.Node, w.Zone)
}

func (s *Service) putWaiting(ctx context.Context, r waitingRecord) error {
	r, err := r.sealed(s.opts.Keys[0])
	if err != nil {
		return err
	}
	data, err := protocol.Encode(r)
	if err != nil {
		return err
	}
	if err := s.opts.Buckets.Waiting.Put(ctx, s.waitingKey(r.Waiting.Zone, r.Waiting.ID), data); err != nil {
		return fmt.Errorf("keep the request that waits: %w", err)
	}
	s.waiting.put(r.entry())
	return nil
}

// forgetWaiting drops a request that was fulfilled. What cannot be dropped now ends by itself.
func (s *Service) forgetWaiting(ctx context.Context, zone, id string) {
	if s.waiting.get(zone, id) == nil {
		return
	}
	if err := s.opts.Buckets.Waiting.Delete(ctx, s.waitingKey(zone, id)); err != nil {
		s.opts.Logger.Warn("a fulfilled request still stands among those that wait", "zone", zone, "id", id, "error",
			err)
	}
	s.waiting.remove(zone, id)
}

// lookAgain answers a node that waits and asks with the token it asked with before.
func (s *Service) lookAgain(ctx context.Context, a *attempt, e *waitingEntry) (protocol.EnrolResult, error) {
	if e.denied {
		return protocol.EnrolResult{}, denied(e.Waiting)
	}
	if !e.approvedInGit(a.pub.Repo) {
		return s.stillWaits(e.ID), nil
	}
	return s.fulfil(ctx, a.pub, e.Zone, e.ID, nil)
}

// fulfil makes the binding of a request that waits, by a decision or because git says so.
func (s *Service) fulfil(ctx context.Context, pub *Published, zone, id string, decision []byte) (protocol.EnrolResult,
	error) {
	r, err := s.loadWaiting(ctx, zone, id)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	a := &attempt{
		now: s.opts.Now(), pub: pub, key: nodeKey{r.Waiting.Zone,
			r.Waiting.Node}, identity: r.Identity, decision: decision,
		verified: &tokens.Verified{ID: r.TokenID, Key: r.Key, Nonce: r.Nonce, Audience: r.Audience,
			Subject: r.Identity.Subject},
		verifiedAt: time.Unix(r.Verified, 0),
	}
	if err := protocol.Decode(r.Request, protocol.MaxEnrolBytes, &a.req); err != nil {
		return protocol.EnrolResult{}, err
	}
	if a.proof, err = protocol.ParseToken(r.Proof); err != nil {
		return protocol.EnrolResult{}, err
	}
	if a.issuer = identity.IssuerNamed(pub.Repo, a.req.Issuer); a.issuer == nil {
		return protocol.EnrolResult{}, refused("the network has no issuer %q any more", a.req.Issuer)
	}
	// Rules may match on other claims by now than when the request came.
	token, err := archivedClaims(a.req.Token)
	if err != nil {
		return protocol.EnrolResult{}, err
	}
	if a.identity, err = identity.FromClaims(*a.issuer, token, identity.Wanted(pub.Repo, a.issuer.Name)); err != nil {
		return protocol.EnrolResult{}, badToken("the token of issuer %s: %s", a.issuer.Name, err)
	}
	a.bound, _ = a.verified.Bound(identity.Audience(a.issuer),
		protocol.Commitment(s.opts.Network, a.req.PublicKey, a.req.IdentityKey))
	if err := s.admit(a); err != nil {
		return protocol.EnrolResult{}, err
	}
	return s.commit(ctx, a)
}

func (s *Service) loadWaiting(ctx context.Context, zone, id string) (r waitingRecord, err error) {
	data, err := s.opts.Buckets.Waiting.Get(ctx, s.waitingKey(zone, id))
	if errors.Is(err, store.ErrNotFound) {
		s.waiting.remove(zone, id)
		return r, problem(http.StatusNotFound, protocol.CodeNotFound, "no such request waits (any more)")
	}
	if err != nil {
		return r, err
	}
	if r, err = s.openWaiting(data, zone, id); err != nil {
		return r, fmt.Errorf("request %s of zone %s that waits: %w", id, zone, err)
	}
	return r, nil
}

// Decide takes a maintainer's signed word on a request that waits. The signer must be one who may change the zone's
// document at the published commit. Whether the nonce was used before is for the caller to check. Errors: a 401 problem
// for whoever may not, 404 if no such request waits, 409 if what waits is not what was approved, what an enrolment is
// refused for.
func (s *Service) Decide(ctx context.Context, req protocol.SignedRequest) error {
	return s.lasting(ctx, s.decide(ctx, req))
}

func (s *Service) decide(ctx context.Context, req protocol.SignedRequest) error {
	pub := s.opts.Published()
	if pub == nil {
		return s.notReady()
	}
	signed, err := protocol.Encode(req)
	if err != nil {
		return err
	}
	d, err := checkDecision(pub, s.opts.Network, signed)
	if err == nil {
		_, err = protocol.ParseDecision(req.Payload, s.opts.Network, s.opts.Now())
	}
	if err != nil {
		return problem(http.StatusUnauthorized, protocol.CodeSignature, "the decision is refused: %s", err)
	}
	id := protocol.WaitingID(d.Zone, d.Node, d.PublicKey, d.IdentityKey)
	r, err := s.loadWaiting(ctx, d.Zone, id)
	if err != nil {
		return err
	}
	s.opts.Logger.Info("enrolment decided", "zone", d.Zone, "node", d.Node, "approved", d.Approve)
	if !d.Approve {
		r.Denied = true
		return s.putWaiting(ctx, r)
	}
	result, err := s.fulfil(ctx, pub, d.Zone, id, signed)
	if err == nil && result.Binding == nil {
		return problem(http.StatusConflict, protocol.CodeConflict,
			"node %s of zone %s does not wait with the identity, rule, routes and relay that were approved (any more): look at `apex enrol list` again",
			d.Node, d.Zone)
	}
	return err
}

// CountWaiting says how many requests wait for a maintainer.
func (s *Service) CountWaiting() int { return len(s.waiting.all()) }

// List gives the bindings in force and the requests that wait.
func (s *Service) List() protocol.EnrolmentList {
	out := protocol.EnrolmentList{Bindings: [][]byte{}, Waiting: []protocol.Waiting{}}
	list, _ := s.Snapshot()
	now := s.opts.Now()
	for _, b := range list {
		if now.Unix() >= b.Binding.Expires {
			continue
		}
		if payload, err := b.Binding.Encode(); err == nil {
			out.Bindings = append(out.Bindings, payload)
		}
	}
	pub := s.opts.Published()
	for _, e := range s.waiting.all() {
		if pub != nil {
			e.Waiting = e.now(pub.Repo)
		}
		out.Waiting = append(out.Waiting, e.Waiting)
	}
	return out
}
