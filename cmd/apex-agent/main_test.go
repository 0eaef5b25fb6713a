package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apex-network/apex/internal/cli"
)

// execute runs the command as main does and gives its exit code and streams.
func execute(t *testing.T, args ...string) (cli.Code, string, string) {
	t.Helper()
	var out, talk bytes.Buffer
	s := cli.Streams{In: strings.NewReader(""), Out: &out, Err: &talk}
	code := cli.Run("apex-agent", s, func(ctx context.Context) error {
		root := newRoot(s)
		root.SetArgs(append([]string{}, args...)) // nil would be what the test itself was called with
		return root.ExecuteContext(ctx)
	})
	return code, out.String(), talk.String()
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := []string{
		"--controller", "https://c.example", "--network", "acme", "--node", "a", "--zone", "prod", "--state-dir", dir,
		"--root-digest", strings.Repeat("ab", 32), "--socket", filepath.Join(dir, "s"),
	}
	with := func(more ...string) []string { return append(append([]string(nil), good...), more...) }
	for _, row := range []struct {
		name string
		args []string
		code cli.Code
		says string
	}{
		{"version", []string{"version"}, cli.OK, "apex-agent dev"},
		{"nothing given", nil, cli.Invalid, "controllers: 0 given"},
		{"every problem at once", nil, cli.Invalid, "rootDigest"},
		{"unknown flag", []string{"--wat"}, cli.Invalid, "unknown flag"},
		{"unknown field", []string{"--config", file("bad.yaml", "nodes: a\n")}, cli.Invalid, "bad.yaml:1: field nodes not found"},
		{"no file", []string{"--config", filepath.Join(dir, "none")}, cli.Invalid, "no such file"},
		{"no keys", good, cli.Failed, "apex node init"},
		{"open key", with("--wireguard-key", file("open.key", "x")), cli.Failed, "open to others"},
		{"interface with two zones", with("--zone", "test", "--interface", "x"), cli.Invalid, "--zone name=interface"},
		{"status without an agent", with("status"), cli.Failed, "is apex-agent running?"},
		{"down without keys", with("down"), cli.Failed, "apex node init"},
	} {
		code, out, talk := execute(t, row.args...)
		if code != row.code || !strings.Contains(out+talk, row.says) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s%s", row.name, code, row.code, row.says, out, talk)
		}
	}
}
