package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
)

// replica is a network's part in a cluster of controllers. It competes for the network's lease all the time, and does what
// the lease says:
//
//	following   serves what the leader publishes, keeps its clone warm, judges nothing
//	    │ lease taken: promote
//	    ▼
//	leading     as a controller without replicas, but that everything is handed to the others first
//	    │ lease lost, or the network stops: demote
//	    ▼
//	following
type replica struct {
	lease     *cluster.Lease
	frontiers store.Bucket
	poke      func(ctx context.Context, network string) error // asks the leader to look

	// Of the leadership; what only its goroutine touches.
	term     uint64
	revision uint64 // of the frontier's record

	stopWarm func()

	mu    sync.Mutex
	ended chan struct{} // closed when the leadership ends; nil: none
}

// FrontierBucket keeps, per network, what a leader knows of git besides what it published: the state file's content.
func FrontierBucket() store.BucketConfig {
	return store.BucketConfig{
		Name: "frontiers", Description: "last accepted commit and trust roots of each network, packed", MaxValueBytes: maxFrontier,
	}
}

// maxFrontier keeps a record within one message. Trust roots are alike, so that hundreds of versions fit.
const maxFrontier = 900 << 10

// sharedState is a state as the leader of a term left it.
type sharedState struct {
	Term  uint64 `json:"term"`
	State state  `json:"state"`
}

func frontierKey(network string) string { return network + ".frontier" }

// runReplica works until ctx ends.
func (n *network) runReplica(ctx context.Context) {
	r := n.replica
	following, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() { n.publisher.Follow(following) })
	parts.Go(func() { n.followFrontier(following) })
	n.startWarm(ctx)
	r.lease.Run(ctx, func(leading context.Context, term uint64) {
		r.stopWarm()
		defer n.startWarm(ctx)
		n.leadAs(leading, term)
	})
	r.stopWarm()
	stop()
	parts.Wait()
}

// leadAs leads until ctx ends.
func (n *network) leadAs(ctx context.Context, term uint64) {
	began := time.Now()
	if err := n.promote(ctx, term); err != nil {
		if ctx.Err() == nil {
			n.log.Error("leadership not taken up", "term", term, "error", err)
		}
		n.publisher.StepDown()
		return
	}
	n.log.Info("took over", "term", term, "took", time.Since(began))
	r := n.replica
	r.mu.Lock()
	r.ended = make(chan struct{})
	r.mu.Unlock()
	n.lead(ctx)
	n.publisher.StepDown()
	r.mu.Lock()
	close(r.ended)
	r.ended = nil
	r.mu.Unlock()
}

// led is what wants to know that this replica leads: it gets the time to catch up with the store before the first request
// or compile. ctx ends with the leadership.
type led interface {
	Lead(ctx context.Context) error
}

// promote takes up where the leader before left off.
func (n *network) promote(ctx context.Context, term uint64) error {
	offered, revision, err := n.readFrontier(ctx)
	if err != nil {
		return err
	}
	if offered != nil {
		if offered.Term > term {
			return fmt.Errorf("frontier: %w", publish.ErrDeposed)
		}
		if err := n.trust(&offered.State); err != nil {
			n.log.Error("state in the store ignored, this replica goes on from its own", "error", err)
			offered = nil
		}
	}
	if err := n.publisher.Lead(ctx, term); err != nil {
		return err
	}
	if s, ok := n.bindings.(led); ok {
		if err := s.Lead(ctx); err != nil {
			return err
		}
	}
	if offered != nil && n.vouched(&offered.State) {
		n.setState(&offered.State)
	}
	n.published.Store(nil) // nobody is enrolled by rules of an earlier leadership
	n.replica.term, n.replica.revision = term, revision
	return n.shareState(ctx, n.state)
}

// vouched says whether a quorum has signed a generation that was made from the frontier of s. Only then it is taken over: the
// store alone could name any commit. Otherwise the commits since this replica's own frontier are verified again.
func (n *network) vouched(s *state) bool {
	root := n.publisher.Root()
	if root == nil || s.Frontier.RootVersion != root.Version || s.Frontier.RootDigest != root.Digest() {
		return false
	}
	for _, z := range n.publisher.Zones() {
		if g, _ := z.Snapshot(); g != nil && g.Manifest.Commit == s.Frontier.Commit {
			return true
		}
	}
	return false
}

func (n *network) setState(s *state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = s
}

// keepState makes s durable, here and where the other replicas find it.
func (n *network) keepState(ctx context.Context, s *state) error {
	if err := s.save(n.statePath); err != nil {
		return err
	}
	if n.replica == nil {
		return nil
	}
	return n.shareState(ctx, s)
}

// shareState writes the frontier's record, by compare and set.
func (n *network) shareState(ctx context.Context, s *state) error {
	data, err := protocol.Encode(sharedState{Term: n.replica.term, State: *s.canonical()})
	if err != nil {
		return err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer enc.Close()
	revision, err := n.replica.frontiers.Update(ctx, frontierKey(n.cfg.Name), enc.EncodeAll(data, nil), n.replica.revision)
	if errors.Is(err, store.ErrConflict) {
		// The write before may have been taken for failed.
		if mine, at, readErr := n.readFrontier(ctx); readErr == nil && mine != nil && mine.Term == n.replica.term {
			revision, err = n.replica.frontiers.Update(ctx, frontierKey(n.cfg.Name), enc.EncodeAll(data, nil), at)
		}
	}
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("keep state: %w: %w", publish.ErrDeposed, err)
	}
	if err != nil {
		return fmt.Errorf("keep state: %w", err)
	}
	n.replica.revision = revision
	return nil
}

// readFrontier gives nil and revision 0 if there is no record, nil if it cannot be read: it will be written anew.
func (n *network) readFrontier(ctx context.Context) (*sharedState, uint64, error) {
	data, revision, err := n.replica.frontiers.GetRevision(ctx, frontierKey(n.cfg.Name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	s, err := decodeFrontier(data)
	if err != nil {
		n.log.Error("state in the store ignored", "error", err)
		return nil, revision, nil
	}
	return s, revision, nil
}

func decodeFrontier(packed []byte) (*sharedState, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxStateBytes), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("frontier in the store: %w", err)
	}
	var s sharedState
	if err := protocol.Decode(data, maxStateBytes, &s); err != nil {
		return nil, fmt.Errorf("frontier in the store: %w", err)
	}
	return &s, nil
}

// trust takes over the trust roots of s, if they lead from the pin to no older version than the one trusted now.
func (n *network) trust(s *state) error {
	root, err := s.root(n.cfg.Name, n.cfg.TrustRoot)
	if err != nil {
		return fmt.Errorf("trust roots in the store: %w", err)
	}
	if root == nil {
		return nil
	}
	now := n.publisher.Root()
	if now != nil && (root.Version < now.Version || root.Version == now.Version && root.Digest() != now.Digest()) {
		return fmt.Errorf("trust root version %d in the store does not follow version %d, which this replica has",
			root.Version, now.Version)
	}
	n.mu.RLock()
	next := &state{Frontier: n.state.Frontier, Chain: s.Chain, AllowShrink: n.state.AllowShrink}
	grown := len(s.Chain) > len(n.state.Chain)
	n.mu.RUnlock()
	if grown {
		if err := next.save(n.statePath); err != nil {
			return err
		}
		n.setState(next)
	}
	n.publisher.Trust(root)
	return nil
}

// followFrontier takes over trust roots while this replica follows.
func (n *network) followFrontier(ctx context.Context) {
	for ctx.Err() == nil {
		err := n.replica.frontiers.Watch(ctx, n.cfg.Name, func(c store.Change) {
			if c.Key != frontierKey(n.cfg.Name) || c.Deleted || n.leads() {
				return
			}
			s, err := decodeFrontier(c.Value)
			if err == nil {
				err = n.trust(&s.State)
			}
			if err != nil {
				n.log.Error("trust roots not taken over from the leader", "error", err)
				return
			}
			n.noteLeader(&s.State)
		})
		if ctx.Err() == nil {
			n.log.Warn("the leader's state is not followed", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// noteLeader remembers what the leader accepted, for people who ask this replica.
func (n *network) noteLeader(s *state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.followed = s.Frontier.Commit
}

// leads says whether this replica may judge and sign; a controller without replicas always may.
func (n *network) leads() bool {
	if n.replica == nil {
		return true
	}
	n.replica.mu.Lock()
	defer n.replica.mu.Unlock()
	return n.replica.ended != nil
}

// ended is closed when the leadership ends; nil, which never is, without replicas. A replica that does not lead gives a
// closed one.
func (n *network) ended() <-chan struct{} {
	if n.replica == nil {
		return nil
	}
	n.replica.mu.Lock()
	defer n.replica.mu.Unlock()
	if n.replica.ended != nil {
		return n.replica.ended
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// startWarm fetches now and then while this replica follows, so that whoever takes over has little to fetch.
func (n *network) startWarm(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	n.replica.stopWarm = func() { cancel(); <-done }
	go func() {
		defer close(done)
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			if _, err := n.src.Fetch(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn("repository not fetched", "error", err)
			}
			timer.Reset(n.nextLook())
		}
	}()
}

// askLeader passes a poke on.
func (n *network) askLeader() {
	ctx, cancel := context.WithTimeout(context.Background(), pokeTimeout)
	go func() {
		defer cancel()
		if err := n.replica.poke(ctx, n.cfg.Name); err != nil {
			n.log.Info("the leader was not told to look", "error", err)
		}
	}()
}

const pokeTimeout = 10 * time.Second

// describeReplica says who leads, for people. The caller holds mu.
func (n *network) describeReplica(f *protocol.FleetStatus) {
	if n.replica == nil {
		return
	}
	if who, ok := n.replica.lease.Leader(); ok {
		f.Leader = who.Name
	}
	if !n.leads() {
		f.Accepted = n.followed
	}
}
