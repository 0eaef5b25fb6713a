//go:build !linux

package reconciler

import (
	"fmt"
	"runtime"
)

// Host gives the backends of this platform. There are none yet for this one: a platform is added by giving every
// contract in Backends a file of its own.
func Host(HostOptions) (Backends, error) {
	return Backends{}, fmt.Errorf("the host backends for %s do not exist yet, only Linux can be a node: %w", runtime.GOOS, ErrUnsupported)
}
