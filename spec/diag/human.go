package diag

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxSourceLine is how many runes of a source line Human shows around the caret.
const maxSourceLine = 160

// palette holds the escape sequences of one way to colour; the zero palette is plain.
type palette struct{ bold, red, yellow, blue, reset string }

func newPalette(color bool) palette {
	if !color {
		return palette{}
	}
	return palette{"\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[34m", "\x1b[0m"}
}

// renderHuman writes each diagnostic with its source line and a caret, then a count.
func renderHuman(w io.Writer, l List, sources map[string][]byte, color bool) error {
	p := newPalette(color)
	var b bytes.Buffer
	var lines lineFinder
	for _, d := range l {
		tint := p.red
		if d.Severity == Warning {
			tint = p.yellow
		}
		fmt.Fprintf(&b, "%s%s%s: %s%s[%s]%s: %s\n", p.bold, printable(d.Position.String()), p.reset,
			tint, d.Severity, d.Code, p.reset, printable(d.Message))
		if line, ok := lines.find(d.Position, sources); ok {
			writeSource(&b, d.Position, line, tint, p)
		}
		if d.Path != "" {
			fmt.Fprintf(&b, "  %sat%s %s\n", p.blue, p.reset, printable(d.Path))
		}
		if d.Hint != "" {
			fmt.Fprintf(&b, "  %shint:%s %s\n", p.blue, p.reset, printable(d.Hint))
		}
		b.WriteByte('\n')
	}
	if errors, warnings := l.Count(); len(l) > 0 {
		fmt.Fprintf(&b, "%s, %s\n", count(errors, "error"), count(warnings, "warning"))
	}
	_, err := w.Write(b.Bytes())
	return err
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// writeSource writes the line that pos names and a caret under its column. A long line is cut to the part around it.
func writeSource(b *bytes.Buffer, pos Position, line []byte, tint string, p palette) {
	runes := bytes.Runes(line)
	col := min(pos.Column-1, len(runes))
	start := 0
	if col > maxSourceLine*3/4 {
		start = col - maxSourceLine*3/4
	}
	end := min(len(runes), start+maxSourceLine)
	number := strconv.Itoa(pos.Line)
	fmt.Fprintf(b, "  %s%s |%s %s\n", p.blue, number, p.reset, printable(string(runes[start:end])))
	fmt.Fprintf(b, "  %s%s |%s %s%s^%s\n", p.blue, strings.Repeat(" ", len(number)), p.reset,
		strings.Repeat(" ", max(col-start, 0)), tint, p.reset)
}

// lineFinder finds source lines of diagnostics that come in order, without scanning a file once per diagnostic.
type lineFinder struct {
	file   string
	line   int // number of the line that begins at offset
	offset int
}

func (f *lineFinder) find(pos Position, sources map[string][]byte) ([]byte, bool) {
	src, ok := sources[pos.File]
	if !ok || pos.Line < 1 || pos.Column < 1 {
		return nil, false
	}
	if f.file != pos.File || f.line == 0 || f.line > pos.Line {
		*f = lineFinder{file: pos.File, line: 1}
	}
	for f.line < pos.Line {
		i := bytes.IndexByte(src[f.offset:], '\n')
		if i < 0 {
			return nil, false
		}
		f.offset += i + 1
		f.line++
	}
	line, _, _ := bytes.Cut(src[f.offset:], []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), true
}

// printable replaces each rune that a terminal would act on (or that would reorder the text) by a visible one of the
// same width: input may be hostile.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == utf8.RuneError, !unicode.IsGraphic(r):
			return '\uFFFD'
		}
		return r
	}, s)
}
