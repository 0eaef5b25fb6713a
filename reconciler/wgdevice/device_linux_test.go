package wgdevice

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestDeviceLife runs in a network and mount namespace of its own: a device answers on its socket, a second one of the
// same name is refused, a stale socket is replaced, and Close leaves nothing.
func TestDeviceLife(t *testing.T) {
	const inside = "APEX_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestDeviceLife$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("inside the namespace (this test needs root or unprivileged user namespaces): %v\n%s", err, out)
		}
		return
	}
	for _, mount := range []struct {
		from, to, kind string
		flags          uintptr
	}{{"", "/", "", syscall.MS_REC | syscall.MS_PRIVATE}, {"tmpfs", "/run", "tmpfs", 0}} {
		if err := syscall.Mount(mount.from, mount.to, mount.kind, mount.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	const socket = "/var/run/wireguard/apex-t.sock"
	if err := os.MkdirAll("/var/run/wireguard", 0o755); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := Open("apex-t", 1420, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := inotifyInstances(t); n != 0 {
		t.Errorf("the device holds %d inotify instances, of which a user has few", n)
	}
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("socket %v %v", info, err)
	}
	if err := d.Up(); err != nil {
		t.Error(err)
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("get=1\n\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 4096)); err != nil || n == 0 {
		t.Errorf("no answer: %v", err)
	}
	_ = c.Close()
	if twice, err := Open("apex-t", 1420, nil); err == nil {
		_ = twice.Close()
		t.Error("two devices of one name")
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error("the second Close:", err)
	}
	select {
	case <-d.Wait():
	default:
		t.Error("the device is still running")
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := net.InterfaceByName("apex-t"); err == nil {
		t.Error("the interface is left")
	}
}

// inotifyInstances counts those that this process holds.
func inotifyInstances(t *testing.T) (n int) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if target, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.Contains(target, "inotify") {
			n++
		}
	}
	return n
}
