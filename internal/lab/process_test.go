//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// running says whether any process has marker as one of its arguments.
func running(t testing.TB, marker string) bool {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		for arg := range strings.SplitSeq(string(b), "\x00") {
			if arg == marker {
				return true
			}
		}
	}
	return false
}

// marker is a number of seconds that no other sleep on this machine uses.
func marker(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("9%d.%d", os.Getpid(), time.Now().UnixNano())
}

func TestProcessLifeCycle(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	h := must(labtest.New(t).Host("a"))(t)
	mark := marker(t)
	p := must(h.Start(ctx, lab.Command{Name: "daemon", Argv: []string{"sh", "-c",
		"sleep " + mark + " & echo warned >&2; echo up on $(hostname); wait"}}))(t)
	if line := must(p.AwaitLog(ctx, "up on"))(t); line != "up on a" {
		t.Errorf("it said %q: want its host's name", line)
	}
	if tail := p.Tail(); !strings.Contains(tail, "warned") || !strings.Contains(tail, "up on a") {
		t.Errorf("tail does not hold both outputs:\n%s", tail)
	}
	if _, err := p.Restart(ctx); err == nil {
		t.Error("a running process was restarted")
	}
	check(t, p.Kill(ctx))
	if p.ExitCode() != -1 {
		t.Errorf("exit code of a killed process is %d", p.ExitCode())
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, lab.ErrExited) {
		t.Errorf("signal after the end: %v", err)
	}
	check(t, lab.Await(ctx, "see the group die", func(context.Context) error {
		if running(t, mark) {
			return errors.New("the daemon's child still runs")
		}
		return nil
	}))
	again := must(p.Restart(ctx))(t)
	must(again.AwaitLog(ctx, "up on"))(t)
	if again.String() != "daemon#2" {
		t.Errorf("second run is called %s", again)
	}
	check(t, again.Stop(ctx))
}

func TestRunAndFailures(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	h := must(labtest.New(t).Host("a"))(t)
	if out := must(h.Run(ctx, "sh", "-c", "echo $HOME; pwd"))(t); out != h.Dir()+"\n"+h.Dir()+"\n" {
		t.Errorf("HOME and working directory are %q", out)
	}
	if _, err := h.Run(ctx, "sh", "-c", "echo broken >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "broken") ||
		!strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error does not tell status and output: %v", err)
	}
	if _, err := h.Run(ctx, "no-such-program"); err == nil {
		t.Error("a missing program ran")
	}
	p := must(h.Start(ctx, lab.Command{Argv: []string{"sh", "-c", "echo gave up >&2"}}))(t)
	if _, err := p.AwaitLog(ctx, "ready"); !errors.Is(err, lab.ErrExited) || !strings.Contains(err.Error(), "gave up") {
		t.Errorf("waiting for a process that ended: %v", err)
	}
	stubborn := must(h.Start(ctx, lab.Command{Argv: []string{"sh", "-c", "trap '' TERM; echo up; while :; do sleep 9; done"}}))(t)
	must(stubborn.AwaitLog(ctx, "up"))(t)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := stubborn.Stop(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stopping a process that ignores SIGTERM: %v", err)
	}
	<-stubborn.Done()
}

// TestPrivateRun: what a host writes below /run is its own, and reachable through Path and through Do.
func TestPrivateRun(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l := labtest.New(t)
	a, b := must(l.Host("a"))(t), must(l.Host("b"))(t)
	for _, h := range []*lab.Host{a, b} {
		must(h.Run(ctx, "sh", "-c", "echo "+h.Name()+" > /var/run/wireguard/mark"))(t)
	}
	for _, h := range []*lab.Host{a, b} {
		if got := must(os.ReadFile(h.Path("/run/wireguard/mark")))(t); string(got) != h.Name()+"\n" {
			t.Errorf("host %s sees the mark of %s", h, got)
		}
	}
	if _, err := os.Stat("/run/wireguard/mark"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a host's /run leaks into the program: %v", err)
	}
	listener := must(a.Listen(ctx, "unix", "/run/test.sock"))(t)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_ = conn.Close()
		}
	}()
	conn := must(a.DialContext(ctx, "unix", "/run/test.sock"))(t)
	check(t, conn.Close())
	if _, err := b.DialContext(ctx, "unix", "/run/test.sock"); err == nil {
		t.Error("host b reaches a socket of host a")
	}
	if out := must(a.Run(ctx, "ls", l.Dir()))(t); !strings.Contains(out, "b\n") {
		t.Errorf("the lab's folder is not visible inside: %q", out)
	}
}

// TestCloseKillsEscapees: a daemon that left its process group is found by its namespace.
func TestCloseKillsEscapees(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l := labtest.New(t)
	h := must(l.Host("a"))(t)
	mark := marker(t)
	// The escapee opens the pipe once it has left its group, of which nothing is left when the shell ends.
	must(h.Run(ctx, "sh", "-c", "mkfifo up; setsid sh -c 'echo > up; exec sleep "+mark+"' >/dev/null 2>&1 & read line < up"))(t)
	check(t, lab.Await(ctx, "see the escapee run", func(context.Context) error {
		if !running(t, mark) {
			return errors.New("it does not run yet")
		}
		return nil
	}))
	check(t, l.Close())
	if running(t, mark) {
		t.Error("the escapee survived Close")
	}
}

// TestProcessesOutliveTheirStarter: processes die with the thread that started them, so that thread must outlive any single Start.
func TestProcessesOutliveTheirStarter(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	h := must(labtest.New(t).Host("a"))(t)
	started := make(chan *lab.Process)
	go func() {
		p, err := h.Start(ctx, lab.Command{Argv: []string{"sleep", "1000"}})
		if err != nil {
			t.Error(err)
		}
		started <- p
	}()
	p := <-started
	for range 20 { // threads come and go
		check(t, h.Do(ctx, func() error { return nil }))
	}
	check(t, p.Signal(0))
	if got, want := netns(t, p.Pid()), netns(t, os.Getpid()); got == want {
		t.Error("the process runs in the program's own network namespace")
	}
}

func netns(t testing.TB, pid int) string {
	t.Helper()
	return must(os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net"))(t)
}

// TestCloseReportsLeaks: an open socket keeps a namespace alive, and Close says whose.
func TestCloseReportsLeaks(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l := must(lab.New(ctx, lab.Options{Dir: t.TempDir()}))(t)
	lan := must(l.Switch("lan", prefixes("192.0.2.0/24")...))(t)
	h := must(l.Host("leaky"))(t)
	must(h.Attach(ctx, lan))(t)
	var leaked net.PacketConn
	check(t, h.Do(ctx, func() (err error) {
		leaked, err = net.ListenPacket("udp", "127.0.0.1:0")
		return err
	}))
	l.SetLeakLimit(300 * time.Millisecond)
	err := l.Close()
	if err == nil || !strings.Contains(err.Error(), "leaky/eth0") {
		t.Errorf("close with an open socket: %v", err)
	}
	check(t, leaked.Close())
	if again := l.Close(); again == nil || again.Error() != err.Error() {
		t.Errorf("a second close says %v", again)
	}
}

func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l := labtest.New(t)
	h := must(l.Host("a"))(t)
	check(t, l.Close())
	_, hostErr := l.Host("b")
	_, switchErr := l.Switch("s")
	_, startErr := h.Start(ctx, lab.Command{Argv: []string{"true"}})
	for what, err := range map[string]error{
		"host": hostErr, "switch": switchErr, "start": startErr,
		"do":   h.Do(ctx, func() error { return nil }),
		"link": h.SetLink(ctx, "lo", false),
	} {
		if !errors.Is(err, lab.ErrClosed) {
			t.Errorf("%s after close: %v", what, err)
		}
	}
}

// TestDoIsContained: fn may leave by runtime.Goexit, as t.FailNow does, and the thread's namespaces never show in
// the program.
func TestDoIsContained(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	h := must(labtest.New(t).Host("a"))(t)
	before := netns(t, unix.Getpid())
	for range 50 {
		check(t, h.Do(ctx, func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("Do runs on the main thread")
			}
			return nil
		}))
	}
	if after := netns(t, unix.Getpid()); before != after {
		t.Errorf("the program's network namespace changed from %s to %s", before, after)
	}
	sentinel := errors.New("mine")
	if err := h.Do(ctx, func() error { return sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("Do hides the function's error: %v", err)
	}
}
