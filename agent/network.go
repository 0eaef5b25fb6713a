package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/apex-network/apex/agent/desired"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// errStep says that the stream itself is fine, but that what it brought, or failed to bring, calls for a full step.
var errStep = errors.New("a full step is needed")

// networkLoop alone talks to controllers and verifies. Its states:
//
//	            a generation is held, or the trust roots are           held is what is current
//	starting ───────────────────────────────────────────▶ watching ◀──────────────────────── stepping (Sync)
//	                                                      │  ▲  │ timestamp, update,               ▲  ▲
//	                                                      │  └──┘ heartbeat                        │  │
//	                                                      ├── a frame of no use, stale, silence ───┘  │
//	                                                      └── stream broken ──▶ pausing ──────────────┘
//	                                                                     (back-off, next controller)
//
// A connection begins with the watch itself, which brings whatever is newer: a restarted controller is asked one thing, and
// a new host needs but the trust roots before it. Where a watch brings nothing at all (a proxy that does not stream), every
// attempt is a full step: polling.
func (z *zone) networkLoop(ctx context.Context) {
	pause := newBackoff(z.opt.Times.BackoffMin, z.opt.Times.BackoffMax)
	first, step := !z.follower.Current().Complete(), false
	walked := z.now()
	for ctx.Err() == nil {
		if z.member.Left() {
			z.rest(ctx)
			step = true
			continue
		}
		heard, err := z.follow(ctx, first, step, &walked)
		if heard {
			pause.reset()
		}
		z.disconnected()
		first, step = false, true
		if ctx.Err() != nil || errors.Is(err, errStep) {
			continue
		}
		broken := errors.Is(err, fetch.ErrUnreachable) || errors.Is(err, fetch.ErrSlow)
		step = !(heard && broken && z.follower.Current().Complete())
		if errors.Is(err, fetch.ErrDenied) && z.otherIdentity() {
			continue
		}
		first = !z.follower.Current().Complete() && (errors.Is(err, fetch.ErrDenied) || errors.Is(err, fetch.ErrNotFound))
		z.networkFailed(err)
		if z.sleep(ctx, pause.next()) {
			pause.hurry() // the controller has just bound this node, and will publish it soon
		}
	}
}

// sleep waits; true if it was cut short because there is reason to ask again.
func (z *zone) sleep(ctx context.Context, d time.Duration) (hurry bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-z.hurry:
		return true
	}
	return false
}

// rest waits until a person takes this host into the zone again.
func (z *zone) rest(ctx context.Context) {
	for z.member.Left() && ctx.Err() == nil {
		z.sleep(ctx, z.opt.Times.Tick)
	}
}

// follow does a full step if one is needed, then watches until something ends that. It reports whether the watch brought
// anything. The first time on a host that holds nothing, it takes the trust roots and leaves all the rest to the watch.
func (z *zone) follow(ctx context.Context, first, step bool, walked *time.Time) (heard bool, err error) {
	switch {
	case first:
		if err := z.follower.Roots(ctx); err != nil {
			return false, err
		}
		*walked = z.now()
	case step:
		if _, err := z.follower.Sync(ctx); err != nil {
			return false, err
		}
		*walked = z.now()
		z.verified()
	}
	held, identity := z.follower.Current(), z.identity().Raw()
	watch, end := context.WithCancelCause(ctx)
	defer end(nil)
	// A host that holds nothing is told everything at once. Where a proxy keeps that back, a full step asks for it.
	overdue := time.AfterFunc(z.opt.Times.Grace, func() { end(errStep) })
	defer overdue.Stop()
	if !first {
		overdue.Stop()
	}
	stream, err := z.client.Watch(watch, held.State.ManifestDigest(), held.View)
	if err != nil {
		return false, err
	}
	defer stream.Close()
	for {
		message, err := stream.Next()
		if err != nil {
			return heard, err
		}
		overdue.Stop()
		heard = true
		z.connected()
		z.proven(identity)
		if z.member.Left() {
			return heard, errStep
		}
		if err := z.hear(ctx, message); err != nil {
			return heard, err
		}
		if !z.follower.Current().Complete() {
			return heard, errStep // the disk lost something
		}
		if z.now().Sub(*walked) >= z.opt.Times.RootWalk {
			if err := z.follower.Roots(ctx); err != nil {
				return heard, err
			}
			*walked = z.now()
		}
	}
}

// hear takes one message. A frame that fails is worth a full step, which then says what is wrong; a controller that keeps
// the stream up and lets its timestamps run out is left for another.
func (z *zone) hear(ctx context.Context, message protocol.Message) error {
	var err error
	switch {
	case message.Update != nil:
		_, err = z.follower.Update(ctx, message.Update)
	case message.Timestamp != nil:
		err = z.follower.Timestamp(ctx, message.Timestamp)
		if _, missing := z.follower.Current().State.Wanted(); err == nil && missing {
			return errStep
		}
	default:
		return z.heartbeat()
	}
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, fetch.ErrUnreachable) || errors.Is(err, follow.ErrStore) {
			return err
		}
		z.log.Warn("a message of the watch was refused", "error", err)
		z.standing.count(func(c *status.Counters) { c.Refused++ })
		if isAlarm(err) {
			return err
		}
		return errStep
	}
	z.verified()
	return nil
}

func (z *zone) heartbeat() error {
	t := z.follower.Current().State
	stamp, ok := t.Timestamp()
	if ok && z.now().Unix() >= stamp.Expires {
		z.client.Rotate()
		return errStep
	}
	return nil
}

// connected and disconnected keep the books of the watch, which counts as connected once it says something.
func (z *zone) connected() {
	if !z.standing.connect(true, z.now()) {
		return
	}
	z.log.Info("controller connected", "url", z.client.Controller())
	z.clear(status.Unreachable)
	z.clear(status.NotMember)
	z.member.Owned()
	poke(z.offered)
	poke(z.changed)
}

func (z *zone) disconnected() {
	if z.standing.connect(false, z.now()) {
		z.log.Info("controller disconnected")
	}
}

// verified follows every message that held: what was wrong before is over.
func (z *zone) verified() {
	z.clear(status.NotMember)
	z.clear(status.Refused)
	if z.follower.Current().Complete() {
		z.clear(status.CacheDamaged)
	}
	poke(z.offered)
}

// networkFailed raises the condition that says why nothing newer is trusted. Nothing here reaches the host.
func (z *zone) networkFailed(err error) {
	message := explain(err)
	switch {
	case errors.Is(err, follow.ErrStore):
		z.set(status.CacheDamaged, "WriteFailed", message)
	case errors.Is(err, follow.ErrNotReady):
		z.client.Rotate()
		z.set(status.Unreachable, "NotReady", message)
	case errors.Is(err, fetch.ErrDenied):
		z.client.Rotate()
		z.member.Disowned()
		z.set(status.NotMember, "ProofRefused", message)
	case errors.Is(err, fetch.ErrNotFound):
		z.client.Rotate()
		z.member.Disowned()
		z.set(status.NotMember, "NotFound", message)
	case errors.Is(err, fetch.ErrUnreachable), errors.Is(err, fetch.ErrSlow):
		reason := "NoAnswer"
		if errors.Is(err, fetch.ErrSlow) {
			reason = "TooSlow"
		} else if notReady(err) {
			reason = "NotReady"
		}
		z.set(status.Unreachable, reason, message)
	case isAlarm(err):
		z.client.Rotate()
		z.standing.count(func(c *status.Counters) { c.Refused++ })
		if z.standing.alarm(refusal(err), message, z.now()) {
			z.log.Error("TRUST ALARM", "reason", refusal(err), "message", message)
			poke(z.changed)
		}
		z.judge()
	default:
		z.client.Rotate()
		z.standing.count(func(c *status.Counters) { c.Refused++ })
		z.set(status.Refused, refusal(err), message)
	}
}

// notReady says whether the controller itself answered that it has nothing to serve yet.
func notReady(err error) bool {
	var problem *protocol.Problem
	return errors.As(err, &problem) && problem.Code == protocol.CodeNotReady
}

// isAlarm says whether no honest controller can have caused the error.
func isAlarm(err error) bool {
	for _, alarm := range []error{signer.ErrRollback, signer.ErrFork, signer.ErrRootSkip, signer.ErrPin, follow.ErrNoPinnedRoot} {
		if errors.Is(err, alarm) {
			return true
		}
	}
	return false
}

// refusal is the one-word reason for what was refused. The order matters where an error wraps several.
func refusal(err error) string {
	for _, row := range []struct {
		is     error
		reason string
	}{
		{signer.ErrRollback, "Rollback"},
		{signer.ErrFork, "Fork"},
		{signer.ErrRootSkip, "RootSkipped"},
		{signer.ErrPin, "WrongRoot"},
		{follow.ErrNoPinnedRoot, "WrongRoot"},
		{signer.ErrTooLarge, "TooLarge"},
		{peermap.ErrTooLarge, "TooLarge"},
		{protocol.ErrTooLarge, "TooLarge"},
		{fetch.ErrTooLarge, "TooLarge"},
		{signer.ErrThreshold, "TooFewSignatures"},
		{signer.ErrSignature, "BadSignature"},
		{signer.ErrWrongNetwork, "WrongNetwork"},
		{signer.ErrWrongZone, "WrongZone"},
		{signer.ErrWrongNode, "WrongNode"},
		{signer.ErrProof, "NotInGeneration"},
		{signer.ErrMismatch, "MixedGenerations"},
		{signer.ErrNewerRoot, "RootMissing"},
		{signer.ErrExpired, "Expired"},
		{signer.ErrFuture, "FromTheFuture"},
		{signer.ErrValidity, "LivesTooLong"},
		{desired.ErrClaim, "ClaimNotGranted"},
		{peermap.ErrDigest, "WrongBytes"},
		{protocol.ErrDelta, "WrongBytes"},
		{peermap.ErrMissing, "Incomplete"},
		{signer.ErrFormat, "Malformed"},
		{signer.ErrType, "Malformed"},
		{signer.ErrInvalidRoot, "Malformed"},
		{protocol.ErrMalformed, "Malformed"},
		{peermap.ErrNotCanonical, "Malformed"},
		{peermap.ErrInvalid, "ImpossibleMap"},
	} {
		if errors.Is(err, row.is) {
			return row.reason
		}
	}
	return "Failed"
}

// explain is an error as the message of a condition: one line, bounded, of what prints.
func explain(err error) string {
	text := []rune(strings.ReplaceAll(protocol.Shown(err.Error()), "\n", " "))
	const most = 480
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}

// jittered is d, give or take a tenth.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
