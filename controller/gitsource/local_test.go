package gitsource_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/gittest"
)

func openLocal(t *testing.T, path string) *gitsource.Local {
	t.Helper()
	l, err := gitsource.OpenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestLocalClone(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	env, origin, first := newRepo(t)
	dir := filepath.Join(env.Home(), "clone")
	env.Run(env.Home(), nil, "git", "clone", "-q", origin.Dir(), dir)
	repo := env.At(dir)
	repo.Branch("feature")
	repo.Write("a.yaml", "a: 2\n")
	second := repo.Commit(nil, "On the branch")
	repo.Git("gc", "-q")
	repo.Write("a.yaml", "a: 3\n")
	repo.Write("zones/new.yaml", "n: 1\n")
	repo.Write(".hidden/x.yaml", "x: 1\n")

	l := openLocal(t, filepath.Join(dir, "zones"))
	if root, err := filepath.EvalSymlinks(dir); err != nil || l.Root() != root && l.Root() != dir {
		t.Errorf("root %q, want %q", l.Root(), dir)
	}
	for rev, want := range map[string]string{"HEAD": second, "feature": second, "HEAD~1": first, "origin/main": first, second[:8]: second, second: second} {
		if got, err := l.Resolve(ctx, rev); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", rev, got, err, want)
		}
	}
	if _, err := l.Resolve(ctx, "nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("unknown revision: %v", err)
	}
	if l.Branch() != "feature" {
		t.Errorf("branch %q", l.Branch())
	}
	name, target, err := l.Target(ctx)
	if err != nil || name != "origin/main" || target != first {
		t.Errorf("target %s %s, %v", name, target, err)
	}
	if base, err := l.MergeBase(ctx, second, target); err != nil || base != first {
		t.Errorf("merge base %s, %v", base, err)
	}
	files, err := l.WorkingTree(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Path+"="+strings.TrimSpace(string(f.Data)))
	}
	if want := "a.yaml=a: 3 zones/b.yml=b: 1 zones/new.yaml=n: 1"; strings.Join(got, " ") != want {
		t.Errorf("working tree %q, want %q", got, want)
	}
	list, err := l.Files(ctx, second)
	if err != nil || len(list) != 2 {
		t.Fatalf("files %v, %v", list, err)
	}
	if f, err := l.Read(ctx, list[0]); err != nil || string(f.Data) != "a: 2\n" {
		t.Errorf("committed file %q, %v", f.Data, err)
	}
	if changes, err := l.Changed(ctx, first, second); err != nil || len(changes) != 1 || changes[0].Path != "a.yaml" {
		t.Errorf("changes %v, %v", changes, err)
	}

	linked := filepath.Join(env.Home(), "linked")
	repo.Git("worktree", "add", "-q", "--detach", linked, first)
	if head, err := openLocal(t, linked).Head(ctx); err != nil || head != first {
		t.Errorf("linked worktree at %s, %v", head, err)
	}
	bare := openLocal(t, repo.Bare())
	if _, err := bare.WorkingTree(ctx); err == nil || bare.Root() != "" {
		t.Errorf("a bare repository has a working tree at %q", bare.Root())
	}
}

func TestMergeBaseOfCrossedMerges(t *testing.T) {
	t.Parallel()
	_, repo, _ := newRepo(t)
	repo.Branch("x")
	repo.Write("x.yaml", "x: 1\n")
	x := repo.Commit(nil, "X")
	repo.Switch("main")
	repo.Write("m.yaml", "m: 1\n")
	m := repo.Commit(nil, "M")
	one := repo.Merge(nil, "x")
	repo.Switch("x")
	two := repo.Merge(nil, m)
	base, err := openLocal(t, repo.Dir()).MergeBase(context.Background(), one, two)
	if err != nil || base != min(x, m) {
		t.Errorf("merge base %s, %v; want %s or %s", base, err, x, m)
	}
}

func TestLocalRefusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	if _, err := gitsource.OpenLocal(t.TempDir()); !errors.Is(err, gitsource.ErrNoRepository) {
		t.Errorf("no repository: %v", err)
	}
	_, repo, _ := newRepo(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(repo.Dir(), "link.yaml")); err != nil {
		t.Fatal(err)
	}
	l := openLocal(t, repo.Dir())
	var hostile *gitobject.HostileError
	if _, err := l.WorkingTree(ctx); !errors.As(err, &hostile) || hostile.Path != "link.yaml" {
		t.Errorf("symbolic link in the working tree: %v", err)
	}
	id := repo.Commit(nil, "A link")
	if _, err := l.Files(ctx, id); !errors.As(err, &hostile) || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("symbolic link in a commit: %v", err)
	}
}

// What git prints about an SSH signature is what gittest made: the fixture signs as a person would.
func TestFixtureSignsLikeAPerson(t *testing.T) {
	t.Parallel()
	env := gittest.New(t)
	key := env.SSHKey("anna")
	repo := env.Repo("r")
	repo.Write("x", "x")
	id := repo.Commit(key, "Signed")
	allowed := filepath.Join(env.Home(), "allowed")
	env.WriteFile(allowed, "test@example.org "+key.Public+"\n")
	repo.Git("-c", "gpg.ssh.allowedSignersFile="+allowed, "verify-commit", id)
}
