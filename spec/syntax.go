package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/spec/diag"
)

// parseTree parses the text of one document. On failure it gives the line within the text (from 1) and what is wrong.
func parseTree(data []byte) (root *yaml.Node, line int, f *fault) {
	// yaml.v3 panics on some malformed input (its own "please report" cases); to us that is one more syntax error.
	defer func() {
		if r := recover(); r != nil {
			root, line, f = nil, 1, faultf(diag.Syntax, "", "the YAML parser gave up: %s", clip(fmt.Sprint(r)))
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		line, f := syntaxFault(err, data)
		return nil, failingLine(data, err, line), f
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		return nil, max(more.Line, 1), faultf(diag.Syntax, "separate documents by a line with ---", "a second document begins here")
	} else if !errors.Is(err, io.EOF) {
		line, f := syntaxFault(err, data)
		return nil, line, f
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, 1, faultf(diag.Syntax, "", "no document")
	}
	return doc.Content[0], 0, nil
}

// syntaxFault takes the line out of an error of yaml.v3, whose text is "yaml: line N: problem" or "yaml: problem".
func syntaxFault(err error, data []byte) (int, *fault) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		if number, problem, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				line, message = n, problem
			}
		}
	}
	lines := bytes.Count(data, []byte("\n"))
	if len(data) > 0 && data[len(data)-1] != '\n' {
		lines++
	}
	return min(max(line, 1), max(lines, 1)), faultf(diag.Syntax, syntaxHint(message), "not YAML: %s", clip(message))
}

// failingLine finds the line at which the parser fails. Its own errors often name the beginning of the mapping around
// it; the shortest run of lines that fails in the same way ends at the culprit.
func failingLine(data []byte, err error, reported int) int {
	const most = 256 << 10 // a dozen more parses of more than this are not worth it
	if len(data) > most || !strings.Contains(err.Error(), "did not find expected") {
		return reported
	}
	ends := []int{0}
	for i, c := range data {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	n, found := slices.BinarySearchFunc(ends, true, func(end int, _ bool) int {
		var doc yaml.Node
		if e := yaml.Unmarshal(data[:end], &doc); e != nil && e.Error() == err.Error() {
			return 0
		}
		return -1
	})
	if !found {
		return reported
	}
	return max(n, reported)
}

func syntaxHint(message string) string {
	switch {
	case strings.Contains(message, "mapping values are not allowed"):
		return "look for a missing space after ':', a value that needs quotes, or a line indented too far"
	case strings.Contains(message, "could not find expected ':'"):
		return "look for a key without ':' at this line or the one before"
	case strings.Contains(message, "did not find expected key"), strings.Contains(message, "'-' indicator"):
		return "look for indentation that does not fit the lines above"
	case strings.Contains(message, "unexpected end of stream"):
		return "look for a quote or bracket that is not closed"
	case strings.Contains(message, "cannot start any token"):
		return "put the value in double quotes"
	}
	return ""
}

// columnOfText gives the column of the first character of a line (from 1) that is not a space.
func columnOfText(data []byte, line int) int {
	for ; line > 1; line-- {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return 1
		}
		data = data[i+1:]
	}
	text, _, _ := bytes.Cut(data, []byte("\n"))
	trimmed := bytes.TrimLeft(text, " ")
	if len(trimmed) == 0 {
		return 1
	}
	return utf8.RuneCount(text[:len(text)-len(trimmed)]) + 1
}

// lint walks a tree and reports what YAML allows and the language does not.
func (d *decoder) lint(n *yaml.Node, depth int) {
	if depth > MaxDepth {
		d.report(n, faultf(diag.TooDeep, "", "nested more than %d levels deep", MaxDepth))
		return
	}
	if n.Anchor != "" {
		d.report(n, faultf(diag.Anchor, "write the value out where it is used", "anchors are not allowed"))
	}
	switch {
	case n.Kind == yaml.AliasNode:
		d.report(n, faultf(diag.Alias, "write the value out", "aliases are not allowed"))
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.report(n, faultf(diag.Tag, "remove the tag", "tag %q is not allowed", clip(n.Tag)))
	case d.marks && d.byteAt(n) == '!': // yaml.v3 drops this tag without a trace in the node
		d.report(n, faultf(diag.Tag, "remove the tag", "the tag ! is not allowed"))
	}
	if n.Kind == yaml.MappingNode {
		d.lintKeys(n)
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Kind != yaml.ScalarNode {
			continue // reported by lintKeys
		}
		d.lint(c, depth+1)
	}
}

// lintKeys reports keys that are no plain strings, and keys that stand twice.
func (d *decoder) lintKeys(n *yaml.Node) {
	var seen map[string]*yaml.Node
	if len(n.Content) > 16 {
		seen = make(map[string]*yaml.Node, len(n.Content)/2)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode || key.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 || strings.ContainsRune(key.Value, '\n') {
			d.report(key, faultf(diag.KeyNotString, "", "a key must be a string on one line"))
			continue
		}
		if key.Tag == "!!merge" {
			d.report(key, faultf(diag.MergeKey, "write the keys out", "merge keys are not allowed"))
			continue
		}
		if first := d.earlier(n, i, seen); first != nil {
			d.report(key, faultf(diag.DuplicateKey, "keep one of them", "key %q stands twice in this mapping; first on line %d",
				clip(key.Value), first.Line+d.line))
		}
	}
}

// earlier finds a key equal to the i-th one among those before it. Small mappings are scanned, large ones use seen.
func (d *decoder) earlier(n *yaml.Node, i int, seen map[string]*yaml.Node) *yaml.Node {
	key := n.Content[i]
	if seen != nil {
		first := seen[key.Value]
		if first == nil {
			seen[key.Value] = key
		}
		return first
	}
	for j := 0; j < i; j += 2 {
		if c := n.Content[j]; c.Kind == yaml.ScalarNode && c.Value == key.Value {
			return c
		}
	}
	return nil
}
