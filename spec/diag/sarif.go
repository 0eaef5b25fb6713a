package diag

import (
	"cmp"
	"io"
	"net/url"
	"slices"
)

// The part of SARIF 2.1.0 (OASIS, 2020) that Render writes: one run, its rules, its results.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string    `json:"id"`
		ShortDescription sarifText `json:"shortDescription"`
		FullDescription  sarifText `json:"fullDescription"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     Severity        `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical  `json:"physicalLocation"`
		Logical  []sarifLogical `json:"logicalLocations,omitempty"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
	}
)

func renderSARIF(w io.Writer, l List) error {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "apex", Rules: sarifRules(l)}
	for _, d := range l {
		index, _ := slices.BinarySearchFunc(run.Tool.Driver.Rules, d.Code, func(r sarifRule, code string) int {
			return cmp.Compare(r.ID, code)
		})
		text := d.Message
		if d.Hint != "" {
			text += "\n" + d.Hint
		}
		result := sarifResult{RuleID: d.Code, RuleIndex: index, Level: d.Severity, Message: sarifText{text}}
		if d.Position.File != "" {
			result.Locations = []sarifLocation{sarifPlace(d)}
		}
		run.Results = append(run.Results, result)
	}
	return indentJSON(w, sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

// sarifRules lists the rules that l breaks, in order of their codes.
func sarifRules(l List) []sarifRule {
	rules := []sarifRule{}
	seen := map[string]bool{}
	for _, d := range l {
		if !seen[d.Code] {
			seen[d.Code] = true
			e := Explain(d.Code)
			rules = append(rules, sarifRule{e.Code, sarifText{e.Title}, sarifText{cmp.Or(e.Explanation, e.Title)}})
		}
	}
	slices.SortFunc(rules, func(a, b sarifRule) int { return cmp.Compare(a.ID, b.ID) })
	return rules
}

func sarifPlace(d Diagnostic) sarifLocation {
	loc := sarifLocation{Physical: sarifPhysical{Artifact: sarifArtifact{(&url.URL{Path: d.Position.File}).EscapedPath()}}}
	if d.Position.Line > 0 {
		loc.Physical.Region = &sarifRegion{d.Position.Line, max(d.Position.Column, 1)}
	}
	if d.Path != "" {
		loc.Logical = []sarifLogical{{d.Path}}
	}
	return loc
}
