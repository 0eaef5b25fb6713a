package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/apex-network/apex/reconciler"
)

// probe decides whether a changed host still works. It asks for what the change could have broken and for nothing else,
// so that the common change (a peer more, a rule less) costs no connection and no look at ten thousand peers:
//
//   - the controller, over a new connection, if it was reachable before, and if either the host's addresses, routes or
//     interface change, or the controller is reached through this very zone;
//   - the sessions of peers that were alive, if the change touches the device or the record of one of them. A session
//     that is kept keeps its last handshake; one that was lost has the bound to come back. The probe fails if none of
//     them is there: one peer may have died by itself at that moment, all of them hardly.
type probe struct {
	z          *zone
	controller bool // it was reachable before
	alive      []reconciler.Key
	lost       atomic.Bool // the controller did not answer
}

// newProbe notes how things are before the change.
func (z *zone) newProbe() *probe {
	return &probe{z: z, controller: z.standing.isConnected(), alive: z.standing.alive()}
}

// prepare gives the probe for a change to next; nil if nothing of this kind can break.
func (p *probe) prepare(next reconciler.State) reconciler.Probe {
	p.lost.Store(false)
	old, ok := p.z.engine.Confirmed()
	if !ok {
		old = reconciler.State{}
	}
	controller := p.controller && mayCutOff(old, next, p.z.client.Remote().Addr())
	var sessions []reconciler.Key
	if ok {
		sessions = touched(old, next, p.alive)
	}
	if !controller && len(sessions) == 0 {
		return nil
	}
	return func(ctx context.Context) error {
		bound := p.z.opt.Times.ProbeBound
		whole, cancel := context.WithTimeout(ctx, bound)
		defer cancel()
		if controller {
			most, cancel := context.WithTimeout(ctx, bound-bound/4)
			defer cancel()
			err := until(most, ctx, bound/4, p.z.client.Reachable)
			if isShortage(err) {
				return fmt.Errorf("%w: %w", errBlind, err)
			}
			if err != nil {
				p.lost.Store(true)
				return fmt.Errorf("the controller cannot be reached any more: %w", err)
			}
		}
		if len(sessions) > 0 {
			return until(whole, ctx, bound/4, func(ctx context.Context) error { return p.sessions(ctx, sessions) })
		}
		return nil
	}
}

// cutOff says whether the probe failed because the controller did not answer.
func (p *probe) cutOff() bool { return p.lost.Load() }

// isShortage says whether this host lacked what it takes to ask at all.
func isShortage(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// until tries check until it holds or tries ends, and then for as long as last, and gives the last error. The time of last
// begins with it, for a machine that stood still until tries ended has not looked in that time, and nothing could come: what
// it did not see condemns nothing.
func until(tries, ctx context.Context, last time.Duration, check func(context.Context) error) error {
	if repeat(tries, check) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, last)
	defer cancel()
	return repeat(ctx, check)
}

// repeat tries check until it holds or ctx ends, and gives its last error.
func repeat(ctx context.Context, check func(context.Context) error) error {
	pause := newBackoff(50*time.Millisecond, 2*time.Second)
	for {
		err := check(ctx)
		if err == nil || !sleep(ctx, pause.next()) {
			return err
		}
	}
}

// sessions wants at least one of the peers to have a handshake.
func (p *probe) sessions(ctx context.Context, keys []reconciler.Key) error {
	peers, err := p.z.engine.Peers(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errBlind, err)
	}
	wanted := make(map[reconciler.Key]bool, len(keys))
	for _, key := range keys {
		wanted[key] = true
	}
	for _, peer := range peers {
		if !peer.LastHandshake.IsZero() && wanted[peer.PublicKey] {
			return nil
		}
	}
	return errors.New("no peer that was alive before has a session any more")
}

// mayCutOff says whether a change from old to next can come between the host and the controller at addr.
func mayCutOff(old, next reconciler.State, addr netip.Addr) bool {
	if !sameDevice(old, next) || !sameSet(old.Addresses, next.Addresses) || !sameSet(old.Routes, next.Routes) {
		return true
	}
	return slices.ContainsFunc(next.Routes, func(r reconciler.Route) bool { return r.Prefix.Contains(addr) })
}

// sameDevice compares the interfaces. A confirmed state comes without its private key, and the process has but one.
func sameDevice(a, b reconciler.State) bool {
	a.Interface.PrivateKey, b.Interface.PrivateKey = reconciler.PrivateKey{}, reconciler.PrivateKey{}
	return a.Interface == b.Interface
}

func sameSet[T comparable](a, b []T) bool {
	if len(a) != len(b) {
		return false
	}
	in := make(map[T]struct{}, len(a))
	for _, v := range a {
		in[v] = struct{}{}
	}
	for _, v := range b {
		if _, ok := in[v]; !ok {
			return false
		}
	}
	return true
}

// touched lists those of the keys that stay peers while their record, or the device itself, changes.
func touched(old, next reconciler.State, keys []reconciler.Key) []reconciler.Key {
	if len(keys) == 0 {
		return nil
	}
	device := !sameDevice(old, next)
	before := index(old.Peers, keys)
	after := index(next.Peers, keys)
	var out []reconciler.Key
	for _, key := range keys {
		was, now := before[key], after[key]
		if was != nil && now != nil && (device || !samePeer(was, now)) {
			out = append(out, key)
		}
	}
	return out
}

func index(peers []reconciler.Peer, keys []reconciler.Key) map[reconciler.Key]*reconciler.Peer {
	out := make(map[reconciler.Key]*reconciler.Peer, len(keys))
	for _, key := range keys {
		out[key] = nil
	}
	for i := range peers {
		if _, wanted := out[peers[i].PublicKey]; wanted {
			out[peers[i].PublicKey] = &peers[i]
		}
	}
	return out
}

// samePeer compares what the device holds of a peer. An endpoint that is not given says nothing.
func samePeer(a, b *reconciler.Peer) bool {
	return a.Keepalive == b.Keepalive && (a.Endpoint == b.Endpoint || !b.Endpoint.IsValid()) && sameSet(a.AllowedIPs, b.AllowedIPs)
}
