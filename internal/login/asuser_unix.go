//go:build unix

package login

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// asUser lets a program that is started under sudo run as who called sudo: a browser that shows a page which somebody else
// names has no business with root's rights. uid is the process's own.
func asUser(cmd *exec.Cmd, uid int, env Environ) error {
	if uid != 0 || env("SUDO_UID") == "" {
		return nil
	}
	who, err := user.LookupId(env("SUDO_UID"))
	if err != nil {
		return fmt.Errorf("it would run as root: %w", err)
	}
	to, err := strconv.ParseUint(who.Uid, 10, 32)
	if err != nil {
		return fmt.Errorf("it would run as root: %w", err)
	}
	group, err := strconv.ParseUint(who.Gid, 10, 32)
	if err != nil {
		return fmt.Errorf("it would run as root: %w", err)
	}
	if to == 0 {
		return nil
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(to), Gid: uint32(group)}}
	// The last of several counts.
	cmd.Env = append(os.Environ(), "HOME="+who.HomeDir, "USER="+who.Username, "LOGNAME="+who.Username,
		"XDG_RUNTIME_DIR=/run/user/"+who.Uid, "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/"+who.Uid+"/bus")
	return nil
}
