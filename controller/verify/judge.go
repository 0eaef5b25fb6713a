package verify

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
)

// authority is what a commit is judged by: the trust root as of its first parent and, for a side commit, also the root
// of the line it is merged into. Its signer needs to be allowed by each.
type authority struct {
	// prior is the trust folder of the first parent.
	prior *trustState
	roots []*signer.Root
	// via is the merge that brings a side commit in; empty on the line itself.
	via string
}

// step judges the next commit of the line, and what it brings in, and records the verdicts. An error that asRefusal
// makes a refusal refuses it.
func (r *run) step(c *gitobject.Commit) error {
	if r.result.Accepted.Commit == "" && len(r.result.Commits) == 0 {
		return r.stepStart(c)
	}
	parent, err := r.commit(c.FirstParent())
	if err != nil {
		return err
	}
	prior, err := r.trustAt(parent)
	if err != nil {
		return err
	}
	if prior.err != nil {
		return refusef(CodeTrustChain, "the trust folder of its first parent is not valid: %v", prior.err)
	}
	by := authority{prior: prior, roots: []*signer.Root{prior.dir.Root}}
	if err := r.sideCommits(c, by); err != nil {
		return err
	}
	v, err := r.judge(c, parent, by)
	if err != nil {
		return err
	}
	r.result.Commits = append(r.result.Commits, v)
	return nil
}

// stepStart judges the commit that brings in the pinned first root: a root key must have signed it, and by that vouches
// for everything in it. Its own trust folder counts only because its digest was pinned.
func (r *run) stepStart(c *gitobject.Commit) error {
	state, err := r.trustAt(c)
	if err != nil {
		return err
	}
	if state.err != nil {
		return refusef(CodeTrustChain, "it brings in the pinned trust root, but its trust folder is not valid: %v", state.err)
	}
	if state.dir.Root.Version != 1 {
		return refusef(CodeTrustChain, "it brings in the pinned trust root together with version %d; later versions come in commits of their own", state.dir.Root.Version)
	}
	by, err := signedBy(c, state.dir.Root)
	if err != nil {
		return err
	}
	if !state.dir.Root.HasRole(by.Key.ID(), signer.RoleRoot) {
		refused := refusef(CodeTrustSigner, "it brings in the first trust root and needs the signature of a root key (%s), not of %s. Commit it again with such a key",
			strings.Join(state.dir.Root.Root.Keys, ", "), by.Name)
		refused.signer = by.Name
		return refused
	}
	if err := r.checkTree(c); err != nil {
		return err
	}
	r.result.Commits = append(r.result.Commits, CommitVerdict{Commit: c.ID, Subject: c.Subject(), Signer: by.Name, Rule: string(signer.RoleRoot),
		Accepted: true, Code: CodeStart, Reason: fmt.Sprintf("brings in the pinned trust root, signed by root key %s", by.Name)})
	return nil
}

// checkTree refuses hostile entries anywhere in a commit. Diffs do this for what changes; it is needed where no accepted
// commit stands before.
func (s *session) checkTree(c *gitobject.Commit) error {
	return gitobject.Walk(s.ctx, s.src, c.Tree, func(gitobject.File) error { return nil })
}

// signedBy finds the key of root that signed the commit.
func signedBy(c *gitobject.Commit, root *signer.Root) (signer.Signer, error) {
	if c.Fault != nil {
		return signer.Signer{}, refusef(CodeMalformed, "%v. Make the commit again with git itself", c.Fault)
	}
	if len(c.Signature) == 0 {
		return signer.Signer{}, refusef(CodeUnsigned, "it is not signed. Sign it: git commit --amend -S (or git rebase --exec 'git commit --amend --no-edit -S' for several), with gpg.format=ssh and user.signingkey set")
	}
	by, err := root.VerifyCommit(c.Payload, c.Signature)
	if err != nil {
		return by, signatureRefusal(err)
	}
	return by, nil
}

// judge decides about one commit whose side commits, if it is a merge, are accepted.
func (s *session) judge(c, parent *gitobject.Commit, by authority) (CommitVerdict, error) {
	v := CommitVerdict{Commit: c.ID, Subject: c.Subject(), Via: by.via}
	who, err := signedBy(c, by.roots[0])
	if err != nil {
		return v, err
	}
	v.Signer = who.Name
	id := who.Key.ID()
	named := func(err error) error {
		var refused *refusal
		if errors.As(asRefusal(err), &refused) && refused.signer == "" {
			refused.signer = who.Name
			return refused
		}
		return err
	}
	for _, root := range by.roots[1:] {
		if _, _, ok := root.KeyByID(id); !ok {
			return v, named(refusef(CodeKeyRemoved, "key %s is not in trust root version %d of the branch it is merged into (removed, or added on the side branch only). Let a current maintainer sign the change anew: git rebase with signing, on top of the target branch",
				who.Name, root.Version))
		}
	}
	changes, err := s.ownChanges(c, parent)
	if err != nil {
		return v, named(err)
	}
	rules, err := s.authorise(c, changes, by, id, who.Name)
	if err != nil {
		return v, named(err)
	}
	for _, change := range changes {
		v.Paths = append(v.Paths, change.Path)
	}
	if v.AllowShrink, err = s.allowShrink(c, changes, by, id); err != nil {
		return v, named(err)
	}
	v.Rule = strings.Join(rules, ",")
	v.Accepted, v.Code = true, CodeAccepted
	v.Reason = accepted(c, who.Name, v)
	return v, nil
}

func accepted(c *gitobject.Commit, name string, v CommitVerdict) string {
	switch {
	case len(c.Parents) > 1 && len(v.Paths) == 0:
		return fmt.Sprintf("merge by %s that only combines accepted commits", name)
	case len(v.Paths) == 0:
		return fmt.Sprintf("signed by %s, changes nothing", name)
	}
	return fmt.Sprintf("signed by %s, who may change %s (%s)", name, some(v.Paths), v.Rule)
}

// ownChanges are the changes that the commit itself answers for: against its parent, or, for a merge, wherever it is not
// what merging the parents gives.
func (s *session) ownChanges(c, parent *gitobject.Commit) ([]change, error) {
	switch len(c.Parents) {
	case 1:
		diff, err := gitobject.Diff(s.ctx, s.src, parent.Tree, c.Tree)
		return fromDiff(diff), err
	case 2:
		return s.mergeChanges(c, parent)
	}
	return nil, refusef(CodeOctopus, "it merges %d branches at once. Merge one branch at a time", len(c.Parents)-1)
}

// change is one path that a commit answers for, with every content that it decided between: what was there before, what
// is there now and, for a merge, what the other side had.
type change struct {
	gitobject.Change
	also []*gitobject.File
}

func fromDiff(diff []gitobject.Change) []change {
	out := make([]change, len(diff))
	for i, d := range diff {
		out[i].Change = d
	}
	return out
}

// files are the distinct contents of a change.
func (c change) files() []gitobject.File {
	var out []gitobject.File
	for _, f := range append([]*gitobject.File{c.Old, c.New}, c.also...) {
		if f == nil {
			continue
		}
		seen := false
		for _, o := range out {
			seen = seen || o.ID == f.ID
		}
		if !seen {
			out = append(out, *f)
		}
	}
	return out
}

// authorise checks every change against the authority and names the rules that allow them.
func (s *session) authorise(c *gitobject.Commit, changes []change, by authority, id, name string) (rules []string, err error) {
	if err := s.forgeOnlyMerges(c, changes, by, id, name); err != nil {
		return nil, err
	}
	rules, trust, err := s.authorisePaths(changes, by, id, name)
	if err != nil {
		return nil, err
	}
	role, err := s.authoriseTrust(c, trust, by, id, name)
	if err != nil {
		return nil, err
	}
	if role != "" {
		rules = union(rules, []string{role})
	}
	if len(changes) > 0 {
		return rules, nil
	}
	for _, root := range by.roots {
		if role = standingOf(root, id); role == "" {
			return nil, refusef(CodePath, "key %s holds no role that may commit in trust root version %d. Let a maintainer sign it", name, root.Version)
		}
	}
	return union(rules, []string{role}), nil
}

// standingOf says by which role a key may commit at all, for commits that change nothing by themselves.
func standingOf(root *signer.Root, id string) string {
	for _, role := range []signer.RoleName{signer.RoleForge, signer.RoleMaintainers, signer.RoleRoot} {
		if root.HasRole(id, role) {
			return string(role)
		}
	}
	return ""
}

// forgeOnlyMerges keeps forge keys to their role: a merge that adds nothing.
func (s *session) forgeOnlyMerges(c *gitobject.Commit, changes []change, by authority, id, name string) error {
	forge := false
	for _, root := range by.roots {
		forge = forge || root.HasRole(id, signer.RoleForge)
	}
	paths := make([]string, len(changes))
	for i := range changes {
		paths[i] = changes[i].Path
	}
	switch {
	case !forge:
		return nil
	case len(c.Parents) < 2:
		r := refusef(CodeForgeSquash, "it is signed by the forge (%s), whose signature authorises no content: this is a squash, a rebase or an edit on the website. Merge with a merge commit instead (\"Create a merge commit\"), or squash on your machine, sign and push: git merge --squash <branch> && git commit -S", name)
		r.paths = paths
		return r
	case len(changes) > 0:
		r := refusef(CodeEvilMerge, "the forge (%s) signed a merge in which %s is not what merging the two sides gives; its signature authorises no content. Rebase the branch onto its target so that nothing needs combining, or let a maintainer make and sign the merge: git merge -S <branch>", name, some(paths))
		r.paths = paths
		return r
	}
	return nil
}

// authorisePaths checks the changes outside the trust folder and returns those inside.
func (s *session) authorisePaths(changes []change, by authority, id, name string) (rules []string, trust []change, err error) {
	var denied []string
	var content []change
	for _, ch := range changes {
		if signer.IsTrustPath(ch.Path) {
			trust = append(trust, ch)
			continue
		}
		content = append(content, ch)
		if !mayChange(by.roots, id, ch.Path) {
			denied = append(denied, ch.Path)
		}
	}
	if len(denied) > 0 {
		r := refusef(CodePath, "no maintainer rule lets %s change %s. Let a maintainer of these paths sign the change, or widen the rule in %s (which needs the root threshold)",
			name, some(denied), trustdir.RootPath)
		r.paths = denied
		return nil, nil, r
	}
	used := map[string]bool{}
	for _, ch := range content {
		for _, root := range by.roots {
			if err := s.authoriseZones(root, ch, id, name, used); err != nil {
				return nil, nil, err
			}
		}
	}
	return slices.Sorted(maps.Keys(used)), trust, nil
}

func mayChange(roots []*signer.Root, id, path string) bool {
	for _, root := range roots {
		if _, ok := root.MayChange(id, path); !ok {
			return false
		}
	}
	return true
}

// authoriseTrust checks the changes inside the trust folder. Such a commit must carry exactly the next version, signed by
// the thresholds of the version before and of its own; root keys alone may commit it. The root that judges is the one
// before the commit, so no commit authorises itself.
func (s *session) authoriseTrust(c *gitobject.Commit, changes []change, by authority, id, name string) (role string, err error) {
	sealed := c.Trailers(trailerSeal)
	if len(changes) == 0 && len(sealed) == 0 {
		return "", s.keepsTrust(c, by)
	}
	for _, root := range by.roots {
		if !root.HasRole(id, signer.RoleRoot) {
			what := fmt.Sprintf("changes %s/", trustdir.Folder)
			if len(changes) == 0 {
				what = "carries the trailer " + trailerSeal
			}
			code := CodeTrustSigner
			if len(sealed) > 0 {
				code = CodeSeal
			}
			return "", refusef(code, "it %s, which only a root key may sign (%s), not %s. Let a holder of the root role commit it",
				what, strings.Join(root.Root.Keys, ", "), name)
		}
	}
	if len(c.Parents) > 1 && len(changes) > 0 {
		return "", refusef(CodeTrustChange, "a merge changes %s by itself. Change the trust root in a commit of its own, then merge", some(pathsOf(changes)))
	}
	if len(sealed) > 0 {
		if err := s.checkSeal(c, by.roots[0]); err != nil {
			return "", err
		}
	}
	return string(signer.RoleRoot), s.checkTrustChange(c, changes, by)
}

func pathsOf(changes []change) []string {
	out := make([]string, len(changes))
	for i := range changes {
		out[i] = changes[i].Path
	}
	return out
}

// keepsTrust makes sure that a commit without a trust change of its own still holds a chain that continues its parents':
// a merge could otherwise bring an older or another one.
func (s *session) keepsTrust(c *gitobject.Commit, by authority) error {
	after, err := s.trustAt(c)
	if err != nil {
		return err
	}
	if after.err != nil {
		return refusef(CodeTrustChain, "its trust folder is not valid: %v", after.err)
	}
	for _, p := range c.Parents {
		parent, err := s.commit(p)
		if err != nil {
			return err
		}
		state, err := s.trustAt(parent)
		if err != nil {
			return err
		}
		if state.err != nil || !extends(after.dir, state.dir) {
			return refusef(CodeTrustChain, "its trust root (version %d) does not continue that of its parent %s. Two branches have changed the trust root, or one goes back to an older one: merge the newer first and rotate again on top",
				after.dir.Root.Version, short(p))
		}
	}
	return nil
}

// checkTrustChange checks what a commit by a root key does to the trust folder.
func (s *session) checkTrustChange(c *gitobject.Commit, changes []change, by authority) error {
	after, err := s.trustAt(c)
	if err != nil {
		return err
	}
	if after.err != nil {
		return refusef(CodeTrustChain, "its trust folder is not valid: %v", after.err)
	}
	before, now := by.prior.dir.Root.Version, after.dir.Root.Version
	if !extends(after.dir, by.prior.dir) || now > before+1 {
		return refusef(CodeTrustChain, "it takes the trust root from version %d to %d. A commit may add the next version only, and signed versions never change", before, now)
	}
	allowed := map[string]bool{}
	for _, target := range c.Trailers(trailerSeal) {
		allowed[trustdir.SealPath(target)] = true
	}
	if now == before+1 {
		allowed[trustdir.RootPath] = true
		allowed[trustdir.EnvelopePath(now)] = true
	}
	for _, ch := range changes {
		if !allowed[ch.Path] || ch.New == nil {
			r := refusef(CodeTrustChange, "it changes %q without a new signed trust root that says so. Edit %s, run `apex trust rotate`, collect the signatures of the root keys with `apex trust sign`, and commit %s and %s together",
				ch.Path, trustdir.RootPath, trustdir.RootPath, trustdir.EnvelopePath(before+1))
			r.paths = pathsOf(changes)
			return r
		}
	}
	return nil
}
