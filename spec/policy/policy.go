// Package policy is the one place where the meaning of policy is decided.
package policy

import (
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
)

// Policy answers questions about one zone.
type Policy struct{}

// New reads the policy of a zone.
func New(repo *spec.Repository, zone string) *Policy { return &Policy{} }

// Verdict answers whether a flow is allowed, and why.
type Verdict struct {
	Allowed bool
	// Rule is the deciding rule, "<policy>/<index>", or "default"; empty if none allows.
	Rule   string
	Pos    diag.Position
	Reason string
}

// Can says whether from may open a flow to to on port (nil: on every protocol and port).
func (p *Policy) Can(from, to string, port *spec.Port, asOf time.Time) Verdict { return Verdict{} }

// TestResult is the outcome of one assertion.
type TestResult struct {
	Test      string
	Zone      string
	Assertion string
	Passed    bool
	Verdict   Verdict
	Pos       diag.Position
}

// RunTests runs every assertion of every PolicyTest.
func RunTests(repo *spec.Repository, asOf time.Time) []TestResult { return nil }
