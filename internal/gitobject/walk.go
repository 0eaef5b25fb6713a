package gitobject

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// File is one file of a commit.
type File struct {
	Path string
	Mode Mode
	ID   string // blob id
}

// Walk visits every file below the tree in path order and refuses hostile trees and trees over the caps.
func Walk(ctx context.Context, src Objects, tree string, visit func(File) error) error {
	count := 0
	return walk(ctx, src, "", tree, 0, func(f File) error {
		if count++; count > MaxFiles {
			return fmt.Errorf("more than %d files in one commit: %w", MaxFiles, ErrTooLarge)
		}
		return visit(f)
	})
}

func walk(ctx context.Context, src Objects, path, tree string, depth int, visit func(File) error) error {
	if err := checkDepth(ctx, path, depth); err != nil {
		return err
	}
	entries, err := ReadTree(ctx, src, path, tree)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsFolder() {
			err = walk(ctx, src, join(path, e.Name), e.ID, depth+1, visit)
		} else {
			err = visit(File{Path: join(path, e.Name), Mode: e.Mode, ID: e.ID})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkDepth(ctx context.Context, path string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > MaxDepth {
		return &HostileError{Path: path, Reason: fmt.Sprintf("nests deeper than %d folders; flatten it", MaxDepth)}
	}
	return nil
}

// Change is one path that differs between two trees. Old is nil for an added file, New for a removed one.
type Change struct {
	Path     string
	Old, New *File
}

// Diff lists the files that differ between two trees, in path order. An empty id stands for the empty tree. It reads
// only folders that differ, and refuses hostile entries on the new side with a *HostileError.
func Diff(ctx context.Context, src Objects, oldTree, newTree string) ([]Change, error) {
	d := differ{ctx: ctx, src: src}
	err := d.folder("", oldTree, newTree, 0)
	return d.changes, err
}

type differ struct {
	ctx     context.Context
	src     Objects
	changes []Change
}

func (d *differ) folder(path, oldTree, newTree string, depth int) error {
	if oldTree == newTree {
		return nil
	}
	if err := checkDepth(d.ctx, path, depth); err != nil {
		return err
	}
	var before, after []Entry
	if oldTree != "" {
		raw, err := Read(d.ctx, d.src, KindTree, oldTree)
		if err != nil {
			return err
		}
		if before, err = ParseTree(raw); err != nil {
			return fmt.Errorf("folder %q, tree %s: %w", path, oldTree, err)
		}
	}
	if newTree != "" {
		var err error
		if after, err = ReadTree(d.ctx, d.src, path, newTree); err != nil {
			return err
		}
	}
	for len(before) > 0 || len(after) > 0 {
		var old, new *Entry
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].key() < after[0].key():
			old, before = &before[0], before[1:]
		case len(before) == 0 || after[0].key() < before[0].key():
			new, after = &after[0], after[1:]
		default:
			old, before = &before[0], before[1:]
			new, after = &after[0], after[1:]
		}
		if err := d.entry(path, old, new, depth); err != nil {
			return err
		}
	}
	return nil
}

// entry compares two entries of the same sort key; one may be nil.
func (d *differ) entry(path string, old, new *Entry, depth int) error {
	if old != nil && new != nil && *old == *new {
		return nil
	}
	either := old
	if either == nil {
		either = new
	}
	path = join(path, either.Name)
	if either.IsFolder() {
		return d.folder(path, idOf(old), idOf(new), depth+1)
	}
	if len(d.changes) >= MaxFiles {
		return fmt.Errorf("more than %d files change in one commit: %w", MaxFiles, ErrTooLarge)
	}
	d.changes = append(d.changes, Change{Path: path, Old: fileOf(path, old), New: fileOf(path, new)})
	return nil
}

func idOf(e *Entry) string {
	if e == nil {
		return ""
	}
	return e.ID
}

func fileOf(path string, e *Entry) *File {
	if e == nil {
		return nil
	}
	return &File{Path: path, Mode: e.Mode, ID: e.ID}
}

// Find returns the entry at path below the tree, or nil if there is none.
func Find(ctx context.Context, src Objects, tree, path string) (*Entry, error) {
	folder := ""
	for {
		name, rest, more := strings.Cut(path, "/")
		raw, err := Read(ctx, src, KindTree, tree)
		if err != nil {
			return nil, err
		}
		entries, err := ParseTree(raw)
		if err != nil {
			return nil, fmt.Errorf("folder %q, tree %s: %w", folder, tree, err)
		}
		var found *Entry
		for i := range entries {
			if entries[i].Name == name {
				found = &entries[i]
			}
		}
		if found == nil || !more {
			return found, nil
		}
		if !found.IsFolder() {
			return nil, nil
		}
		folder, tree, path = join(folder, name), found.ID, rest
	}
}

// IsHostile reports whether err refuses a commit or tree for what it holds (a *HostileError, a malformed or an oversized
// object), as opposed to a failure to read it or a store that gives wrong bytes.
func IsHostile(err error) bool {
	var h *HostileError
	return errors.As(err, &h) || errors.Is(err, ErrMalformed) || errors.Is(err, ErrTooLarge)
}
