package verify

import (
	"errors"
	"fmt"
	"sort"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/signer"
)

// sideCommits judges the commits that a merge brings to the line. Each is judged twice: by the trust root as of its own
// first parent, and by the root of the line as of the merge. The first keeps a commit from authorising itself by what a
// later root says, the second keeps a departed signer from coming back through an old branch.
func (r *run) sideCommits(c *gitobject.Commit, line authority) error {
	if len(c.Parents) != 2 {
		return nil // ownChanges refuses more
	}
	side, _, err := r.graph.compare(c.Parents[0], c.Parents[1])
	if err != nil {
		return err
	}
	if len(side) > MaxRange {
		return fmt.Errorf("merge %s brings in more than %d commits: %w", c.ID, MaxRange, gitobject.ErrTooLarge)
	}
	var verdicts []CommitVerdict
	var first *CommitVerdict
	for _, id := range side {
		v, err := r.sideCommit(id, c.ID, line.prior.dir.Root)
		if err != nil {
			return err
		}
		verdicts = append(verdicts, v)
		if !v.Accepted && first == nil {
			first = &v
		}
	}
	r.result.Commits = append(r.result.Commits, verdicts...)
	if first != nil {
		return refusef(CodeSideCommit, "it merges commit %s (%.80q), which is refused [%s]: %s", short(first.Commit), first.Subject, first.Code, first.Reason)
	}
	return nil
}

// sideCommit judges one side commit; a refusal is a verdict here, so that all of them are shown.
func (r *run) sideCommit(id, via string, target *signer.Root) (CommitVerdict, error) {
	c, err := r.commit(id)
	if err == nil {
		var v CommitVerdict
		if v, err = r.judgeSide(c, via, target); err == nil {
			return v, nil
		}
	}
	var refused *refusal
	if !errors.As(asRefusal(err), &refused) {
		return CommitVerdict{}, err
	}
	if c == nil {
		c = &gitobject.Commit{ID: id}
	}
	v := refused.verdict(c)
	v.Via = via
	return v, nil
}

func (r *run) judgeSide(c *gitobject.Commit, via string, target *signer.Root) (CommitVerdict, error) {
	old := refusef(CodeBeforeAdoption, "its first parent holds no valid trust root: the branch was made before the network adopted Apex, or shares no history with it. Rebase it onto the target branch and sign its commits")
	if c.FirstParent() == "" {
		return CommitVerdict{}, old
	}
	parent, err := r.commit(c.FirstParent())
	if err != nil {
		return CommitVerdict{}, err
	}
	prior, err := r.trustAt(parent)
	if err != nil {
		return CommitVerdict{}, err
	}
	if prior.err != nil {
		return CommitVerdict{}, old
	}
	roots := []*signer.Root{prior.dir.Root}
	if target.Digest() != prior.dir.Root.Digest() {
		roots = append(roots, target)
	}
	return r.judge(c, parent, authority{prior: prior, roots: roots, via: via})
}

// mergeChanges lists the paths in which a merge is not the three-way merge of its parents. For each path:
//
//	both parents alike             that
//	one parent as the merge base   the other one
//	both changed, differently      a conflict: whatever the merge says is its own
//
// An ours-merge, a reverted path or a resolved conflict is thus a change that the merge's signer answers for, even where
// the result equals one parent. With several merge bases a side counts as unchanged only if it equals all of them.
func (s *session) mergeChanges(c, first *gitobject.Commit) ([]change, error) {
	second, err := s.commit(c.Parents[1])
	if err != nil {
		return nil, err
	}
	_, bases, err := s.graph.compare(c.Parents[0], c.Parents[1])
	if err != nil {
		return nil, err
	}
	fromFirst, err := s.diffMap(first.Tree, c.Tree)
	if err != nil {
		return nil, err
	}
	fromSecond, err := s.diffMap(second.Tree, c.Tree)
	if err != nil {
		return nil, err
	}
	var fromBases []map[string]gitobject.Change
	for _, id := range bases {
		base, err := s.commit(id)
		if err != nil {
			return nil, err
		}
		diff, err := s.diffMap(base.Tree, first.Tree)
		if err != nil {
			return nil, err
		}
		fromBases = append(fromBases, diff)
	}
	var own []change
	for path := range unionKeys(fromFirst, fromSecond) {
		one, other, result := threeEntries(path, fromFirst, fromSecond)
		oneSame, otherSame := len(bases) > 0, len(bases) > 0
		var also []*gitobject.File
		for _, diff := range fromBases {
			base := one
			if d, ok := diff[path]; ok {
				base = d.Old
			}
			oneSame, otherSame = oneSame && same(base, one), otherSame && same(base, other)
			also = append(also, base)
		}
		switch {
		case same(one, other) && same(result, one):
		case oneSame && same(result, other):
		case otherSame && same(result, one):
		default:
			own = append(own, change{Change: gitobject.Change{Path: path, Old: one, New: result}, also: append(also, other)})
		}
	}
	sort.Slice(own, func(i, j int) bool { return own[i].Path < own[j].Path })
	return own, nil
}

// threeEntries gives a path's entry in the first parent, the second parent and the merge.
func threeEntries(path string, fromFirst, fromSecond map[string]gitobject.Change) (one, other, result *gitobject.File) {
	a, inA := fromFirst[path]
	b, inB := fromSecond[path]
	switch {
	case inA && inB:
		return a.Old, b.Old, a.New
	case inA: // the merge is like the second parent
		return a.Old, a.New, a.New
	default: // the merge is like the first parent
		return b.New, b.Old, b.New
	}
}

func same(a, b *gitobject.File) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Mode == b.Mode && a.ID == b.ID
}

func (s *session) diffMap(oldTree, newTree string) (map[string]gitobject.Change, error) {
	diff, err := gitobject.Diff(s.ctx, s.src, oldTree, newTree)
	if err != nil {
		return nil, err
	}
	byPath := make(map[string]gitobject.Change, len(diff))
	for _, d := range diff {
		byPath[d.Path] = d
	}
	return byPath, nil
}

func unionKeys(a, b map[string]gitobject.Change) map[string]bool {
	keys := make(map[string]bool, len(a)+len(b))
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	return keys
}
