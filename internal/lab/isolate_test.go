//go:build linux

package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vishvananda/netlink"

	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// nobody is the user the rootless tests drop to.
const nobody = 65534

// isolated prepares a run of the test program testdata/isolated, at a path that every user may execute.
func isolated(t testing.TB, binary string, args ...string) (cmd *exec.Cmd, output *bytes.Buffer) {
	output = &bytes.Buffer{}
	cmd = exec.CommandContext(t.Context(), binary, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Dir = filepath.Dir(binary)
	return cmd, output
}

// buildIsolated builds it static, so that it runs under a changed root directory.
func buildIsolated(t testing.TB) string {
	t.Helper()
	binary := labtest.Build(t, "testdata/isolated", "-tags", "netgo,osusergo")
	for dir := filepath.Dir(binary); dir != os.TempDir(); dir = filepath.Dir(dir) {
		check(t, os.Chmod(dir, 0o755))
	}
	return binary
}

// TestIsolation shares one build of the program among its subtests.
func TestIsolation(t *testing.T) {
	t.Parallel()
	binary := buildIsolated(t)
	for name, test := range map[string]func(*testing.T, string){
		"status":                     testStatus,
		"a lab as ordinary user":     testRootless,
		"kill -9 leaves nothing":     testKill,
		"signals are passed on":      testSignals,
		"TUN device is closed":       testClosedDevice,
		"user namespaces are closed": testNoUserNamespaces,
		"forgotten Init":             testForgottenInit,
	} {
		t.Run(name, func(t *testing.T) { test(t, binary) })
	}
}

// asNobody makes the command an unprivileged user's. Where the tests themselves are rootless there is no other user to
// be: the command then runs as the root of their user namespace.
func asNobody(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if !rootless(t) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

// rootless says whether the tests run in a user namespace, which does not map every user.
func rootless(t testing.TB) bool {
	t.Helper()
	fields := strings.Fields(string(must(os.ReadFile("/proc/self/uid_map"))(t)))
	return len(fields) != 3 || fields[2] != "4294967295"
}

func testStatus(t *testing.T, binary string) {
	cmd, output := isolated(t, binary, "exit", "7")
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("isolated program that exits with 7: %v\n%s", err, output)
	}
}

// testRootless runs a whole lab, NAT included, as an ordinary user.
func testRootless(t *testing.T, binary string) {
	cmd, output := isolated(t, binary, "ping")
	asNobody(t, cmd)
	check(t, cmd.Run())
	if got, want := output.String(), "ping: reached uid: 0 pid 1: true\n"; got != want {
		t.Errorf("rootless lab says %q, want %q", got, want)
	}
}

// testKill: kill -9 of the outer program ends everything inside, daemons of their own session included.
func testKill(t *testing.T, binary string) {
	for name, drop := range map[string]bool{"root": false, "rootless": true} {
		t.Run(name, func(t *testing.T) {
			mark := marker(t)
			cmd, output := isolated(t, binary, "hold", mark)
			if drop {
				asNobody(t, cmd)
			}
			cmd.Stdout = nil
			stdout := must(cmd.StdoutPipe())(t)
			check(t, cmd.Start())
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatalf("it did not start: %v\n%s", err, output)
			}
			enter := exec.CommandContext(t.Context(), "sh", "-c", "echo hostname | "+line)
			if drop {
				asNobody(t, enter)
			}
			if out, err := enter.CombinedOutput(); err != nil || string(out) != "a\n" {
				t.Errorf("%s: %v\n%s", strings.TrimSpace(line), err, out)
			}
			if !running(t, mark) {
				t.Fatal("its daemons are not running")
			}
			check(t, cmd.Process.Kill())
			_ = cmd.Wait()
			check(t, lab.Await(labtest.Context(t, time.Minute), "see everything die", func(context.Context) error {
				if running(t, mark) {
					return errors.New("a daemon still runs")
				}
				return nil
			}))
		})
	}
}

// testSignals: a termination of the outer program reaches the inner one.
func testSignals(t *testing.T, binary string) {
	mark := marker(t)
	cmd, output := isolated(t, binary, "hold", mark)
	cmd.Stdout = nil
	stdout := must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	must(bufio.NewReader(stdout).ReadString('\n'))(t)
	check(t, cmd.Process.Signal(unix.SIGTERM))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 128+int(unix.SIGTERM) {
		t.Errorf("after SIGTERM: %v\n%s", err, output)
	}
	if running(t, mark) {
		t.Error("a daemon still runs")
	}
}

// testClosedDevice: where TUN is closed to the user and the kernel has no WireGuard, the error says exactly
// that. A host's mount namespace provides such a machine.
func testClosedDevice(t *testing.T, binary string) {
	ctx := labtest.Context(t, time.Minute)
	h := must(labtest.New(t).Host("a"))(t)
	closed := filepath.Join(h.Dir(), "tun")
	check(t, os.WriteFile(closed, nil, 0o600))
	kernel := false
	var output *bytes.Buffer
	err := h.Do(ctx, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "wg-test"
		kernel = netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}) == nil
		if err := unix.Mount(closed, "/dev/net/tun", "", unix.MS_BIND, ""); err != nil {
			return err
		}
		var cmd *exec.Cmd
		cmd, output = isolated(t, binary, "privileges")
		asNobody(t, cmd)
		return cmd.Run()
	})
	switch {
	case kernel:
		check(t, err) // WireGuard needs no TUN then
	case err == nil:
		t.Errorf("no error: %s", output)
	case rootless(t): // the file is our own there, and opens; but it is no TUN
		wantAll(t, output.String(), "mode: root", lab.ErrNoTunnel.Error(), "creating a TUN interface failed")
	default:
		wantAll(t, output.String(), "mode: rootless", lab.ErrNoTunnel.Error(), "as user 65534",
			"opening /dev/net/tun failed: permission denied", "mode 0600 and belongs to user 0", "chmod 0666 /dev/net/tun")
	}
	t.Log(output)
}

// testNoUserNamespaces: a user who may not make any learns why.
func testNoUserNamespaces(t *testing.T, binary string) {
	ctx := labtest.Context(t, time.Minute)
	h := must(labtest.New(t).Host("a"))(t)
	var output *bytes.Buffer
	err := h.Do(ctx, func() error {
		// A changed root directory is one of the things that forbid a user namespace.
		if err := unix.Mount(h.Dir(), h.Dir(), "", unix.MS_BIND, ""); err != nil {
			return err
		}
		var cmd *exec.Cmd
		cmd, output = isolated(t, "/isolated", "privileges")
		cmd.Dir = "/"
		for _, dir := range []string{"/proc", "/dev", "/run"} {
			below := filepath.Join(h.Dir(), dir)
			if err := os.Mkdir(below, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(dir, below, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return err
			}
		}
		program, err := os.ReadFile(binary)
		if err != nil {
			return err
		}
		// A child that another test forks meanwhile would hold the file open for writing, and nobody could run it.
		syscall.ForkLock.RLock()
		err = os.WriteFile(filepath.Join(h.Dir(), "isolated"), program, 0o755)
		syscall.ForkLock.RUnlock()
		if err != nil {
			return err
		}
		asNobody(t, cmd)
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Chroot = h.Dir()
		return cmd.Run()
	})
	t.Log(output)
	if rootless(t) { // the tests are root of their user namespace: they need no further one
		check(t, err)
		return
	}
	if err == nil {
		t.Error("no error")
	}
	wantAll(t, output.String(), lab.ErrNoNamespaces.Error(), "or run as root")
}

// testForgottenInit: a program whose main does not call Init gets told, instead of running itself again and again.
func testForgottenInit(t *testing.T, binary string) {
	cmd, output := isolated(t, binary, "forgot-init")
	if err := cmd.Run(); err == nil {
		t.Errorf("no error: %s", output)
	}
	wantAll(t, output.String(), "does not call lab.Init")
}

func wantAll(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("output lacks %q:\n%s", p, text)
		}
	}
}
