package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/compile"
)

// syncTimeout bounds one pass, so that a repository that hangs is a failure and not the end of the loop.
const syncTimeout = 15 * time.Minute

// sync brings what is published in line with the branch:
//
//	fetch ─▶ verify ─▶ load ─▶ validate ─▶ test ─▶ compile ─▶ shrink guard ─▶ publish
//
// A commit that fails at any stage changes nothing but the status; what is published stays. A branch whose head was
// judged before costs a fetch.
func (n *network) sync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	start := time.Now()
	head, err := n.src.Fetch(ctx)
	n.noteFetch(head, err)
	if err != nil {
		if ctx.Err() == nil {
			n.log.Warn("repository not fetched", "error", err)
		}
		n.metrics.fetchFailures.WithLabelValues(n.cfg.Name).Inc()
		// Rules end whether the repository can be reached or not.
		if !n.expired() || !n.state.accepted() {
			return &build.Refusal{Stage: build.StageFetch, Err: err}
		}
		head = n.state.Frontier.Commit
	}
	switch {
	case head == n.judged:
		if !n.expired() {
			return nil
		}
		head = n.state.Frontier.Commit
	case head == n.state.Frontier.Commit && head == n.compiled && !n.expired():
		n.noteVerdict(head, nil)
		return nil
	}
	err = n.take(ctx, head)
	n.noteVerdict(head, err)
	n.metrics.syncSeconds.WithLabelValues(n.cfg.Name).Observe(time.Since(start).Seconds())
	return err
}

// expired says whether a rule has ended since the last compile.
func (n *network) expired() bool { return !n.expiry.IsZero() && !n.now().Before(n.expiry) }

// take accepts head or says why not.
func (n *network) take(ctx context.Context, head string) error {
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
	zones, stats, err := n.builder.Compile(loaded, result.Root, asOf)
	if err != nil {
		return err
	}
	allowed := append(slices.Clone(n.state.AllowShrink), result.AllowShrink...)
	if err := n.checkShrink(loaded, zones, allowed); err != nil {
		return err
	}
	n.log.Info("accepted", "commit", head, "rootVersion", result.Root.Version, "zones", stats.Zones, "classes", stats.Classes,
		"blocks", stats.Blocks, "views", stats.Views)
	return n.publish(ctx, result.Accepted, result.Chain, result.Root, zones, allowed, loaded.NextExpiry(asOf))
}

// publish gives the zones to the publisher and, once nothing can be lost any more, moves the frontier.
func (n *network) publish(ctx context.Context, frontier verify.Frontier, chain [][]byte, root *signer.Root, zones map[string]*compile.Zone, allowed []string, expiry time.Time) error {
	// The chain is kept and served before what was made under its newest root: after a crash in between, generations would
	// be served whose root is not.
	next := &state{Frontier: n.state.Frontier, Chain: chain, AllowShrink: n.state.AllowShrink}
	if len(chain) > len(n.state.Chain) {
		if err := next.save(n.statePath); err != nil {
			return &build.Refusal{Stage: build.StageSign, Err: err}
		}
	}
	n.mu.Lock()
	n.state = next
	n.mu.Unlock()
	err := n.publisher.Publish(ctx, zones, root)
	nudge(n.wake)
	if err != nil {
		n.metrics.signFailures.WithLabelValues(n.cfg.Name).Inc()
		return &build.Refusal{Stage: build.StageSign, Err: err}
	}
	accepted := &state{Frontier: frontier, Chain: chain, AllowShrink: n.stillAllowed(allowed, frontier.Commit)}
	n.mu.Lock()
	n.state = accepted
	n.mu.Unlock()
	n.compiled, n.expiry = frontier.Commit, expiry
	if err := accepted.save(n.statePath); err != nil {
		return &build.Refusal{Stage: build.StageSign, Err: err}
	}
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

// checkShrink refuses a commit that takes too much away without saying so.
func (n *network) checkShrink(l *build.Loaded, zones map[string]*compile.Zone, allowed []string) error {
	limit := l.MaxShrinkPercent()
	var over []error
	for _, s := range n.publisher.Shrinkages(zones) {
		if (s.Emptied() || s.Percent > limit) && !slices.Contains(allowed, s.Zone) {
			over = append(over, errors.New(describeShrinkage(s, limit)))
		}
	}
	if len(over) > 0 {
		return &build.Refusal{Stage: build.StageShrink, Err: errors.Join(over...), Final: true}
	}
	return nil
}

func describeShrinkage(s publish.Shrinkage, limit int) string {
	return fmt.Sprintf("%s, the network allows %d %%: if that is meant, add a signed commit with the trailer \"Apex-Allow-Shrink: %s\"", s, limit, s.Zone)
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
		if refusal.Final {
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
