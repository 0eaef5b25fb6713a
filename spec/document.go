package spec

import (
	"strconv"
	"strings"

	"github.com/apex-network/apex/spec/diag"
)

// Document is one document of kind T, where it stands, and where each of its parts stands.
type Document[T any] struct {
	Value T
	// Pos is where the document's first key stands.
	Pos diag.Position

	places places
}

// At gives the position of the value at a YAML path such as `spec.allow[0].from` or `metadata.labels["a.b"]`. Where the
// path leads nowhere it gives the position of the deepest part that exists: that is where something is missing.
func (d *Document[T]) At(path string) diag.Position {
	pos := d.Pos
	if at, _ := d.places.find(path); at >= 0 {
		pos.Line, pos.Column = int(d.places[at].line), int(d.places[at].column)
	}
	return pos
}

// place is one node of a document's tree in preorder. It is small because a controller keeps those of every document.
type place struct {
	key          string // within a mapping
	index        int32  // within a list, else -1
	parent       int32  // index into places, -1 for the root
	end          int32  // index just past the subtree
	line, column int32
}

type places []place

// add appends a place below parent and gives its index; close ends its subtree.
func (p *places) add(parent int32, key string, index int32, line, column int) int32 {
	*p = append(*p, place{key: key, index: index, parent: parent, line: int32(line), column: int32(column)})
	return int32(len(*p) - 1)
}

func (p places) close(i int32) { p[i].end = int32(len(p)) }

// path writes the YAML path of place i.
func (p places) path(i int32) string {
	if i <= 0 {
		return ""
	}
	parent := p.path(p[i].parent)
	if p[i].index >= 0 {
		return parent + "[" + strconv.Itoa(int(p[i].index)) + "]"
	}
	return joinPath(parent, p[i].key)
}

// joinPath writes the path of a key below parent, quoting what is not a plain word.
func joinPath(parent, key string) string {
	plain := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
	switch {
	case !plain:
		return parent + "[" + strconv.Quote(key) + "]"
	case parent == "":
		return key
	}
	return parent + "." + key
}

// find walks path from the root as far as it leads, and says whether that is to its end. It gives -1 if there is no tree.
func (p places) find(path string) (at int32, exact bool) {
	if len(p) == 0 {
		return -1, false
	}
	for path != "" {
		key, index, rest, ok := cutPath(path)
		if !ok {
			return at, false
		}
		child := p.child(at, key, index)
		if child < 0 {
			return at, false
		}
		at, path = child, rest
	}
	return at, true
}

// child finds the child of place i with the key, or with the index if that is not negative; -1 if there is none.
func (p places) child(i int32, key string, index int32) int32 {
	for c := i + 1; c < p[i].end; c = p[c].end {
		if p[c].index == index && (index >= 0 || p[c].key == key) {
			return c
		}
	}
	return -1
}

// cutPath takes the first step off path: a key (index -1) or an index.
func cutPath(path string) (key string, index int32, rest string, ok bool) {
	if !strings.HasPrefix(path, "[") {
		path = strings.TrimPrefix(path, ".")
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		return path[:end], -1, path[end:], end > 0
	}
	if quoted, err := strconv.QuotedPrefix(path[1:]); err == nil {
		key, err = strconv.Unquote(quoted)
		rest, closed := strings.CutPrefix(path[1+len(quoted):], "]")
		return key, -1, rest, err == nil && closed
	}
	number, rest, closed := strings.Cut(path[1:], "]")
	n, err := strconv.ParseInt(number, 10, 32)
	return "", int32(n), rest, closed && err == nil && n >= 0
}

// has reports whether something stands at exactly this path.
func (p places) has(path string) bool {
	_, exact := p.find(path)
	return exact
}

// children counts what stands directly below a path; known is false if the path leads nowhere, as in a document that was
// not loaded.
func (p places) children(path string) (n int, known bool) {
	at, exact := p.find(path)
	if !exact {
		return 0, false
	}
	for c := at + 1; c < p[at].end; c = p[c].end {
		n++
	}
	return n, true
}

// empty reports whether an empty list or mapping stands at path.
func (p places) empty(path string) bool {
	n, known := p.children(path)
	return known && n == 0
}
