package agent

import (
	"context"
	"slices"
	"time"

	"github.com/apex-network/apex/reconciler"
)

// aliveFor is how long after its last handshake a peer counts as alive: WireGuard renews a session that carries traffic
// every two minutes and lets it go after three.
const aliveFor = 3 * time.Minute

// summary is what the last look at the device showed.
type summary struct {
	taken        time.Time
	total, alive int
	rx, tx       int64
	aliveKeys    []reconciler.Key
}

// sampleLoop looks at the peers' handshakes now and then: for the report, for the probe of the next change, and to move
// on peers whose endpoint does not answer. Reading ten thousand peers costs 60 ms, so the pause grows with their number.
func (z *zone) sampleLoop(ctx context.Context) {
	for {
		total := z.sample(ctx)
		if !sleep(ctx, jittered(z.opt.Times.Sample+time.Duration(total)*10*time.Millisecond)) {
			return
		}
	}
}

func (z *zone) sample(ctx context.Context) int {
	peers, err := z.engine.Peers(ctx)
	if err != nil {
		return 0 // there is no device yet
	}
	now := z.now()
	s := summary{taken: now, total: len(peers)}
	for _, p := range peers {
		s.rx, s.tx = s.rx+p.RxBytes, s.tx+p.TxBytes
		if !p.LastHandshake.IsZero() && now.Sub(p.LastHandshake) < aliveFor {
			s.alive++
			s.aliveKeys = append(s.aliveKeys, p.PublicKey)
		}
	}
	s.aliveKeys = slices.Clip(s.aliveKeys)
	moved := false
	for _, m := range z.standing.sampled(s, peers, now) {
		if z.resolver.Failed(m.name, m.endpoints) {
			z.log.Info("peer does not answer; trying its next endpoint", "peer", m.name)
			moved = true
		}
	}
	if moved {
		poke(z.moved)
	}
	return s.total
}

// follow takes the peers that can be moved, keeping what is known of those that were there before.
func (s *standing) follow(next map[reconciler.Key]movable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, m := range next {
		if old, ok := s.movable[key]; ok {
			m.sent = old.sent
			next[key] = m
		}
	}
	s.movable = next
}

// sampled files a sample and gives the movable peers that do not answer: no handshake for aliveFor, although something
// was sent to them since the last look.
func (s *standing) sampled(sum summary, peers []reconciler.PeerStatus, now time.Time) []movable {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = sum
	var silent []movable
	for _, p := range peers {
		m, ok := s.movable[p.PublicKey]
		if !ok {
			continue
		}
		if p.TxBytes > m.sent && (p.LastHandshake.IsZero() || now.Sub(p.LastHandshake) >= aliveFor) {
			silent = append(silent, m)
		}
		m.sent = p.TxBytes
		s.movable[p.PublicKey] = m
	}
	return silent
}

// alive lists the peers that were alive at the last look.
func (s *standing) alive() []reconciler.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers.aliveKeys
}
