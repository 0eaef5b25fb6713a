//go:build !linux

package idp

import "syscall"

// dieWithParent has no equivalent here: a test that crashes leaves its providers running.
func dieWithParent() *syscall.SysProcAttr { return nil }
