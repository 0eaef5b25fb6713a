package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/spec"
)

// ErrNoRepository says that a folder is not inside a git repository.
var ErrNoRepository = errors.New("not a git repository")

// Local is a person's own clone, opened read-only for the command line. It runs no hook, filter or helper of the clone.
// Its methods are safe for concurrent use.
type Local struct {
	root    string // the working tree; empty for a bare repository
	parents parentCache

	mu   sync.Mutex
	git  *filesystem.Storage
	repo *git.Repository
}

// OpenLocal opens the repository that holds path: a folder of a working tree, of a linked worktree, or a bare repository.
// Errors: ErrNoRepository.
func OpenLocal(path string) (*Local, error) {
	repo, err := git.PlainOpenWithOptions(path, &git.PlainOpenOptions{DetectDotGit: true, EnableDotGitCommonDir: true})
	if errors.Is(err, git.ErrRepositoryNotExists) {
		repo, err = git.PlainOpen(path) // a bare repository has no .git folder to detect
	}
	if errors.Is(err, git.ErrRepositoryNotExists) {
		return nil, fmt.Errorf("%s: %w; run git init, or name a folder of a clone", path, ErrNoRepository)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	storage, ok := repo.Storer.(*filesystem.Storage)
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, ErrNoRepository)
	}
	l := &Local{}
	if tree, err := repo.Worktree(); err == nil {
		l.root = tree.Filesystem.Root()
	}
	// Open the storage again with descriptors kept: go-git's default opens the pack for every object.
	l.git = filesystem.NewStorageWithOptions(storage.Filesystem(), cache.NewObjectLRU(objectCacheBytes),
		filesystem.Options{KeepDescriptors: true, AlternatesFS: osfs.New("/")})
	if l.repo, err = git.Open(l.git, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return l, nil
}

// Close releases the clone's files.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.git.Close()
}

// Root is the top folder of the working tree, or "" for a bare repository.
func (l *Local) Root() string { return l.root }

// Resolve finds the commit that a revision names: a full or short id, a branch, a tag, HEAD, HEAD~2, origin/main.
func (l *Local) Resolve(_ context.Context, rev string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.resolve(rev)
}

func (l *Local) resolve(rev string) (string, error) {
	hash, err := l.repo.ResolveRevision(plumbing.Revision(rev))
	if err != nil {
		return "", fmt.Errorf("revision %.80q: no such commit, branch or tag here: %w", rev, err)
	}
	return hash.String(), nil
}

// Head is the commit that HEAD stands at.
func (l *Local) Head(ctx context.Context) (string, error) { return l.Resolve(ctx, "HEAD") }

// Branch is the short name of the branch HEAD is on, or "" if it is detached.
func (l *Local) Branch() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	ref, err := l.git.Reference(plumbing.HEAD)
	if err != nil || ref.Type() != plumbing.SymbolicReference || !ref.Target().IsBranch() {
		return ""
	}
	return ref.Target().Short()
}

// Target guesses the branch that the current one will be merged into, and its commit: the remote's default branch, else
// main, else master.
func (l *Local) Target(_ context.Context) (name, commit string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	candidates := []string{"origin/main", "origin/master", "main", "master"}
	if ref, err := l.git.Reference(plumbing.NewRemoteHEADReferenceName("origin")); err == nil && ref.Type() == plumbing.SymbolicReference {
		candidates = slices.Insert(candidates, 0, ref.Target().Short())
	}
	for _, name := range candidates {
		if commit, err := l.resolve(name); err == nil {
			return name, commit, nil
		}
	}
	return "", "", fmt.Errorf("no target branch found (looked for %s); name a revision", strings.Join(candidates, ", "))
}

// MergeBase finds the best common ancestor of two commits; of several it takes the first by id. Errors:
// gitobject.ErrMissing if they share no history.
func (l *Local) MergeBase(ctx context.Context, a, b string) (string, error) {
	seen := map[string]int{a: 1}
	if a == b {
		return a, nil
	}
	seen[b] |= 2
	order := []string{a, b}
	// Every commit is looked at until its marks stop changing; histories of people's clones are small enough for that.
	parents := map[string][]string{}
	for i := 0; i < len(order); i++ {
		id := order[i]
		ps, err := l.Parents(ctx, id)
		if err != nil {
			return "", err
		}
		parents[id] = ps
		for _, p := range ps {
			if seen[p]|seen[id] != seen[p] {
				seen[p] |= seen[id]
				order = append(order, p)
			}
		}
	}
	best := map[string]bool{}
	for id, mark := range seen {
		if mark == 3 {
			best[id] = true
		}
	}
	for id := range seen {
		if seen[id] == 3 {
			for _, p := range parents[id] {
				delete(best, p)
			}
		}
	}
	bases := make([]string, 0, len(best))
	for id := range best {
		bases = append(bases, id)
	}
	if len(bases) == 0 {
		return "", fmt.Errorf("%s and %s share no history: %w", a, b, gitobject.ErrMissing)
	}
	slices.Sort(bases)
	return bases[0], nil
}

// Object implements gitobject.Objects.
func (l *Local) Object(ctx context.Context, kind gitobject.Kind, id string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return object(l.git, kind, id, limit)
}

// Files, Read, ReadAll and Changed are those of Source.
func (l *Local) Files(ctx context.Context, commit string) ([]File, error) {
	return files(ctx, l, commit)
}

// Read reads one file, checked against its blob id.
func (l *Local) Read(ctx context.Context, f File) (spec.File, error) { return read(ctx, l, f) }

// ReadAll reads files in order.
func (l *Local) ReadAll(ctx context.Context, list []File) ([]spec.File, error) {
	return readAll(ctx, l, list)
}

// Changed lists every path that differs between two commits.
func (l *Local) Changed(ctx context.Context, oldCommit, newCommit string) ([]gitobject.Change, error) {
	return changed(ctx, l, oldCommit, newCommit)
}

// WorkingTree reads the documents that stand in the working tree now, committed or not, ignored or not, in path order.
// It refuses what a commit could not hold either: symbolic links, oversized files, too many of them.
func (l *Local) WorkingTree(ctx context.Context) ([]spec.File, error) {
	if l.root == "" {
		return nil, fmt.Errorf("a bare repository has no working tree; name a revision")
	}
	return ReadFolder(ctx, l.root)
}

// ReadFolder reads the documents below a folder, which need not be in a repository. Paths are relative to the folder.
func ReadFolder(ctx context.Context, folder string) ([]spec.File, error) {
	var list []spec.File
	total := 0
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if entry.IsDir() {
			if name != "." && strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		if !spec.IsSource(name) {
			return nil
		}
		if !entry.Type().IsRegular() {
			return &gitobject.HostileError{Path: name, Reason: "is not a regular file; put the file itself there"}
		}
		data, err := readCapped(path)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if total += len(data); total > gitobject.MaxTotalBytes || len(list) >= gitobject.MaxFiles {
			return fmt.Errorf("%s: more documents than fit a network repository: %w", name, gitobject.ErrTooLarge)
		}
		list = append(list, spec.File{Path: name, Data: data})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b spec.File) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

func readCapped(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > gitobject.MaxBlobBytes {
		return nil, fmt.Errorf("%d bytes, at most %d are read: %w", info.Size(), gitobject.MaxBlobBytes, gitobject.ErrTooLarge)
	}
	return os.ReadFile(path)
}
