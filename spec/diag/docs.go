package diag

import (
	"fmt"
	"strings"
)

//go:generate go run ./gendocs ../../docs/diagnostics.md

// Markdown writes the table of codes as a page for people.
func Markdown() []byte {
	var b strings.Builder
	b.WriteString("# Diagnostics\n\n<!-- Generated from spec/diag/table.go by go generate ./spec/diag; do not edit. -->\n\n" +
		"Every problem that Apex finds in a repository has a code that keeps its meaning. `apex validate -o json`, `github`,\n" +
		"`gitlab` and `sarif` carry the same codes for machines. A warning refuses nothing; an error keeps the commit from being published.\n")
	groups := map[string]string{"10": "Text and syntax", "11": "YAML traps", "12": "Schema", "13": "Names and references",
		"14": "Addresses", "15": "Keys", "16": "Routes", "17": "Policy", "18": "Trust root", "19": "Policy tests"}
	group := ""
	for _, e := range Table() {
		if g := e.Code[3:5]; g != group {
			group = g
			fmt.Fprintf(&b, "\n## %s (APX%sxx)\n", groups[g], g)
		}
		fmt.Fprintf(&b, "\n### %s %s\n\n%s\n", e.Code, e.Title, e.Explanation)
	}
	return []byte(b.String())
}
