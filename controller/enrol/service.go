package enrol

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
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

// Published is the commit whose rules count now. The parts belong together and are not changed.
type Published struct {
	Commit string
	Repo   *spec.Repository
	Root   *signer.Root
}

// Options make a Service. All fields but those with a default are required.
type Options struct {
	Network string
	Buckets Buckets
	// Keys are the enrolment keys of this controller; the first that the trust root allows signs. All give challenges.
	Keys     []signer.PrivateKey
	Verifier tokens.Verifier
	// Published gives the commit that counts now; nil before there is one.
	Published func() *Published
	// Resumes says, while Published gives nil, whether agents are served a commit all the same: this controller has just started,
	// or taken over from another, and has not compiled it yet. Default: no.
	Resumes func() bool
	Limits  Limits
	// EphemeralGrace is how long an ephemeral node may be away. Default 30s.
	EphemeralGrace time.Duration
	// Replica names this controller among those that share the store. Default "one".
	Replica string
	// Leads says whether this controller may write; nil: always.
	Leads   func() bool
	Now     func() time.Time
	Logger  *slog.Logger
	Metrics *Metrics
	// Changed is called, without waiting, when Snapshot gives something else than before. Default: nobody listens.
	Changed func()
	// Flush returns once a power cut takes nothing that was written to Buckets before: see store.Store. Default: they need none.
	Flush func(ctx context.Context) error
}

// DefaultEphemeralGrace is how long an ephemeral node may be away where nothing else is said.
const DefaultEphemeralGrace = 30 * time.Second

// Service enrols hosts into one network. Its methods are safe for concurrent use. Errors that callers should know of are
// *protocol.Problem; they never hold a token.
type Service struct {
	opts       Options
	challenges []challenge
	limits     *limiter
	bindings   *registry
	waiting    *waitingList
	owed       atomic.Int64 // flushes that failed since one succeeded
	present    *presence
	revoked    *revokedBindings
	identities keyed // serialises what one identity writes in one zone
	verifying  crowd // by issuer
	nudge      chan struct{}

	noted string // the commit whose revocations are written down; Run's alone

	mu    sync.Mutex
	index *gitIndex // of the commit asked about last
}

// challenge is an X25519 key by which nodes prove theirs.
type challenge struct {
	private [32]byte
	public  peermap.Key
}

// challengeInfo names the purpose of the derived key.
const challengeInfo = "apex-enrol-challenge@v1"

// Open reads what is stored. Run keeps it in step with other controllers and with time.
func Open(ctx context.Context, o Options) (*Service, error) {
	if len(o.Keys) == 0 {
		return nil, errors.New("enrolment: no enrolment key: make one with `apex-controller keygen` and name it in keys.enrolmentFiles")
	}
	if o.EphemeralGrace <= 0 {
		o.EphemeralGrace = DefaultEphemeralGrace
	}
	if o.Replica == "" {
		o.Replica = "one"
	}
	if o.Leads == nil {
		o.Leads = func() bool { return true }
	}
	if o.Resumes == nil {
		o.Resumes = func() bool { return false }
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Flush == nil {
		o.Flush = func(context.Context) error { return nil }
	}
	s := &Service{
		opts: o, limits: newLimiter(o.Limits), bindings: newRegistry(o.Keys), waiting: newWaitingList(),
		present: newPresence(), revoked: newRevokedBindings(), nudge: make(chan struct{}, 1),
	}
	for _, k := range o.Keys {
		c, err := newChallenge(k)
		if err != nil {
			return nil, fmt.Errorf("enrolment: %w", err)
		}
		s.challenges = append(s.challenges, c)
	}
	if err := o.Buckets.Bindings.Each(ctx, o.Network, func(key string, value []byte) error {
		s.take(store.Change{Key: key, Value: value})
		return nil
	}); err != nil {
		return nil, fmt.Errorf("enrolment: read bindings: %w", err)
	}
	if err := o.Buckets.Waiting.Each(ctx, o.Network, func(key string, value []byte) error {
		s.takeWaiting(store.Change{Key: key, Value: value})
		return nil
	}); err != nil {
		return nil, fmt.Errorf("enrolment: read what waits: %w", err)
	}
	if err := o.Buckets.Revoked.Each(ctx, o.Network, func(key string, value []byte) error {
		s.takeRevoked(store.Change{Key: key, Value: value})
		return nil
	}); err != nil {
		return nil, fmt.Errorf("enrolment: read what is revoked: %w", err)
	}
	return s, nil
}

func newChallenge(k signer.PrivateKey) (c challenge, err error) {
	if c.private, err = k.Derive(challengeInfo); err != nil {
		return c, err
	}
	private, err := ecdh.X25519().NewPrivateKey(c.private[:])
	if err != nil {
		return c, err
	}
	c.public = peermap.Key(private.PublicKey().Bytes())
	return c, nil
}

// Info is what anybody may know of how to join.
func (s *Service) Info() (protocol.EnrolmentInfo, error) {
	pub := s.opts.Published()
	if pub == nil {
		return protocol.EnrolmentInfo{}, s.notReady()
	}
	info := protocol.EnrolmentInfo{
		Network: s.opts.Network, Time: s.opts.Now().UTC(), Challenge: s.challenges[0].public, Issuers: []protocol.IssuerInfo{},
	}
	issuers := pub.Repo.Network.Value.Spec.Issuers
	for n := range issuers {
		i := &issuers[n]
		info.Issuers = append(info.Issuers, protocol.IssuerInfo{
			Name: i.Name, URL: i.URL, Audience: identity.Audience(i), ClientID: i.ClientID, ClientSecret: i.ClientSecret,
			Scopes: append([]string{}, i.Scopes...), Bound: mustBind(i),
		})
	}
	return info, nil
}

// Snapshot gives the bindings in the store that the published trust root lets count, sorted by zone and node, and a number
// that is another one whenever the list is. Expired ones stay in it for a while: the compile leaves them out. The list
// must not be changed.
func (s *Service) Snapshot() (list []*binding.Signed, version uint64) {
	var root *signer.Root
	if pub := s.opts.Published(); pub != nil {
		root = pub.Root
	}
	return s.bindings.snapshot(root)
}

// Records gives the records with these digests of binding payloads, in that order. What is not stored any more (it was
// renewed, or its node has left) is left out.
func (s *Service) Records(ctx context.Context, digests []peermap.Digest) ([]protocol.BindingRecord, error) {
	out := make([]protocol.BindingRecord, 0, len(digests))
	for _, d := range digests {
		key, ok := s.bindings.byDigest(d)
		if !ok {
			continue
		}
		record, _, err := s.load(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if signed, openErr := openRecord(record); err == nil && openErr == nil && signed.Digest == d {
			out = append(out, record)
		}
	}
	return out, nil
}

// load reads a stored record and its revision. Errors: store.ErrNotFound.
func (s *Service) load(ctx context.Context, k nodeKey) (r protocol.BindingRecord, revision uint64, err error) {
	data, revision, err := s.opts.Buckets.Bindings.GetRevision(ctx, s.bindingKey(k))
	if err != nil {
		return r, 0, err
	}
	if err := protocol.Decode(data, maxRecordBytes, &r); err != nil {
		return r, 0, fmt.Errorf("binding of %s: %w", k, err)
	}
	return r, revision, nil
}

// take brings the memory in line with a change of the bindings bucket.
func (s *Service) take(c store.Change) {
	if c.Key == "" {
		return
	}
	zone, node, err := splitKey(c.Key)
	if err != nil {
		s.opts.Logger.Error("stored binding ignored", "error", err)
		return
	}
	key := nodeKey{zone, node}
	if c.Deleted {
		if s.bindings.remove(key, c.Revision) {
			s.opts.Changed()
		}
		return
	}
	signed, err := s.read(key, c.Value)
	if err != nil {
		s.opts.Logger.Error("stored binding ignored: the node has to enrol again", "zone", zone, "node", node,
			"error", err)
		return
	}
	if s.bindings.put(key, signed, c.Revision) {
		s.opts.Changed()
	}
}

func (s *Service) read(key nodeKey, data []byte) (*binding.Signed, error) {
	var r protocol.BindingRecord
	if err := protocol.Decode(data, maxRecordBytes, &r); err != nil {
		return nil, err
	}
	signed, err := openRecord(r)
	if err != nil {
		return nil, err
	}
	if b := signed.Binding; b.Network != s.opts.Network || b.Zone != key.zone || b.Node != key.node {
		return nil, fmt.Errorf("it is a binding of %s/%s in network %s", b.Zone, b.Node, b.Network)
	}
	return signed, nil
}

// openRecord reads the envelope of a record, whose signature is for the trust root to judge.
func openRecord(r protocol.BindingRecord) (*binding.Signed, error) {
	env, err := envelopeOf(r)
	if err != nil {
		return nil, err
	}
	return binding.NewSigned(env.Payload, r.Envelope)
}

func envelopeOf(r protocol.BindingRecord) (*signer.Envelope, error) {
	return signer.ParseEnvelope(r.Envelope, binding.MaxEnvelopeBytes)
}

// lasting gives err, the outcome of a request, once what the request has written outlasts a power cut: nothing is acknowledged
// before. A refusal waits for that only while a flush is owed, since it may tell what was written then: that a node has left, or
// waits no more. Whoever is not answered for want of the disk is told to come back.
func (s *Service) lasting(ctx context.Context, err error) error {
	owed := s.owed.Load()
	if err != nil && owed == 0 {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if failed := s.opts.Flush(bounded); failed != nil {
		s.owed.Add(1)
		if ctx.Err() == nil { // otherwise the client has gone
			s.opts.Logger.Error("nothing is acknowledged, for it may not last", "error", failed)
		}
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady,
			"the controller cannot bring to its disk what it has written: ask again").RetryIn(5 * time.Second)
	}
	s.owed.CompareAndSwap(owed, 0) // unless another failed meanwhile
	return err
}

// notReady is the answer while there are no rules to judge by.
func (s *Service) notReady() error {
	why := "the network has no published commit yet"
	if s.opts.Resumes() {
		why = "this controller has just started or taken over, and is compiling the published commit: ask again"
	}
	return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, why).RetryIn(5 * time.Second)
}
