package verify_test

import (
	"testing"

	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/trustdir"
)

// breakRange puts two commits on the branch that nobody can make right any more, and a good one.
func (w *world) breakRange() (lastGood, target string) {
	w.t.Helper()
	w.write("a/1.txt", "1\n")
	lastGood = w.repo.Commit(w.anna, "Good")
	w.write("b/2.txt", "2\n")
	w.repo.Commit(w.nobody, "By a key that is lost")
	w.write("b/3.txt", "3\n")
	return lastGood, w.repo.Commit(nil, "Not even signed")
}

func seal(target string) string { return "Vouch for what was checked by hand\n\nApex-Seal: " + target }

func TestSealBridgesBrokenRange(t *testing.T) {
	w := newWorld(t)
	good, target := w.breakRange()
	w.write("a/4.txt", "4\n")
	w.repo.Commit(w.anna, "After the break")
	w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey)
	id := w.repo.Commit(w.root2, seal(target))
	res := w.accept(verify.Frontier{})
	var codes []verify.Code
	for _, v := range res.Commits {
		codes = append(codes, v.Code)
	}
	want := []verify.Code{verify.CodeStart, verify.CodeAccepted, verify.CodeSealed, verify.CodeSealed, verify.CodeAccepted, verify.CodeAccepted}
	for i := range want {
		if i >= len(codes) || codes[i] != want[i] {
			t.Fatalf("codes %q, want %q", codes, want)
		}
	}
	if last := res.Commits[5]; last.Commit != id || last.Signer != "root2" || last.Rule != "root" {
		t.Errorf("seal %+v", last)
	}
	w.write("a/5.txt", "5\n")
	w.repo.Commit(w.anna, "Life goes on")
	w.accept(res.Accepted)
}

func TestAttackSealByNonRoot(t *testing.T) {
	w := newWorld(t)
	good, target := w.breakRange()
	w.repo.Commit(w.admin, seal(target))
	w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey, "does not help", "only a root key may sign", "admin")
	// Nor may anyone else use the trailer where nothing is broken.
	w.repo.Git("reset", "-q", "--hard", good)
	w.repo.Commit(w.admin, seal(w.start))
	w.refuse(verify.Frontier{}, good, verify.CodeSeal, "only a root key may sign", "admin")
}

func TestAttackSealOfSomethingElse(t *testing.T) {
	w := newWorld(t)
	good, target := w.breakRange()
	for _, text := range []string{
		seal(good),        // does not cover the break
		seal(target[:12]), // ambiguous
		seal("0123456789012345678901234567890123456789"), // not an ancestor
		seal(target) + "\nApex-Seal: " + good,            // two
		"Apex-Seal: " + target,                           // the subject is no trailer
	} {
		w.repo.Git("reset", "-q", "--hard", target)
		w.repo.Commit(w.root, text)
		w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey)
	}
}

// A seal stands or falls with the commit that carries it.
func TestSealInRefusedCommit(t *testing.T) {
	w := newWorld(t)
	good, target := w.breakRange()
	w.write("a/x.txt", "root keys are no maintainers\n")
	w.repo.Commit(w.root, seal(target))
	w.refuse(verify.Frontier{}, good, verify.CodePath)
}

func TestSealThreshold(t *testing.T) {
	w := newWorldOf(t, 2)
	good, target := w.breakRange()
	w.repo.Commit(w.root, seal(target))
	w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey, "1 of 2 root signatures", "ssh-keygen -Y sign")

	sealWith := func(signatures ...string) {
		t.Helper()
		file, err := trustdir.Seal{Signatures: signatures}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		w.repo.Git("reset", "-q", "--hard", target)
		w.write(trustdir.SealPath(target), string(file))
		w.repo.Commit(w.root, seal(target))
	}
	statement := trustdir.SealStatement(network, target)
	sealWith(w.root.Sign(trustdir.NamespaceSeal, statement)) // the same key twice
	w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey)
	sealWith(w.root2.Sign("file", statement))
	w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey)
	sealWith(w.root2.Sign(trustdir.NamespaceSeal, trustdir.SealStatement("other", target)))
	w.refuse(verify.Frontier{}, good, verify.CodeUnknownKey)
	sealWith(w.root2.Sign(trustdir.NamespaceSeal, statement))
	w.accept(verify.Frontier{})
}

// A departed root key finds no way back: neither by sealing a range in which the trust root goes back to its version, nor
// by the seal alone.
func TestAttackSealByDepartedRoot(t *testing.T) {
	w := newWorld(t)
	w.trust.Spec.Root.Keys = []string{"root"}
	w.trust.RemoveKey("root2")
	rotated := w.rotate(w.root)
	w.write("a/x.txt", "x\n")
	bad := w.repo.Commit(nil, "Unsigned")
	w.repo.Commit(w.root2, seal(bad))
	w.refuse(verify.Frontier{}, rotated, verify.CodeUnsigned)

	w.repo.Git("reset", "-q", "--hard", rotated)
	w.repo.Git("checkout", "-q", w.start, "--", "trust")
	w.repo.Git("rm", "-q", trustdir.EnvelopePath(2))
	back := w.repo.Commit(w.root2, "Back to version 1")
	w.repo.Commit(w.root2, seal(back))
	w.refuse(verify.Frontier{}, rotated, verify.CodeUnknownKey)
}

func TestAttackSealedHostileTree(t *testing.T) {
	w := newWorld(t)
	blob := w.repo.Git("hash-object", "-w", "README.md")
	w.repo.Git("update-index", "--add", "--cacheinfo", "120000,"+blob+",link")
	w.env.Run(w.repo.Dir(), nil, "git", "commit", "-q", "-m", "A link")
	w.repo.Git("reset", "-q", "--hard")
	bad := w.repo.Head()
	w.repo.Remove("link")
	w.repo.Git("update-index", "--force-remove", "link")
	w.repo.Commit(w.root, seal(bad))
	w.refuse(verify.Frontier{}, w.start, verify.CodeUnsigned)
}

// A rotation inside a sealed range counts if its chain is good.
func TestSealOverRotation(t *testing.T) {
	w := newWorld(t)
	w.write("b/x.txt", "x\n")
	w.repo.Commit(w.nobody, "Lost key")
	w.trust.Spec.Root.Keys = []string{"root"}
	w.trust.RemoveKey("root2")
	w.trust.Spec.Version = 2
	w.trust.Write(w.repo, w.root)
	target := w.repo.Commit(w.root, "Rotate")
	w.repo.Commit(w.root, seal(target))
	if res := w.accept(verify.Frontier{}); res.Root.Version != 2 {
		t.Errorf("root version %d", res.Root.Version)
	}
}
