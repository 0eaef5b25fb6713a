package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
)

// Edits of documents change as few bytes as they can: comments, blank lines and the order of things are people's.
// Every edit is checked by the caller, who loads the result and compares what it says.

// errEdit says that a document is written in a way that an edit by program could spoil.
var errEdit = errors.New("cannot be edited by program")

// replaceScalar puts next in the place of the plain or quoted scalar that stands at pos and reads old.
func replaceScalar(data []byte, pos diag.Position, old, next string) ([]byte, error) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if pos.Line < 1 || pos.Line > len(lines) || pos.Column < 1 || pos.Column > len(lines[pos.Line-1]) {
		return nil, fmt.Errorf("%s: %w", pos, errEdit)
	}
	line := lines[pos.Line-1]
	before, after := line[:pos.Column-1], line[pos.Column-1:]
	at := bytes.Index(after, []byte(old))
	if at < 0 || at > 1 { // 1: after a quote
		return nil, fmt.Errorf("%s: %w: it does not read %s", pos, errEdit, old)
	}
	lines[pos.Line-1] = slices.Concat(before, after[:at], []byte(next), after[at+len(old):])
	return bytes.Join(lines, nil), nil
}

// appendItem adds an item to the block list `spec.<field>` of the document whose first key stands at line, and begins
// the list if there is none. The item is lines of a YAML mapping.
func appendItem(data []byte, line int, field string, item []string) ([]byte, error) {
	root, err := documentAt(data, line)
	if err != nil {
		return nil, err
	}
	body := valueOf(root, "spec")
	if body == nil || body.Kind != yaml.MappingNode || body.Style&yaml.FlowStyle != 0 || len(body.Content) == 0 {
		return nil, fmt.Errorf("its spec %w: it is no block of keys", errEdit)
	}
	indent := strings.Repeat(" ", body.Content[0].Column-1)
	var add []string
	last := lastLine(body)
	if list := valueOf(body, field); list != nil {
		if list.Kind != yaml.SequenceNode || list.Style&yaml.FlowStyle != 0 || len(list.Content) == 0 {
			return nil, fmt.Errorf("its %s %w: write it as a block list", field, errEdit)
		}
		last = lastLine(list)
		indent = strings.Repeat(" ", list.Column-1)
	} else {
		add = append(add, indent+field+":")
		indent += "  "
	}
	for i, text := range item {
		lead := "  "
		if i == 0 {
			lead = "- "
		}
		add = append(add, indent+lead+text)
	}
	lines := strings.SplitAfter(string(data), "\n")
	if last > len(lines) {
		return nil, errEdit
	}
	if !strings.HasSuffix(lines[last-1], "\n") {
		lines[last-1] += "\n"
	}
	return []byte(strings.Join(slices.Insert(lines, last, strings.Join(add, "\n")+"\n"), "")), nil
}

// linesOf writes a mapping as YAML, a line for each field.
func linesOf(v any) ([]string, error) {
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return nil, err
	}
	for _, c := range n.Content {
		if c.Kind != yaml.ScalarNode {
			c.Style = yaml.FlowStyle
		}
	}
	text, err := yaml.Marshal(&n)
	return strings.Split(strings.TrimSpace(string(text)), "\n"), err
}

// documentAt finds the mapping of the document whose first key stands at line.
func documentAt(data []byte, line int) (*yaml.Node, error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		if err := decoder.Decode(&doc); err != nil {
			return nil, fmt.Errorf("line %d: %w: no document begins there", line, errEdit)
		}
		if len(doc.Content) == 1 && doc.Content[0].Kind == yaml.MappingNode && doc.Content[0].Line == line {
			return doc.Content[0], nil
		}
	}
}

// valueOf finds a key's value in a mapping; nil if there is none.
func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// lastLine is the last line on which a part of n begins. That is its end too, unless it ends in a text of several
// lines.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}

// fileOf finds the file that a document stands in.
func (w *workspace) fileOf(pos diag.Position) (spec.File, error) {
	for _, f := range w.files {
		if f.Path == pos.File {
			return f, nil
		}
	}
	return spec.File{}, fmt.Errorf("%s: no such file in %s", pos, w.dir)
}
