package spec

import (
	"cmp"
	"fmt"
	"path"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/apex-network/apex/spec/diag"
)

// File is one file of a repository: a slash-separated path relative to its root, and its bytes.
type File struct {
	Path string
	Data []byte
}

// Parsed is what one file says by itself. It is immutable and depends on the file's path and bytes alone, so that a
// caller can keep it by (path, blob hash). The zero Parsed says nothing.
type Parsed struct {
	path      string
	documents []any // *Document of a kind
	problems  diag.List
	// incomplete says that a document of the file could not be read at all.
	incomplete bool
}

// Path gives the path of the file.
func (p Parsed) Path() string { return p.path }

// IsSource reports whether Load reads a path: *.yaml and *.yml, unless it or a folder above it begins with a dot.
func IsSource(name string) bool {
	ext := path.Ext(name)
	return (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.")
}

// Parse reads one file, whatever its name: all its documents, and every problem that shows without the other files.
func Parse(f File) Parsed {
	p := Parsed{path: f.Path}
	var out sink
	pieces, ok := cutFile(f, &out)
	p.incomplete = !ok
	for _, piece := range pieces {
		if piece.broken {
			p.incomplete = true
			continue
		}
		if !piece.content {
			continue
		}
		if doc := parseDocument(f.Path, piece, &out); doc != nil {
			p.documents = append(p.documents, doc)
		} else {
			p.incomplete = true
		}
	}
	p.problems = out.finish(f.Path)
	return p
}

// cutFile splits a file, reporting what is wrong with its text; ok is false if it is too large to look at.
func cutFile(f File, out *sink) (pieces []piece, ok bool) {
	report := func(line, column int, fault *fault) {
		out.add(diag.Diagnostic{Code: fault.code, Position: diag.Position{File: f.Path, Line: line, Column: column},
			Message: fault.message, Hint: fault.hint})
	}
	if len(f.Data) > MaxFileBytes {
		report(0, 0, faultf(diag.FileTooLarge, "split the file", "%d bytes; at most %d are allowed", len(f.Data), MaxFileBytes))
		return nil, false
	}
	return cut(f.Data, report), true
}

// finish gives the sorted list, with a count of what did not fit.
func (s *sink) finish(file string) diag.List {
	s.list.Sort()
	if s.dropped > 0 {
		s.list = append(s.list, diag.Diagnostic{Code: diag.TooManyProblems, Position: diag.Position{File: file},
			Message: fmt.Sprintf("%d more problems are not listed", s.dropped), Hint: "mend those listed and run again"})
	}
	return slices.Clip(s.list)
}

// Decode reads a file that holds exactly one document of the struct type T, with the same strictness and diagnostics
// as the language: T's yaml tags name fields and say which are required, its apex tags bound their values (see bounds).
// The document is nil if the list has errors. T must hold only structs, slices, maps with string keys, strings,
// booleans, integers and types that unmarshal themselves from text; any other type panics.
func Decode[T any](f File) (*Document[T], diag.List) {
	var out sink
	s := shapeOf(reflect.TypeFor[T]())
	pieces, _ := cutFile(f, &out)
	pieces = slices.DeleteFunc(pieces, func(p piece) bool { return !p.content })
	doc := &Document[T]{Pos: diag.Position{File: f.Path, Line: 1, Column: 1}}
	switch {
	case len(out.list) > 0:
	case len(pieces) != 1:
		out.add(diag.Diagnostic{Code: diag.Syntax, Position: doc.Pos,
			Message: fmt.Sprintf("the file has %d documents; exactly one is wanted", len(pieces))})
	default:
		decodePiece(f.Path, pieces[0], doc, s, &out)
	}
	if list := out.finish(f.Path); len(list) > 0 {
		return nil, list
	}
	return doc, nil
}

// Load parses files and assembles them. It reads what IsSource says and ignores other files.
func Load(files []File) (*Repository, diag.List) {
	files = slices.DeleteFunc(slices.Clone(files), func(f File) bool { return !IsSource(f.Path) })
	parsed := make([]Parsed, len(files))
	workers := min(runtime.GOMAXPROCS(0), len(files))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(files); i += workers {
				parsed[i] = Parse(files[i])
			}
		})
	}
	wg.Wait()
	return Assemble(parsed)
}

// Assemble puts files together. The repository holds every document that could be read, also when the list has errors:
// then fields with problems are unset, and Validate keeps quiet about what follows from documents it cannot see.
func Assemble(files []Parsed) (*Repository, diag.List) {
	a := assembly{repo: &Repository{}}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b Parsed) int { return strings.Compare(a.path, b.path) })
	for _, f := range files {
		a.list = append(a.list, f.problems...)
		a.repo.incomplete = a.repo.incomplete || f.incomplete
		for _, doc := range f.documents {
			a.add(doc)
		}
	}
	r := a.repo
	r.Zones = distinct(&a, KindZone, r.Zones)
	r.Nodes = distinct(&a, KindNode, r.Nodes)
	r.Policies = distinct(&a, KindPolicy, r.Policies)
	r.Tests = distinct(&a, KindPolicyTest, r.Tests)
	if r.Network == nil && !r.incomplete {
		a.list = append(a.list, diag.Diagnostic{Code: diag.NoNetwork, Message: "the repository has no document of kind Network",
			Hint: "`apex init` makes one"})
	}
	a.list.Sort()
	return r, a.list
}

type assembly struct {
	repo *Repository
	list diag.List
}

// add files a document under its kind. Files come in order of their paths, so that the first one is the same every time.
func (a *assembly) add(doc any) {
	r := a.repo
	switch d := doc.(type) {
	case *Document[Network]:
		if r.Network != nil {
			a.second(KindNetwork, d.At("metadata.name"), r.Network.Pos)
			return
		}
		r.Network = d
	case *Document[TrustRoot]:
		if d.Pos.File != TrustRootPath {
			a.list = append(a.list, diag.Diagnostic{Code: diag.TrustRootPlace, Position: d.Pos,
				Message: "a TrustRoot may stand only in " + TrustRootPath, Hint: "move it there"})
		}
		if r.TrustRoot != nil {
			a.second(KindTrustRoot, d.At("metadata.name"), r.TrustRoot.Pos)
			return
		}
		r.TrustRoot = d
	case *Document[Zone]:
		r.Zones = append(r.Zones, d)
	case *Document[Node]:
		r.Nodes = append(r.Nodes, d)
	case *Document[Policy]:
		r.Policies = append(r.Policies, d)
	case *Document[PolicyTest]:
		r.Tests = append(r.Tests, d)
	}
}

func (a *assembly) second(kind Kind, at, first diag.Position) {
	a.list = append(a.list, diag.Diagnostic{Code: diag.SecondDocument, Position: at, Path: "metadata.name",
		Message: fmt.Sprintf("a second %s; the first is at %s", kind, first), Hint: "remove one of them"})
}

// distinct sorts documents by (zone, name) and keeps the first of those with the same name.
func distinct[T any](a *assembly, kind Kind, docs []*Document[T]) []*Document[T] {
	slices.SortStableFunc(docs, func(x, y *Document[T]) int {
		mx, my := metadataOf(&x.Value), metadataOf(&y.Value)
		return cmp.Or(strings.Compare(mx.Zone, my.Zone), strings.Compare(mx.Name, my.Name), x.Pos.Compare(y.Pos))
	})
	kept := docs[:0]
	for _, d := range docs {
		m := metadataOf(&d.Value)
		if len(kept) > 0 {
			last := metadataOf(&kept[len(kept)-1].Value)
			if last.Name == m.Name && last.Zone == m.Zone {
				in := ""
				if m.Zone != "" {
					in = " in zone " + m.Zone
				}
				a.list = append(a.list, diag.Diagnostic{Code: diag.DuplicateDocument, Position: d.At("metadata.name"), Path: "metadata.name",
					Message: fmt.Sprintf("a second %s named %s%s; the first is at %s", kind, m.Name, in, kept[len(kept)-1].Pos),
					Hint:    "rename or remove one of them"})
				continue
			}
		}
		kept = append(kept, d)
	}
	clear(docs[len(kept):])
	return kept
}
