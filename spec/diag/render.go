package diag

import (
	"fmt"
	"io"
)

// Format is a way to write diagnostics.
type Format string

// The formats of Render.
const (
	Human  Format = "human"
	JSON   Format = "json"
	GitHub Format = "github"
	GitLab Format = "gitlab"
	SARIF  Format = "sarif"
)

// ParseFormat reads the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Human, JSON, GitHub, GitLab, SARIF:
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q: want human, json, github, gitlab or sarif", s)
}

// Render writes l, in sorted order, to w. Sources holds the files' bytes by path, for the source lines that Human shows;
// it may lack any of them. Color applies to Human alone. The error is w's, or says that format is unknown.
func Render(w io.Writer, format Format, l List, sources map[string][]byte, color bool) error {
	sorted := append(List(nil), l...)
	sorted.Sort()
	switch format {
	case Human:
		return renderHuman(w, sorted, sources, color)
	case JSON:
		return renderJSON(w, sorted)
	case GitHub:
		return renderGitHub(w, sorted)
	case GitLab:
		return renderGitLab(w, sorted)
	case SARIF:
		return renderSARIF(w, sorted)
	}
	return fmt.Errorf("unknown format %q: want human, json, github, gitlab or sarif", format)
}
