// Package plan is the review artefact: what a change does to the network, in terms of who reaches whom.
package plan

import (
	"io"
	"time"

	"github.com/apex-network/apex/spec"
)

// Plan is the difference between two states of a repository.
type Plan struct{}

// Diff compares two states as of one instant; old may be nil.
func Diff(old, new *spec.Repository, asOf time.Time) *Plan { return &Plan{} }

// Empty reports whether nothing changes.
func (p *Plan) Empty() bool { return true }

// Text writes the plan for a terminal.
func (p *Plan) Text(w io.Writer, color bool) error { return nil }

// JSON writes the plan in its stable schema.
func (p *Plan) JSON(w io.Writer) error { return nil }

// Markdown writes the plan for a pull request.
func (p *Plan) Markdown(w io.Writer) error { return nil }
