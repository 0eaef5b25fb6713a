package config

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

const followed = `
storage: state
tls: {certFile: tls.crt, keyFile: tls.key}
networks:
  - name: acme
    repository: {url: https://git.example/acme.git}
    trustRoot: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
    keys: {manifestFiles: [manifest.key], timestampFiles: [manifest.key], enrolmentFiles: [enrolment.key]}
    issuerCAFile: ca.pem
    webhookSecretFile: secret
`

// files is a configuration with what it names.
type files struct {
	t   *testing.T
	dir string
}

func newFiles(t *testing.T) files {
	f := files{t, t.TempDir()}
	f.write("controller.yaml", followed)
	for _, name := range []string{"manifest.key", "enrolment.key", "ca.pem", "secret"} {
		f.write(name, "1")
	}
	return f
}

func (f files) path() string { return filepath.Join(f.dir, "controller.yaml") }

func (f files) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// watch follows the files, loaded as c, on a system that gives no watcher: what is seen within how long is up to the clock of
// the bubble alone.
func (f files) watch(c *Config) (seen chan *Config, logged *bytes.Buffer, stop func()) {
	ctx, cancel := context.WithCancel(f.t.Context())
	seen, logged = make(chan *Config, 10), &bytes.Buffer{}
	none := func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") }
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watchWith(ctx, none, f.path(), c, slog.New(slog.NewTextHandler(logged, nil)), func(c *Config) { seen <- c })
	}()
	synctest.Wait()
	return seen, logged, func() { cancel(); <-ended }
}

func (f files) load() *Config {
	f.t.Helper()
	c, err := Load(f.path())
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func TestWatchLooksWhereTheSystemTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		seen, logged, stop := f.watch(f.load())
		defer stop()
		f.write("controller.yaml", followed+"publicHosts: [\"a:1\"]\n")
		time.Sleep(recheck)
		synctest.Wait()
		if len(seen) != 1 || (<-seen).PublicHosts[0] != "a:1" {
			t.Error("a change was not seen within a minute")
		}
		f.write("manifest.key", "2")
		time.Sleep(recheck)
		synctest.Wait()
		if len(seen) != 1 {
			t.Error("a new key was not seen within a minute")
		}
		if !strings.Contains(logged.String(), "level=WARN") || !strings.Contains(logged.String(), "too many open files") {
			t.Errorf("logged %q", logged)
		}
	})
}

func TestWatchSeesWhatChangedSinceItWasLoaded(t *testing.T) {
	for _, name := range []string{"controller.yaml", "manifest.key", "enrolment.key", "ca.pem", "secret"} {
		synctest.Test(t, func(t *testing.T) {
			f := newFiles(t)
			c := f.load()
			f.write(name, strings.TrimPrefix(followed, "\n"))
			seen, _, stop := f.watch(c)
			defer stop()
			if len(seen) != 1 {
				t.Errorf("a change of %s between load and watch was not seen", name)
			}
		})
	}
}

func TestWatchIsQuietWhileNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFiles(t)
		seen, _, stop := f.watch(f.load())
		defer stop()
		f.write("controller.yaml", followed)
		time.Sleep(10 * recheck)
		synctest.Wait()
		if len(seen) != 0 {
			t.Error("the same content was taken for a change")
		}
	})
}

// What needs a restart is told apart from what does not; the digest counts for neither.
func TestReloadTakesWhatIsReloadable(t *testing.T) {
	f := newFiles(t)
	before := f.load()
	f.write("controller.yaml", followed+"publicHosts: [\"a:1\"]\nlog: {level: debug}\n")
	now, all := before.Reload(f.load())
	if !all || len(now.PublicHosts) != 1 || now.Log.Level != "debug" {
		t.Errorf("%v %+v", all, now)
	}
	f.write("controller.yaml", strings.Replace(followed, "storage: state", "storage: other", 1))
	if now, all = now.Reload(f.load()); all || len(now.PublicHosts) != 0 || filepath.Base(now.Storage) != "state" {
		t.Errorf("%v %+v", all, now)
	}
}
