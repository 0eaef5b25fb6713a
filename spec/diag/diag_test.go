package diag_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-multierror"

	"github.com/apex-network/apex/spec/diag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample has what renderers must get right: order, a whole file, the repository, wide and hostile text, a late column.
func sample() (diag.List, map[string][]byte) {
	long := strings.Repeat("x", 300)
	list := diag.List{
		{Code: diag.UnknownField, Severity: diag.Error, Position: diag.Position{File: "zones/b.yaml", Line: 2, Column: 3}, Path: "spec.rnages",
			Message: `unknown field "rnages"`, Hint: "did you mean ranges?"},
		{Code: diag.NoTrustRoot, Severity: diag.Warning, Message: "the repository has no trust/root.yaml"},
		{Code: diag.RuleExpired, Severity: diag.Warning, Position: diag.Position{File: "a,b:c.yaml", Line: 1, Column: 5},
			Message: "100% expired\n::error::injected", Hint: "remove\r\nit"},
		{Code: diag.FileTooLarge, Severity: diag.Error, Position: diag.Position{File: "big file.yaml"}, Message: "too large"},
		{Code: diag.BadName, Severity: diag.Error, Position: diag.Position{File: "zones/b.yaml", Line: 3, Column: 260}, Message: "late column"},
		{Code: diag.ControlCharacter, Severity: diag.Error, Position: diag.Position{File: "zones/b.yaml", Line: 4, Column: 4}, Message: "escape \x1b[31m"},
		{Code: diag.Syntax, Severity: diag.Error, Position: diag.Position{File: "zones/b.yaml", Line: 99, Column: 1}, Message: "past the end"},
	}
	return list, map[string][]byte{
		"a,b:c.yaml":   []byte("a: b # ü\n"),
		"zones/b.yaml": []byte("spec:\n  rnages: []\n" + long + "\n\x1b[2Jé\u202e: x\r\n"),
	}
}

func TestRenderGolden(t *testing.T) {
	for _, format := range []diag.Format{diag.Human, diag.JSON, diag.GitHub, diag.GitLab, diag.SARIF} {
		t.Run(string(format), func(t *testing.T) {
			list, sources := sample()
			var got bytes.Buffer
			if err := diag.Render(&got, format, list, sources, false); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", string(format)+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%v; got:\n%s", err, got.Bytes())
			}
			slices.Reverse(list)
			var again bytes.Buffer
			if err := diag.Render(&again, format, list, sources, false); err != nil || !bytes.Equal(again.Bytes(), got.Bytes()) {
				t.Errorf("the order of the list shows in the output (%v)", err)
			}
		})
	}
}

func TestHumanIsSafeForTerminals(t *testing.T) {
	list, sources := sample()
	var b bytes.Buffer
	if err := diag.Render(&b, diag.Human, list, sources, false); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\r\u202e") {
		t.Errorf("control characters reach the terminal: %q", b.String())
	}
	b.Reset()
	if err := diag.Render(&b, diag.Human, list, sources, true); err != nil || !strings.Contains(b.String(), "\x1b[1;31merror[APX1203]") {
		t.Errorf("no colour: %v %q", err, b.String())
	}
}

// TestGitHubCannotBeInjected checks that each diagnostic is one line, whatever its text.
func TestGitHubCannotBeInjected(t *testing.T) {
	list, _ := sample()
	var b bytes.Buffer
	if err := diag.Render(&b, diag.GitHub, list, nil, false); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != len(list) {
		t.Errorf("%d lines for %d diagnostics", len(lines), len(list))
	}
	if !strings.Contains(b.String(), "file=a%2Cb%3Ac.yaml,line=1,col=5,") || strings.Contains(b.String(), "\n::error::injected") {
		t.Errorf("not escaped:\n%s", &b)
	}
}

// TestGitLab checks what GitLab demands of a report, and that it can tell problems apart and know them again.
func TestGitLab(t *testing.T) {
	list, _ := sample()
	list = append(list, list[0])
	type violation struct {
		Description, Fingerprint, Severity string
		CheckName                          string `json:"check_name"`
		Location                           struct {
			Path  string
			Lines struct{ Begin int }
		}
	}
	report := func(list diag.List) (all []violation) {
		var b bytes.Buffer
		if err := diag.Render(&b, diag.GitLab, list, nil, false); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b.Bytes(), &all); err != nil || all == nil {
			t.Fatalf("%v: %s", err, &b)
		}
		return all
	}
	before := map[string]bool{}
	for _, v := range report(list) {
		if v.Description == "" || v.CheckName == "" || v.Location.Path == "" || v.Location.Lines.Begin < 1 ||
			v.Severity != "blocker" && v.Severity != "minor" || strings.ContainsAny(v.Description, "\x1b\r\n") {
			t.Errorf("%+v", v)
		}
		before[v.Fingerprint] = true
	}
	if len(before) != len(list) {
		t.Errorf("%d fingerprints for %d problems", len(before), len(list))
	}
	for i := range list {
		if list[i].Position.Line > 0 {
			list[i].Position.Line += 7
		}
	}
	for _, v := range report(list) {
		if !before[v.Fingerprint] {
			t.Errorf("a problem that has moved is another: %+v", v)
		}
	}
	if none := report(nil); len(none) != 0 {
		t.Errorf("%+v", none)
	}
}

// TestSARIF checks what the standard demands of every result.
func TestSARIF(t *testing.T) {
	list, _ := sample()
	var b bytes.Buffer
	if err := diag.Render(&b, diag.SARIF, list, nil, false); err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct{ Rules []struct{ ID string } }
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Locations []struct {
					PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
				}
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &log); err != nil || log.Version != "2.1.0" || len(log.Runs) != 1 {
		t.Fatalf("%v %+v", err, log)
	}
	run := log.Runs[0]
	for _, r := range run.Results {
		if r.Level != "error" && r.Level != "warning" || run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID {
			t.Errorf("%+v", r)
		}
		for _, l := range r.Locations {
			if strings.ContainsAny(l.PhysicalLocation.ArtifactLocation.URI, " \n") {
				t.Errorf("URI %q", l.PhysicalLocation.ArtifactLocation.URI)
			}
		}
	}
}

func TestErr(t *testing.T) {
	list, _ := sample()
	if !list.HasErrors() {
		t.Error("HasErrors is false")
	}
	err := list.Err()
	var all *multierror.Error
	if !errors.As(err, &all) || len(all.Errors) != 5 {
		t.Fatalf("%v", err)
	}
	var d diag.Diagnostic
	if !errors.As(err, &d) {
		t.Error("no Diagnostic within the error")
	}
	slices.Reverse(list)
	if list.Err().Error() != err.Error() {
		t.Error("the order of the list shows in the error")
	}
	if err := (diag.List{{Severity: diag.Warning}}).Err(); err != nil {
		t.Errorf("a warning is an error: %v", err)
	}
	if err := diag.List(nil).Err(); err != nil {
		t.Error(err)
	}
}

// TestTable holds constants and table together: every code once, in order, and explained.
func TestTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var constants []string
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, _ := strconv.Unquote(lit.Value); strings.HasPrefix(s, "APX") {
				constants = append(constants, s)
			}
		}
		return true
	})
	var table []string
	for _, e := range diag.Table() {
		table = append(table, e.Code)
		if e.Title == "" || !strings.HasSuffix(e.Explanation, ".") {
			t.Errorf("%s is not explained", e.Code)
		}
	}
	if !slices.Equal(constants, table) || !slices.IsSorted(table) {
		t.Errorf("constants and table differ:\n%v\n%v", constants, table)
	}
	if e := diag.Explain("APX0000"); e.Title != "problem" || e.Code != "APX0000" {
		t.Errorf("%+v", e)
	}
}

func TestDocsAreCurrent(t *testing.T) {
	got, err := os.ReadFile("../../docs/diagnostics.md")
	if err != nil || !bytes.Equal(got, diag.Markdown()) {
		t.Errorf("docs/diagnostics.md has drifted: run go generate ./spec/diag (%v)", err)
	}
}

func TestParseFormat(t *testing.T) {
	if f, err := diag.ParseFormat("sarif"); f != diag.SARIF || err != nil {
		t.Error(f, err)
	}
	if _, err := diag.ParseFormat("xml"); err == nil {
		t.Error("xml is a format")
	}
	if err := diag.Render(&bytes.Buffer{}, "xml", nil, nil, false); err == nil {
		t.Error("xml is rendered")
	}
}
