package spec

import (
	"bytes"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// flowWidth is how long, in bytes, a list of scalars or a mapping of strings may be to stand on one line.
const flowWidth = 88

// Marshal writes documents as canonical YAML, separated by `---`: fields in the order of their types, two spaces of
// indent, empty optional fields left out. A document is a value of a kind (Node, *Node, …). What Marshal writes loads
// to the same values, if they are valid; the error says that a value is of no kind.
func Marshal(docs ...any) ([]byte, error) {
	var out bytes.Buffer
	for i, doc := range docs {
		v := reflect.ValueOf(doc)
		for v.IsValid() && v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		info := kindOfType(v)
		if info == nil {
			return nil, fmt.Errorf("marshal document %d: %T is no kind of %s", i+1, doc, APIVersion)
		}
		root := &yaml.Node{Kind: yaml.MappingNode}
		root.Content = append(root.Content, stringNode("apiVersion"), stringNode(APIVersion), stringNode("kind"), stringNode(string(info.kind)))
		body, err := treeOf(v, info.shape)
		if err != nil {
			return nil, fmt.Errorf("marshal %s: %w", info.kind, err)
		}
		root.Content = append(root.Content, body.Content...)
		if i > 0 {
			out.WriteString("---\n")
		}
		if err := encodeTree(&out, root); err != nil {
			return nil, fmt.Errorf("marshal %s: %w", info.kind, err)
		}
	}
	return out.Bytes(), nil
}

func kindOfType(v reflect.Value) *kindInfo {
	for i := range kinds {
		if v.IsValid() && v.Type() == kinds[i].shape.typ {
			return &kinds[i]
		}
	}
	return nil
}

// encodeTree writes a tree with two spaces of indent.
func encodeTree(out *bytes.Buffer, root *yaml.Node) error {
	enc := yaml.NewEncoder(out)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return err
	}
	return enc.Close()
}

// treeOf makes the tree of a value.
func treeOf(v reflect.Value, s *shape) (*yaml.Node, error) {
	if s.pointer {
		v = v.Elem()
	}
	switch s.form {
	case structForm:
		return structTree(v, s)
	case listForm:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			item, err := treeOf(v.Index(i), s.elem)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return compact(n), nil
	case mapForm:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) })
		for _, k := range keys {
			item, err := treeOf(v.MapIndex(k), s.elem)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, stringNode(k.String()), item)
		}
		return compact(n), nil
	}
	return scalarTree(v, s)
}

// structTree makes a mapping of the fields that are required or not empty.
func structTree(v reflect.Value, s *shape) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := range s.fields {
		f := &s.fields[i]
		fv := v.Field(f.index)
		if !f.required && (fv.IsZero() || f.shape.form == listForm && fv.Len() == 0 || f.shape.form == mapForm && fv.Len() == 0) {
			continue
		}
		item, err := treeOf(fv, f.shape)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		n.Content = append(n.Content, stringNode(f.name), item)
	}
	return n, nil
}

func scalarTree(v reflect.Value, s *shape) (*yaml.Node, error) {
	switch s.form {
	case boolForm:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}, nil
	case intForm:
		text := ""
		if v.CanInt() {
			text = strconv.FormatInt(v.Int(), 10)
		} else {
			text = strconv.FormatUint(v.Uint(), 10)
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: text}, nil
	case textForm:
		m, ok := v.Interface().(encoding.TextMarshaler)
		if !ok {
			return nil, fmt.Errorf("%s does not marshal to text", v.Type())
		}
		text, err := m.MarshalText()
		if err != nil {
			return nil, err
		}
		n := stringNode(string(text))
		if n.Style == yaml.DoubleQuotedStyle && len(text) > 0 {
			n.Style, n.Tag = 0, "" // instants and the like need no quotes: their reader does not ask what YAML thinks
		}
		return n, nil
	}
	return stringNode(v.String()), nil
}

// stringNode makes a scalar that no parser takes for anything but a string.
func stringNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	var plain yaml.Node
	plain.SetString(s)
	probe := &yaml.Node{Kind: yaml.ScalarNode, Value: s}
	probe.Tag = probe.ShortTag()
	switch {
	case plain.Style == yaml.LiteralStyle:
		n.Style = yaml.LiteralStyle
	case s == "" || isAmbiguous(probe):
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// compact puts a list of scalars, or a mapping of scalars, on one line if it is short.
func compact(n *yaml.Node) *yaml.Node {
	width := 0
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode || c.Style == yaml.LiteralStyle {
			return n
		}
		width += len(c.Value) + 2
	}
	if width <= flowWidth {
		n.Style = yaml.FlowStyle
		quoteColons(n, true)
	}
	return n
}

// quoteColons puts plain scalars with a ':' in double quotes where they stand in a flow collection: the YAML library
// would else put them in single quotes, the odd ones out.
func quoteColons(n *yaml.Node, flow bool) {
	flow = flow || n.Style&yaml.FlowStyle != 0
	if n.Kind == yaml.ScalarNode && flow && n.Style == 0 && strings.Contains(n.Value, ":") {
		n.Style = yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		quoteColons(c, flow)
	}
}
