package config

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
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
	var files []string
	if c.TLS.CertFile != "" {
		files = append(files, c.TLS.CertFile, c.TLS.KeyFile)
	}
	for _, n := range c.Networks {
		files = append(files, n.Files()...)
	}
	return files
}

// Files lists the files that are read when the network starts: another content of one takes another start. What fetches from
// the repository authenticate with is read at each fetch.
func (n Network) Files() []string {
	files := slices.Concat(n.Keys.ManifestFiles, n.Keys.TimestampFiles, n.Keys.EnrolmentFiles)
	for _, file := range []string{n.WebhookSecretFile, n.IssuerCAFile} {
		if file != "" {
			files = append(files, file)
		}
	}
	return files
}

// Watch calls use with each new valid configuration until ctx ends: when the file at path, or one that it names, has other
// content than when current, which is from Load, was loaded. A file that does not parse is logged and changes nothing. Folders
// are watched, not files, because files are replaced; and digests are compared, because notifications come too often and,
// rarely, not at all: where the system gives none (it allows a user 128 watchers), it looks once a minute.
func Watch(ctx context.Context, path string, current *Config, log *slog.Logger, use func(*Config)) {
	watchWith(ctx, fsnotify.NewWatcher, path, current, log, use)
}

func watchWith(ctx context.Context, watcher func() (*fsnotify.Watcher, error), path string, current *Config, log *slog.Logger, use func(*Config)) {
	f := &follower{path: path, current: current, folders: map[string]bool{}, log: log}
	var events chan fsnotify.Event // nil, from which nothing comes, without a watcher
	var errs chan error
	if w, err := watcher(); err != nil {
		log.Warn("the system does not tell of changes of the configuration, looking once a minute", "error", err)
	} else {
		defer w.Close()
		f.watcher, events, errs = w, w.Events, w.Errors
	}
	f.follow()
	known := current.loaded
	quiet := time.NewTimer(0) // what changed since it was loaded
	defer quiet.Stop()
	slow := time.NewTicker(recheck)
	defer slow.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			quiet.Reset(debounce)
			continue
		case err := <-errs: // an overflow lost events
			log.Warn("watch configuration", "error", err)
		case <-quiet.C:
		case <-slow.C:
		}
		now := f.digest()
		if now == known {
			continue
		}
		known = now
		next, err := Load(path)
		if err != nil {
			log.Error("configuration not reloaded", "file", path, "error", err)
			continue
		}
		f.current, known = next, next.loaded
		f.follow()
		quiet.Reset(debounce) // what changed in a folder that was not watched yet
		use(next)
	}
}

type follower struct {
	path    string
	current *Config
	watcher *fsnotify.Watcher // nil: none
	folders map[string]bool
	log     *slog.Logger
}

// follow watches the folders of all files.
func (f *follower) follow() {
	if f.watcher == nil {
		return
	}
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

// digest sums the files as they are now.
func (f *follower) digest() digest {
	data, err := os.ReadFile(f.path)
	return f.current.sum(f.path, data, err)
}

// digest is of the content of all files.
type digest [sha256.Size]byte

// sum is the digest where the file at path, of c, was read as data and err. A file that cannot be read counts as its error.
func (c *Config) sum(path string, data []byte, err error) digest {
	h := sha256.New()
	add := func(file string, data []byte, err error) {
		fmt.Fprintf(h, "%s %x %v\n", file, sha256.Sum256(data), err)
	}
	add(path, data, err)
	for _, file := range c.Files() {
		data, err := os.ReadFile(file)
		add(file, data, err)
	}
	return digest(h.Sum(nil))
}
