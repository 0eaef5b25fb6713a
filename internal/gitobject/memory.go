package gitobject

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
)

// Memory is the in-memory twin of a repository's object store, for tests and for what-if questions. The zero value is
// empty and ready. It is not safe for concurrent writes.
type Memory struct {
	objects map[string][]byte
}

// Object implements Objects.
func (m *Memory) Object(_ context.Context, kind Kind, id string, limit int64) ([]byte, error) {
	content, ok := m.objects[string(kind)+" "+id]
	if !ok {
		return nil, ErrMissing
	}
	if int64(len(content)) > limit {
		return nil, ErrTooLarge
	}
	return content, nil
}

// Put stores content under its true id and returns it.
func (m *Memory) Put(kind Kind, content []byte) (string, error) {
	id, err := ID(kind, content)
	if err != nil {
		return "", err
	}
	m.PutAs(kind, id, content)
	return id, nil
}

// PutAs stores content under any id, as a corrupt or tampered store would.
func (m *Memory) PutAs(kind Kind, id string, content []byte) {
	if m.objects == nil {
		m.objects = map[string][]byte{}
	}
	m.objects[string(kind)+" "+id] = bytes.Clone(content)
}

// PutTree stores a folder with these entries, in git's order, and returns its id. It does not judge them.
func (m *Memory) PutTree(entries []Entry) (string, error) {
	sorted := append([]Entry(nil), entries...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].key() < sorted[j].key() })
	var raw []byte
	for _, e := range sorted {
		id, err := hex.DecodeString(e.ID)
		if err != nil {
			return "", fmt.Errorf("entry %q: %w", e.Name, err)
		}
		raw = append(append(raw, fmt.Sprintf("%s %s\x00", e.Mode, e.Name)...), id...)
	}
	return m.Put(KindTree, raw)
}

// PutFiles stores files by their slash-separated paths as nested trees and returns the root's id.
func (m *Memory) PutFiles(files map[string][]byte) (string, error) {
	var entries []Entry
	folders := map[string]map[string][]byte{}
	for path, data := range files {
		name, rest, nested := strings.Cut(path, "/")
		if nested {
			if folders[name] == nil {
				folders[name] = map[string][]byte{}
			}
			folders[name][rest] = data
			continue
		}
		id, err := m.Put(KindBlob, data)
		if err != nil {
			return "", err
		}
		entries = append(entries, Entry{Name: name, Mode: ModeFile, ID: id})
	}
	for name, below := range folders {
		id, err := m.PutFiles(below)
		if err != nil {
			return "", err
		}
		entries = append(entries, Entry{Name: name, Mode: ModeFolder, ID: id})
	}
	return m.PutTree(entries)
}
