package policy

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
)

// The headers of the tables that describe the zone.
const (
	nodeTable   = "| node | address | labels | routes |"
	memberTable = "| member rule | users | groups | labels |"
)

// readDoc gives docs/policy.md in pieces: the rows of each table by its header, and the last YAML block.
func readDoc(t *testing.T) (tables map[string][][]string, policies string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	tables = map[string][][]string{}
	header, inYAML := "", false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "```yaml":
			inYAML, policies = true, ""
		case line == "```":
			inYAML = false
		case inYAML:
			policies += line + "\n"
		case !strings.HasPrefix(line, "|"):
			header = ""
		case header == "":
			header = line
		case !strings.HasPrefix(line, "|---"):
			var cells []string
			for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
				cells = append(cells, strings.TrimSpace(c))
			}
			tables[header] = append(tables[header], cells)
		}
	}
	return tables, policies
}

// documented builds the repository that docs/policy.md describes, through the loader.
func documented(t *testing.T, tables map[string][][]string, policies, def string) *spec.Repository {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: doc}\n")
	fmt.Fprintf(&b, "spec: {issuers: [{name: corp, url: \"https://corp.example\"}]}\n---\n")
	fmt.Fprintf(&b, "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: prod}\n")
	fmt.Fprintf(&b, "spec:\n  ranges: [10.0.0.0/16]\n  dynamic: [10.0.128.0/17]\n  default: %s\n  members:\n", def)
	for _, m := range tables[memberTable] {
		fmt.Fprintf(&b, "    - {name: %s, issuer: corp, groups: [%s]", m[0], m[2])
		if m[1] != "" {
			fmt.Fprintf(&b, ", users: [%s]", m[1])
		}
		if k, v, ok := strings.Cut(m[3], "="); ok {
			fmt.Fprintf(&b, ", labels: {%s: %s}", k, v)
		}
		if m[0] == "staff" {
			b.WriteString(", match: {hd: corp.example}") // else it would be the only one to admit its group
		}
		b.WriteString("}\n")
	}
	for _, n := range tables[nodeTable] {
		fmt.Fprintf(&b, "---\napiVersion: apex/v1alpha1\nkind: Node\nmetadata:\n  name: %s\n  zone: prod\n", n[0])
		if n[2] != "" {
			b.WriteString("  labels:\n")
			for _, l := range strings.Split(n[2], ", ") {
				k, v, _ := strings.Cut(l, "=")
				fmt.Fprintf(&b, "    %s: %s\n", k, v)
			}
		}
		fmt.Fprintf(&b, "spec:\n  addresses: [%s]\n  publicKey: %s\n  identityKey: %s\n", n[1],
			spec.Key(sha256.Sum256([]byte("wg"+n[0]))), spec.Key(sha256.Sum256([]byte("id"+n[0]))))
		if f := strings.Fields(n[3]); len(f) == 1 {
			fmt.Fprintf(&b, "  routes: [{prefix: %s}]\n", f[0])
		} else if len(f) == 3 {
			fmt.Fprintf(&b, "  routes: [{prefix: %s, shared: true, priority: %s}]\n", f[0], f[2])
		}
	}
	repo, problems := spec.Load([]spec.File{{Path: "all.yaml", Data: []byte(b.String())}, {Path: "policy.yaml", Data: []byte(policies)}})
	if problems.HasErrors() {
		t.Fatal(problems.Err())
	}
	return repo
}

// TestDocumentedTruthTable holds the code to every row of docs/policy.md.
func TestDocumentedTruthTable(t *testing.T) {
	tables, policies := readDoc(t)
	rows := tables["| from | to | port | deny | mesh | because |"]
	if len(tables[nodeTable]) < 5 || len(tables[memberTable]) < 2 || len(rows) < 30 {
		t.Fatalf("docs/policy.md has %d nodes, %d member rules and %d rows", len(tables[nodeTable]), len(tables[memberTable]), len(rows))
	}
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for column, def := range map[int]string{3: "deny", 4: "mesh"} {
		p := New(documented(t, tables, policies, def), "prod")
		for _, row := range rows {
			var port *spec.Port
			if row[2] != "any" {
				q, err := spec.ParsePort(row[2])
				if err != nil {
					t.Fatal(err)
				}
				port = &q
			}
			v := p.Can(row[0], row[1], port, at)
			got := map[bool]string{true: "yes", false: "no"}[v.Allowed]
			if v.Undecided {
				got = "-"
			}
			if got != row[column] {
				t.Errorf("%s: %s to %s on %s: %s, documented %s (%s)", def, row[0], row[1], row[2], got, row[column], v.Reason)
			}
			if v.Reason == "" || v.Allowed && v.Rule == "" {
				t.Errorf("%s: %s to %s on %s: no reason: %+v", def, row[0], row[1], row[2], v)
			}
			if rule, _, _ := strings.Cut(strings.TrimSuffix(row[5], ","), ","); strings.HasPrefix(rule, "shop/") && !strings.Contains(rule, " ") &&
				def == "deny" && v.Rule != rule {
				t.Errorf("%s to %s on %s: decided by %q, documented %s", row[0], row[1], row[2], v.Rule, rule)
			}
			if v.Allowed && v.Rule != DefaultRule && (v.Pos.File != "policy.yaml" || v.Pos.Line < 6) {
				t.Errorf("rule %s stands at %s", v.Rule, v.Pos)
			}
		}
	}
}

func TestRunTests(t *testing.T) {
	tables, policies := readDoc(t)
	repo := documented(t, tables, policies+`---
apiVersion: apex/v1alpha1
kind: PolicyTest
metadata: {name: shop, zone: prod}
spec:
  allow:
    - {from: web-1, to: db-1, ports: [tcp/5432, tcp/80]}
    - {from: 192.168.1.0/25, to: db-1, ports: [tcp/5432]}
    - {from: 192.168.1.0/24, to: db-1, ports: [tcp/5432]}
    - {from: web-1, to: db-1}
    - {from: ops, to: ops}
  deny:
    - {from: web-1, to: web-2}
    - {from: web-1, to: db-1, ports: [tcp/80]}
    - {from: web-1, to: db-1}
    - {from: 192.168.1.0/24, to: db-1, ports: [tcp/5432]}
    - {from: 192.168.1.128/25, to: db-1}
    - {from: ops, to: ops}
`, "deny")
	// @ is the line, counted from the first assertion.
	want := []string{
		"ok allow web-1 -> db-1 tcp/5432 @0", "FAIL allow web-1 -> db-1 tcp/80 @0",
		"ok allow 192.168.1.0/25 -> db-1 tcp/5432 @1", "FAIL allow 192.168.1.0/24 -> db-1 tcp/5432 @2",
		"FAIL allow web-1 -> db-1 @3", "FAIL allow ops -> ops @4",
		"ok deny web-1 -> web-2 @6", "ok deny web-1 -> db-1 tcp/80 @7", "FAIL deny web-1 -> db-1 @8",
		"FAIL deny 192.168.1.0/24 -> db-1 tcp/5432 @9", "ok deny 192.168.1.128/25 -> db-1 @10", "FAIL deny ops -> ops @11",
	}
	got := RunTests(repo, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d", len(got), len(want))
	}
	for i, r := range got {
		state := map[bool]string{true: "ok", false: "FAIL"}[r.Passed]
		if line := fmt.Sprintf("%s %s @%d", state, r.Assertion, r.Pos.Line-got[0].Pos.Line); line != want[i] {
			t.Errorf("got %q, want %q (%s)", line, want[i], r.Verdict.Reason)
		}
	}
}
