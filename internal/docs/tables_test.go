package docs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apex-network/apex/agent/status"
)

// root is the repository, seen from this package.
const root = "../.."

var update = flag.Bool("update", false, "write the generated parts of the pages again")

// TestTables keeps the tables between "<!-- generated: NAME -->" and "<!-- end -->" in docs/operations.md equal to the
// code.
func TestTables(t *testing.T) {
	path := filepath.Join(root, "docs", "operations.md")
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := have
	for name, table := range map[string]string{
		"conditions":         conditions(),
		"agent metrics":      metrics(t, agentAdvice, "agent"),
		"controller metrics": metrics(t, controllerAdvice, "controller", "controller/serve", "controller/publish", "controller/enrol"),
	} {
		if want, err = between(want, name, table); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	if bytes.Equal(have, want) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date; run make generate", path)
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// between puts text between the markers of a name.
func between(page []byte, name, text string) ([]byte, error) {
	begin, end := "<!-- generated: "+name+" -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return nil, fmt.Errorf("the markers of %q are missing", name)
	}
	return []byte(before + begin + "\n" + text + "\n" + end + after), nil
}

func conditions() string {
	var b strings.Builder
	b.WriteString("| condition | healthy | it is true when | what to do |\n|---|---|---|---|\n")
	for _, d := range status.Definitions() {
		fmt.Fprintf(&b, "| `%s` | %t | %s | %s |\n", d.Type, d.Good, d.Means, d.Do)
	}
	return b.String()
}

func metrics(t *testing.T, advice map[string]string, folders ...string) string {
	t.Helper()
	found := metricsIn(t, folders...)
	var b strings.Builder
	b.WriteString("| metric | type | meaning | watch for |\n|---|---|---|---|\n")
	known := map[string]bool{}
	for _, m := range found {
		known[m.name] = true
		say, ok := advice[m.name]
		if !ok {
			t.Errorf("metric %s is new: say what to watch for in internal/docs/advice_test.go", m.name)
		}
		name := "`" + m.name + "`"
		if len(m.labels) > 0 {
			name += " by " + strings.Join(m.labels, ", ")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", name, m.kind, m.help, say)
	}
	for name := range advice {
		if !known[name] {
			t.Errorf("metric %s is gone: remove it from internal/docs/advice_test.go", name)
		}
	}
	return b.String()
}
