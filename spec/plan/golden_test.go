package plan

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/apex-network/apex/spec"
)

// TestGolden runs every testdata/*.txtar: files under both/, old/ and new/ are the two states, plan.txt, plan.md and
// plan.json what comes out. `go test ./spec/plan -update` writes the outputs anew.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 5 {
		t.Fatalf("%d golden files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p := Diff(state(t, archive, "old/"), state(t, archive, "new/"), asOf())
			changed := false
			for i, f := range archive.Files {
				got, ok := rendered(t, p, f.Name)
				if !ok || bytes.Equal(got, f.Data) {
					continue
				}
				if *update {
					archive.Files[i].Data, changed = got, true
					continue
				}
				t.Errorf("%s differs; got\n%s", f.Name, got)
			}
			if changed {
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

var update = flag.Bool("update", false, "write the expected plans of testdata anew")

// state loads one of the two states; nil if it has no files of its own and none is shared.
func state(t *testing.T, archive *txtar.Archive, which string) *spec.Repository {
	t.Helper()
	var files []spec.File
	for _, f := range archive.Files {
		for _, folder := range []string{"both/", which} {
			if name, ok := strings.CutPrefix(f.Name, folder); ok {
				files = append(files, spec.File{Path: name, Data: f.Data})
			}
		}
	}
	if len(files) == 0 {
		return nil
	}
	repo, problems := spec.Load(files)
	problems = append(problems, repo.Validate(asOf())...)
	if problems.HasErrors() {
		t.Fatal(problems.Err())
	}
	return repo
}

// rendered gives what a file of the archive should hold; false if it is input.
func rendered(t *testing.T, p *Plan, name string) ([]byte, bool) {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch name {
	case "plan.txt":
		err = p.Text(&b, false)
	case "plan.md":
		err = p.Markdown(&b)
	case "plan.json":
		err = p.JSON(&b)
	default:
		return nil, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), true
}
