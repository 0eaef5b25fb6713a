package jetstream

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

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
// server appends to its files or replaces them, so that one of the three changes.
type flusher struct {
	dir  string
	sync func(path string) error

	mu   sync.Mutex
	busy bool
	next *round // nil: nobody waits for one

	known map[string]fs.FileInfo // of what is on the disk; belongs to the round under way
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
	now := make(map[string]fs.FileInfo, len(f.known))
	var group errgroup.Group
	group.SetLimit(syncsAtOnce)
	err := filepath.WalkDir(f.dir, func(path string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server has removed it meanwhile
		}
		if err != nil {
			return err
		}
		now[path] = info
		if old := f.known[path]; old == nil || changed(old, info) {
			group.Go(func() error { return f.sync(path) })
		}
		return nil
	})
	if err = errors.Join(err, group.Wait()); err == nil {
		f.known = now
	}
	return err
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
