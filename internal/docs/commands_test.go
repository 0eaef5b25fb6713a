package docs

import (
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commands maps a command's full name ("apex trust init") to the flags it takes.
type commands map[string]map[string]bool

func (c commands) add(name string) map[string]bool {
	if c[name] == nil {
		c[name] = map[string]bool{"--help": true, "-h": true}
	}
	return c[name]
}

// hasChildren reports whether name is a group of commands.
func (c commands) hasChildren(name string) bool {
	for other := range c {
		if strings.HasPrefix(other, name+" ") {
			return true
		}
	}
	return false
}

var (
	cliHeading = regexp.MustCompile(`(?m)^## (apex[a-z -]*)$`)
	cliFlag    = regexp.MustCompile(`(?m)^ +(?:(-\w), )?(--[a-z-]+)`)
)

// known reads the commands of apex from its reference page, which a test of cmd/apex keeps true, and those of the two
// daemons from their source.
func known(t *testing.T) commands {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := commands{}
	text := string(data)
	at := cliHeading.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		flags := all.add(text[m[2]:m[3]])
		for _, f := range cliFlag.FindAllStringSubmatch(text[m[0]:end], -1) {
			flags[f[1]], flags[f[2]] = true, true
		}
	}
	for _, daemon := range []string{"apex-agent", "apex-controller"} {
		daemonCommands(t, all, daemon)
	}
	if len(all) < 15 {
		t.Fatalf("only %d commands found", len(all))
	}
	return all
}

// daemonCommands finds cobra's Use and the flag registrations. A daemon's few flags are taken by each of its commands.
func daemonCommands(t *testing.T, all commands, daemon string) {
	t.Helper()
	names, flags := []string{daemon}, map[string]bool{}
	for _, file := range parseFolder(t, "cmd/"+daemon) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if use, _, _ := strings.Cut(field(n, "Use"), " "); use != "" && use != daemon {
					names = append(names, daemon+" "+use)
				}
			case *ast.CallExpr:
				f, ok := n.Fun.(*ast.SelectorExpr)
				if ok && (strings.HasSuffix(f.Sel.Name, "Var") || strings.HasSuffix(f.Sel.Name, "VarP")) && len(n.Args) > 2 {
					for _, name := range texts(n.Args[1:2]) {
						flags["--"+name] = true
					}
					if strings.HasSuffix(f.Sel.Name, "P") {
						for _, short := range texts(n.Args[2:3]) {
							flags["-"+short] = true
						}
					}
				}
			}
			return true
		})
	}
	for _, name := range names {
		maps.Copy(all.add(name), flags)
	}
}

// call is a command line: it begins a line, or follows a prompt, a pipe, sudo, ssh or a substitution.
var call = regexp.MustCompile(`(?m)(?:^|[|&;(]|sudo|ssh \S+(?: sudo)?|if|next:|then|ip netns exec \S+)\s*(apex(?:-agent|-controller)?)\s+([^|&;()\n]*)`)

var inline = regexp.MustCompile("`(apex(?:-agent|-controller)?) ([^`]+)`")

// TestCommands demands that each command line in the pages names a command and flags that exist.
func TestCommands(t *testing.T) {
	all := known(t)
	checked := 0
	for _, p := range pages(t) {
		if p.path == "docs/cli.md" {
			continue
		}
		var lines [][]string
		for _, block := range p.blocks {
			lines = append(lines, call.FindAllStringSubmatch(strings.ReplaceAll(block.text, "\\\n", " "), -1)...)
		}
		for _, m := range append(lines, inline.FindAllStringSubmatch(p.text, -1)...) {
			checked++
			if problem := all.check(m[1], m[2]); problem != "" {
				t.Errorf("%s: %q: %s", p.path, m[1]+" "+m[2], problem)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d command lines found", checked)
	}
}

// check says what is wrong with a command line; "" if nothing is.
func (c commands) check(program, rest string) string {
	if before, _, ok := strings.Cut(rest, " #"); ok {
		rest = before
	}
	words := strings.Fields(rest)
	name := program
	for len(words) > 0 {
		word := strings.Trim(words[0], ",.")
		if strings.HasPrefix(word, "-") || c[name+" "+word] == nil {
			break
		}
		name, words = name+" "+word, words[1:]
	}
	if len(words) > 0 && c.hasChildren(name) && !strings.HasPrefix(words[0], "-") && !strings.HasPrefix(words[0], "<") && !slices.Contains([]string{"…", "completion", "help"}, words[0]) {
		return "there is no command " + name + " " + words[0]
	}
	for _, word := range words {
		flag, _, _ := strings.Cut(strings.TrimRight(word, ",."), "=")
		if strings.HasPrefix(flag, "-") && flag != "-" && !c[name][flag] {
			return name + " has no flag " + flag
		}
	}
	return ""
}

// TestCheckFindsMistakes shows that the check above is not blind.
func TestCheckFindsMistakes(t *testing.T) {
	all := known(t)
	for line, bad := range map[string]bool{
		"trust sign --key x":   false,
		"trust sign --kee x":   true,
		"trust frobnicate":     true,
		"frobnicate":           true,
		"plan --to=HEAD~1":     false,
		"can a b tcp/1":        false,
		"status -o json":       false,
		"status --output=json": false,
		"trust … # whatever":   false,
	} {
		if got := all.check("apex", line); (got != "") != bad {
			t.Errorf("apex %s: %q", line, got)
		}
	}
	if all.check("apex-agent", "down --node x") != "" || all.check("apex-agent", "up") == "" || all.check("apex-controller", "--confg x") == "" {
		t.Error("the daemons' commands are not known")
	}
}
