// Package diag is how Apex speaks of problems in files: a stable code, a severity, a place, a sentence and a hint.
//
// It promises that the same problems in the same files give byte-identical output in every format, that output made
// from hostile input cannot inject terminal escapes or workflow commands, and that a code never changes its meaning
// (codes.go is the one table of them).
package diag

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Severity tells whether a diagnostic refuses its input.
type Severity int

// Severities. Only Error refuses.
const (
	Error Severity = iota
	Warning
)

// String gives "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// MarshalText gives the form of String.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Position is a place in a file. Line and Column count from 1, Column in runes; both are 0 for a file as a whole, and
// File is empty for the repository as a whole.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// String gives file:line:col, leaving out what is unknown.
func (p Position) String() string {
	switch {
	case p.File == "" && p.Line == 0:
		return "repository"
	case p.File == "":
		return fmt.Sprintf("%d:%d", p.Line, p.Column)
	case p.Line == 0:
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Compare orders positions by file, line and column.
func (p Position) Compare(q Position) int {
	return cmp.Or(strings.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
}

// Diagnostic is one problem.
type Diagnostic struct {
	// Code is one of codes.go, such as "APX1203".
	Code     string
	Severity Severity
	Position Position
	// Path is the YAML path within the document, such as spec.allow[0].from; empty for a document or file as a whole.
	Path    string
	Message string
	// Hint says what to do next; it may be empty.
	Hint string
}

// Error gives the diagnostic on one line, so that a Diagnostic is an error.
func (d Diagnostic) Error() string {
	s := fmt.Sprintf("%s: %s[%s]: %s", d.Position, d.Severity, d.Code, d.Message)
	if d.Hint != "" {
		s += " (" + d.Hint + ")"
	}
	return s
}

// List is any number of diagnostics.
type List []Diagnostic

// HasErrors reports whether any of l is an Error.
func (l List) HasErrors() bool {
	return slices.ContainsFunc(l, func(d Diagnostic) bool { return d.Severity == Error })
}

// Count gives the number of errors and of warnings.
func (l List) Count() (errors, warnings int) {
	for _, d := range l {
		if d.Severity == Error {
			errors++
		}
	}
	return errors, len(l) - errors
}

// Sort orders l in place by position, code, path and message.
func (l List) Sort() {
	slices.SortStableFunc(l, func(a, b Diagnostic) int {
		return cmp.Or(a.Position.Compare(b.Position), strings.Compare(a.Code, b.Code),
			strings.Compare(a.Path, b.Path), strings.Compare(a.Message, b.Message))
	})
}

// Err gives the errors of l (not its warnings) as one *multierror.Error in sorted order, or nil if there are none.
func (l List) Err() error {
	sorted := slices.Clone(l)
	sorted.Sort()
	all := &multierror.Error{ErrorFormat: oneLineEach}
	for _, d := range sorted {
		if d.Severity == Error {
			all.Errors = append(all.Errors, d)
		}
	}
	return all.ErrorOrNil()
}

func oneLineEach(errs []error) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d problem(s):", len(errs))
	for _, e := range errs {
		b.WriteString("\n" + e.Error())
	}
	return b.String()
}
