package spec

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// shape is what a Go type says of the YAML it is read from. The loader, the writer, `apex fmt` and the JSON Schemas all
// work from shapes, so that they cannot disagree.
type shape struct {
	form    form
	typ     reflect.Type
	pointer bool    // the Go value is a pointer to typ
	fields  []field // of a structForm, in canonical order
	byName  map[string]int
	elem    *shape // of a listForm or mapForm
	read    reader // of a textForm
}

type form int

const (
	structForm form = iota
	listForm
	mapForm // string keys
	stringForm
	textForm // text with a reader of its own: addresses, keys, times …
	intForm
	boolForm
)

type field struct {
	name     string
	index    int
	required bool
	shape    *shape
	bounds   bounds
}

// bounds limit a value. They stand in the apex tag of a field, separated by commas:
//
//	name        a DNS-1123 label
//	labels      a mapping of label keys and values; annotations: a mapping of free text
//	endpoint    host:port
//	glob        a path pattern
//	identity    the name of a group or user
//	multiline   text that may have several lines
//	enum=a|b    one of these
//	min=, max=  of an integer or a duration
//	seconds     a duration of whole seconds
//	items=a-b   the length of a list
//	unique      no two items of a list are equal
//
// All but items and unique apply to each item of a list.
type bounds struct {
	syntax         string // name, labels, annotations, endpoint, glob, identity, multiline or ""
	enum           []string
	hasMin, hasMax bool
	min, max       int64 // of a duration in nanoseconds
	seconds        bool
	hasItems       bool
	minItems       int
	maxItems       int
	unique         bool
}

// shapeOf describes t. It panics on a type or tag that the language has no form for: a mistake in this program.
func shapeOf(t reflect.Type) *shape {
	s := &shape{typ: t}
	if t.Kind() == reflect.Pointer {
		s = shapeOf(t.Elem())
		s.pointer = true
		return s
	}
	if s.read = readerOf(t); s.read != nil {
		s.form = textForm
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		s.form = structForm
		s.describeFields()
	case reflect.Slice:
		s.form, s.elem = listForm, shapeOf(t.Elem())
	case reflect.Map:
		s.form, s.elem = mapForm, shapeOf(t.Elem())
		if t.Key().Kind() != reflect.String {
			panic("spec: a mapping needs string keys, not " + t.String())
		}
	case reflect.String:
		s.form = stringForm
	case reflect.Bool:
		s.form = boolForm
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		s.form = intForm
	default:
		panic("spec: no form for " + t.String())
	}
	return s
}

// describeFields fills in the fields of a struct. Fields without a yaml tag are not part of the language.
func (s *shape) describeFields() {
	s.byName = make(map[string]int, s.typ.NumField())
	for i := range s.typ.NumField() {
		f := s.typ.Field(i)
		tag, ok := f.Tag.Lookup("yaml")
		if !ok || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		s.byName[name] = len(s.fields)
		s.fields = append(s.fields, field{
			name:     name,
			index:    i,
			required: !strings.Contains(options, "omitempty"),
			shape:    shapeOf(f.Type),
			bounds:   parseBounds(f.Tag.Get("apex"), f.Type),
		})
	}
}

func parseBounds(tag string, t reflect.Type) bounds {
	b := bounds{}
	if tag == "" {
		return b
	}
	for part := range strings.SplitSeq(tag, ",") {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "name", "labels", "annotations", "endpoint", "glob", "identity", "multiline":
			b.syntax = key
		case "enum":
			b.enum = strings.Split(value, "|")
		case "min":
			b.hasMin, b.min = true, parseBound(value)
		case "max":
			b.hasMax, b.max = true, parseBound(value)
		case "seconds":
			b.seconds = true
		case "unique":
			b.unique = true
		case "items":
			b.hasItems = true
			if _, err := fmt.Sscanf(value, "%d-%d", &b.minItems, &b.maxItems); err != nil {
				panic(fmt.Sprintf("spec: bad items in tag %q of %s", tag, t))
			}
		default:
			panic(fmt.Sprintf("spec: unknown bound %q on %s", part, t))
		}
	}
	return b
}

// parseBound reads an integer, or a duration in nanoseconds.
func parseBound(s string) int64 {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic("spec: bad bound " + s)
	}
	return int64(d)
}

// readerOf gives the reader of a type that is written as text, or nil.
func readerOf(t reflect.Type) reader {
	switch t {
	case reflect.TypeFor[netip.Prefix]():
		return readPrefix
	case reflect.TypeFor[netip.Addr]():
		return readAddr
	case reflect.TypeFor[time.Time]():
		return readTime
	case reflect.TypeFor[Key]():
		return readKey
	case reflect.TypeFor[Duration]():
		return readDuration
	case reflect.TypeFor[Port]():
		return readPort
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return readText
	}
	return nil
}

// kindInfo is what the loader knows of a kind.
type kindInfo struct {
	kind  Kind
	zoned bool // metadata.zone is required, else forbidden
	shape *shape
}

// kinds is the language: a read-only table.
var kinds = []kindInfo{
	{KindNetwork, false, shapeOf(reflect.TypeFor[Network]())},
	{KindZone, false, shapeOf(reflect.TypeFor[Zone]())},
	{KindNode, true, shapeOf(reflect.TypeFor[Node]())},
	{KindPolicy, true, shapeOf(reflect.TypeFor[Policy]())},
	{KindPolicyTest, true, shapeOf(reflect.TypeFor[PolicyTest]())},
	{KindTrustRoot, false, shapeOf(reflect.TypeFor[TrustRoot]())},
}

// kindNamed finds a kind's entry, or nil.
func kindNamed(name string) *kindInfo {
	for i := range kinds {
		if string(kinds[i].kind) == name {
			return &kinds[i]
		}
	}
	return nil
}
