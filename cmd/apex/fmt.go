package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec"
)

func newFmt(s cli.Streams) *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "fmt [DIR]",
		Short: "Write every document in its canonical layout",
		Long: `Fmt rewrites the YAML files below DIR (default: this folder) in canonical layout: key order, indentation, quotes.
Comments stay. It prints the names of the files it changed, and changes none if any cannot be read as YAML.

Exit codes: 0 done, 1 with --check: some file is not in canonical layout, 3 some file is not YAML.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return format(s, folderArg(args, 0), check)
		},
	}
	c.Flags().BoolVar(&check, "check", false, "change nothing; list the files that are not in canonical layout and exit 1")
	return c
}

func format(s cli.Streams, dir string, check bool) error {
	files, err := readFolder(dir)
	if err != nil {
		return err
	}
	var changed []spec.File
	for _, f := range files {
		out, err := spec.Format(f.Data)
		if err != nil {
			return cli.WithCode(cli.Invalid, fmt.Errorf("%s: %w", f.Path, err))
		}
		if !bytes.Equal(out, f.Data) {
			changed = append(changed, spec.File{Path: f.Path, Data: out})
		}
	}
	for _, f := range changed {
		fmt.Fprintln(s.Out, f.Path)
		if check {
			continue
		}
		if err := replaceFile(filepath.Join(dir, filepath.FromSlash(f.Path)), f.Data); err != nil {
			return err
		}
	}
	if check && len(changed) > 0 {
		return cli.Quiet(cli.Failed)
	}
	return nil
}

// replaceFile puts data in the place of an existing file in one step, keeping its mode: an interrupted write loses
// nothing.
func replaceFile(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if the rename took place
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := tmp.Chmod(info.Mode().Perm()); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
