// Package cache keeps on disk what an agent must know before it has a network: the artefacts of its generations and a
// few small records.
//
// Promises: a file is either the old one or the new one, whole, whatever the moment of a crash or power cut (write,
// fsync, rename, fsync of the folder); nobody but the agent's user can read it (folder 0700, files 0600); and what is
// read is checked again. Artefacts are named by their digest and hashed on every read. Records carry signatures inside,
// which their reader verifies again; the cache itself never decides what is trusted. A file that fails its check is
// put aside as *.damaged and reported as absent, so that the caller fetches it anew.
package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/apex-network/apex/spec/peermap"
)

// ErrDamaged says that a record exists but is not what was written. It has been put aside.
var ErrDamaged = errors.New("damaged cache file")

// maxRecordBytes bounds a record: a trust-root chain is by far the largest content.
const maxRecordBytes = 16 << 20

const (
	blobDir    = "artefacts"
	recordExt  = ".json"
	aside      = ".damaged"
	unfinished = ".tmp-"
)

// Store is the cache of one zone. Its methods may be called by several goroutines; two processes must not share a
// folder (Open takes no lock: the agent's status socket does).
type Store struct {
	dir     string
	damaged atomic.Int64
}

// Open makes the folder if need be, and removes what a crash left half written.
func Open(dir string) (*Store, error) {
	for _, path := range []string{dir, filepath.Join(dir, blobDir)} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
		left, err := filepath.Glob(filepath.Join(path, unfinished+"*"))
		if err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
		for _, file := range left {
			if err := os.Remove(file); err != nil {
				return nil, fmt.Errorf("state folder: %w", err)
			}
		}
	}
	return &Store{dir: dir}, nil
}

// Damaged counts the files that were put aside since Open.
func (s *Store) Damaged() int64 { return s.damaged.Load() }

// Artefact reads the artefact with this digest, at most limit bytes. False if it is absent, too large or damaged.
func (s *Store) Artefact(digest peermap.Digest, limit int) ([]byte, bool) {
	path := s.artefactPath(digest)
	data, err := readLimited(path, limit)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.putAside(path)
		}
		return nil, false
	}
	if peermap.DigestOf(data) != digest {
		s.putAside(path)
		return nil, false
	}
	return data, true
}

// Has says whether a file of that digest is there, without reading it.
func (s *Store) Has(digest peermap.Digest) bool {
	_, err := os.Lstat(s.artefactPath(digest))
	return err == nil
}

// PutArtefact stores data under its digest. Storing what is there already costs one read.
func (s *Store) PutArtefact(data []byte) error {
	digest := peermap.DigestOf(data)
	if _, ok := s.Artefact(digest, len(data)); ok {
		return nil
	}
	return writeFile(s.artefactPath(digest), func(w io.Writer) error { _, err := w.Write(data); return err })
}

// Retain removes every artefact that keep does not name.
func (s *Store) Retain(keep func(peermap.Digest) bool) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, blobDir))
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	var all []error
	for _, entry := range entries {
		var digest peermap.Digest
		name := strings.TrimSuffix(entry.Name(), aside)
		if strings.HasPrefix(name, unfinished) || digest.UnmarshalText([]byte(name)) == nil && name == entry.Name() && keep(digest) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, blobDir, entry.Name())); err != nil {
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// Save writes a record as JSON.
func (s *Store) Save(name string, record any) error {
	err := writeFile(s.recordPath(name), func(w io.Writer) error { return json.NewEncoder(w).Encode(record) })
	if err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}

// Load reads a record into out. False if there is none. A record that cannot be read is put aside: ErrDamaged.
func (s *Store) Load(name string, out any) (bool, error) {
	path := s.recordPath(name)
	data, err := readLimited(path, maxRecordBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err = decoder.Decode(out); err == nil && decoder.More() {
			err = errors.New("data after the record")
		}
	}
	if err != nil {
		s.putAside(path)
		return false, fmt.Errorf("record %s: %w: %w", name, ErrDamaged, err)
	}
	return true, nil
}

// Discard puts a record aside that its reader could not verify.
func (s *Store) Discard(name string) { s.putAside(s.recordPath(name)) }

// Remove deletes a record; removing an absent one is no error.
func (s *Store) Remove(name string) error {
	if err := os.Remove(s.recordPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func (s *Store) artefactPath(digest peermap.Digest) string {
	return filepath.Join(s.dir, blobDir, digest.String())
}

func (s *Store) recordPath(name string) string { return filepath.Join(s.dir, name+recordExt) }

// putAside keeps a damaged file for a person to look at; the next one of that name replaces it. Failing to do so is
// harmless: the file fails its check again next time.
func (s *Store) putAside(path string) {
	s.damaged.Add(1)
	if os.Rename(path, path+aside) != nil {
		os.Remove(path)
	}
}

// readLimited reads a regular file of at most limit bytes.
func readLimited(path string, limit int) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Size() > int64(limit):
		return nil, fmt.Errorf("%s has %d bytes, more than the limit of %d", path, info.Size(), limit)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, err
	}
	return data, nil
}

// writeFile replaces path by what write produces, durably.
func writeFile(path string, write func(io.Writer) error) (err error) {
	folder := filepath.Dir(path)
	file, err := os.CreateTemp(folder, unfinished+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	if err = write(file); err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncFolder(folder)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
