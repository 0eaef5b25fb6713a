package spec

import (
	"time"

	"github.com/apex-network/apex/spec/diag"
)

// File is one file of a repository: a slash-separated path relative to its root, and its bytes.
type File struct {
	Path string
	Data []byte
}

// Repository is everything a network repository says, sorted by (zone, name) whatever files it stood in.
type Repository struct {
	Network   *Document[Network]
	TrustRoot *Document[TrustRoot]
	Zones     []*Document[Zone]
	Nodes     []*Document[Node]
	Policies  []*Document[Policy]
	Tests     []*Document[PolicyTest]
}

// Validate checks what must hold across the whole repository.
func (r *Repository) Validate(now time.Time) diag.List { return nil }
