// Package gitobject reads git's own objects (commits, trees, blobs) from their stored bytes, strictly.
//
// Whoever decides over a repository must decide over exactly the bytes that its signatures cover. So nothing here is
// decoded and encoded again: every object is hashed before it is believed, a commit's signed payload is cut out of the
// stored bytes, and what git tolerates but no honest tool writes (duplicate headers, unsorted trees, odd modes) is an
// error. Replace refs and grafts live in refs and files, which this package never sees: they have no effect.
//
// The package is pure: it knows no storage, no clock and no network. Objects is the one boundary; Memory is its
// in-memory twin.
package gitobject

import (
	"context"
	"crypto/sha1" //nolint:gosec // only for its size; the hash itself is the collision detecting one
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/pjbgf/sha1cd"
)

// Kind is the type of an object as git's object header spells it.
type Kind string

// The kinds of objects that a commit is made of.
const (
	KindCommit Kind = "commit"
	KindTree   Kind = "tree"
	KindBlob   Kind = "blob"
)

// Errors that callers tell apart. ErrMissing: the source does not have the object. ErrTooLarge: it is over a cap of
// limits.go. ErrMalformed: its bytes are not what git writes. ErrCorrupt: they do not hash to the object's id.
var (
	ErrMissing   = errors.New("object not found")
	ErrTooLarge  = errors.New("object too large")
	ErrMalformed = errors.New("malformed git object")
	ErrCorrupt   = errors.New("object does not match its id")
)

// Objects gives stored objects. Ids are 40 lower-case hex digits.
type Objects interface {
	// Object returns the content of one object as stored, without git's object header. It fails with ErrMissing, or
	// with ErrTooLarge before reading more than limit bytes. Callers must not change the bytes.
	Object(ctx context.Context, kind Kind, id string, limit int64) ([]byte, error)
}

// ID computes the id of an object. It fails with ErrCorrupt if the content carries a SHA-1 collision attack.
func ID(kind Kind, content []byte) (string, error) {
	h, ok := sha1cd.New().(sha1cd.CollisionResistantHash)
	if !ok {
		return "", errors.New("sha1cd: no collision detection")
	}
	header := append([]byte(kind), ' ')
	header = append(strconv.AppendInt(header, int64(len(content)), 10), 0)
	h.Write(header)
	h.Write(content)
	sum, collision := h.CollisionResistantSum(nil)
	if collision {
		return "", fmt.Errorf("%s %x carries a SHA-1 collision attack: %w", kind, sum, ErrCorrupt)
	}
	return hex.EncodeToString(sum), nil
}

// ValidID reports whether id is 40 lower-case hex digits.
func ValidID(id string) bool {
	if len(id) != 2*sha1.Size {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Read gets one object, within the cap of its kind, and checks that it hashes to its id.
func Read(ctx context.Context, src Objects, kind Kind, id string) ([]byte, error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("%s id %.60q: want 40 lower-case hex digits: %w", kind, id, ErrMalformed)
	}
	limit := limitOf(kind)
	content, err := src.Object(ctx, kind, id, limit)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, id, err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%s %s has %d bytes, at most %d are read: %w", kind, id, len(content), limit, ErrTooLarge)
	}
	got, err := ID(kind, content)
	if err != nil {
		return nil, err
	}
	if got != id {
		return nil, fmt.Errorf("%s %s hashes to %s: %w", kind, id, got, ErrCorrupt)
	}
	return content, nil
}
