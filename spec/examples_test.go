package spec_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
)

// now is the instant at which tests validate.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// readDir reads all files below dir.
func readDir(t testing.TB, dir string) []spec.File {
	t.Helper()
	var files []spec.File
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, spec.File{Path: filepath.ToSlash(rel), Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestExamples holds every example to what it is there to show: a repository without a single diagnostic, formatted, with
// a modeline that leads to a schema.
func TestExamples(t *testing.T) {
	dirs, err := filepath.Glob("../examples/*/trust")
	if err != nil || len(dirs) < 4 {
		t.Fatalf("examples: %v %v", dirs, err)
	}
	for _, trust := range dirs {
		dir := filepath.Dir(trust)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			files := readDir(t, dir)
			repo, list := spec.Load(files)
			list = append(list, repo.Validate(now)...)
			for _, d := range list {
				t.Error(d)
			}
			if len(repo.Tests) == 0 || repo.TrustRoot == nil {
				t.Error("an example needs policy tests and a trust root")
			}
			if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
				t.Error(err)
			}
			for _, f := range files {
				if spec.IsSource(f.Path) {
					checkExampleFile(t, dir, f)
				}
			}
		})
	}
}

func checkExampleFile(t *testing.T, dir string, f spec.File) {
	out, err := spec.Format(f.Data)
	if err != nil || !bytes.Equal(out, f.Data) {
		t.Errorf("%s is not formatted (%v)", f.Path, err)
	}
	line, _, _ := strings.Cut(string(f.Data), "\n")
	schema, ok := strings.CutPrefix(line, "# yaml-language-server: $schema=")
	if !ok {
		t.Errorf("%s does not begin with a modeline", f.Path)
		return
	}
	if _, err := os.Stat(filepath.Join(dir, filepath.Dir(f.Path), schema)); err != nil {
		t.Errorf("%s: %v", f.Path, err)
	}
}
