// Package verify decides which commits of a network repository are accepted. Stored objects and a starting point go in,
// a verdict per commit comes out. It is pure: no storage, no network, and no clock, for whether a signature counts is
// said by the trust root in git and not by the date.
//
//	frontier ──▶ commit ──▶ commit ──▶ merge ──▶ … ──▶ head        the first-parent line, each judged by the trust
//	   │                                ▲                            root as of its first parent
//	   └── side commit ──▶ side commit ─┘                          judged by its own first parent's root, and by the
//	                                                               root of the line where it is merged
//
// Every commit between frontier and head is judged, not just the tip. The rules are written down in
// docs/design/git-verification.md.
package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// MaxRange is the most commits that one call judges, and MaxHistory the most it looks at.
const (
	MaxRange   = 100_000
	MaxHistory = 2_000_000
)

// Trust is what the caller knows from outside git.
type Trust struct {
	// Network is the network's name, which every trust root repeats.
	Network string
	// Pin is the digest of the first trust root (trust/roots/1.json, its payload).
	Pin peermap.Digest
	// Zones names the zones of the documents in a file: "" for a document without one, such as Network. It is asked only
	// about files under maintainer rules that limit zones. Default: SpecZones.
	Zones func(spec.File) ([]string, error)
}

// Frontier is the last commit that was verified and accepted, with the trust root as of it. It persists as JSON. The
// zero value stands for "nothing yet": Range then starts at the commit that brings in the pinned first trust root.
type Frontier struct {
	Commit      string         `json:"commit"`
	RootVersion uint64         `json:"rootVersion"`
	RootDigest  peermap.Digest `json:"rootDigest"`
}

// CommitVerdict says what was decided about one commit, and why.
type CommitVerdict struct {
	Commit  string `json:"commit"`
	Subject string `json:"subject"`
	// Signer is the name of the key in the trust root; empty if no listed key signed.
	Signer string `json:"signer,omitempty"`
	// Paths are the paths that the signer had to be allowed to change: for a merge, only those it did not take over.
	Paths []string `json:"paths,omitempty"`
	// Rule names the maintainer rules or roles that allow it, comma-separated.
	Rule     string `json:"rule,omitempty"`
	Accepted bool   `json:"accepted"`
	// Code is stable; Reason is for people and says what to do.
	Code   Code   `json:"code"`
	Reason string `json:"reason"`
	// Via is the merge that brought a side commit in.
	Via string `json:"via,omitempty"`
	// Sealed says that the commit was not judged: root keys vouch for it.
	Sealed bool `json:"sealed,omitempty"`
	// AllowShrink are the zones whose shrinking the commit allows (trailer Apex-Allow-Shrink), as far as its signer may.
	AllowShrink []string `json:"allowShrink,omitempty"`
}

// Result is what Range found.
type Result struct {
	// Accepted is the furthest commit on the line up to which everything is accepted: head, if there was no refusal.
	Accepted Frontier
	// Root is the trust root as of Accepted, Chain its signed envelopes, version 1 first. Nil if nothing is accepted.
	Root  *signer.Root
	Chain [][]byte
	// Commits are the verdicts, oldest first; side commits stand before the merge that brings them. What comes after a
	// refusal has CodeNotJudged, the first thousand of them.
	Commits []CommitVerdict
	// AllowShrink unites the AllowShrink of the accepted commits, sorted.
	AllowShrink []string
}

// Range judges every commit between frontier and head. If one is refused the error is a *Refusal (errors.Is
// ErrRefused), and the result says how far the line is good. Other errors mean that nothing could be decided: an object
// is missing or damaged, or ctx ended. Ids are 40 hex digits.
func Range(ctx context.Context, src gitobject.Objects, trust Trust, frontier Frontier, head string) (Result, error) {
	s := newSession(ctx, src, trust)
	if frontier.Commit == head && head != "" {
		return s.standing(frontier)
	}
	r := run{session: s}
	tip, err := s.commit(head)
	if err != nil {
		return r.refused(&gitobject.Commit{ID: head}, err)
	}
	if err := r.locate(frontier, tip); err != nil {
		return r.refused(tip, err)
	}
	if err := r.line(); err != nil {
		return r.result, err
	}
	return r.result, nil
}

// standing reloads the trust root of a frontier that is still the head.
func (s *session) standing(f Frontier) (Result, error) {
	c, err := s.commit(f.Commit)
	if err != nil {
		return Result{}, err
	}
	state, err := s.frontierState(f, c)
	if err != nil {
		return Result{}, err
	}
	return Result{Accepted: f, Root: state.dir.Root, Chain: state.dir.Chain}, nil
}

// frontierState loads the trust root at a frontier and compares it with what the frontier remembers.
func (s *session) frontierState(f Frontier, c *gitobject.Commit) (*trustState, error) {
	state, err := s.trustAt(c)
	if err != nil {
		return nil, err
	}
	if state.err != nil {
		return nil, fmt.Errorf("trust root at the frontier %s: %w", f.Commit, state.err)
	}
	if root := state.dir.Root; root.Version != f.RootVersion || root.Digest() != f.RootDigest {
		return nil, fmt.Errorf("the frontier %s remembers trust root version %d (%s), the commit holds version %d (%s): the stored frontier is damaged or of another network",
			f.Commit, f.RootVersion, f.RootDigest, root.Version, root.Digest())
	}
	return state, nil
}

// run is one pass along the line.
type run struct {
	*session
	result  Result
	commits []string // the line, oldest first
	// vouched is the index before which Accepted may not move: a seal further on vouches for a bridged range, and is
	// judged itself only when the pass reaches it.
	vouched int
}

// locate finds the line from the frontier (exclusive), or from the start commit (inclusive), to the tip.
func (r *run) locate(f Frontier, tip *gitobject.Commit) error {
	if f.Commit == "" {
		return r.locateStart(tip)
	}
	c, err := r.commit(f.Commit)
	if err != nil {
		return fmt.Errorf("frontier: %w", err)
	}
	state, err := r.frontierState(f, c)
	if err != nil {
		return err
	}
	line, found, err := r.firstParents(tip.ID, f.Commit)
	if err != nil {
		return err
	}
	if !found {
		return r.explainRewrite(f.Commit, tip)
	}
	r.commits = line
	r.result.Accepted, r.result.Root, r.result.Chain = f, state.dir.Root, state.dir.Chain
	return nil
}

// explainRewrite tells a force-push from a merge made the wrong way round.
func (r *run) explainRewrite(frontier string, tip *gitobject.Commit) error {
	inside, err := r.isAncestor(frontier, tip.ID)
	if err != nil {
		return err
	}
	if inside {
		return refusef(CodeWrongWay, "the accepted commit %s is not on the first-parent line of %s: the branch was merged the wrong way round (main into the feature, pushed as main). Reset the branch to %s and merge the feature into it",
			short(frontier), short(tip.ID), short(frontier))
	}
	return refusef(CodeForcePush, "the branch was rewritten: %s does not descend from the accepted commit %s. Push a branch that contains %s; undo changes with new commits (git revert), not by rewriting",
		short(tip.ID), short(frontier), short(frontier))
}

// locateStart finds the oldest commit on the line that holds the pinned first trust root.
func (r *run) locateStart(tip *gitobject.Commit) error {
	line, _, err := r.firstParents(tip.ID, "")
	if err != nil {
		return err
	}
	for i, id := range line {
		pinned, err := r.holdsPin(id)
		if err != nil {
			return err
		}
		if pinned {
			r.commits = line[i:]
			return nil
		}
	}
	return refusef(CodeNoRoot, "no commit of the branch brings in a trust root with the pinned digest %s. Check the pin and the branch; `apex trust init` creates a first trust root", r.trust.Pin)
}

// line judges the commits one by one, bridging what a seal vouches for.
func (r *run) line() error {
	for i := 0; i < len(r.commits); i++ {
		before := len(r.result.Commits)
		c, err := r.commit(r.commits[i])
		if err != nil {
			return err
		}
		if err = r.step(c); err == nil {
			r.advance(i)
			continue
		}
		var refused *refusal
		if !errors.As(asRefusal(err), &refused) {
			return err
		}
		seal, to, why, serr := r.bridge(i)
		if serr != nil {
			return serr
		}
		if seal == nil {
			refused.reason += why
			_, err := r.refused(c, refused)
			return errors.Join(err, r.list(i+1, min(len(r.commits), i+1+maxListed), CommitVerdict{Code: CodeNotJudged,
				Reason: "not judged: an earlier commit is refused"}))
		}
		r.result.Commits = r.result.Commits[:before]
		if err := r.list(i, to+1, CommitVerdict{Accepted: true, Sealed: true, Code: CodeSealed,
			Reason: fmt.Sprintf("not judged: sealed by commit %s", short(seal.ID))}); err != nil {
			return err
		}
		i, r.vouched = to, max(r.vouched, slices.Index(r.commits, seal.ID))
	}
	return nil
}

// advance moves Accepted to commit i, unless a seal that vouches for an earlier range is still to be judged.
func (r *run) advance(i int) {
	if i < r.vouched {
		return
	}
	id := r.commits[i]
	state := r.trusts[id] // step has loaded it
	r.result.Root, r.result.Chain = state.dir.Root, state.dir.Chain
	r.result.Accepted = Frontier{Commit: id, RootVersion: state.dir.Root.Version, RootDigest: state.dir.Root.Digest()}
	r.result.AllowShrink = nil
	for _, v := range r.result.Commits {
		r.result.AllowShrink = union(r.result.AllowShrink, v.AllowShrink)
	}
}

// refused records the verdict on c, if err refuses it, and gives the *Refusal to return; other errors pass through.
func (r *run) refused(c *gitobject.Commit, err error) (Result, error) {
	var refused *refusal
	if !errors.As(asRefusal(err), &refused) {
		return Result{}, err
	}
	v := refused.verdict(c)
	if n := len(r.result.Commits); n > 0 && r.result.Commits[n-1].Commit == c.ID {
		r.result.Commits = r.result.Commits[:n-1]
	}
	r.result.Commits = append(r.result.Commits, v)
	return r.result, &Refusal{Verdict: v}
}

// maxListed is the most commits listed as not judged after a refusal.
const maxListed = 1000

// list records the same verdict for a part of the line.
func (r *run) list(from, to int, v CommitVerdict) error {
	for _, id := range r.commits[from:to] {
		c, err := r.commit(id)
		if err != nil {
			return err
		}
		v.Commit, v.Subject = id, c.Subject()
		r.result.Commits = append(r.result.Commits, v)
	}
	return nil
}
