//go:build !unix

package keyfile

import (
	"io/fs"
	"os"
)

func openKey(path string) (*os.File, error) { return os.Open(path) }

// checkAccess has nothing to ask: this system's access lists do not show in file modes. The folder of the keys must be
// private to the account.
func checkAccess(string, fs.FileInfo) error { return nil }

// syncFolder has nothing to do: folders cannot be opened and flushed here.
func syncFolder(string) error { return nil }
