package verify_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/gittest"
	"github.com/apex-network/apex/internal/trustdir"
)

// Each test is one attack on the git side: real git writes it, nothing past the last good commit is accepted, and the
// reason tells a person what happened and what to do.

func TestAttackUnsignedInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.write("a/1.txt", "1\n")
	good := w.repo.Commit(w.anna, "Good")
	w.write("a/2.txt", "2\n")
	bad := w.repo.Commit(nil, "Unsigned")
	w.write("a/3.txt", "3\n")
	w.repo.Commit(w.anna, "Signed on top")
	r := w.refuse(verify.Frontier{}, good, verify.CodeUnsigned, "not signed", "git commit --amend -S")
	if r.Verdict.Commit != bad {
		t.Errorf("blames %s, want %s", r.Verdict.Commit, bad)
	}
	res, _ := w.run(verify.Frontier{})
	if last := res.Commits[len(res.Commits)-1]; last.Code != verify.CodeNotJudged || last.Accepted {
		t.Errorf("commit on top: %+v", last)
	}
}

func TestAttackSelfAuthorisingTrustChange(t *testing.T) {
	w := newWorldOf(t, 2)
	// Anna makes herself an administrator and signs the new version alone.
	w.trust.Spec.Version = 2
	w.trust.Spec.Root.Keys = append(w.trust.Spec.Root.Keys, "anna")
	w.trust.Maintainer("me", w.anna, []string{"**"})
	w.trust.Write(w.repo, w.anna)
	w.repo.Commit(w.anna, "Trust me")
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustSigner, "only a root key may sign", "root, root2", "anna")

	// One root key of two tries alone.
	w.trust.Write(w.repo, w.root, w.anna)
	w.repo.Amend(w.root)
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustChain, "1 of 2 required signatures")

	// The document without the envelope.
	w.repo.Remove(trustdir.EnvelopePath(2))
	w.repo.Amend(w.root)
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustChain, "apex trust rotate")
}

func TestAttackTrustFolder(t *testing.T) {
	w := newWorld(t)
	back := func() { w.repo.Git("reset", "-q", "--hard", w.start) }
	w.repo.Remove("trust")
	w.repo.Commit(w.root, "Remove trust")
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustChain)
	back()

	w.write("trust/notes.txt", "x\n")
	w.repo.Commit(w.root, "Other files")
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustChange, "trust/notes.txt", "apex trust rotate")
	back()

	w.write("trust/root.yaml", "# a comment\n"+w.trust.Document())
	w.repo.Commit(w.admin, "Administrators of ** do not own trust/")
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustSigner)
	back()

	w.write("Trust/root.yaml", w.trust.Document())
	w.repo.Commit(w.admin, "Another spelling")
	w.refuse(verify.Frontier{}, w.start, verify.CodeHostileTree, "Trust")
	back()

	// Two versions at once would let nobody see the one between.
	w.trust.Spec.Version = 2
	w.trust.Write(w.repo, w.root)
	w.trust.Spec.Version = 3
	w.trust.Write(w.repo, w.root)
	w.repo.Commit(w.root, "Two at once")
	w.refuse(verify.Frontier{}, w.start, verify.CodeTrustChain, "from version 1 to 3")
	back()

	// A rotation that smuggles in a change its signer may not make.
	w.trust.Spec.Version = 2
	w.trust.Write(w.repo, w.root)
	w.write("a/x.txt", "x\n")
	w.repo.Commit(w.root, "Rotate and more")
	w.refuse(verify.Frontier{}, w.start, verify.CodePath, "a/x.txt")
}

func TestAttackTrustRollback(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("old")
	w.write("a/x.txt", "x\n")
	w.repo.Commit(w.anna, "On the old root")
	w.repo.Switch("main")
	w.trust.RemoveKey("bob")
	rotated := w.rotate(w.root)
	// A merge that takes trust/ from the old branch, in which bob still counts.
	w.repo.Merge(w.admin, "old")
	w.repo.Git("checkout", "-q", "old", "--", "trust")
	w.repo.Git("rm", "-q", trustdir.EnvelopePath(2))
	w.repo.Amend(w.root)
	w.refuse(verify.Frontier{}, rotated, verify.CodeTrustChange, "by itself")
	w.repo.Git("reset", "-q", "--hard", rotated)
	w.repo.Git("checkout", "-q", "old", "--", "trust")
	w.repo.Git("rm", "-q", trustdir.EnvelopePath(2))
	w.repo.Commit(w.root, "Back to version 1")
	w.refuse(verify.Frontier{}, rotated, verify.CodeTrustChain, "from version 2 to 1")
}

func TestAttackPathOutsideRules(t *testing.T) {
	w := newWorld(t)
	w.write("a/ok.txt", "ok\n")
	w.write("b/zone.yaml", zoneB+"  default: mesh\n")
	w.repo.Commit(w.anna, "Reach over")
	r := w.refuse(verify.Frontier{}, w.start, verify.CodePath, "anna", "b/zone.yaml", "root threshold")
	if len(r.Verdict.Paths) != 1 || r.Verdict.Signer != "anna" {
		t.Errorf("verdict %+v", r.Verdict)
	}
	// A rename out of one's own folder is a change of both places.
	w.repo.Git("reset", "-q", "--hard", w.start)
	w.repo.Git("mv", "b/zone.yaml", "a/stolen.yaml")
	w.repo.Commit(w.anna, "Move")
	w.refuse(verify.Frontier{}, w.start, verify.CodePath, "b/zone.yaml")
	// So is a change of the mode alone.
	w.repo.Git("reset", "-q", "--hard", w.start)
	if err := os.Chmod(filepath.Join(w.repo.Dir(), "README.md"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.repo.Commit(w.anna, "Mode")
	w.refuse(verify.Frontier{}, w.start, verify.CodePath, "README.md")
}

func TestAttackForgeSquash(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	w.repo.Commit(w.forge, "Squashed pull request (#1)")
	w.refuse(verify.Frontier{}, w.start, verify.CodeForgeSquash, "squash", "merge commit", "git merge --squash")
}

func TestAttackEvilMergeByForge(t *testing.T) {
	w := newWorld(t)
	f := w.accept(verify.Frontier{}).Accepted
	w.repo.Branch("feature")
	w.write("a/x.txt", "x\n")
	w.repo.Commit(w.anna, "X")
	w.repo.Switch("main")
	w.write("a/main.txt", "v2\n")
	main := w.repo.Commit(w.anna, "Main")
	f = w.accept(f).Accepted

	w.repo.Merge(w.forge, "feature")
	w.write("a/evil.txt", "evil\n")
	w.repo.Amend(w.forge)
	w.refuse(f, main, verify.CodeEvilMerge, "a/evil.txt", "git merge -S")

	// Equal to one parent, and yet a revert of what main has done since.
	w.repo.Git("reset", "-q", "--hard", main)
	w.repo.Merge(w.forge, "feature")
	w.repo.Remove("a/main.txt")
	w.repo.Amend(w.forge)
	w.refuse(f, main, verify.CodeEvilMerge, "a/main.txt")

	// Quietly dropping what the branch brings is not merging it.
	w.repo.Git("reset", "-q", "--hard", main)
	w.repo.Merge(w.forge, "feature", "-s", "ours")
	w.refuse(f, main, verify.CodeEvilMerge, "a/x.txt")
}

func TestAttackEvilMergeByMaintainer(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("feature")
	w.write("a/x.txt", "x\n")
	w.repo.Commit(w.anna, "X")
	w.repo.Switch("main")
	w.repo.Merge(w.bob, "feature")
	w.write("a/evil.txt", "evil\n")
	w.repo.Amend(w.bob)
	w.refuse(verify.Frontier{}, w.start, verify.CodePath, "a/evil.txt", "bob")
	// The same by one whose own rules cover it is that person's change.
	w.repo.Amend(w.admin)
	res := w.accept(verify.Frontier{})
	if last := res.Commits[len(res.Commits)-1]; strings.Join(last.Paths, ",") != "a/evil.txt" || last.Rule != "admins" {
		t.Errorf("verdict %+v", last)
	}
}

// An ours-merge on a side branch would undo main's work once the branch is merged cleanly.
func TestAttackEvilMergeOnSideBranch(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("feature")
	w.write("b/x.txt", "x\n")
	w.repo.Commit(w.bob, "X")
	w.repo.Switch("main")
	w.write("a/guard.txt", "deny\n")
	main := w.repo.Commit(w.anna, "Guard")
	w.repo.Switch("feature")
	w.repo.Merge(w.bob, "main", "-s", "ours")
	w.repo.Switch("main")
	w.repo.Merge(w.forge, "feature")
	if _, err := os.Stat(filepath.Join(w.repo.Dir(), "a/guard.txt")); err == nil {
		t.Fatal("the attack does not work any more; git kept the file")
	}
	w.refuse(verify.Frontier{}, main, verify.CodeSideCommit, "path-not-allowed", "a/guard.txt", "bob")
}

func TestAttackConflictResolvedByForge(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("feature")
	w.write("a/x.txt", "side\n")
	w.repo.Commit(w.anna, "Side")
	w.repo.Switch("main")
	w.write("a/x.txt", "main\n")
	main := w.repo.Commit(w.anna, "Main")
	w.repo.Merge(w.forge, "feature", "-X", "theirs")
	w.refuse(verify.Frontier{}, main, verify.CodeEvilMerge, "a/x.txt", "Rebase")
	w.repo.Amend(w.anna)
	w.accept(verify.Frontier{})
}

func TestAttackTwoArmourBlocks(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	raw := w.unsigned("Two blocks")
	good := w.anna.Sign("git", raw)
	other := w.nobody.Sign("git", raw)
	w.repo.RawCommit(gittest.WithSignature(raw, good+other))
	w.refuse(verify.Frontier{}, w.start, verify.CodeBadArmour, "exactly one")
	w.repo.RawCommit(gittest.WithSignature(raw, "garbage\n"+good))
	w.refuse(verify.Frontier{}, w.start, verify.CodeBadArmour, "nothing around it")
	w.repo.RawCommit(gittest.WithSignature(raw, good))
	w.accept(verify.Frontier{})
}

func TestAttackTwoSignatureHeaders(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	raw := w.unsigned("Two headers")
	once := w.anna.SignCommit("git", raw)
	w.repo.RawCommit(gittest.WithSignature(once, w.nobody.Sign("git", raw)))
	w.refuse(verify.Frontier{}, w.start, verify.CodeMalformed, "gpgsig", "twice")
	sha256 := strings.Replace(string(once), "\ngpgsig ", "\ngpgsig-sha256 ", 1)
	w.repo.RawCommit(gittest.WithSignature([]byte(sha256), w.anna.Sign("git", raw)))
	w.refuse(verify.Frontier{}, w.start, verify.CodeMalformed, "gpgsig-sha256")
}

func TestAttackSignatureInMergetag(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	raw := w.unsigned("Mergetag")
	signed := string(w.anna.SignCommit("git", raw))
	w.repo.RawCommit([]byte(strings.Replace(signed, "\ngpgsig ", "\nmergetag object 1234\n gpgsig ", 1)))
	w.refuse(verify.Frontier{}, w.start, verify.CodeUnsigned)
}

// Headers that a decode and encode would drop or reorder must be under the signature (the hole of CVE-2026-45022).
func TestAttackReencodedHeaders(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	raw := w.unsigned("Extra headers")
	signed := string(w.anna.SignCommit("git", raw))
	for name, tampered := range map[string]string{
		"extra header":    strings.Replace(signed, "\ngpgsig ", "\nx-evil payload\ngpgsig ", 1),
		"header after":    strings.Replace(signed, "\n\n", "\nencoding UTF-7\n\n", 1),
		"message changed": signed + "\nApex-Allow-Shrink: b\n",
		"author changed":  strings.Replace(signed, "Test Person", "Best Person", 1),
	} {
		w.repo.RawCommit([]byte(tampered))
		r := w.refuse(verify.Frontier{}, w.start, verify.CodeBadSignature, "changed after it was signed")
		if r.Verdict.Signer != "" {
			t.Errorf("%s: signer %q although nothing is signed", name, r.Verdict.Signer)
		}
	}
	for _, tampered := range map[string]string{
		"second author": strings.Replace(signed, "\ncommitter ", "\nauthor E <e@x> 1 +0000\ncommitter ", 1),
		"second tree":   strings.Replace(signed, "\ngpgsig ", "\ntree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\ngpgsig ", 1),
		"nul":           signed + "\x00hidden",
	} {
		w.repo.RawCommit([]byte(tampered))
		w.refuse(verify.Frontier{}, w.start, verify.CodeMalformed)
	}
	// A header of a tool's own that is under the signature is no attack.
	own := strings.Replace(string(raw), "\n\n", "\nchange-id abc\n\n", 1)
	w.repo.RawCommit(w.anna.SignCommit("git", []byte(own)))
	w.accept(verify.Frontier{})
}

func TestAttackWeakRSA(t *testing.T) {
	w := newWorld(t)
	weak := w.env.SSHKeyOf("weak", "rsa", "-b", "1024")
	w.write("a/x.txt", "x\n")
	w.repo.Commit(weak, "1024 bits")
	w.refuse(verify.Frontier{}, w.start, verify.CodeWeakKey, "1024 bits", "ed25519")
	// Nor can a trust root be made to list it.
	w.trust.AddKey(weak)
	if _, err := trustdir.RootFromSpec(w.trust.Spec, network); err == nil || !strings.Contains(err.Error(), "1024 bits") {
		t.Errorf("trust root with a weak key: %v", err)
	}
}

func TestAttackWrongNamespace(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	raw := w.unsigned("Signed as a file")
	w.repo.RawCommit(w.anna.SignCommit("file", raw))
	w.refuse(verify.Frontier{}, w.start, verify.CodeWrongNamespace, `"file"`, "another purpose")
}

func TestAttackUnknownKey(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	w.repo.Git("config", "user.name", "anna")
	w.repo.Git("config", "user.email", "anna@example.org")
	w.repo.Commit(w.nobody, "The name is not the key")
	w.refuse(verify.Frontier{}, w.start, verify.CodeUnknownKey, "SHA256:", "does not list", "apex trust rotate")
}

func TestAttackForcePush(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "deny\n")
	accepted := w.repo.Commit(w.anna, "Deny")
	f := w.accept(verify.Frontier{}).Accepted
	w.repo.Git("reset", "-q", "--hard", w.start)
	w.refuse(f, "", verify.CodeForcePush, "rewritten", "git revert")
	w.write("a/x.txt", "allow\n")
	w.repo.Commit(w.anna, "Allow")
	w.refuse(f, "", verify.CodeForcePush, accepted[:12])
}

// Main merged into a branch and pushed as main: the branch's old trust root would judge.
func TestAttackMergeWrongWay(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("mine")
	w.write("b/x.txt", "x\n")
	w.repo.Commit(w.bob, "Bob, while he still counts")
	w.repo.Switch("main")
	w.trust.RemoveKey("bob")
	w.rotate(w.root)
	f := w.accept(verify.Frontier{}).Accepted
	w.repo.Switch("mine")
	w.repo.Merge(w.bob, "main")
	w.refuse(f, "", verify.CodeWrongWay, "wrong way round")
}

func TestAttackReplaceRefs(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "good\n")
	good := w.repo.Commit(w.anna, "Good")
	w.repo.Git("reset", "-q", "--hard", w.start)
	w.write("a/x.txt", "evil\n")
	evil := w.repo.Commit(nil, "Evil")
	// git now shows the good commit wherever the evil one stands.
	w.repo.Git("replace", evil, good)
	if shown := w.repo.Git("show", "HEAD:a/x.txt"); shown != "good" {
		t.Fatalf("git shows %q", shown)
	}
	r := w.refuse(verify.Frontier{}, w.start, verify.CodeUnsigned)
	if r.Verdict.Commit != evil {
		t.Errorf("judged %s", r.Verdict.Commit)
	}
}

func TestAttackGrafts(t *testing.T) {
	w := newWorld(t)
	w.write("a/1.txt", "1\n")
	bad := w.repo.Commit(nil, "Unsigned")
	w.write("a/2.txt", "2\n")
	tip := w.repo.Commit(w.anna, "On top")
	w.env.WriteFile(filepath.Join(w.repo.Dir(), ".git/info/grafts"), tip+" "+w.start+"\n")
	if parent := w.repo.Git("rev-parse", "HEAD~1"); parent != w.start {
		t.Fatalf("the graft has no effect on git: %s", parent)
	}
	r := w.refuse(verify.Frontier{}, w.start, verify.CodeUnsigned)
	if r.Verdict.Commit != bad {
		t.Errorf("judged %s", r.Verdict.Commit)
	}
}

func TestAttackDepartedSignerThroughSideBranch(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("old")
	w.write("b/backdoor.txt", "x\n")
	w.repo.Commit(w.bob, "Made after Bob left, on a branch from before")
	w.repo.Switch("main")
	w.trust.RemoveKey("bob")
	rotated := w.rotate(w.root)
	w.repo.Merge(w.forge, "old")
	w.refuse(verify.Frontier{}, rotated, verify.CodeSideCommit, "key-not-in-target", "bob", "current maintainer")
	// Nor does a maintainer's merge make it right: the commit must be signed anew.
	w.repo.Amend(w.admin)
	w.refuse(verify.Frontier{}, rotated, verify.CodeSideCommit, "bob")
}

// A key whose rule was narrowed on main keeps no wider rights on an old branch.
func TestAttackNarrowedRuleThroughSideBranch(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("old")
	w.write("b/x.txt", "x\n")
	w.repo.Commit(w.bob, "Under the old rule")
	w.repo.Switch("main")
	w.trust.Spec.Maintainers[2].Paths = []string{"b/only/**"}
	rotated := w.rotate(w.root)
	w.repo.Merge(w.forge, "old")
	w.refuse(verify.Frontier{}, rotated, verify.CodeSideCommit, "path-not-allowed", "b/x.txt")
}

func TestAttackUnsignedSideCommit(t *testing.T) {
	w := newWorld(t)
	w.repo.Branch("feature")
	w.write("a/x.txt", "x\n")
	bad := w.repo.Commit(nil, "Unsigned on the branch")
	w.write("a/x.txt", "y\n")
	w.repo.Commit(w.anna, "Signed on top")
	w.repo.Switch("main")
	w.repo.Merge(w.admin, "feature")
	w.refuse(verify.Frontier{}, w.start, verify.CodeSideCommit, bad[:12], "unsigned")
}

func TestAttackOctopus(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"x", "y"} {
		w.repo.Branch(name, "main")
		w.write("a/"+name, name+"\n")
		w.repo.Commit(w.anna, name)
	}
	w.repo.Switch("main")
	w.repo.Merge(w.admin, "x", "y")
	w.refuse(verify.Frontier{}, w.start, verify.CodeOctopus, "one branch at a time")
}

func TestAttackHostileTrees(t *testing.T) {
	w := newWorld(t)
	blob := w.repo.Git("hash-object", "-w", "README.md")
	for name, c := range map[string]struct{ entry, word string }{
		"symlink":   {"120000 blob " + blob + "\tlink", "symbolic link"},
		"submodule": {"160000 commit " + w.start + "\tmodule", "submodule"},
		"mode":      {"100664 blob " + blob + "\todd", "100664"},
		"dot git":   {"100644 blob " + blob + "\t.GIT", ".git folder"},
		"short":     {"100644 blob " + blob + "\tgit~1", ".git folder"},
		"dots":      {"100644 blob " + blob + "\t..", "leads out"},
		"backslash": {"100644 blob " + blob + "\ta\\b", "backslash"},
		"case":      {"100644 blob " + blob + "\treadme.md", "only in case"},
	} {
		w.repo.Git("reset", "-q", "--hard", w.start)
		base := w.env.Run(w.repo.Dir(), nil, "git", "ls-tree", "HEAD")
		tree, err := w.env.Try(w.repo.Dir(), []byte(strings.TrimSuffix(base+c.entry, "\n")+"\n"), "git", "mktree", "--missing")
		if err != nil {
			t.Logf("%s: git refuses to write it (%v); the unit tests of gitobject cover it", name, err)
			continue
		}
		raw := w.repo.Raw("commit", w.start)
		unsigned := "tree " + strings.TrimSpace(tree) + "\nparent " + w.start + "\n" + string(raw[strings.Index(string(raw), "author "):strings.Index(string(raw), "gpgsig ")]) + "\nHostile\n"
		id := strings.TrimSpace(w.env.Run(w.repo.Dir(), w.admin.SignCommit("git", []byte(unsigned)), "git", "hash-object", "-t", "commit", "-w", "--stdin"))
		w.repo.Git("update-ref", "refs/heads/main", id)
		w.refuse(verify.Frontier{}, w.start, verify.CodeHostileTree, c.word)
	}
}

// tampered gives other bytes for one object, as a damaged or forged store would.
type tampered struct {
	gitobject.Objects
	id    string
	bytes []byte
}

func (x tampered) Object(ctx context.Context, kind gitobject.Kind, id string, limit int64) ([]byte, error) {
	if id == x.id {
		return x.bytes, nil
	}
	return x.Objects.Object(ctx, kind, id, limit)
}

func TestAttackTamperedObjects(t *testing.T) {
	w := newWorld(t)
	w.write("a/x.txt", "x\n")
	head := w.repo.Commit(w.anna, "X")
	evilTree := w.repo.Raw("tree", w.start+"^{tree}")
	for _, x := range []tampered{
		{id: w.repo.Git("rev-parse", "HEAD^{tree}"), bytes: evilTree},
		{id: head, bytes: w.repo.Raw("commit", w.start)},
		{id: w.repo.Git("rev-parse", "HEAD:trust/root.yaml"), bytes: []byte("evil")},
	} {
		x.Objects = w.objects()
		res, err := verify.Range(context.Background(), x, w.policy(), verify.Frontier{}, head)
		if !errors.Is(err, gitobject.ErrCorrupt) || errors.Is(err, verify.ErrRefused) || !strings.Contains(err.Error(), x.id) {
			t.Errorf("object %s: %v", x.id, err)
		}
		if res.Accepted.Commit == head {
			t.Errorf("object %s: accepted all the same", x.id)
		}
	}
}
