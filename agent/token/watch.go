package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch calls changed whenever the file's content becomes another, until ctx ends. It watches the folder, because
// whoever renews a token puts a new file in the place of the old one; Kubernetes swaps a symbolic link (..data) beside
// it. Where the system gives no notice, or none is to be had, it looks every slow.
func Watch(ctx context.Context, path string, slow time.Duration, log *slog.Logger, changed func()) {
	seen := digest(path)
	look := func() {
		if now := digest(path); now != seen {
			seen = now
			changed()
		}
	}
	events, errs, stop := notices(path, log)
	defer stop()
	ticker := time.NewTicker(slow)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			look()
		case err := <-errs:
			log.Debug("watching the token file", "path", path, "error", err)
		case <-ticker.C:
			look()
		}
	}
}

// notices begins to watch the file's folder; nil channels, which never speak, if that is not possible.
func notices(path string, log *slog.Logger) (<-chan fsnotify.Event, <-chan error, func()) {
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		if err = watcher.Add(filepath.Dir(path)); err == nil {
			return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }
		}
		err = errors.Join(err, watcher.Close())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the token file cannot be watched; it is looked at now and then", "path", path, "error", err)
	}
	return nil, nil, func() {}
}

// digest is of the file's content; that of nothing if it cannot be read.
func digest(path string) [sha256.Size]byte {
	text, err := readFile(path)
	if err != nil {
		return sha256.Sum256(nil)
	}
	return sha256.Sum256(text)
}
