package gitobject

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Mode is a tree entry's mode as git writes it, in octal.
type Mode string

// The modes git writes. Only the first three are accepted in a network repository.
const (
	ModeFile       Mode = "100644"
	ModeExecutable Mode = "100755"
	ModeFolder     Mode = "40000"
	ModeSymlink    Mode = "120000"
	ModeSubmodule  Mode = "160000"
)

// Entry is one name in a folder.
type Entry struct {
	Name string
	Mode Mode
	ID   string
}

// IsFolder reports whether the entry is a folder.
func (e Entry) IsFolder() bool { return e.Mode == ModeFolder }

// key is the name as git sorts it: a folder as if it ended in a slash.
func (e Entry) key() string {
	if e.IsFolder() {
		return e.Name + "/"
	}
	return e.Name
}

// HostileError says that a tree holds something that no network repository may hold.
type HostileError struct {
	Path   string // from the repository's root
	Reason string // what is wrong and what to do
}

func (e *HostileError) Error() string { return fmt.Sprintf("%s: %s", printable(e.Path), e.Reason) }

// ReadTree reads, hashes and parses the folder at path ("" is the root) and refuses hostile entries with a
// *HostileError.
func ReadTree(ctx context.Context, src Objects, path, id string) ([]Entry, error) {
	raw, err := Read(ctx, src, KindTree, id)
	if err != nil {
		return nil, err
	}
	entries, err := ParseTree(raw)
	if err != nil {
		return nil, fmt.Errorf("folder %q, tree %s: %w", path, id, err)
	}
	return entries, checkEntries(path, entries)
}

// ParseTree parses the stored bytes of a tree: entries in git's order, each name once. What the names and modes are is
// not judged.
func ParseTree(raw []byte) ([]Entry, error) {
	const idLen = 20
	var entries []Entry
	for len(raw) > 0 {
		mode, rest, ok := bytes.Cut(raw, []byte(" "))
		if !ok || len(mode) > 6 {
			return nil, fmt.Errorf("%w: tree entry without a mode", ErrMalformed)
		}
		name, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok || len(name) == 0 || len(rest) < idLen {
			return nil, fmt.Errorf("%w: tree entry %.40q is cut off", ErrMalformed, name)
		}
		e := Entry{Name: string(name), Mode: Mode(mode), ID: hex.EncodeToString(rest[:idLen])}
		if n := len(entries); n > 0 {
			if last := entries[n-1]; last.Name == e.Name || last.key() >= e.key() {
				return nil, fmt.Errorf("%w: tree entry %.40q repeated or out of order", ErrMalformed, name)
			}
		}
		if entries = append(entries, e); len(entries) > MaxTreeEntries {
			return nil, fmt.Errorf("more than %d entries in one folder: %w", MaxTreeEntries, ErrTooLarge)
		}
		raw = rest[idLen:]
	}
	return entries, nil
}

// checkEntries refuses what must not stand in a folder.
func checkEntries(path string, entries []Entry) error {
	folded := make(map[string]string, len(entries))
	for _, e := range entries {
		reason := hostile(e)
		fold := strings.ToLower(e.Name)
		if other, ok := folded[fold]; reason == "" && ok && other == e.Name {
			reason = "stands twice in its folder; remove one"
		} else if reason == "" && ok {
			reason = fmt.Sprintf("differs from %s only in case, so a clone on some systems would mix them up; rename one", printable(other))
		}
		if reason == "" && path == "" && fold == "trust" && e.Name != "trust" {
			reason = `must be spelled "trust": other spellings fool people and some file systems`
		}
		if reason == "" && len(path)+1+len(e.Name) > MaxPath {
			reason = fmt.Sprintf("path longer than %d bytes", MaxPath)
		}
		if reason != "" {
			return &HostileError{Path: join(path, e.Name), Reason: reason}
		}
		folded[fold] = e.Name
	}
	return nil
}

// hostile says why an entry is refused, or "".
func hostile(e Entry) string {
	switch e.Mode {
	case ModeFile, ModeExecutable, ModeFolder:
	case ModeSymlink:
		return "is a symbolic link; put the file itself there"
	case ModeSubmodule:
		return "is a submodule; copy its files into the repository"
	default:
		return fmt.Sprintf("has file mode %q; commit it again with mode 644 or 755", string(e.Mode))
	}
	name := e.Name
	switch {
	case name == "." || name == "..":
		return "is a name that leads out of its folder"
	case !utf8.ValidString(name):
		return "is not a UTF-8 name; rename it"
	case strings.ContainsAny(name, "/\\"):
		return "holds a slash or backslash in one name; rename it"
	case isDotGit(name):
		return "is a name that some systems take for the .git folder; rename it"
	}
	for _, r := range name {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return "holds control or invisible characters; rename it"
		}
	}
	return ""
}

// isDotGit recognises .git as case-folding, HFS+ (ignored code points) and NTFS (short names, trailing dots, spaces and
// streams) would.
func isDotGit(name string) bool {
	visible := strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Cf, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	visible, _, _ = strings.Cut(visible, ":")
	visible = strings.TrimRight(visible, ". ")
	return visible == ".git" || strings.HasPrefix(visible, "git~")
}

func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}

// printable quotes a path if showing it as it is could mislead.
func printable(path string) string {
	for _, r := range path {
		if !unicode.IsPrint(r) {
			return fmt.Sprintf("%q", path)
		}
	}
	return path
}
