package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/apex-network/apex/internal/gitobject"
)

// objectCacheBytes is the LRU of unpacked objects: mostly folders that serve as delta bases. Small, for what is parsed
// is cached by blob id further up.
const objectCacheBytes = 16 << 20

// originFile, in a clone, names the remote and branch it was made from.
const originFile = "apex-origin"

// store is one bare repository on disk.
type store struct {
	dir    string
	branch plumbing.ReferenceName

	mu  sync.Mutex // go-git's storage is not safe for concurrent use
	git *filesystem.Storage
}

func newStore(dir string) *store {
	return &store{dir: dir, git: filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(objectCacheBytes),
		filesystem.Options{ExclusiveAccess: false, KeepDescriptors: true})}
}

func createStore(dir, origin, branch string) (*store, error) {
	st := newStore(dir)
	st.branch = plumbing.NewBranchReferenceName(branch)
	err := errors.Join(
		st.git.Init(),
		st.git.SetReference(plumbing.NewSymbolicReference(plumbing.HEAD, st.branch)),
		os.WriteFile(filepath.Join(dir, originFile), []byte(origin), 0o600),
		os.WriteFile(filepath.Join(dir, "config"), []byte("[core]\n\trepositoryformatversion = 0\n\tbare = true\n"), 0o600),
	)
	if err != nil {
		return nil, fmt.Errorf("new clone: %w", err)
	}
	return st, nil
}

// openStore opens a clone that an earlier run made and removes packs that it did not finish. A clone whose branch cannot
// be read (power was lost before the disk had it) is an error.
func openStore(dir string) (*store, error) {
	st := newStore(dir)
	head, err := st.git.Reference(plumbing.HEAD)
	if err != nil || head.Type() != plumbing.SymbolicReference {
		return nil, fmt.Errorf("clone %s has no HEAD: %w", dir, errors.Join(err, gitobject.ErrMalformed))
	}
	st.branch = head.Target()
	for _, pattern := range []string{"objects/pack/tmp_pack_*", "spool-*"} {
		rest, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
		for _, path := range rest {
			err = errors.Join(err, os.Remove(path))
		}
		if err != nil {
			return nil, errors.Join(err, st.close())
		}
	}
	if _, err := gitobject.ReadCommit(context.Background(), st, st.head()); err != nil {
		return nil, errors.Join(fmt.Errorf("branch of clone %s: %w", dir, err), st.close())
	}
	return st, nil
}

func (s *store) origin() string {
	b, err := os.ReadFile(filepath.Join(s.dir, originFile))
	if err != nil {
		return ""
	}
	return string(b)
}

func (s *store) head() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref, err := s.git.Reference(s.branch)
	if err != nil {
		return ""
	}
	return ref.Hash().String()
}

func (s *store) setHead(commit plumbing.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.git.SetReference(plumbing.NewHashReference(s.branch, commit))
}

// addPack stores a checked pack; readers see its objects once it is complete.
func (s *store) addPack(pack io.Reader) error {
	s.mu.Lock()
	w, err := s.git.PackfileWriter()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = io.Copy(w, pack)
	s.mu.Lock() // closing enters the pack into the index
	defer s.mu.Unlock()
	return errors.Join(err, w.Close())
}

func (s *store) packFiles() []string {
	paths, err := filepath.Glob(filepath.Join(s.dir, "objects", "pack", "*.pack"))
	if err != nil {
		return nil // the pattern is constant and well-formed
	}
	return paths
}

func (s *store) packs() int { return len(s.packFiles()) }

func (s *store) size() int64 {
	var total int64
	for _, path := range s.packFiles() {
		if info, err := os.Stat(path); err == nil {
			total += info.Size()
		}
	}
	return total
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.git.Close()
}

// Object implements gitobject.Objects.
func (s *store) Object(ctx context.Context, kind gitobject.Kind, id string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return object(s.git, kind, id, limit)
}

// object reads one object from go-git's storage; its size is asked for before it is read.
func object(git *filesystem.Storage, kind gitobject.Kind, id string, limit int64) ([]byte, error) {
	want, err := plumbing.ParseObjectType(string(kind))
	if err != nil {
		return nil, fmt.Errorf("object kind %q: %w", kind, err)
	}
	hash := plumbing.NewHash(id)
	size, err := git.EncodedObjectSize(hash)
	if err != nil {
		return nil, storageError(err)
	}
	if size > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are read: %w", size, limit, gitobject.ErrTooLarge)
	}
	o, err := git.EncodedObject(want, hash)
	if err != nil {
		return nil, storageError(err)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, err
	}
	content := make([]byte, 0, size+1)
	buf := sizedBuffer{b: content, limit: limit}
	_, err = io.Copy(&buf, r)
	return buf.b, errors.Join(err, r.Close())
}

// sizedBuffer collects at most limit bytes, in case an object is larger than its header says.
type sizedBuffer struct {
	b     []byte
	limit int64
}

func (s *sizedBuffer) Write(p []byte) (int, error) {
	if int64(len(s.b)+len(p)) > s.limit {
		return 0, gitobject.ErrTooLarge
	}
	s.b = append(s.b, p...)
	return len(p), nil
}

func storageError(err error) error {
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return gitobject.ErrMissing
	}
	// A pack that is cut off or scribbled over fails in many ways; none may look like "no such object".
	if strings.Contains(err.Error(), "packfile") || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", gitobject.ErrCorrupt, err)
	}
	return err
}
