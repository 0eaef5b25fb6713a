//go:build unix

package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFolder makes sure that one controller works on a folder: two would give out the same serials.
func lockFolder(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the lock is what failed
		return nil, fmt.Errorf("storage: %s is locked (%w): another controller uses this folder", path, err)
	}
	return func() { _ = f.Close() }, nil // the lock goes with the file
}

// listenPrivately makes a socket that is never open to others, not even between its creation and a chmod: it is made in a
// folder of its own and moved into place.
func listenPrivately(ctx context.Context, path string) (_ net.Listener, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".admin-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	made := filepath.Join(dir, "s")
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", made)
	if err != nil {
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err = os.Chmod(made, 0o600); err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &privateListener{l, path}, nil
}

// privateListener takes its socket away when it is closed.
type privateListener struct {
	net.Listener
	path string
}

func (l *privateListener) Close() error {
	return errors.Join(l.Listener.Close(), os.Remove(l.path))
}
