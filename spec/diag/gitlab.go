package diag

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// gitlabViolation is one entry of a Code Quality report, with the fields that GitLab demands.
// https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format
type gitlabViolation struct {
	Description string         `json:"description"`
	CheckName   string         `json:"check_name"`
	Fingerprint string         `json:"fingerprint"`
	Severity    string         `json:"severity"`
	Location    gitlabLocation `json:"location"`
}

type gitlabLocation struct {
	Path  string      `json:"path"`
	Lines gitlabLines `json:"lines"`
}

type gitlabLines struct {
	Begin int `json:"begin"`
}

// renderGitLab writes a Code Quality report, which GitLab shows in a merge request. A problem of a whole file stands at
// its first line, one of the repository at its root.
func renderGitLab(w io.Writer, l List) error {
	report := make([]gitlabViolation, 0, len(l))
	seen := map[string]int{}
	for _, d := range l {
		v := gitlabViolation{
			Description: printable(d.Message), CheckName: d.Code, Severity: "blocker",
			Location: gitlabLocation{cmp.Or(d.Position.File, "."), gitlabLines{max(d.Position.Line, 1)}},
		}
		if d.Severity == Warning {
			v.Severity = "minor"
		}
		if d.Hint != "" {
			v.Description += " (" + printable(d.Hint) + ")"
		}
		// GitLab tells by the fingerprint what is new in a merge request: a problem that only moves to another line keeps
		// its own, and of several that read the same each has one.
		what := fmt.Sprintf("%q %q %q %q", d.Code, d.Position.File, d.Path, d.Message)
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", what, seen[what]))
		seen[what]++
		v.Fingerprint = hex.EncodeToString(sum[:])
		report = append(report, v)
	}
	return indentJSON(w, report)
}
