package spec

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"github.com/apex-network/apex/spec/diag"
)

// Caps on one file, in bytes, levels of nesting and diagnostics.
const (
	MaxFileBytes    = 4 << 20
	MaxDepth        = 16
	MaxFileProblems = 200
)

// piece is the text of one document within a file. Its YAML is parsed by itself, so that a syntax error in one document
// does not hide the others.
type piece struct {
	line    int    // lines of the file before it
	lead    []byte // comments of empty documents before it
	data    []byte
	content bool // it has more than comments and markers; without, only the last piece is kept, for its comments
	marked  bool // it begins with ---
	broken  bool // its text is not fit for a YAML parser; the reason has been reported
}

// cut splits a file into its documents and lints its text. In YAML a line that begins with `---` or `...` ends a
// document wherever it stands, also inside quotes and block scalars, so that cutting needs no parser.
func cut(data []byte, report func(line, column int, f *fault)) []piece {
	var pieces []piece
	current := piece{}
	start := 0
	end := func(at, nextLine int) {
		current.data = data[start:at]
		next := piece{line: nextLine}
		if current.content || current.broken {
			pieces = append(pieces, current)
		} else {
			comments, _ := cutHead(current.data)
			next.lead = append(current.lead, comments...)
		}
		current, start = next, at
	}
	for number, offset := 0, 0; offset < len(data); number++ {
		next := len(data)
		if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
			next = offset + i + 1
		}
		line := data[offset:next]
		if column, f := lintLine(line, number == 0); f != nil {
			report(number+1, column, f)
			current.broken = true
		}
		text := bytes.TrimRight(line, " \t\r\n")
		switch {
		case isMarker(text, "---"):
			if current.content || current.marked {
				end(offset, number)
			}
			current.marked = true
			rest := bytes.TrimLeft(text[3:], " \t")
			current.content = len(rest) > 0 && rest[0] != '#'
		case isMarker(text, "..."):
			end(next, number+1)
		case len(text) > 0 && text[0] == '%' && !current.content:
			report(number+1, 1, faultf(diag.Directive, "remove the line", "YAML directives are not allowed"))
			current.broken = true
		case !current.content:
			rest := bytes.TrimLeft(text, " \t")
			current.content = len(rest) > 0 && rest[0] != '#'
		}
		offset = next
	}
	end(len(data), 0)
	if len(current.lead) > 0 {
		pieces = append(pieces, current)
	}
	return pieces
}

func isMarker(line []byte, marker string) bool {
	return bytes.HasPrefix(line, []byte(marker)) && (len(line) == 3 || line[3] == ' ' || line[3] == '\t')
}

// lintLine finds the first character of a line that is not fit for a document, and its column in runes.
func lintLine(line []byte, first bool) (int, *fault) {
	column := 0
	for i := 0; i < len(line); {
		c := line[i]
		column++
		if c >= ' ' && c < 0x7f {
			i++
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		switch {
		case c == '\n', c == '\r' && bytes.Equal(line[i:], []byte("\r\n")):
		case c == '\t':
			return column, faultf(diag.Tab, "use spaces", "tabs are not allowed")
		case r == utf8.RuneError && size == 1:
			return column, faultf(diag.NotUTF8, "save the file as UTF-8", "byte 0x%02x is not UTF-8", c)
		case r == '\ufeff' && first && i == 0:
			return column, faultf(diag.ByteOrderMark, "save the file without a byte order mark", "the file begins with a byte order mark")
		case isUnprintable(r):
			return column, &fault{diag.ControlCharacter, fmt.Sprintf("character U+%04X is not allowed", r), "remove it"}
		}
		i += size
	}
	return 0, nil
}

// isUnprintable reports runes that editors, diffs and YAML parsers show or break differently: controls, line and
// paragraph separators, byte order marks within the text, and those that reorder it for the eye (CVE-2021-42574).
func isUnprintable(r rune) bool {
	return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufeff' ||
		r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || r == '\u200e' || r == '\u200f' || r == '\u061c'
}
