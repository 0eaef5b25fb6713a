//go:build unix

package login

import (
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"testing"
)

// TestNoBrowserAsRoot: apex join is called by sudo, and the page that it opens is named by a controller.
func TestNoBrowserAsRoot(t *testing.T) {
	who, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	under := func(sudo string) Environ {
		return func(name string) string { return map[string]string{"SUDO_UID": sudo}[name] }
	}
	cmd := exec.Command("browser")
	if err := asUser(cmd, 0, under(who.Uid)); err != nil {
		t.Fatal(err)
	}
	if c := cmd.SysProcAttr.Credential; strconv.Itoa(int(c.Uid)) != who.Uid || strconv.Itoa(int(c.Gid)) != who.Gid || c.NoSetGroups {
		t.Errorf("%+v", c)
	}
	if !slices.Contains(cmd.Env, "HOME="+who.HomeDir) {
		t.Errorf("another's home: %q", cmd.Env)
	}
	for name, c := range map[string]struct {
		uid  int
		sudo string
	}{"root's own session": {0, ""}, "sudo by root": {0, "0"}, "no root": {1000, who.Uid}} {
		cmd := exec.Command("browser")
		if err := asUser(cmd, c.uid, under(c.sudo)); err != nil || cmd.SysProcAttr != nil {
			t.Errorf("%s: %+v, %v", name, cmd.SysProcAttr, err)
		}
	}
	for _, sudo := range []string{"-1", "x", "4294967295", "999999999"} {
		if asUser(exec.Command("browser"), 0, under(sudo)) == nil {
			t.Errorf("SUDO_UID %s: it runs as root", sudo)
		}
	}
}
