//go:build unix && !aix && !solaris

package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockState makes sure that one process works on a state folder, whatever sockets they listen on: two would undo each
// other's changes. The lock is on the folder itself, for a file would belong to whoever ran first, and goes with the process.
func lockState(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the lock is what failed
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state folder %s: another agent is running on it; stop that one first", dir)
		}
		return nil, fmt.Errorf("state folder %s: lock: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}
