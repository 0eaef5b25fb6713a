// Package gitsource keeps a controller's own copy of one branch of one repository, and reads it without ever checking
// it out.
//
// The copy is bare, holds one branch with its full history and no tags, and lives in a folder of its own:
//
//	dir/current           names the clone in use; replaced by rename, so that a swap is atomic
//	dir/clone-<random>/   a bare git repository; plain git can look into it
//
// Nothing that arrives is trusted: bytes, objects and time of a fetch are bounded, every object is hashed when it is
// read (see gitobject), and what the commits mean is for controller/verify to decide. Replace refs and grafts have no
// effect, for objects are only ever read by their own id.
//
// Source follows a remote. Local opens a person's own clone, read-only, for the command line.
package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/spec"
)

// Errors that callers tell apart. ErrBranch: the remote answers but has no such branch. ErrLimit: what the remote sends
// exceeds a limit; nothing of it was kept. ErrRemote: the remote cannot be reached, refuses, or stalls. ErrLost: a
// fresh clone lacks commits that must not be lost; the old clone stays in use.
var (
	ErrBranch = errors.New("branch not found")
	ErrLimit  = errors.New("repository exceeds a limit")
	ErrRemote = errors.New("repository cannot be fetched")
	ErrLost   = errors.New("fresh clone lacks known commits")
)

// Limits bound what a remote can make the controller spend. A zero field takes its default.
type Limits struct {
	// FetchBytes bounds one pack as transferred. Default 1 GiB.
	FetchBytes int64
	// ObjectBytes bounds one object, unpacked. Default 64 MiB.
	ObjectBytes int64
	// InflatedBytes bounds all objects of one pack together, unpacked. Default 64 GiB.
	InflatedBytes int64
	// Objects bounds the number of objects in one pack. Default 5 million.
	Objects uint32
	// StoreBytes bounds the packs of one clone on disk. Default 4 GiB.
	StoreBytes int64
	// FetchTimeout bounds one fetch as a whole, IdleTimeout the silence within it. Defaults 10 min and 30 s.
	FetchTimeout, IdleTimeout time.Duration
	// Packs is how many packs may pile up before NeedsCompaction. Default 50.
	Packs int
}

func (l Limits) withDefaults() Limits {
	set := func(field *int64, value int64) {
		if *field == 0 {
			*field = value
		}
	}
	set(&l.FetchBytes, 1<<30)
	set(&l.ObjectBytes, 64<<20)
	set(&l.InflatedBytes, 64<<30)
	set(&l.StoreBytes, 4<<30)
	set((*int64)(&l.FetchTimeout), int64(10*time.Minute))
	set((*int64)(&l.IdleTimeout), int64(30*time.Second))
	if l.Objects == 0 {
		l.Objects = 5_000_000
	}
	if l.Packs == 0 {
		l.Packs = 50
	}
	return l
}

// Phase is what a long fetch is doing.
type Phase string

// The phases, in order.
const (
	PhaseReceive Phase = "receive"
	PhaseCheck   Phase = "check"
	PhaseIndex   Phase = "index"
)

// Progress tells how far a fetch has come: bytes of the pack so far.
type Progress struct {
	Phase Phase
	Bytes int64
}

// Options are the parts of a Source that have defaults; the zero value is ready.
type Options struct {
	Limits Limits
	// Logger receives what a person may want to know of the clone's upkeep. Default: discards.
	Logger *slog.Logger
	// Progress, if set, is called a few times a second while a fetch transfers, and when its phase changes.
	Progress func(Progress)
}

// Source is the controller's copy of one branch of one remote. Its methods are safe for concurrent use; a fetch does
// not hold up readers.
type Source struct {
	dir    string
	remote Remote
	limits Limits
	log    *slog.Logger
	report func(Progress)

	parents parentCache

	fetching sync.Mutex // held for the length of a Fetch or Compact

	mu    sync.RWMutex // guards which store is in use
	store *store       // nil before the first fetch
}

// Open prepares the copy in dir (created if need be) without touching the network. A clone left by an earlier run is
// used again; rubbish of an interrupted run is removed, so no two Sources may share dir.
func Open(dir string, remote Remote, opts Options) (*Source, error) {
	if err := remote.check(); err != nil {
		return nil, err
	}
	s := &Source{dir: dir, remote: remote, limits: opts.Limits.withDefaults(), log: opts.Logger, report: opts.Progress}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.report == nil {
		s.report = func(Progress) {}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("clone folder: %w", err)
	}
	name, err := os.ReadFile(filepath.Join(dir, currentFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("clone folder: %w", err)
	}
	current := strings.TrimSpace(string(name))
	if current != "" && filepath.IsLocal(current) && strings.HasPrefix(current, clonePrefix) {
		st, err := openStore(filepath.Join(dir, current))
		switch {
		case err == nil && st.origin() == remote.identity():
			s.store = st
		case err == nil:
			s.log.Info("remote changed, cloning anew", "dir", dir)
			st.close()
		default:
			s.log.Warn("clone unusable, cloning anew", "dir", dir, "error", err)
		}
	}
	s.sweep()
	return s, nil
}

const (
	currentFile = "current"
	clonePrefix = "clone-"
)

// sweep removes every clone but the one in use.
func (s *Source) sweep() {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.log.Warn("clone folder not swept", "error", err)
		return
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if strings.HasPrefix(e.Name(), clonePrefix) && (s.store == nil || path != s.store.dir) {
			if err := os.RemoveAll(path); err != nil {
				s.log.Warn("old clone not removed", "path", path, "error", err)
			}
		}
	}
}

// Fetch brings the copy up to the remote's branch, cloning if there is none, and returns the branch's tip. Nothing
// about the tip is verified. The transfer is bounded by ctx and by Limits; on any error the copy is as it was.
func (s *Source) Fetch(ctx context.Context) (head string, err error) {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	s.mu.RLock()
	st := s.store
	s.mu.RUnlock()
	if st != nil {
		return s.pull(ctx, st)
	}
	fresh, head, err := s.clone(ctx)
	if err != nil {
		return "", err
	}
	return head, s.use(fresh)
}

// clone fetches into a new folder; on error the folder is gone.
func (s *Source) clone(ctx context.Context) (_ *store, head string, err error) {
	dir, err := os.MkdirTemp(s.dir, clonePrefix)
	if err != nil {
		return nil, "", fmt.Errorf("clone folder: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	st, err := createStore(dir, s.remote.identity(), s.remote.Branch)
	if err != nil {
		return nil, "", err
	}
	if head, err = s.pull(ctx, st); err != nil {
		st.close()
		return nil, "", err
	}
	return st, head, nil
}

// use makes st the clone in use, on disk and in memory, and removes the one before.
func (s *Source) use(st *store) error {
	pointer := filepath.Join(s.dir, currentFile)
	if err := writeSynced(pointer+".new", []byte(filepath.Base(st.dir)+"\n")); err != nil {
		return fmt.Errorf("clone folder: %w", err)
	}
	if err := os.Rename(pointer+".new", pointer); err != nil {
		return fmt.Errorf("clone folder: %w", err)
	}
	s.mu.Lock()
	old := s.store
	s.store = st
	s.mu.Unlock()
	if old == nil {
		return nil
	}
	old.close()
	if err := os.RemoveAll(old.dir); err != nil {
		s.log.Warn("old clone not removed", "path", old.dir, "error", err)
	}
	return nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// NeedsCompaction reports whether so many packs have piled up that Compact pays.
func (s *Source) NeedsCompaction() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.store != nil && s.store.packs() > s.limits.Packs
}

// Compact clones afresh and swaps the clones. It also heals a copy with missing or corrupt objects. Unless every commit
// in keep is in the fresh clone it fails with ErrLost and the old clone stays.
func (s *Source) Compact(ctx context.Context, keep ...string) error {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	fresh, _, err := s.clone(ctx)
	if err != nil {
		return err
	}
	for _, commit := range keep {
		if _, err := gitobject.ReadCommit(ctx, fresh, commit); err != nil {
			fresh.close()
			return errors.Join(fmt.Errorf("commit %s: %w: %w", commit, ErrLost, err), os.RemoveAll(fresh.dir))
		}
	}
	return s.use(fresh)
}

// Head returns the tip that the last successful Fetch saw, also one of an earlier run.
func (s *Source) Head() (string, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.store == nil {
		return "", false
	}
	head := s.store.head()
	return head, head != ""
}

// Object implements gitobject.Objects.
func (s *Source) Object(ctx context.Context, kind gitobject.Kind, id string, limit int64) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.store == nil {
		return nil, gitobject.ErrMissing
	}
	return s.store.Object(ctx, kind, id, limit)
}

// Files lists the files of a commit that the spec loader reads, in path order, without reading them. A hostile tree
// (*gitobject.HostileError) or one over the caps is an error.
func (s *Source) Files(ctx context.Context, commit string) ([]File, error) {
	return files(ctx, s, commit)
}

// Read reads one file, checked against its blob id.
func (s *Source) Read(ctx context.Context, f File) (spec.File, error) { return read(ctx, s, f) }

// ReadAll reads files in order. It fails with gitobject.ErrTooLarge if together they exceed gitobject.MaxTotalBytes.
func (s *Source) ReadAll(ctx context.Context, list []File) ([]spec.File, error) {
	return readAll(ctx, s, list)
}

// Changed lists every path that differs between two commits, with old and new blob ids.
func (s *Source) Changed(ctx context.Context, oldCommit, newCommit string) ([]gitobject.Change, error) {
	return changed(ctx, s, oldCommit, newCommit)
}

// Close releases the clone's files. The Source cannot be used after it.
func (s *Source) Close() error {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.store == nil {
		return nil
	}
	err := s.store.close()
	s.store = nil
	return err
}
