package spec_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
)

var update = flag.Bool("update", false, "rewrite the expectations of testdata/bad")

const wantPrefix = "# want: "

// TestBadCorpus loads every file of testdata/bad and compares all diagnostics with those that the file states, one per
// line: `# want: CODE line:col` beside the repository testdata/base, or in a txtar archive, which is a repository of its
// own, `# want: CODE file:line:col`.
func TestBadCorpus(t *testing.T) {
	base := readDir(t, "testdata/base")
	paths, err := filepath.Glob("testdata/bad/*")
	if err != nil || len(paths) < 60 {
		t.Fatalf("corpus of %d files: %v", len(paths), err)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			archive := filepath.Ext(path) == ".txtar"
			repo, list := spec.Load(corpusFiles(base, path, data, archive))
			list = append(list, repo.Validate(now)...)
			var got []string
			for _, d := range list {
				seen[d.Code] = true
				if got = append(got, wantLine(d, archive)); d.Message == "" || diag.Explain(d.Code).Explanation == "" {
					t.Errorf("%v: no message, or a code without explanation", d)
				}
			}
			want := wantLines(data)
			slices.Sort(got)
			if *update {
				writeWant(t, path, data, got, archive)
				return
			}
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("diagnostics:\n%s\nwant:\n%s\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"), list)
			}
		})
	}
	for _, e := range diag.Table() {
		if !seen[e.Code] && !elsewhere[e.Code] {
			t.Errorf("no file of the corpus shows %s (%s)", e.Code, e.Title)
		}
	}
}

// elsewhere lists codes that need too large an input for a file, or that other packages report.
var elsewhere = map[string]bool{
	diag.FileTooLarge: true, diag.TooManyProblems: true, diag.TooManyDocuments: true, // TestLimits
	diag.BadScalar:  true, // TestDecode
	diag.TestFailed: true, // spec/policy
}

func corpusFiles(base []spec.File, path string, data []byte, archive bool) []spec.File {
	if !archive {
		return append(slices.Clone(base), spec.File{Path: filepath.Base(path), Data: data})
	}
	var files []spec.File
	for _, f := range txtar.Parse(data).Files {
		files = append(files, spec.File{Path: f.Name, Data: f.Data})
	}
	return files
}

func wantLine(d diag.Diagnostic, archive bool) string {
	if archive {
		return fmt.Sprintf("%s %s", d.Code, d.Position)
	}
	return fmt.Sprintf("%s %d:%d", d.Code, d.Position.Line, d.Position.Column)
}

func wantLines(data []byte) []string {
	var want []string
	for line := range strings.Lines(string(data)) {
		if w, ok := strings.CutPrefix(line, wantPrefix); ok {
			want = append(want, strings.TrimSpace(w))
		}
	}
	return want
}

// writeWant puts the expectations after the last line of a YAML file, where they move nothing, and before the first file
// of an archive.
func writeWant(t *testing.T, path string, data []byte, got []string, archive bool) {
	var kept, lines []byte
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(line, []byte(wantPrefix)) {
			kept = append(kept, line...)
		}
	}
	for _, g := range got {
		lines = append(lines, wantPrefix+g+"\n"...)
	}
	out := append(kept, lines...)
	if archive {
		out = append(lines, kept...)
	}
	if err := os.WriteFile(path, out, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestGoodCorpus loads each archive of testdata/good, which must be without diagnostics.
func TestGoodCorpus(t *testing.T) {
	paths, err := filepath.Glob("testdata/good/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v %v", paths, err)
	}
	paths = append(paths, "testdata/base")
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			var files []spec.File
			if filepath.Ext(path) == "" {
				files = readDir(t, path)
			} else {
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				files = corpusFiles(nil, path, data, true)
			}
			repo, list := spec.Load(files)
			for _, d := range append(list, repo.Validate(now)...) {
				t.Error(d)
			}
		})
	}
}

// TestGoodCorpusRoundTrip holds Marshal, Load and Format to every field of every kind.
func TestGoodCorpusRoundTrip(t *testing.T) {
	paths, err := filepath.Glob("testdata/good/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%v %v", paths, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range corpusFiles(nil, path, data, true) {
			if !spec.IsSource(f.Path) {
				continue
			}
			roundTrip(t, f.Data)
			once, err := spec.Format(f.Data)
			if errors.Is(err, spec.ErrFormat) && strings.Contains(err.Error(), "comment") {
				continue // better not formatted than without its comments
			}
			if err != nil {
				t.Fatalf("%s: %s: %v", path, f.Path, err)
			}
			if _, list := spec.Load([]spec.File{{Path: f.Path, Data: once}}); !sound(list) {
				t.Errorf("%s: %s: formatting makes problems: %v", path, f.Path, list)
			}
			if twice, err := spec.Format(once); err != nil || !bytes.Equal(once, twice) {
				t.Errorf("%s: %s: formatting twice changes it again: %v", path, f.Path, err)
			}
		}
	}
}
