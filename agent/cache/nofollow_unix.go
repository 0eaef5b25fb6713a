//go:build unix

package cache

import "syscall"

// noFollow makes opening a symbolic link an error, and opening a pipe return at once.
const noFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
