package gitobject

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"unicode"
)

// Commit is one commit as its stored bytes say. The text of Author, Committer and Message authorises nothing.
type Commit struct {
	ID        string
	Tree      string
	Parents   []string
	Author    string
	Committer string
	Message   string
	// Signature is the value of the gpgsig header, its continuation lines unfolded; empty if the commit is unsigned.
	Signature []byte
	// Payload is the stored bytes without the gpgsig header: what the signature covers.
	Payload []byte
	// Fault says what no honest tool writes although tree and parents are clear. Old histories hold such commits: they
	// may be walked over, but not accepted. The fields above other than Tree and Parents are then not to be used.
	Fault error
}

// FirstParent returns the first parent's id, or "" for a commit without parents.
func (c *Commit) FirstParent() string {
	if len(c.Parents) == 0 {
		return ""
	}
	return c.Parents[0]
}

// Subject is the first line of the message, safe to show: at most 200 characters, none of them invisible.
func (c *Commit) Subject() string {
	s, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > 200 {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Trailers returns the values of the trailer key in the last paragraph of the message, in order. The key's case counts.
// The first paragraph is the subject, never trailers.
func (c *Commit) Trailers(key string) []string {
	body := strings.TrimRight(strings.ReplaceAll(c.Message, "\r\n", "\n"), "\n \t")
	cut := strings.LastIndex(body, "\n\n")
	if cut < 0 {
		return nil
	}
	var values []string
	for line := range strings.SplitSeq(body[cut+2:], "\n") {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			values = append(values, strings.TrimSpace(value))
		}
	}
	return values
}

// ReadCommit reads, hashes and parses one commit.
func ReadCommit(ctx context.Context, src Objects, id string) (*Commit, error) {
	raw, err := Read(ctx, src, KindCommit, id)
	if err != nil {
		return nil, err
	}
	c, err := ParseCommit(raw)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", id, err)
	}
	c.ID = id
	return c, nil
}

// ParseCommit parses the stored bytes of a commit. The header fields must stand in git's order (tree, parents, author,
// committer, then others), none but parent may repeat, and there is one signature header at most: gpgsig. Unknown
// fields are allowed, for tools write their own; they are part of the payload. ID is left empty. It fails with
// ErrMalformed if tree and parents cannot be read; what else is wrong is in Fault.
func ParseCommit(raw []byte) (*Commit, error) {
	p := commitParser{rest: raw}
	c := &Commit{}
	if err := p.tree(c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := p.parents(c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	err := p.people(c)
	if err == nil {
		err = p.others(c)
	}
	if err == nil && bytes.IndexByte(raw, 0) >= 0 {
		err = fmt.Errorf("NUL byte, which hides what follows from readers")
	}
	if err != nil {
		return &Commit{Tree: c.Tree, Parents: c.Parents, Fault: fmt.Errorf("%w: %w", ErrMalformed, err)}, nil
	}
	c.Message = string(p.rest)
	c.Payload = raw
	if c.Signature != nil {
		c.Payload = append(bytes.Clone(raw[:p.sigStart]), raw[p.sigEnd:]...)
	}
	return c, nil
}

// commitParser walks over the header once; pos counts what was consumed, so that the signature's place in the stored
// bytes is known exactly.
type commitParser struct {
	rest             []byte
	pos              int
	sigStart, sigEnd int
}

// field takes the next header field with its continuation lines (still folded). It returns ok=false at the blank line.
func (p *commitParser) field() (key string, value []byte, ok bool, err error) {
	end := bytes.IndexByte(p.rest, '\n')
	if end < 0 {
		return "", nil, false, fmt.Errorf("header ends without a blank line")
	}
	if end == 0 {
		p.advance(1)
		return "", nil, false, nil
	}
	for end+1 < len(p.rest) && p.rest[end+1] == ' ' {
		next := bytes.IndexByte(p.rest[end+1:], '\n')
		if next < 0 {
			return "", nil, false, fmt.Errorf("header ends without a blank line")
		}
		end += 1 + next
	}
	line := p.rest[:end]
	p.advance(end + 1)
	name, value, found := bytes.Cut(line, []byte(" "))
	if !found || !validHeaderName(name) {
		return "", nil, false, fmt.Errorf("header line %.40q", line)
	}
	return string(name), value, true, nil
}

func (p *commitParser) advance(n int) { p.rest, p.pos = p.rest[n:], p.pos+n }

func (p *commitParser) peek(key string) bool { return bytes.HasPrefix(p.rest, []byte(key+" ")) }

func (p *commitParser) want(key string) (string, error) {
	got, value, ok, err := p.field()
	if err != nil {
		return "", err
	}
	if !ok || got != key {
		return "", fmt.Errorf("want header %q, got %q", key, got)
	}
	if bytes.IndexByte(value, '\n') >= 0 {
		return "", fmt.Errorf("header %q runs over several lines", key)
	}
	return string(value), nil
}

func (p *commitParser) id(key string) (string, error) {
	value, err := p.want(key)
	if err == nil && !ValidID(value) {
		err = fmt.Errorf("header %q: %.60q is not an object id", key, value)
	}
	return value, err
}

func (p *commitParser) tree(c *Commit) (err error) {
	c.Tree, err = p.id("tree")
	return err
}

func (p *commitParser) parents(c *Commit) error {
	for p.peek("parent") {
		parent, err := p.id("parent")
		if err != nil {
			return err
		}
		for _, other := range c.Parents {
			if other == parent {
				return fmt.Errorf("parent %s stands twice", parent)
			}
		}
		if c.Parents = append(c.Parents, parent); len(c.Parents) > MaxParents {
			return fmt.Errorf("more than %d parents", MaxParents)
		}
	}
	return nil
}

func (p *commitParser) people(c *Commit) (err error) {
	if c.Author, err = p.want("author"); err != nil {
		return err
	}
	c.Committer, err = p.want("committer")
	return err
}

func (p *commitParser) others(c *Commit) error {
	seen := map[string]bool{}
	for range MaxHeaders {
		start := p.pos
		key, value, ok, err := p.field()
		if err != nil || !ok {
			return err
		}
		switch key {
		case "tree", "parent", "author", "committer":
			return fmt.Errorf("header %q out of place or repeated", key)
		case "gpgsig-sha256":
			return fmt.Errorf("header %q: a second signature over another form of the commit is not accepted", key)
		}
		if seen[key] {
			return fmt.Errorf("header %q stands twice", key)
		}
		seen[key] = true
		if key == "gpgsig" {
			c.Signature = bytes.ReplaceAll(value, []byte("\n "), []byte("\n"))
			p.sigStart, p.sigEnd = start, p.pos
		}
	}
	return fmt.Errorf("more than %d headers", MaxHeaders)
}

func validHeaderName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return len(name) > 0 && len(name) <= 64
}
