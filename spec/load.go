package spec

import (
	"github.com/apex-network/apex/spec/diag"
)

// Parsed is what one file says by itself. It is immutable and depends on the file's path and bytes alone, so that a
// caller can keep it by (path, blob hash).
type Parsed struct {
	path      string
	documents []any // *Document of a kind
	problems  diag.List
}

// Parse reads one file: all its documents, and every problem that shows without the other files.
func Parse(f File) Parsed { return Parsed{path: f.Path} }

// Assemble puts files together. The repository holds every document that could be read, also when the list has errors.
func Assemble(files []Parsed) (*Repository, diag.List) { return &Repository{}, nil }

// Load parses files and assembles them. It reads *.yaml and *.yml, and ignores other files and whatever stands in (or
// is) a folder or file whose name begins with a dot.
func Load(files []File) (*Repository, diag.List) {
	parsed := make([]Parsed, 0, len(files))
	for _, f := range files {
		parsed = append(parsed, Parse(f))
	}
	return Assemble(parsed)
}
