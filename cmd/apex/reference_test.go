package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/apex-network/apex/internal/cli"
)

//go:generate go test -run TestReference -update .

var update = flag.Bool("update", false, "write docs/cli.md again")

// TestReference keeps docs/cli.md equal to what the commands say of themselves.
func TestReference(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "cli.md")
	want := reference(t)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s is out of date; run make generate", path)
	}
}

// reference is the whole command tree on one page.
func reference(t *testing.T) []byte {
	root := newRoot(cli.Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
	root.DisableAutoGenTag = true
	var out bytes.Buffer
	out.WriteString("# The apex command\n\nGenerated from the command itself by `make generate`.\n\n" + exitCodes + "\n")
	var write func(c *cobra.Command)
	write = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		c.DisableAutoGenTag = true
		var page bytes.Buffer
		if err := doc.GenMarkdownCustom(c, &page, func(name string) string {
			return "#" + strings.ReplaceAll(strings.TrimSuffix(name, ".md"), "_", "-")
		}); err != nil {
			t.Fatal(err)
		}
		out.Write(page.Bytes())
		out.WriteByte('\n')
		for _, sub := range c.Commands() {
			write(sub)
		}
	}
	write(root)
	return append(bytes.TrimRight(out.Bytes(), "\n"), '\n')
}

const exitCodes = `| exit code | meaning |
|---|---|
| 0 | it worked |
| 1 | any other error; ` + "`apex can`" + `: denied |
| 2 | ` + "`apex plan --detailed-exitcode`" + `: there are changes |
| 3 | invalid input: YAML, flags, configuration |
| 4 | a signature, proof or trust rule failed |
| 5 | a PolicyTest failed |
| 6 | the rollout did not converge in time |
| 7 | applied, then rolled back by at least one host |
`
