//go:build !unix

package login

import "os/exec"

// asUser does nothing: there is no sudo here.
func asUser(*exec.Cmd, int, Environ) error { return nil }
