package store

import (
	"context"
	"fmt"
)

// settledKey is the word that keys of Settled begin with.
const settledKey = "_settled."

// Settled tells f every value below prefix (one word) as of now: whatever was written before the call is told, also where
// lists and watches may begin a moment behind. It writes a key of its own, outside prefix, and waits until it is told that.
// What was deleted is not told.
func Settled(ctx context.Context, b Bucket, prefix string, f func(Change)) error {
	marker := settledKey + prefix
	if err := b.Put(ctx, marker, nil); err != nil {
		return err
	}
	_, revision, err := b.GetRevision(ctx, marker)
	if err != nil {
		return err
	}
	watching, enough := context.WithCancel(ctx)
	defer enough()
	done := false
	err = b.Watch(watching, "", func(c Change) {
		switch {
		case done || c.Deleted:
		case c.Key == marker && c.Revision >= revision:
			done = true
			enough()
		case Below(prefix, c.Key):
			f(c)
		}
	})
	if !done {
		return fmt.Errorf("catch up with the store: %w", err)
	}
	return nil
}
