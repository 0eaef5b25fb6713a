//go:build linux

// Package labtest ties the lab to testing: a test that cannot have a lab fails with the reason, and a test that leaves
// something behind fails too.
package labtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/lab"
)

// Main is the body of TestMain. It runs the tests isolated (see lab.Isolate), as root and rootless alike, so that
// nothing outlives them even if they are killed. Where that is not possible, it says why and fails.
func Main(m *testing.M) {
	lab.Init()
	if lab.Isolated() {
		os.Exit(m.Run())
	}
	status, err := lab.Isolate(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run these tests:", err)
		status = 1
	}
	os.Exit(status)
}

// New makes a lab that is closed, and checked for leftovers, when the test ends. If the test has failed by then, the
// last output of every process is logged.
func New(t testing.TB) *lab.Lab {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	l, err := lab.New(t.Context(), lab.Options{Logger: logger})
	if err != nil {
		t.Fatalf("make a lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.Dump(t.Output())
		}
		if err := l.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return l
}

// NeedTunnel fails the test where WireGuard cannot run, with the reason.
func NeedTunnel(t testing.TB) {
	t.Helper()
	if _, err := lab.Privileges(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Context ends a little before the test's own deadline, and after limit at the latest.
func Context(t interface {
	testing.TB
	Deadline() (time.Time, bool)
}, limit time.Duration) context.Context {
	t.Helper()
	const margin = 5 * time.Second // for the lab to be closed in
	if deadline, ok := t.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-margin)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// Build compiles the command in a package folder (relative to the test's) into the test's temporary folder and returns
// the path of the binary. Callers that need it more than once keep it.
func Build(t testing.TB, folder string, flags ...string) string {
	t.Helper()
	abs, err := filepath.Abs(folder)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), filepath.Base(abs))
	args := append(append([]string{"build", "-o", out}, flags...), ".")
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = abs
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", folder, err, errors.New(string(text)))
	}
	return out
}
