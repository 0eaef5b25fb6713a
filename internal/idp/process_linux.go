package idp

import "syscall"

// dieWithParent keeps a crashed test from leaving its providers behind.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
