package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/internal/protocol"
)

// sync brings what is published in line with the branch, whose head was fetched, or could not be:
//
//	verify ─▶ load ─▶ validate ─▶ test ─▶ admit bindings ─▶ compile ─▶ shrink guard ─▶ publish
//
// A commit that fails at any stage changes nothing but the status; what is published stays. A branch whose head was
// judged before costs nothing.
func (n *network) sync(ctx context.Context, head string, failed error) error {
	start := time.Now()
	n.noteFetch(head, failed)
	if failed != nil {
		if ctx.Err() == nil {
			n.log.Warn("repository not fetched", "error", failed)
		}
		n.metrics.fetchFailures.WithLabelValues(n.cfg.Name).Inc()
		// Rules and bindings end, and nodes enrol, whether the repository can be reached or not.
		if err := n.resume(ctx); err != nil || !n.expired() {
			return errors.Join(&build.Refusal{Stage: build.StageFetch, Err: failed}, err)
		}
		return n.recompile(ctx)
	}
	if head == n.judged {
		return n.keepUp(ctx)
	}
	if head == n.state.Frontier.Commit && head == n.compiled {
		err := n.keep(ctx)
		n.noteVerdict(head, err)
		if err != nil {
			return err
		}
		return n.keepUp(ctx)
	}
	err := n.take(ctx, head)
	n.noteVerdict(head, err)
	n.metrics.syncSeconds.WithLabelValues(n.cfg.Name).Observe(time.Since(start).Seconds())
	if err != nil && ctx.Err() == nil {
		if err := n.resume(ctx); err != nil {
			n.log.Error("the accepted commit cannot be taken up again", "commit", n.state.Frontier.Commit, "error", err)
		}
	}
	return err
}

// keepUp keeps what is accepted, and compiles it again if something in it has ended.
func (n *network) keepUp(ctx context.Context) error {
	if err := n.keep(ctx); err != nil {
		return err
	}
	if err := n.resume(ctx); err != nil || !n.expired() {
		return err
	}
	return n.recompile(ctx)
}

// resume takes up the commit that was accepted before a restart, from the clone, when nothing newer can be.
func (n *network) resume(ctx context.Context) error {
	if n.current != nil || !n.state.accepted() {
		return nil
	}
	return n.take(ctx, n.state.Frontier.Commit)
}

// expired says whether a rule or binding has ended since the last compile.
func (n *network) expired() bool { return !n.expiry.IsZero() && !n.now().Before(n.expiry) }

// take accepts head or says why not.
func (n *network) take(ctx context.Context, head string) error {
	began := time.Now()
	result, err := n.builder.Verify(ctx, n.state.Frontier, head)
	if err != nil {
		return err
	}
	asOf := n.now().Truncate(time.Second)
	loaded, err := n.builder.Load(ctx, head, asOf)
	if err != nil {
		return err
	}
	for _, w := range loaded.Warnings {
		n.log.Debug("warning", "commit", head, "at", w.Position.String(), "code", w.Code, "message", w.Message)
	}
	if head != n.state.Frontier.Commit {
		// A commit that is accepted stays accepted when a rule ends: what its tests say then is for people to mend, and no
		// reason to keep the rule alive.
		if err := n.builder.Test(loaded, asOf); err != nil {
			return err
		}
	}
	out, version, err := n.join(loaded, result.Root, asOf, true)
	if err != nil {
		return err
	}
	allowed := append(slices.Clone(n.state.AllowShrink), result.AllowShrink...)
	if err := loaded.Guard(n.members(), out.Zones, out.Admitted.Rejected, allowed); err != nil {
		return err
	}
	n.log.Info("accepted", "commit", head, "rootVersion", result.Root.Version, "zones", out.Stats.Zones, "classes", out.Stats.Classes,
		"blocks", out.Stats.Blocks, "views", out.Stats.Views)
	a := &accepted{loaded: loaded, root: result.Root, frontier: result.Accepted, chain: result.Chain, allowed: allowed}
	if err := n.publish(ctx, a, out, version); err != nil {
		return err
	}
	n.caughtUp(began)
	return nil
}

// members are those of what is published, for the shrink guard.
func (n *network) members() map[string]build.Members {
	out := map[string]build.Members{}
	for _, z := range n.publisher.Zones() {
		if s, _ := z.Snapshot(); s != nil {
			var m build.Members
			m.Static, m.Enrolled = s.Members()
			out[z.Name] = m
		}
	}
	return out
}

// publish gives the zones to the publisher and, once nothing can be lost any more, moves the frontier.
func (n *network) publish(ctx context.Context, a *accepted, out *build.Outcome, version uint64) error {
	// The chain is kept and served before what was made under its newest root: after a crash in between, generations would
	// be served whose root is not.
	next := &state{Frontier: n.state.Frontier, Chain: a.chain, AllowShrink: n.state.AllowShrink}
	if len(a.chain) > len(n.state.Chain) {
		if err := n.keepState(ctx, next); err != nil {
			return &build.Refusal{Stage: build.StageSign, Err: err}
		}
	}
	n.mu.Lock()
	n.state, n.left = next, rejections(out, n.unwitnessed.left)
	n.mu.Unlock()
	err := n.publisher.Publish(ctx, out.Zones, a.root)
	nudge(n.wake)
	// A zone that cannot be signed keeps nobody from enrolling in the others.
	n.current = a
	if n.published.Swap(a) == nil {
		nudge(n.began)
	}
	if n.enrolment != nil {
		n.enrolment.Nudge()
	}
	if err != nil {
		n.metrics.signFailures.WithLabelValues(n.cfg.Name).Inc()
		return &build.Refusal{Stage: build.StageSign, Err: err}
	}
	accepted := &state{Frontier: a.frontier, Chain: a.chain, AllowShrink: n.stillAllowed(a.allowed, a.frontier.Commit)}
	n.unkept = n.unkept || !accepted.equal(n.state)
	n.mu.Lock()
	n.state = accepted
	n.mu.Unlock()
	n.compiled, n.expiry, n.seen = a.frontier.Commit, out.Next, version
	return n.keep(ctx)
}

// keep writes the record of what is accepted, unless that is done: what fails is tried again at the next look at the branch.
func (n *network) keep(ctx context.Context) error {
	if !n.unkept {
		return nil
	}
	if err := n.keepState(ctx, n.state); err != nil {
		return &build.Refusal{Stage: build.StageSign, Err: err}
	}
	n.unkept = false
	return nil
}

// stillAllowed keeps the permission to shrink of zones that have not published the commit yet: they wait for witnesses or
// are suspended.
func (n *network) stillAllowed(zones []string, commit string) []string {
	var out []string
	for _, name := range zones {
		z, ok := n.publisher.Zone(name)
		if !ok || slices.Contains(out, name) {
			continue
		}
		if s, _ := z.Snapshot(); s != nil && s.Manifest.Commit != commit {
			out = append(out, name)
		}
	}
	return out
}

func (n *network) noteFetch(head string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fetch = err
	if err == nil {
		n.head, n.fetched = head, n.now()
	}
}

// noteVerdict remembers what became of a head.
func (n *network) noteVerdict(head string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		if n.refused == nil || n.refused.Commit == head || n.head == head {
			n.refused = nil
		}
		n.judged = ""
		return
	}
	r := &protocol.Refusal{Commit: head, Stage: string(build.StageVerify), Reason: err.Error(), Since: n.now().UTC()}
	var refusal *build.Refusal
	if errors.As(err, &refusal) {
		r.Stage, r.Reason = string(refusal.Stage), refusal.Err.Error()
		if r.Final = refusal.Final; r.Final {
			n.judged = head
		}
	}
	if old := n.refused; old != nil && old.Commit == head && old.Stage == r.Stage {
		r.Since = old.Since
	} else {
		n.log.Error("commit refused, what is published stays", "commit", head, "stage", r.Stage, "reason", r.Reason)
	}
	n.refused = r
}
