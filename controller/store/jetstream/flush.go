package jetstream

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

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

func newFlusher(dir string) *flusher { return &flusher{dir: dir, sync: syncFile} }

// flush returns after a round that began after the call.
func (f *flusher) flush(ctx context.Context) error {
	f.mu.Lock()
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
		r.err = f.round()
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
	return errors.Join(file.Sync(), file.Close())
}
