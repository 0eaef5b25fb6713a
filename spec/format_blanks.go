package spec

import (
	"bytes"
	"strings"

	"gopkg.in/yaml.v3"
)

// blankMark stands for a blank line while the YAML library, which knows comments but no blank lines, holds the text. A
// file that has it as a comment keeps it: sameMeaning misses it in the result, and Format goes without blank lines.
const blankMark = "#apex-fmt-blank-line"

// markBlanks puts a comment in the place of each run of blank lines, indented as the line after it, so that it belongs to
// what follows. Blank lines within scalars stay; root is the tree of body.
func markBlanks(body []byte, root *yaml.Node) []byte {
	kept := linesOfScalars(root, bytes.Count(body, []byte("\n"))+1)
	lines := strings.Split(string(body), "\n")
	var out []string
	for i, line := range lines {
		switch {
		case strings.TrimSpace(line) != "" || kept[i+1] || i == len(lines)-1:
			out = append(out, line)
		case strings.TrimSpace(lines[i+1]) != "":
			out = append(out, lines[i+1][:len(lines[i+1])-len(strings.TrimLeft(lines[i+1], " "))]+blankMark)
		}
	}
	return []byte(strings.Join(out, "\n"))
}

// linesOfScalars gives the lines (from 1 to last) from each scalar of several lines up to the next node: a blank one
// among them may be part of its value.
func linesOfScalars(root *yaml.Node, last int) map[int]bool {
	kept := map[int]bool{}
	from := 0 // the line of an open scalar, or 0
	keep := func(to int) {
		for line := from; from > 0 && line <= to; line++ {
			kept[line] = true
		}
		from = 0
	}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		keep(n.Line - 1)
		if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "\n") {
			from = n.Line
		}
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(root)
	keep(last)
	return kept
}

// unmarkBlanks turns marks back into blank lines, but for those at the beginning, after a key that opens a mapping or
// list, and in a row.
func unmarkBlanks(text []byte) []byte {
	var out []string
	for _, line := range strings.Split(string(text), "\n") {
		if strings.TrimSpace(line) != blankMark {
			out = append(out, line)
			continue
		}
		if n := len(out); n > 0 && out[n-1] != "" && !strings.HasSuffix(out[n-1], ":") {
			out = append(out, "")
		}
	}
	return []byte(strings.Join(out, "\n"))
}
