package compile

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// load reads a repository from disk the way a command does.
func load(t *testing.T, dir string) (*spec.Repository, []Blob) {
	t.Helper()
	var files []spec.File
	var blobs []Blob
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(root, path)
		files = append(files, spec.File{Path: path, Data: b})
		blobs = append(blobs, Blob{path, peermap.DigestOf(b)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	repo, problems := spec.Load(files)
	problems = append(problems, repo.Validate(asOf())...)
	if problems.HasErrors() {
		t.Fatal(problems.Err())
	}
	return repo, blobs
}

// TestExamplesCompile takes every example from YAML to the maps of its nodes, and runs its policy tests.
func TestExamplesCompile(t *testing.T) {
	dirs, err := filepath.Glob("../../examples/*/network.yaml")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("%d examples, %v", len(dirs), err)
	}
	for _, file := range dirs {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			repo, blobs := load(t, dir)
			zones, err := Compile(Input{Repo: repo, Files: blobs, Facts: facts()})
			if err != nil {
				t.Fatal(err)
			}
			for _, z := range zones {
				for _, v := range z.Views {
					assemble(t, z, v.Node)
				}
			}
			results := policy.RunTests(repo, asOf())
			for _, r := range results {
				if !r.Passed {
					t.Errorf("%s: %s: %s", r.Pos, r.Assertion, r.Verdict.Reason)
				}
			}
			t.Logf("%d zones, %d assertions", len(zones), len(results))
		})
	}
}
