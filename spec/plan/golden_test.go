package plan

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
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
			if list, known := bindings(t, archive); known {
				p = DiffEnrolled(state(t, archive, "old/"), state(t, archive, "new/"), asOf(), list)
			}
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

// bindings reads the archive's file of that name: a node, an address, an issuer, a username and groups on each line.
func bindings(t *testing.T, archive *txtar.Archive) (list []*binding.Signed, known bool) {
	t.Helper()
	for _, f := range archive.Files {
		if f.Name != "bindings" {
			continue
		}
		for line := range strings.Lines(string(f.Data)) {
			words := strings.Fields(line)
			b := binding.Binding{Type: binding.Type, Network: "acme", Zone: "prod", Node: words[0],
				Identity: binding.Identity{Issuer: words[2], URL: "https://" + words[2] + ".example", Subject: words[3], Username: words[3],
					Groups: append([]string{}, words[4:]...), Claims: []binding.Claim{}},
				PublicKey: peermap.Key(sha256.Sum256([]byte("wg" + words[0]))), IdentityKey: peermap.Key(sha256.Sum256([]byte("id" + words[0]))),
				Addresses: []netip.Addr{netip.MustParseAddr(words[1])}, Labels: []binding.Pair{}, Routes: []netip.Prefix{},
				Rule: binding.Rule{Name: "r", File: "f", Line: 1}, Commit: strings.Repeat("a", 40),
				Issued: asOf().Add(-time.Hour).Unix(), Expires: asOf().Add(11 * time.Hour).Unix(), Evidence: peermap.Digest{1}}
			payload, err := b.Encode()
			if err != nil {
				t.Fatal(err)
			}
			signed, err := binding.NewSigned(payload, nil)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, signed)
		}
		return list, true
	}
	return nil, false
}

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
