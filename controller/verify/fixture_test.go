package verify_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/gittest"
)

const (
	network = "corp"
	netYAML = "apiVersion: apex/v1alpha1\nkind: Network\nmetadata:\n  name: corp\nspec: {}\n"
	zoneA   = "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata:\n  name: a\nspec:\n  ranges: [10.1.0.0/16]\n"
	zoneB   = "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata:\n  name: b\nspec:\n  ranges: [10.2.0.0/16]\n"
)

// world is a network repository with a trust root and one key per part.
type rootKey = gittest.SSHKey

type world struct {
	t     *testing.T
	env   *gittest.Env
	repo  *gittest.Repo
	trust *gittest.TrustRoot
	// root and root2 hold the root role; admin maintains **, anna a/** in zone a, bob b/**; forge signs merges;
	// nobody is not listed.
	root, root2, admin, anna, bob, forge, nobody *gittest.SSHKey
	start                                        string
}

func newWorld(t *testing.T) *world { return newWorldOf(t, 1) }

func newWorldOf(t *testing.T, threshold int) *world {
	t.Helper()
	t.Parallel()
	env := gittest.New(t)
	w := &world{t: t, env: env, repo: env.Repo("net"),
		root: env.SSHKey("root"), root2: env.SSHKey("root2"), admin: env.SSHKey("admin"), anna: env.SSHKey("anna"),
		bob: env.SSHKey("bob"), forge: env.SSHKey("forge"), nobody: env.SSHKey("nobody")}
	w.trust = env.TrustRoot(network, threshold, w.root, w.root2)
	w.trust.Maintainer("admins", w.admin, []string{"**"})
	w.trust.Maintainer("team-a", w.anna, []string{"a/**", "shared/**"}, "a")
	w.trust.Maintainer("team-b", w.bob, []string{"b/**"})
	w.trust.Forge(w.forge)
	w.trust.Write(w.repo, w.root, w.root2)
	w.repo.WriteAll(map[string]string{"network.yaml": netYAML, "a/zone.yaml": zoneA, "b/zone.yaml": zoneB, "README.md": "hello\n"})
	w.start = w.repo.Commit(w.root, "Begin the network")
	return w
}

func (w *world) objects() gitobject.Objects {
	w.t.Helper()
	local, err := gitsource.OpenLocal(w.repo.Dir())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := local.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return local
}

func (w *world) policy() verify.Trust { return verify.Trust{Network: network, Pin: w.trust.Pin()} }

func (w *world) run(f verify.Frontier) (verify.Result, error) {
	w.t.Helper()
	return verify.Range(context.Background(), w.objects(), w.policy(), f, w.repo.Head())
}

// accept demands that HEAD is accepted and gives the result.
func (w *world) accept(f verify.Frontier) verify.Result {
	w.t.Helper()
	res, err := w.run(f)
	if err != nil {
		w.t.Fatalf("want HEAD accepted, got: %v", err)
	}
	if head := w.repo.Head(); res.Accepted.Commit != head {
		w.t.Fatalf("accepted %s, want HEAD %s", res.Accepted.Commit, head)
	}
	return res
}

// refuse demands that HEAD is refused with this code and a reason that holds every one of these words, and that nothing
// past the last good commit is accepted.
func (w *world) refuse(f verify.Frontier, lastGood string, code verify.Code, words ...string) *verify.Refusal {
	w.t.Helper()
	res, err := w.run(f)
	var refusal *verify.Refusal
	if !errors.As(err, &refusal) || !errors.Is(err, verify.ErrRefused) {
		w.t.Fatalf("want a refusal, got %v", err)
	}
	if refusal.Verdict.Code != code {
		w.t.Fatalf("code %s, want %s: %v", refusal.Verdict.Code, code, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.t.Errorf("reason lacks %q: %v", word, err)
		}
	}
	if res.Accepted.Commit != lastGood {
		w.t.Errorf("accepted up to %s, want %s", res.Accepted.Commit, lastGood)
	}
	w.t.Logf("reason: %v", err)
	return refusal
}

func (w *world) write(path, content string) { w.t.Helper(); w.repo.Write(path, content) }

// unsigned gives the bytes of a commit object of the working tree on HEAD, unsigned, without moving HEAD.
func (w *world) unsigned(message string) []byte {
	w.t.Helper()
	id := w.repo.Commit(nil, message)
	raw := w.repo.Raw("commit", id)
	w.repo.Git("reset", "-q", "--soft", "HEAD~1")
	return raw
}
