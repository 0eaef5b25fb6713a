package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// debounce is how long the folder must be quiet before the file is read: editors write in several steps.
	debounce = 200 * time.Millisecond
	// recheck is how often the files are compared even if nothing was noticed: notifications get lost.
	recheck = time.Minute
)

// Files lists the files whose content the configuration depends on besides itself.
func (c *Config) Files() []string {
	files := []string{c.TLS.CertFile, c.TLS.KeyFile}
	for _, n := range c.Networks {
		files = append(files, n.WebhookSecretFile)
		files = append(files, n.Keys.ManifestFiles...)
		files = append(files, n.Keys.TimestampFiles...)
	}
	out := files[:0]
	for _, f := range files {
		if f != "" {
			out = append(out, f)
		}
	}
	return out
}

// Watch calls use with each new valid configuration until ctx ends: when the file at path, or one that it names, has other
// content than before. A file that does not parse is logged and changes nothing. Folders are watched, not files, because
// files are replaced; and digests are compared, because notifications come too often and, rarely, not at all.
func Watch(ctx context.Context, path string, current *Config, log *slog.Logger, use func(*Config)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	defer w.Close()
	follower := &follower{path: path, current: current, watcher: w, folders: map[string]bool{}, log: log}
	follower.follow()
	known := follower.digest()
	quiet := time.NewTimer(debounce)
	quiet.Stop()
	slow := time.NewTicker(recheck)
	defer slow.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
			quiet.Reset(debounce)
			continue
		case err := <-w.Errors: // an overflow lost events
			log.Warn("watch configuration", "error", err)
		case <-quiet.C:
		case <-slow.C:
		}
		now := follower.digest()
		if now == known {
			continue
		}
		known = now
		next, err := Load(path)
		if err != nil {
			log.Error("configuration not reloaded", "file", path, "error", err)
			continue
		}
		follower.current = next
		follower.follow()
		known = follower.digest()
		use(next)
	}
}

type follower struct {
	path    string
	current *Config
	watcher *fsnotify.Watcher
	folders map[string]bool
	log     *slog.Logger
}

// follow watches the folders of all files.
func (f *follower) follow() {
	for _, file := range append(f.current.Files(), f.path) {
		dir := filepath.Dir(file)
		if f.folders[dir] {
			continue
		}
		if err := f.watcher.Add(dir); err != nil {
			f.log.Warn("folder not watched, looking once a minute", "folder", dir, "error", err)
			continue
		}
		f.folders[dir] = true
	}
}

// digest sums the content of all files; one that cannot be read counts as its error.
func (f *follower) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, file := range append(f.current.Files(), f.path) {
		data, err := os.ReadFile(file)
		sum := sha256.Sum256(data)
		fmt.Fprintf(h, "%s %x %v\n", file, sum, err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
