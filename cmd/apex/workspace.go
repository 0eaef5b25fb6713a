package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/policy"
)

// workspace is a network repository as it stands in a folder, committed or not.
type workspace struct {
	dir   string
	files []spec.File
	repo  *spec.Repository
	found diag.List
}

// openWorkspace reads every YAML file below dir and checks it. It fails only when the folder cannot be read or holds
// no network at all; what is wrong with the YAML stands in found.
func openWorkspace(dir string, now time.Time) (*workspace, error) {
	files, err := readFolder(dir)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("%s holds no YAML files; run `apex init` to begin a network, or name its folder", dir))
	}
	w := &workspace{dir: dir, files: files}
	w.repo, w.found = spec.Load(files)
	if !w.found.HasErrors() {
		w.found = append(w.found, w.repo.Validate(now)...)
	}
	w.found.Sort()
	return w, nil
}

// validWorkspace is openWorkspace for commands that need a network without errors: it prints what is wrong and ends
// with exit code 3.
func validWorkspace(s cli.Streams, dir string, now time.Time) (*workspace, error) {
	w, err := openWorkspace(dir, now)
	if err != nil {
		return nil, err
	}
	if !w.found.HasErrors() {
		return w, nil
	}
	if err := w.render(s, diag.Human); err != nil {
		return nil, err
	}
	return nil, cli.WithCode(cli.Invalid, fmt.Errorf("%s is not valid; nothing was done", dir))
}

// render prints the diagnostics: people read them on stderr, programs on stdout.
func (w *workspace) render(s cli.Streams, format diag.Format) error {
	out, color := s.Out, false
	if format == diag.Human {
		out, color = s.Err, s.Color
	}
	return diag.Render(out, format, w.found, w.sources(), color)
}

func (w *workspace) sources() map[string][]byte {
	m := make(map[string][]byte, len(w.files))
	for _, f := range w.files {
		m[f.Path] = f.Data
	}
	return m
}

// failedTests runs the network's PolicyTests.
func (w *workspace) failedTests(now time.Time) (all, failed []policy.TestResult) {
	all = policy.RunTests(w.repo, now)
	for _, r := range all {
		if !r.Passed {
			failed = append(failed, r)
		}
	}
	return all, failed
}

// readFolder reads the YAML files below dir.
func readFolder(dir string) ([]spec.File, error) {
	files, err := gitsource.ReadFolder(context.Background(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cli.WithCode(cli.Invalid, fmt.Errorf("%s: no such folder", dir))
	}
	return files, err
}

// folderArg is the optional DIR argument at position i.
func folderArg(args []string, i int) string {
	if len(args) > i {
		return args[i]
	}
	return "."
}

// node finds a node document; nil if there is none.
func (w *workspace) node(zone, name string) *spec.Document[spec.Node] {
	for _, n := range w.repo.Nodes {
		if n.Value.Metadata.Zone == zone && n.Value.Metadata.Name == name {
			return n
		}
	}
	return nil
}

// isAddress tells an address or a prefix from a node name, which never parses as either.
func isAddress(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	_, err := netip.ParsePrefix(name)
	return err == nil
}
