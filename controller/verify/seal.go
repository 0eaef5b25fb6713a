package verify

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
)

// trailerSeal names the commit up to which a root key vouches for everything on the line.
const trailerSeal = "Apex-Seal"

// checkSeal checks the seal that a commit carries: one target, an ancestor on its first-parent line, and as many root
// keys as the threshold of root asks, the commit's own signer included. The commit's signature was verified already.
func (s *session) checkSeal(c *gitobject.Commit, root *signer.Root) error {
	targets := c.Trailers(trailerSeal)
	if len(targets) != 1 || !gitobject.ValidID(targets[0]) {
		return refusef(CodeSeal, "its trailer %s must name one commit in full (40 hex digits)", trailerSeal)
	}
	target := targets[0]
	if len(c.Parents) != 1 {
		return refusef(CodeSeal, "a merge cannot carry a seal. Put it into a commit of its own")
	}
	onLine, err := s.onFirstParentLine(c, target)
	if err != nil {
		return err
	}
	if !onLine {
		return refusef(CodeSeal, "it seals %s, which is not among its first-parent ancestors", short(target))
	}
	by, err := signedBy(c, root)
	if err != nil {
		return err
	}
	if !root.HasRole(by.Key.ID(), signer.RoleRoot) {
		r := refusef(CodeSeal, "it carries a seal, which only a root key may sign (%s), not %s", strings.Join(root.Root.Keys, ", "), by.Name)
		r.signer = by.Name
		return r
	}
	names := []string{by.Name}
	if root.Root.Threshold > 1 {
		more, err := s.sealSigners(c, root, target)
		if err != nil {
			return err
		}
		names = union(names, more)
	}
	if len(names) < root.Root.Threshold {
		return refusef(CodeSeal, "the seal on %s has %d of %d root signatures (%s). Let more root keys sign the statement (ssh-keygen -Y sign -n %s) and commit their signatures as %s",
			short(target), len(names), root.Root.Threshold, strings.Join(names, ", "), trustdir.NamespaceSeal, trustdir.SealPath(target))
	}
	return nil
}

// sealSigners reads the seal file of a commit.
func (s *session) sealSigners(c *gitobject.Commit, root *signer.Root, target string) ([]string, error) {
	entry, err := gitobject.Find(s.ctx, s.src, c.Tree, trustdir.SealPath(target))
	if err != nil || entry == nil || entry.IsFolder() {
		return nil, err
	}
	data, err := gitobject.Read(s.ctx, s.src, gitobject.KindBlob, entry.ID)
	if err != nil {
		return nil, err
	}
	seal, err := trustdir.ParseSeal(data)
	if err != nil {
		return nil, refusef(CodeSeal, "%v", err)
	}
	names, err := seal.Signers(root, target)
	if err != nil {
		return nil, refusef(CodeSeal, "%v", err)
	}
	return names, nil
}

// onFirstParentLine reports whether target is a first-parent ancestor of c.
func (s *session) onFirstParentLine(c *gitobject.Commit, target string) (bool, error) {
	for range MaxHistory {
		parent := c.FirstParent()
		if parent == "" || parent == target {
			return parent == target && parent != "", nil
		}
		var err error
		if c, err = s.commit(parent); err != nil {
			return false, err
		}
	}
	return false, nil
}

// bridge looks for a seal further along the line that vouches for commit i, which was refused. It returns the sealing
// commit and the index of the last commit it vouches for; or nil, and why a seal that is there does not help. What is
// sealed is not judged, but two things must hold at its end all the same: no hostile tree, and a trust root that continues
// the last accepted one, so that no seal makes a departed root key count again.
func (r *run) bridge(i int) (seal *gitobject.Commit, to int, why string, err error) {
	if i == 0 && r.result.Accepted.Commit == "" {
		return nil, 0, "", nil // nothing before the start can be vouched for
	}
	for j := len(r.commits) - 1; j > i; j-- {
		c, err := r.commit(r.commits[j])
		if err != nil {
			return nil, 0, "", err
		}
		targets := c.Trailers(trailerSeal)
		if len(targets) != 1 {
			continue
		}
		to := slices.Index(r.commits[:j], targets[0])
		if to < i {
			continue
		}
		err = r.checkBridge(i, to, c)
		var refused *refusal
		if err == nil {
			return c, to, "", nil
		}
		if !errors.As(asRefusal(err), &refused) {
			return nil, 0, "", err
		}
		why = fmt.Sprintf(" (The seal in commit %s does not help: %s.)", short(c.ID), refused.reason)
	}
	return nil, 0, why, nil
}

func (r *run) checkBridge(i, to int, seal *gitobject.Commit) error {
	broken, err := r.commit(r.commits[i])
	if err != nil {
		return err
	}
	before, err := r.commit(broken.FirstParent())
	if err != nil {
		return err
	}
	target, err := r.commit(r.commits[to])
	if err != nil {
		return err
	}
	parent, err := r.commit(seal.FirstParent())
	if err != nil {
		return err
	}
	prior, err := r.trustAt(before)
	if err != nil {
		return err
	}
	for _, c := range []*gitobject.Commit{target, parent} {
		state, err := r.trustAt(c)
		if err != nil {
			return err
		}
		if state.err != nil || prior.err != nil || !extends(state.dir, prior.dir) {
			return refusef(CodeSeal, "the trust root of sealed commit %s does not continue the accepted one", short(c.ID))
		}
	}
	if err := r.checkTree(target); err != nil {
		return err
	}
	state, err := r.trustAt(parent)
	if err != nil {
		return err
	}
	return r.checkSeal(seal, state.dir.Root)
}
