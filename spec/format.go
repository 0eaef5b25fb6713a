package spec

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// ErrFormat says that a file could not be formatted without changing what it says, so that it is left alone.
var ErrFormat = errors.New("cannot be formatted without loss")

// Format writes a file in canonical form: the keys of each kind in their order, two spaces of indent, one `---` between
// documents, at most one blank line in a row. Comments and the style of each value stay. It is idempotent. The error is a
// diag.List's Err if the text is not YAML that the language allows (unknown fields and references are no concern of
// Format), or ErrFormat.
func Format(src []byte) ([]byte, error) {
	out, err := settle(src, true)
	if errors.Is(err, ErrFormat) {
		out, err = settle(src, false) // better without its blank lines than not at all
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// settle formats until nothing changes any more: the YAML library moves some comments on the first pass.
func settle(src []byte, blanks bool) ([]byte, error) {
	once, err := formatOnce(src, blanks)
	if err != nil {
		return nil, err
	}
	for range 3 {
		twice, err := formatOnce(once, blanks)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if bytes.Equal(once, twice) {
			return once, sameMeaning(src, once)
		}
		once = twice
	}
	return nil, fmt.Errorf("%w: its comments do not settle", ErrFormat)
}

func formatOnce(src []byte, blanks bool) ([]byte, error) {
	pieces, trees, err := formatInput(src)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for i, p := range pieces {
		if i > 0 && p.content {
			out.WriteString("---\n")
		}
		head, body := cutHead(p.data)
		out.Write(p.lead)
		out.Write(head)
		if !p.content {
			continue
		}
		body, tail := cutTail(body)
		text, err := formatBody(body, trees[i], blanks)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		out.Write(text)
		out.Write(tail)
	}
	return out.Bytes(), nil
}

// formatBody writes the tree of one document, whose text is body.
func formatBody(body []byte, root *yaml.Node, blanks bool) ([]byte, error) {
	if blanks {
		marked, _, f := parseTree(markBlanks(body, root))
		if f != nil {
			return nil, errors.New(f.message)
		}
		root = marked
	}
	if kind := lookup(root, "kind"); kind != nil {
		if info := kindNamed(kind.Value); info != nil {
			order(root, info.shape, "apiVersion", "kind")
		}
	}
	quoteColons(root, false)
	var out bytes.Buffer
	if err := encodeTree(&out, root); err != nil {
		return nil, err
	}
	return unmarkBlanks(out.Bytes()), nil
}

// formatInput parses and lints all documents of src, without the comments before their first line.
func formatInput(src []byte) ([]piece, []*yaml.Node, error) {
	var out sink
	pieces, _ := cutFile(File{Data: src}, &out)
	var trees []*yaml.Node
	for _, p := range pieces {
		if p.broken {
			continue
		}
		if !p.content {
			trees = append(trees, nil)
			continue
		}
		_, body := cutHead(p.data)
		skipped := bytes.Count(p.data[:len(p.data)-len(body)], []byte("\n"))
		body, _ = cutTail(body)
		d := decoder{line: p.line + skipped, data: body, marks: bytes.IndexByte(body, '!') >= 0, sink: &out}
		root, line, f := parseTree(body)
		if f != nil {
			d.report(&yaml.Node{Line: line, Column: columnOfText(body, line)}, f)
			continue
		}
		d.lint(root, 1)
		trees = append(trees, root)
	}
	if err := out.finish("").Err(); err != nil {
		return nil, nil, err
	}
	return pieces, trees, nil
}

// cutHead takes markers and comments before the first line of content off a document's text. It drops blank lines and
// markers from the head, so that a modeline stays on top whatever becomes of the first key.
func cutHead(data []byte) (head, body []byte) {
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		text := bytes.TrimSpace(line)
		switch {
		case isMarker(line, "---") && (len(text) == 3 || bytes.HasPrefix(bytes.TrimLeft(text[3:], " "), []byte("#"))):
			text = bytes.TrimLeft(text[3:], " ")
		case len(text) > 0 && text[0] != '#':
			return head, data
		}
		if len(text) > 0 {
			head = append(append(head, text...), '\n')
		}
		data = rest
	}
	return head, data
}

// cutTail takes the comments after the last line of content off a document's text, less markers and blank lines in a row,
// so that they stay at the end whatever becomes of the last key.
func cutTail(data []byte) (body, tail []byte) {
	body = data
	blank := false // a blank line stands between what is left of body and tail
	for len(body) > 0 {
		start := bytes.LastIndexByte(bytes.TrimSuffix(body, []byte("\n")), '\n') + 1
		line := bytes.TrimRight(body[start:], " \r\n")
		if isMarker(line, "...") {
			line = bytes.TrimLeft(line[3:], " ")
		}
		if len(line) > 0 && blank && len(tail) > 0 {
			tail, blank = append([]byte("\n"), tail...), false
		}
		switch {
		case len(line) == 0:
			blank = true
		case line[0] == '#':
			tail = append(append(bytes.Clone(line), '\n'), tail...)
			blank = false
		case len(tail) == 0:
			return data, nil
		default:
			return body, tail
		}
		body = body[:start]
	}
	return body, tail
}

// order sorts the keys of n as the fields of s stand; keys in first come before them, unknown ones after them.
func order(n *yaml.Node, s *shape, first ...string) {
	switch {
	case s.form == listForm && n.Kind == yaml.SequenceNode:
		for _, c := range n.Content {
			order(c, s.elem)
			liftComment(c)
		}
		return
	case s.form != structForm || n.Kind != yaml.MappingNode:
		return
	}
	type pair struct {
		rank       int
		key, value *yaml.Node
	}
	pairs := make([]pair, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		p := pair{len(first) + len(s.fields), n.Content[i], n.Content[i+1]}
		if at := slices.Index(first, p.key.Value); at >= 0 {
			p.rank = at
		} else if at, ok := s.byName[p.key.Value]; ok {
			p.rank = len(first) + at
			order(p.value, s.fields[at].shape)
		}
		pairs = append(pairs, p)
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return a.rank - b.rank })
	n.Content = n.Content[:0]
	for _, p := range pairs {
		n.Content = append(n.Content, p.key, p.value)
	}
}

// liftComment moves the comment above the first key of an item to above the item, where a person would write it.
func liftComment(item *yaml.Node) {
	if item.Kind != yaml.MappingNode || item.Style&yaml.FlowStyle != 0 || len(item.Content) == 0 {
		return
	}
	if first := item.Content[0]; first.HeadComment != "" {
		item.HeadComment = strings.TrimPrefix(item.HeadComment+"\n"+first.HeadComment, "\n")
		first.HeadComment = ""
	}
}

// sameMeaning checks that b says what a says: equal trees but for the order of keys, and the same comments.
func sameMeaning(a, b []byte) error {
	_, x, err := formatInput(a)
	if err != nil {
		return err
	}
	_, y, err := formatInput(b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	none := func(n *yaml.Node) bool { return n == nil }
	x, y = slices.DeleteFunc(x, none), slices.DeleteFunc(y, none)
	if !slices.EqualFunc(x, y, sameTree) {
		return fmt.Errorf("%w: its values would change", ErrFormat)
	}
	if !slices.Equal(commentsOf(a, x), commentsOf(b, y)) {
		return fmt.Errorf("%w: a comment would be lost", ErrFormat)
	}
	return nil
}

// textTag gives the tag of strings for that of instants: the language reads both as text, and between braces an instant is
// written in quotes.
func textTag(tag string) string {
	if tag == "!!timestamp" {
		return "!!str"
	}
	return tag
}

func sameTree(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || textTag(a.Tag) != textTag(b.Tag) || a.Value != b.Value || len(a.Content) != len(b.Content) {
		return false
	}
	if a.Kind != yaml.MappingNode {
		return slices.EqualFunc(a.Content, b.Content, sameTree)
	}
	values := make(map[string]*yaml.Node, len(a.Content)/2)
	for i := 0; i+1 < len(a.Content); i += 2 {
		values[a.Content[i].Value] = a.Content[i+1]
	}
	for i := 0; i+1 < len(b.Content); i += 2 {
		v := values[b.Content[i].Value]
		if v == nil || !sameTree(v, b.Content[i+1]) {
			return false
		}
	}
	return true
}

// commentsOf lists the lines of comments in sorted order. What stands in comment-only lines is found in the text itself,
// lest the parser has dropped it, less the lines of block scalars, which the trees know.
func commentsOf(src []byte, trees []*yaml.Node) []string {
	var all []string
	block := map[string]int{}
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		if n.LineComment != "" {
			all = append(all, n.LineComment)
		}
		if n.Kind == yaml.ScalarNode {
			for line := range bytes.SplitSeq([]byte(n.Value), []byte("\n")) {
				block[string(bytes.TrimSpace(line))]++
			}
		}
		for _, c := range n.Content {
			walk(c)
		}
	}
	for _, t := range trees {
		walk(t)
	}
	for line := range bytes.SplitSeq(src, []byte("\n")) {
		text := string(bytes.TrimSpace(line))
		if len(text) == 0 || text[0] != '#' {
			continue
		}
		if block[text] > 0 {
			block[text]--
			continue
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return all
}
