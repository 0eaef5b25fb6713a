package spec

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/spec/diag"
)

// decoder reads the tree of one document into a value of a shape. yaml.v3's own decoder would do it in one line, but
// its errors name no column, and it guesses: `on` is a boolean to it and 010 is eight. Tests hold the two together.
type decoder struct {
	file string
	line int    // lines of the file before the document
	data []byte // the document's text
	// marks says that the text has a '!', so that tags are worth looking for.
	marks bool
	lines []int // offsets of the lines in data, filled in when first needed

	places places
	sink   *sink
}

// sink collects the problems of one file up to MaxFileProblems.
type sink struct {
	list    diag.List
	dropped int
}

func (s *sink) add(d diag.Diagnostic) {
	if len(s.list) >= MaxFileProblems {
		s.dropped++
		return
	}
	s.list = append(s.list, d)
}

// report files a problem with a node that has no place of its own.
func (d *decoder) report(n *yaml.Node, f *fault) { d.reportAt(n, "", f) }

func (d *decoder) reportAt(n *yaml.Node, path string, f *fault) {
	d.sink.add(diag.Diagnostic{
		Code:     f.code,
		Severity: diag.Error,
		Position: diag.Position{File: d.file, Line: d.line + max(n.Line, 1), Column: max(n.Column, 1)},
		Path:     path,
		Message:  f.message,
		Hint:     f.hint,
	})
}

// value reads n into v and gives whether it was free of problems. At is the place of n.
func (d *decoder) value(n *yaml.Node, v reflect.Value, s *shape, b *bounds, at int32) bool {
	if n.Kind == yaml.AliasNode || n.Kind == 0 {
		return false // lint has reported it
	}
	if n.Kind == yaml.ScalarNode && n.Style == 0 && n.Tag == "!!null" {
		hint := "give a value or remove the key"
		if s.form == listForm {
			hint = "write [] for an empty list, or remove the key"
		}
		d.reportAt(n, d.places.path(at), faultf(diag.NullValue, hint, "no value; %s is wanted", s.describe()))
		return false
	}
	if s.pointer {
		v.Set(reflect.New(s.typ))
		v = v.Elem()
	}
	switch s.form {
	case structForm:
		return d.wants(n, yaml.MappingNode, s, at) && d.structure(n, v, s, at, nil)
	case listForm:
		return d.wants(n, yaml.SequenceNode, s, at) && d.list(n, v, s, b, at)
	case mapForm:
		return d.wants(n, yaml.MappingNode, s, at) && d.mapping(n, v, s, b, at)
	}
	if !d.wants(n, yaml.ScalarNode, s, at) {
		return false
	}
	if f := readScalar(n, v, s, b); f != nil {
		d.reportAt(n, d.places.path(at), f)
		return false
	}
	return true
}

// wants reports a node of another kind than k.
func (d *decoder) wants(n *yaml.Node, k yaml.Kind, s *shape, at int32) bool {
	if n.Kind == k {
		return true
	}
	found, hint := "a single value", ""
	switch n.Kind {
	case yaml.MappingNode:
		found = "a mapping"
	case yaml.SequenceNode:
		found = "a list"
	case yaml.ScalarNode:
		if k == yaml.SequenceNode {
			hint = fmt.Sprintf("write [%s]", clip(n.Value))
		}
	}
	d.reportAt(n, d.places.path(at), faultf(diag.WrongType, hint, "%s where %s is wanted", found, s.describe()))
	return false
}

// describe names what a shape wants.
func (s *shape) describe() string {
	switch s.form {
	case structForm, mapForm:
		return "a mapping"
	case listForm:
		return "a list"
	case intForm:
		return "an integer"
	case boolForm:
		return "true or false"
	}
	return "a string"
}

// structure reads a mapping into the fields of a struct. The keys in skip are known to the caller.
func (d *decoder) structure(n *yaml.Node, v reflect.Value, s *shape, at int32, skip []string) bool {
	ok := true
	var present uint64 // by field; no struct of the language comes near 64
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			ok = false
			continue
		}
		index, known := s.byName[key.Value]
		if !known {
			if !slices.Contains(skip, key.Value) {
				child := d.places.add(at, key.Value, -1, val.Line+d.line, val.Column)
				d.places.close(child)
				d.reportAt(key, d.places.path(child), unknownField(key.Value, s, skip))
				ok = false
			}
			continue
		}
		if present&(1<<index) != 0 {
			ok = false
			continue // lint has reported the duplicate
		}
		present |= 1 << index
		f := &s.fields[index]
		child := d.places.add(at, f.name, -1, val.Line+d.line, val.Column)
		ok = d.value(val, v.Field(f.index), f.shape, &f.bounds, child) && ok
		d.places.close(child)
	}
	for i := range s.fields {
		if s.fields[i].required && present&(1<<i) == 0 {
			d.reportAt(n, d.places.path(at), faultf(diag.MissingField, "", "%s is missing", s.fields[i].name))
			ok = false
		}
	}
	return ok
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, s *shape, b *bounds, at int32) bool {
	ok := true
	if b.hasItems && (len(n.Content) < b.minItems || len(n.Content) > b.maxItems) {
		d.reportAt(n, d.places.path(at), itemCount(len(n.Content), b))
		if ok = false; len(n.Content) > b.maxItems {
			return ok
		}
	}
	if len(n.Content) == 0 {
		return ok // nil: an empty list and an absent one are the same value
	}
	items := reflect.MakeSlice(s.typ, len(n.Content), len(n.Content))
	var seen map[string]bool
	for i, c := range n.Content {
		child := d.places.add(at, "", int32(i), c.Line+d.line, c.Column)
		ok = d.value(c, items.Index(i), s.elem, b, child) && ok
		d.places.close(child)
		if b.unique && c.Kind == yaml.ScalarNode {
			if seen == nil {
				seen = make(map[string]bool, len(n.Content))
			}
			if seen[c.Value] {
				d.reportAt(c, d.places.path(child), faultf(diag.DuplicateItem, "remove one", "%q stands twice in this list", clip(c.Value)))
				ok = false
			}
			seen[c.Value] = true
		}
	}
	v.Set(items)
	return ok
}

func itemCount(n int, b *bounds) *fault {
	switch {
	case n > b.maxItems:
		return faultf(diag.ItemCount, "", "%d items; at most %d are allowed", n, b.maxItems)
	case b.minItems == 1:
		return faultf(diag.ItemCount, "add an item or remove the key", "the list is empty")
	}
	return faultf(diag.ItemCount, "", "%d items; at least %d are wanted", n, b.minItems)
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, s *shape, b *bounds, at int32) bool {
	ok := true
	if len(n.Content) == 0 {
		return ok
	}
	out := reflect.MakeMapWithSize(s.typ, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			ok = false
			continue
		}
		child := d.places.add(at, key.Value, -1, val.Line+d.line, val.Column)
		if f := stringFault(key, &bounds{syntax: keySyntax(b.syntax)}); f != nil {
			d.reportAt(key, d.places.path(child), f)
			ok = false
		}
		item := reflect.New(s.typ.Elem()).Elem()
		if d.value(val, item, s.elem, b, child) {
			out.SetMapIndex(reflect.ValueOf(key.Value).Convert(s.typ.Key()), item)
		} else {
			ok = false
		}
		d.places.close(child)
	}
	v.Set(out)
	return ok
}

// keySyntax gives the syntax of the keys of a mapping whose values have the syntax s.
func keySyntax(s string) string {
	if s == "labels" || s == "annotations" {
		return "labelKey"
	}
	return s
}

// unknownField says which field may have been meant.
func unknownField(name string, s *shape, also []string) *fault {
	names := append([]string(nil), also...)
	for _, f := range s.fields {
		names = append(names, f.name)
	}
	hint := didYouMean(name, names)
	if hint == "" && len(names) > 0 {
		hint = "known here: " + strings.Join(names, ", ")
	}
	return faultf(diag.UnknownField, hint, "unknown field %q", clip(name))
}

// byteAt gives the byte of the text at which a node begins, or 0.
func (d *decoder) byteAt(n *yaml.Node) byte {
	if d.lines == nil {
		d.lines = []int{0}
		for i, c := range d.data {
			if c == '\n' {
				d.lines = append(d.lines, i+1)
			}
		}
	}
	if n.Line < 1 || n.Line > len(d.lines) {
		return 0
	}
	rest := d.data[d.lines[n.Line-1]:]
	for column := 1; column < n.Column && len(rest) > 0; column++ {
		_, size := utf8.DecodeRune(rest)
		rest = rest[size:]
	}
	if len(rest) == 0 {
		return 0
	}
	return rest[0]
}

// hasControl reports characters that a single line of text has no use for.
func hasControl(s string, multiline bool) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return isUnprintable(r) && !(multiline && r == '\n')
	}) >= 0
}

// parseDocument reads one piece into a *Document of its kind and gives it, or nil if it has no kind or name.
func parseDocument(file string, p piece, out *sink) any {
	root, line, f := parseTree(p.data)
	if f != nil {
		d := decoder{file: file, line: p.line, sink: out}
		d.report(&yaml.Node{Line: line, Column: columnOfText(p.data, line)}, f)
		return nil
	}
	d := decoder{file: file, line: p.line, data: p.data, marks: bytes.IndexByte(p.data, '!') >= 0, sink: out}
	d.lint(root, 1)
	if root.Kind != yaml.MappingNode {
		d.report(root, faultf(diag.WrongType, "begin with apiVersion: "+APIVersion, "a document is a mapping"))
		return nil
	}
	kind := d.header(root)
	if kind == nil {
		return nil
	}
	return d.document(root, kind)
}

// header reads apiVersion and kind, and gives the kind's entry or nil.
func (d *decoder) header(root *yaml.Node) *kindInfo {
	version, kind := lookup(root, "apiVersion"), lookup(root, "kind")
	switch {
	case version == nil:
		d.report(root, faultf(diag.MissingField, "begin with apiVersion: "+APIVersion, "apiVersion is missing"))
	case version.Kind != yaml.ScalarNode || version.Value != APIVersion:
		d.reportAt(version, "apiVersion", faultf(diag.APIVersion, "write "+APIVersion, "unknown apiVersion %q", clip(version.Value)))
	}
	if kind == nil {
		d.report(root, faultf(diag.MissingField, "the kinds are "+kindNames(), "kind is missing"))
		return nil
	}
	info := kindNamed(kind.Value)
	if info == nil || kind.Kind != yaml.ScalarNode {
		d.reportAt(kind, "kind", faultf(diag.UnknownKind, didYouMeanOr(kind.Value, strings.Split(kindNames(), ", "),
			"the kinds are "+kindNames()), "unknown kind %q", clip(kind.Value)))
		return nil
	}
	return info
}

func kindNames() string {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k.kind))
	}
	return strings.Join(names, ", ")
}

// lookup gives the value of a key of a mapping, or nil.
func lookup(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// decodePiece reads one piece into a document of any shape.
func decodePiece[T any](file string, p piece, doc *Document[T], s *shape, out *sink) {
	root, line, f := parseTree(p.data)
	d := decoder{file: file, line: p.line, data: p.data, marks: bytes.IndexByte(p.data, '!') >= 0, sink: out}
	if f != nil {
		d.report(&yaml.Node{Line: line, Column: columnOfText(p.data, line)}, f)
		return
	}
	d.lint(root, 1)
	doc.Pos = diag.Position{File: file, Line: root.Line + p.line, Column: root.Column}
	top := d.places.add(-1, "", -1, doc.Pos.Line, doc.Pos.Column)
	d.value(root, reflect.ValueOf(&doc.Value).Elem(), s, &bounds{}, top)
	d.places.close(top)
	doc.places = d.places
}
