//go:build unix

package status

import (
	"errors"
	"syscall"
)

// isRefused recognises a socket file without a listener.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
