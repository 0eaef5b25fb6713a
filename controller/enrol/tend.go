package enrol

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
)

const (
	// keepExpired is how long an expired binding is kept: a node that comes back finds its address, and people what was.
	keepExpired = 7 * 24 * time.Hour
	// firstConnect is how long a new ephemeral node may take to connect for the first time: its generation may wait for
	// witnesses.
	firstConnect = 10 * time.Minute
	// tendInterval is how often time is let take effect.
	tendInterval = 5 * time.Second
	// watchPause is the pause before a watch of the store that ended is begun anew.
	watchPause = time.Second
)

// Run follows what other controllers write, and lets time take effect, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { s.follow(ctx, s.opts.Buckets.Bindings, s.take) })
	parts.Go(func() { s.follow(ctx, s.opts.Buckets.Waiting, s.takeWaiting) })
	parts.Go(func() { s.follow(ctx, s.opts.Buckets.Revoked, s.takeRevoked) })
	parts.Go(func() {
		tick := time.NewTicker(min(tendInterval, max(s.opts.EphemeralGrace/4, 100*time.Millisecond)))
		defer tick.Stop()
		for {
			if err := s.tend(ctx); err != nil && ctx.Err() == nil {
				s.opts.Logger.Warn("enrolment: not everything was tended to", "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-s.nudge:
			}
		}
	})
	parts.Wait()
}

// Nudge tells that another commit is published: nodes that git approves now are let in.
func (s *Service) Nudge() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

func (s *Service) follow(ctx context.Context, b store.Bucket, f func(store.Change)) {
	for ctx.Err() == nil {
		if err := b.Watch(ctx, s.opts.Network, f); ctx.Err() == nil {
			s.opts.Logger.Warn("enrolment: the store is not followed for a moment", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
}

// tend ends what has run out and lets in what git approves.
func (s *Service) tend(ctx context.Context) error {
	s.opts.Metrics.bindings.WithLabelValues(s.opts.Network).Set(float64(s.bindings.count()))
	s.opts.Metrics.waiting.WithLabelValues(s.opts.Network).Set(float64(len(s.waiting.all())))
	now := s.opts.Now()
	s.waiting.drop(now.Add(-waitingLife))
	err := s.sayPresent(ctx, now)
	if !s.opts.Leads() {
		return err
	}
	return errors.Join(err, s.noteRevoked(ctx), s.endExpired(ctx, now), s.endAbsent(ctx, now), s.letIn(ctx))
}

// endExpired removes bindings that ended long ago.
func (s *Service) endExpired(ctx context.Context, now time.Time) error {
	var errs []error
	for _, h := range s.bindings.where(func(h *held) bool {
		end := time.Unix(h.Binding.Expires, 0)
		if !h.Binding.Ephemeral {
			end = end.Add(keepExpired)
		}
		return !now.Before(end)
	}) {
		errs = append(errs, s.end(ctx, h, "expired"))
	}
	return errors.Join(errs...)
}

// letIn fulfils requests that git approves.
func (s *Service) letIn(ctx context.Context) error {
	pub := s.opts.Published()
	if pub == nil {
		return nil
	}
	var errs []error
	for _, e := range s.waiting.all() {
		if !e.approvedInGit(pub.Repo) {
			continue
		}
		_, err := s.fulfil(ctx, pub, e.Zone, e.ID, nil)
		var p *protocol.Problem
		if errors.As(err, &p) {
			s.opts.Logger.Warn("git approves a node that cannot be enrolled", "zone", e.Zone, "node", e.Node, "error",
				err)
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// end removes a binding and gives its addresses back, unless it was replaced meanwhile.
func (s *Service) end(ctx context.Context, h *held, reason string) error {
	key := nodeKey{h.Binding.Zone, h.Binding.Node}
	revision, err := s.revisionOf(ctx, key, h)
	if err == nil {
		err = s.noteIfRevoked(ctx, s.opts.Published(), h)
	}
	if err == nil {
		err = s.opts.Buckets.Bindings.Remove(ctx, s.bindingKey(key), revision)
	}
	if errors.Is(err, errAgain) || errors.Is(err, store.ErrConflict) {
		return s.refresh(ctx, key)
	}
	if err != nil {
		return err
	}
	s.opts.Metrics.left.WithLabelValues(s.opts.Network, reason).Inc()
	s.opts.Logger.Info("binding ended", "zone", key.zone, "node", key.node, "reason", reason)
	if s.bindings.remove(key, 0) {
		s.opts.Changed()
	}
	s.present.forget(key)
	s.release(key, h.Binding.Addresses)
	return nil
}

// presence is which nodes watch this controller, and since when ephemeral ones watch none.
type presence struct {
	mu   sync.Mutex
	open map[nodeKey]int
	told map[nodeKey]time.Time // when the store was told last that the node is here
	seen map[nodeKey]bool      // was connected somewhere since this controller started
	away map[nodeKey]time.Time
}

func newPresence() *presence {
	return &presence{open: map[nodeKey]int{}, told: map[nodeKey]time.Time{}, seen: map[nodeKey]bool{},
		away: map[nodeKey]time.Time{}}
}

// Connected says that a node watches; the function it gives says that it no longer does.
func (s *Service) Connected(zone, node string) (disconnected func()) {
	key := nodeKey{zone, node}
	h := s.bindings.get(key)
	if h == nil {
		return func() {} // a node of git
	}
	s.present.change(key, 1)
	if h.Binding.Ephemeral {
		s.Nudge()
	}
	return func() { s.present.change(key, -1) }
}

func (p *presence) change(key nodeKey, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[key] += by; p.open[key] <= 0 {
		delete(p.open, key)
	} else {
		p.seen[key] = true
	}
}

func (p *presence) connected(key nodeKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[key] > 0
}

// connected says whether a node watches this controller, or another as far as the store knows: it is told of ephemeral ones.
func (s *Service) connected(ctx context.Context, h *held) (bool, error) {
	key := nodeKey{h.Binding.Zone, h.Binding.Node}
	if s.present.connected(key) || !h.Binding.Ephemeral {
		return s.present.connected(key), nil
	}
	elsewhere := false
	err := s.opts.Buckets.Presence.Each(ctx, s.bindingKey(key), func(at string, _ []byte) error {
		elsewhere = elsewhere || !strings.HasSuffix(at, "."+s.opts.Replica)
		return nil
	})
	return elsewhere, err
}

func (p *presence) forget(key nodeKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.seen, key)
	delete(p.away, key)
	delete(p.told, key)
}

// absent notes at now whether a node is connected anywhere, and says for how long it has not been.
func (p *presence) absent(key nodeKey, here bool, now time.Time) (away time.Duration, seen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if here {
		p.seen[key] = true
		delete(p.away, key)
		return 0, true
	}
	since, ok := p.away[key]
	if !ok {
		since = now
		p.away[key] = now
	}
	return now.Sub(since), p.seen[key]
}

// sayPresent tells the store which ephemeral nodes watch this controller: another one may be the leader.
func (s *Service) sayPresent(ctx context.Context, now time.Time) error {
	var errs []error
	for _, h := range s.ephemeral() {
		key := nodeKey{h.Binding.Zone, h.Binding.Node}
		at := s.bindingKey(key) + "." + s.opts.Replica
		switch s.present.tell(key, now) {
		case tellHere:
			errs = append(errs, s.opts.Buckets.Presence.Put(ctx, at, nil))
		case tellGone:
			errs = append(errs, s.opts.Buckets.Presence.Delete(ctx, at))
		}
	}
	return errors.Join(errs...)
}

// What the store is to be told of a node.
const (
	tellNothing = iota
	tellHere
	tellGone
)

// tell says what the store is to be told at now, and notes that it was.
func (p *presence) tell(key nodeKey, now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	told, ok := p.told[key]
	switch here := p.open[key] > 0; {
	case here && (!ok || now.Sub(told) >= presenceLife/3):
		p.told[key] = now
		return tellHere
	case !here && ok:
		delete(p.told, key)
		return tellGone
	}
	return tellNothing
}

func (s *Service) ephemeral() []*held {
	return s.bindings.where(func(h *held) bool { return h.Binding.Ephemeral })
}

// endAbsent removes ephemeral nodes that have watched no controller for the grace. It counts from when this one first saw
// them away, so that a restart ends nobody.
func (s *Service) endAbsent(ctx context.Context, now time.Time) error {
	list := s.ephemeral()
	if len(list) == 0 {
		return nil
	}
	elsewhere := map[nodeKey]bool{}
	err := s.opts.Buckets.Presence.Each(ctx, s.opts.Network, func(key string, _ []byte) error {
		if parts := strings.Split(key, "."); len(parts) == 4 && parts[3] != s.opts.Replica {
			elsewhere[nodeKey{parts[1], parts[2]}] = true
		}
		return nil
	})
	if err != nil {
		return err // who is where is not known: nobody goes
	}
	var errs []error
	for _, h := range list {
		key := nodeKey{h.Binding.Zone, h.Binding.Node}
		away, seen := s.present.absent(key, s.present.connected(key) || elsewhere[key], now)
		if away < s.opts.EphemeralGrace || !seen && now.Sub(time.Unix(h.Binding.Issued, 0)) < firstConnect {
			continue
		}
		errs = append(errs, s.end(ctx, h, "disconnected"))
	}
	return errors.Join(errs...)
}
