//go:build !unix

package token

import "os/exec"

// endTogether ends the program alone: this system has no process groups.
func endTogether(*exec.Cmd) {}
