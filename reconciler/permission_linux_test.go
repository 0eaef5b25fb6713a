package reconciler_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

// TestWithoutPrivileges: a process that may not change the network is told so, and what to do.
func TestWithoutPrivileges(t *testing.T) {
	if os.Geteuid() == 0 {
		// The copy needs a place where user nobody can read the binary and write.
		dir, err := os.MkdirTemp("", "apex-nobody-")
		must(t, err)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		must(t, os.Chmod(dir, 0o777))
		exe, err := os.ReadFile("/proc/self/exe")
		must(t, err)
		must(t, os.WriteFile(dir+"/test", exe, 0o755))
		cmd := exec.Command(dir+"/test", "-test.run=^TestWithoutPrivileges$", "-test.v")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	b, err := reconciler.Host(reconciler.HostOptions{WireGuard: wireGuardMode()})
	must(t, err)
	defer b.Close()
	opt := options(twin.New(), t.TempDir())
	opt.Backends = b
	e, err := reconciler.New(opt)
	must(t, err)
	if _, err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = e.Apply(t.Context(), state("one", 1), nil)
	if !errors.Is(err, reconciler.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("%v", err)
	}
}
