package gitsource_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/gittest"
)

func open(t *testing.T, dir string, remote gitsource.Remote, opts gitsource.Options) *gitsource.Source {
	t.Helper()
	if remote.Branch == "" {
		remote.Branch = "main"
	}
	s, err := gitsource.Open(dir, remote, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fetch(t *testing.T, s *gitsource.Source, want string) {
	t.Helper()
	head, err := s.Fetch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if head != want {
		t.Fatalf("head %s, want %s", head, want)
	}
}

func documents(t *testing.T, s *gitsource.Source, commit string) map[string]string {
	t.Helper()
	list, err := s.Files(context.Background(), commit)
	if err != nil {
		t.Fatal(err)
	}
	read, err := s.ReadAll(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range read {
		out[f.Path] = string(f.Data)
	}
	return out
}

func newRepo(t *testing.T) (*gittest.Env, *gittest.Repo, string) {
	t.Helper()
	env := gittest.New(t)
	repo := env.Repo("net")
	repo.WriteAll(map[string]string{"a.yaml": "a: 1\n", "zones/b.yml": "b: 1\n", "README.md": "hello\n", ".github/c.yaml": "c: 1\n"})
	return env, repo, repo.Commit(nil, "First")
}

func TestCloneFetchAndRead(t *testing.T) {
	t.Parallel()
	_, repo, first := newRepo(t)
	dir := t.TempDir()
	var phases sync.Map
	s := open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{Progress: func(p gitsource.Progress) { phases.Store(p.Phase, p.Bytes) }})
	if _, ok := s.Head(); ok {
		t.Error("a head before the first fetch")
	}
	fetch(t, s, first)
	fetch(t, s, first)
	if bytes, ok := phases.Load(gitsource.PhaseReceive); !ok || bytes.(int64) == 0 {
		t.Error("no progress reported")
	}
	got := documents(t, s, first)
	if len(got) != 2 || got["a.yaml"] != "a: 1\n" || got["zones/b.yml"] != "b: 1\n" {
		t.Errorf("documents %q", got)
	}

	repo.Write("a.yaml", "a: 2\n")
	repo.Remove("zones")
	second := repo.Commit(nil, "Second")
	fetch(t, s, second)
	changes, err := s.Changed(context.Background(), first, second)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) != 2 || changes[0].Path != "a.yaml" || changes[0].New == nil || changes[1].Path != "zones/b.yml" || changes[1].New != nil {
		t.Errorf("changes %+v", changes)
	}

	// A later run uses the clone on disk, without the remote.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{})
	if head, ok := again.Head(); !ok || head != second {
		t.Errorf("head after a restart: %s, %v", head, ok)
	}
	if got := documents(t, again, second); got["a.yaml"] != "a: 2\n" {
		t.Errorf("documents after a restart %q", got)
	}
	if head, ok := open(t, dir, gitsource.Remote{URL: repo.Dir(), Branch: "other"}, gitsource.Options{}).Head(); ok {
		t.Errorf("another branch inherits head %s", head)
	}
}

// The clone holds full history, no worktree, and nothing but the branch.
func TestCloneIsBareAndComplete(t *testing.T) {
	t.Parallel()
	env, repo, first := newRepo(t)
	repo.Git("tag", "v1")
	repo.Branch("other")
	repo.Write("other.yaml", "x: 1\n")
	foreign := repo.Commit(nil, "Other")
	repo.Switch("main")
	repo.Write("a.yaml", "a: 2\n")
	head := repo.Commit(nil, "Second")
	dir := t.TempDir()
	s := open(t, dir, gitsource.Remote{URL: "file://" + repo.Dir()}, gitsource.Options{})
	fetch(t, s, head)
	clones, err := filepath.Glob(filepath.Join(dir, "clone-*"))
	if err != nil || len(clones) != 1 {
		t.Fatalf("clones %q, %v", clones, err)
	}
	clone := env.At(clones[0])
	if refs := clone.Git("for-each-ref", "--format=%(refname)"); refs != "refs/heads/main" {
		t.Errorf("refs %q", refs)
	}
	if n := clone.Git("rev-list", "--count", "main"); n != "2" {
		t.Errorf("%s commits", n)
	}
	clone.Git("fsck", "--strict")
	if _, err := s.Object(context.Background(), gitobject.KindCommit, foreign, 1<<20); !errors.Is(err, gitobject.ErrMissing) {
		t.Errorf("another branch's commit: %v", err)
	}
	if _, err := s.Object(context.Background(), gitobject.KindBlob, first, 1<<20); !errors.Is(err, gitobject.ErrMissing) {
		t.Errorf("a commit read as a blob: %v", err)
	}
}

func TestForcePushedBranchIsFetched(t *testing.T) {
	t.Parallel()
	_, repo, first := newRepo(t)
	repo.Write("a.yaml", "a: 2\n")
	second := repo.Commit(nil, "Second")
	s := open(t, t.TempDir(), gitsource.Remote{URL: repo.Dir()}, gitsource.Options{})
	fetch(t, s, second)
	repo.Git("reset", "-q", "--hard", first)
	fetch(t, s, first) // what it means is for verify to say
	repo.Write("a.yaml", "a: 3\n")
	fetch(t, s, repo.Commit(nil, "Third"))
	if _, err := gitobject.ReadCommit(context.Background(), s, second); err != nil {
		t.Errorf("the commit of before is lost: %v", err)
	}
}

func TestCompact(t *testing.T) {
	t.Parallel()
	_, repo, first := newRepo(t)
	dir := t.TempDir()
	s := open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{Limits: gitsource.Limits{Packs: 3}})
	fetch(t, s, first)
	var head string
	for i := range 4 {
		repo.Write("a.yaml", fmt.Sprintf("a: %d\n", 10+i))
		head = repo.Commit(nil, "More")
		fetch(t, s, head)
	}
	if !s.NeedsCompaction() {
		t.Fatal("five packs, and no need to compact")
	}
	// Readers go on while the clones are swapped.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := gitobject.ReadCommit(context.Background(), s, first); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	err := s.Compact(context.Background(), first, head)
	close(stop)
	wg.Wait()
	if err != nil || s.NeedsCompaction() {
		t.Fatalf("compaction: %v", err)
	}
	if got := documents(t, s, head); got["a.yaml"] != "a: 13\n" {
		t.Errorf("documents %q", got)
	}
	if clones, _ := filepath.Glob(filepath.Join(dir, "clone-*")); len(clones) != 1 {
		t.Errorf("clones left: %q", clones)
	}
	// A rewritten remote must not cost the accepted commits.
	repo.Git("reset", "-q", "--hard", first)
	if err := s.Compact(context.Background(), head); !errors.Is(err, gitsource.ErrLost) {
		t.Errorf("compaction that loses the frontier: %v", err)
	}
	if _, err := gitobject.ReadCommit(context.Background(), s, head); err != nil {
		t.Errorf("the old clone is gone: %v", err)
	}
}

func TestDamagedCloneHealsByCompaction(t *testing.T) {
	t.Parallel()
	_, repo, first := newRepo(t)
	dir := t.TempDir()
	s := open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{})
	fetch(t, s, first)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "clone-*", "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("packs %q, %v", packs, err)
	}
	data, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := 12; i < len(data)-20; i++ {
		data[i] ^= 0x55
	}
	if err := errors.Join(os.Chmod(packs[0], 0o600), os.WriteFile(packs[0], data, 0o600)); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{})
	if head, ok := s.Head(); ok {
		t.Errorf("a damaged clone is used: %s", head)
	}
	fetch(t, s, first)
	documents(t, s, first)
	if err := s.Compact(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	documents(t, s, first)
}

// An interrupted clone leaves nothing behind that a later run would take for one.
func TestRubbishIsSwept(t *testing.T) {
	t.Parallel()
	_, repo, first := newRepo(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "clone-half", "objects"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, current := range []string{"", "clone-half\n", "../../etc\n", "clone-gone\n", "/etc"} {
		if err := os.WriteFile(filepath.Join(dir, "current"), []byte(current), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, gitsource.Remote{URL: repo.Dir()}, gitsource.Options{})
		if head, ok := s.Head(); ok {
			t.Errorf("current %q: head %s", current, head)
		}
		fetch(t, s, first)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if clones, _ := filepath.Glob(filepath.Join(dir, "clone-*")); len(clones) != 1 {
		t.Errorf("clones left: %q", clones)
	}
}

func TestRemoteErrors(t *testing.T) {
	t.Parallel()
	env, repo, _ := newRepo(t)
	empty := env.Repo("empty")
	ctx := context.Background()
	for name, c := range map[string]struct {
		remote gitsource.Remote
		is     error
		word   string
	}{
		"no repository": {gitsource.Remote{URL: filepath.Join(env.Home(), "none"), Branch: "main"}, gitsource.ErrRemote, "no repository there"},
		"not one":       {gitsource.Remote{URL: env.Home(), Branch: "main"}, gitsource.ErrRemote, "not appear to be a git repository"},
		"empty":         {gitsource.Remote{URL: empty.Dir(), Branch: "main"}, gitsource.ErrBranch, "push a first commit"},
		"no branch":     {gitsource.Remote{URL: repo.Dir(), Branch: "prod"}, gitsource.ErrBranch, `it has: "main"`},
		"no listener":   {gitsource.Remote{URL: "http://127.0.0.1:1/x", Branch: "main"}, gitsource.ErrRemote, "127.0.0.1:1"},
		"no key":        {gitsource.Remote{URL: "git@127.0.0.1:x", Branch: "main"}, gitsource.ErrRemote, "needs a key"},
	} {
		dir := t.TempDir()
		s := open(t, dir, c.remote, gitsource.Options{})
		if _, err := s.Fetch(ctx); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
			t.Errorf("%s: left %q", name, left)
		}
	}
	for name, remote := range map[string]gitsource.Remote{
		"no URL":    {Branch: "main"},
		"no branch": {URL: "/x"},
		"option":    {URL: "--upload-pack=touch /tmp/x", Branch: "main"},
		"helper":    {URL: "ext::sh -c touch% /tmp/x", Branch: "main"},
		"scheme":    {URL: "ext://x", Branch: "main"},
		"git":       {URL: "git://127.0.0.1/x", Branch: "main"},
		"password":  {URL: "https://me:secret@example.org/x", Branch: "main"},
		"bad":       {URL: "https://me:secret@exa mple.org/x", Branch: "main"},
		"ref trick": {URL: "/x", Branch: "../../config"},
		"ssh path":  {URL: "git@host:-x", Branch: "main"},
	} {
		_, err := gitsource.Open(t.TempDir(), remote, gitsource.Options{})
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	env, repo, _ := newRepo(t)
	noise := make([]byte, 300<<10)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	repo.Write("big.bin", string(noise))
	repo.Commit(nil, "Big")
	bomb := env.Repo("bomb")
	bomb.Write("zeros.yaml", strings.Repeat("\x00", 5<<20))
	bomb.Commit(nil, "Five megabytes of nothing")
	for name, c := range map[string]struct {
		url    string
		limits gitsource.Limits
	}{
		"transfer": {repo.Dir(), gitsource.Limits{FetchBytes: 100 << 10}},
		"store":    {repo.Dir(), gitsource.Limits{StoreBytes: 100 << 10}},
		"objects":  {repo.Dir(), gitsource.Limits{Objects: 3}},
		"object":   {bomb.Dir(), gitsource.Limits{ObjectBytes: 1 << 20}},
		"total":    {bomb.Dir(), gitsource.Limits{InflatedBytes: 1 << 20}},
	} {
		dir := t.TempDir()
		s := open(t, dir, gitsource.Remote{URL: c.url}, gitsource.Options{Limits: c.limits})
		if _, err := s.Fetch(context.Background()); !errors.Is(err, gitsource.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
			t.Errorf("%s: left %q", name, left)
		}
	}
	// A file too large to read is no reason to refuse the commit, until somebody wants to read it as a document.
	s := open(t, t.TempDir(), gitsource.Remote{URL: bomb.Dir()}, gitsource.Options{})
	fetch(t, s, bomb.Head())
	list, err := s.Files(context.Background(), bomb.Head())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadAll(context.Background(), list); !errors.Is(err, gitobject.ErrTooLarge) || !strings.Contains(err.Error(), "zeros.yaml") {
		t.Errorf("oversized document: %v", err)
	}
}
