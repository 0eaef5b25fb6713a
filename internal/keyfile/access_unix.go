//go:build unix

package keyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// openKey does not wait for a writer if the path is a named pipe.
func openKey(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// checkAccess demands that only this process's account can read or write the file.
func checkAccess(path string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int64(st.Uid) != int64(os.Geteuid()) {
		return fmt.Errorf("%w: %s is owned by uid %d, this process runs as uid %d; run `chown %d %s`",
			ErrOwner, path, st.Uid, os.Geteuid(), os.Geteuid(), path)
	}
	if mode := info.Mode().Perm(); mode&^0o600 != 0 {
		return fmt.Errorf("%w: %s has mode %04o; run `chmod 600 %s`, and if others had access, make a new key",
			ErrPermissions, path, mode, path)
	}
	return nil
}

// syncFolder makes a new name in the folder last through a power cut.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
