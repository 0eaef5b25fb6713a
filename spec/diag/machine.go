package diag

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// jsonDiagnostic fixes the field order and names of the JSON form.
type jsonDiagnostic struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Position
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// renderJSON writes one object {"errors": n, "warnings": n, "diagnostics": [...]}.
func renderJSON(w io.Writer, l List) error {
	out := struct {
		Errors      int              `json:"errors"`
		Warnings    int              `json:"warnings"`
		Diagnostics []jsonDiagnostic `json:"diagnostics"`
	}{Diagnostics: make([]jsonDiagnostic, 0, len(l))}
	out.Errors, out.Warnings = l.Count()
	for _, d := range l {
		out.Diagnostics = append(out.Diagnostics, jsonDiagnostic{d.Code, d.Severity, d.Position, d.Path, d.Message, d.Hint})
	}
	return indentJSON(w, out)
}

func indentJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// renderGitHub writes workflow commands, which GitHub shows as annotations of a pull request.
// https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
func renderGitHub(w io.Writer, l List) error {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, d := range l {
		var props []string
		if d.Position.File != "" {
			props = append(props, "file="+property.Replace(d.Position.File))
		}
		if d.Position.Line > 0 {
			props = append(props, fmt.Sprintf("line=%d,col=%d", d.Position.Line, d.Position.Column))
		}
		props = append(props, "title="+property.Replace(d.Code+" "+Explain(d.Code).Title))
		message := printable(d.Message)
		if d.Hint != "" {
			message += "\n" + printable(d.Hint)
		}
		if _, err := fmt.Fprintf(w, "::%s %s::%s\n", d.Severity, strings.Join(props, ","), data.Replace(message)); err != nil {
			return err
		}
	}
	return nil
}
