package gitsource

import (
	"context"
	"fmt"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/spec"
)

// File is one file of a commit. ID is its blob id: files with equal ids have equal bytes, so what was parsed from one
// need not be read or parsed again.
type File struct {
	Path string
	ID   string
}

func files(ctx context.Context, src gitobject.Objects, commit string) ([]File, error) {
	c, err := gitobject.ReadCommit(ctx, src, commit)
	if err != nil {
		return nil, err
	}
	var list []File
	err = gitobject.Walk(ctx, src, c.Tree, func(f gitobject.File) error {
		if spec.IsSource(f.Path) {
			list = append(list, File{Path: f.Path, ID: f.ID})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", commit, err)
	}
	return list, nil
}

func read(ctx context.Context, src gitobject.Objects, f File) (spec.File, error) {
	data, err := gitobject.Read(ctx, src, gitobject.KindBlob, f.ID)
	if err != nil {
		return spec.File{}, fmt.Errorf("%s: %w", f.Path, err)
	}
	return spec.File{Path: f.Path, Data: data}, nil
}

func readAll(ctx context.Context, src gitobject.Objects, list []File) ([]spec.File, error) {
	out := make([]spec.File, 0, len(list))
	total := 0
	for _, f := range list {
		file, err := read(ctx, src, f)
		if err != nil {
			return nil, err
		}
		if total += len(file.Data); total > gitobject.MaxTotalBytes {
			return nil, fmt.Errorf("%s: documents exceed %d bytes together: %w", f.Path, gitobject.MaxTotalBytes, gitobject.ErrTooLarge)
		}
		out = append(out, file)
	}
	return out, nil
}

func changed(ctx context.Context, src gitobject.Objects, oldCommit, newCommit string) ([]gitobject.Change, error) {
	before, err := gitobject.ReadCommit(ctx, src, oldCommit)
	if err != nil {
		return nil, err
	}
	after, err := gitobject.ReadCommit(ctx, src, newCommit)
	if err != nil {
		return nil, err
	}
	return gitobject.Diff(ctx, src, before.Tree, after.Tree)
}
