package jetstream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"
)

// flusher brings what the embedded server has written to its files to the disk. The server itself can flush at every write,
// each by itself, or now and then; here many callers share one round:
//
//	idle ── flush ──▶ round: what changed since the last ── nobody came meanwhile ──▶ idle
//	                    ▲                                 │
//	                    └──── one for all who came ───────┘
//
// It knows nothing of the server's files but their folder. A file is flushed if its size, time or inode is not what it was; the
// server appends to its files or replaces them, so that one of the three changes. A folder that did not change is not read again.
type flusher struct {
	dir  string
	sync func(path string) error

	mu   sync.Mutex
	busy bool
	next *round // nil: nobody waits for one
	lost error  // what could not be brought to the disk

	known map[string]entry // what is on the disk, by path; belongs to the round under way
}

// entry is a file or a folder as a round found it.
type entry struct {
	info  fs.FileInfo
	names []string // what is in a folder
	fresh bool     // the folder may change once more without its time showing it
}

type round struct {
	done chan struct{} // closed at its end
	err  error
}

// syncsAtOnce lets a file system bring several files to the disk in one commit of its journal.
const syncsAtOnce = 16

// newFlusher is for the folder that the server has made for its files in dir. Of what else lies in dir, such as the lost+found of a
// volume, nothing is ours.
func newFlusher(dir string) (*flusher, error) {
	tree, err := filepath.EvalSymlinks(filepath.Join(dir, server.JetStreamStoreDir))
	if err == nil {
		err = syncFile(dir)
	}
	if err != nil {
		return nil, err
	}
	return &flusher{dir: tree, sync: syncFile}, nil
}

// errLost says that what was written may not be on the disk and never will be: after a failed flush the system takes the pages
// for clean, and the next flush succeeds without them.
var errLost = errors.New("the disk has lost writes: see to it, then restart the controller")

// flush returns after a round that began after the call. After errLost every later one fails too.
func (f *flusher) flush(ctx context.Context) error {
	f.mu.Lock()
	if f.lost != nil {
		defer f.mu.Unlock()
		return f.lost
	}
	if f.next == nil {
		f.next = &round{done: make(chan struct{})}
	}
	r := f.next
	if !f.busy {
		f.busy = true
		go f.run()
	}
	f.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *flusher) run() {
	for {
		f.mu.Lock()
		r := f.next
		f.next, f.busy = nil, r != nil
		f.mu.Unlock()
		if r == nil {
			return
		}
		if r.err = f.round(); errors.Is(r.err, errLost) {
			f.mu.Lock()
			f.lost = r.err
			f.mu.Unlock()
		}
		close(r.done)
	}
}

// round flushes what has changed since the last one that succeeded, folders too: they hold the names of new files.
func (f *flusher) round() error {
	r := pass{old: f.known, now: make(map[string]entry, len(f.known)), began: time.Now()}
	if err := r.visit(f.dir); err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(syncsAtOnce)
	for _, path := range r.changed {
		group.Go(func() error { return f.sync(path) })
	}
	err := group.Wait()
	if err == nil {
		f.known = r.now
	}
	return err
}

// pass compares what is there with what was.
type pass struct {
	old, now map[string]entry
	began    time.Time
	changed  []string
}

// tick is more than the times of files are good to: what changes twice within it may keep the time of the first change.
const tick = time.Second

func (p *pass) visit(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the server has removed it meanwhile
	}
	if err != nil {
		return err
	}
	now := entry{info: info, fresh: info.IsDir() && p.began.Sub(info.ModTime()) < tick}
	old, known := p.old[path]
	if known && !old.fresh && !changed(old.info, info) {
		now.names = old.names
	} else {
		p.changed = append(p.changed, path)
		if info.IsDir() {
			if now.names, err = names(path); err != nil {
				return err
			}
		}
	}
	p.now[path] = now
	for _, name := range now.names {
		if err := p.visit(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

func names(folder string) ([]string, error) {
	f, err := os.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := f.Readdirnames(-1)
	return list, errors.Join(err, f.Close())
}

func changed(old, now fs.FileInfo) bool {
	return old.Size() != now.Size() || !old.ModTime().Equal(now.ModTime()) || !os.SameFile(old, now)
}

func syncFile(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return nil
}
