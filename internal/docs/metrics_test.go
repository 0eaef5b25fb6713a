package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// metric is one family that a program exposes, as its source defines it.
type metric struct {
	name, kind, help string
	labels           []string
}

// kinds are the constructors of client_golang and what they make.
var kinds = map[string]string{
	"NewGauge": "gauge", "NewGaugeVec": "gauge", "NewCounter": "counter", "NewCounterVec": "counter",
	"NewHistogram": "histogram", "NewHistogramVec": "histogram",
}

// metricsIn reads the metrics that the Go files of the folders define. It knows three ways: client_golang's
// constructors, the controller's desc(name, help, labels...), and the agent's gauge(name, help) and counter(name, help).
func metricsIn(t *testing.T, folders ...string) []metric {
	t.Helper()
	var found []metric
	for _, folder := range folders {
		for _, file := range parseFolder(t, folder) {
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if m, ok := metricOf(call); ok {
						found = append(found, m)
					}
				}
				return true
			})
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].name < found[j].name })
	return slices.CompactFunc(found, func(a, b metric) bool { return a.name == b.name })
}

func metricOf(call *ast.CallExpr) (metric, bool) {
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		kind, ok := kinds[f.Sel.Name]
		if !ok || len(call.Args) == 0 {
			return metric{}, false
		}
		m := metric{kind: kind, name: field(call.Args[0], "Name"), help: field(call.Args[0], "Help")}
		if len(call.Args) > 1 {
			m.labels = texts(elements(call.Args[1]))
		}
		return m, m.name != ""
	case *ast.Ident:
		args := texts(call.Args)
		if len(args) < 2 || len(args) != len(call.Args) {
			return metric{}, false
		}
		switch f.Name {
		case "desc":
			return metric{name: "apex_controller_" + args[0], kind: "gauge", help: args[1], labels: args[2:]}, true
		case "gauge", "counter":
			return metric{name: args[0], kind: f.Name, help: args[1]}, true
		}
	}
	return metric{}, false
}

// field gives the string that a composite literal has under a key.
func field(e ast.Expr, key string) string {
	for _, element := range elements(e) {
		pair, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if name, ok := pair.Key.(*ast.Ident); ok && name.Name == key {
			return strings.Join(texts([]ast.Expr{pair.Value}), "")
		}
	}
	return ""
}

func elements(e ast.Expr) []ast.Expr {
	if literal, ok := e.(*ast.CompositeLit); ok {
		return literal.Elts
	}
	return nil
}

// texts gives the values of those expressions that are string literals.
func texts(list []ast.Expr) []string {
	var out []string
	for _, e := range list {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if s, err := strconv.Unquote(literal.Value); err == nil {
				out = append(out, s)
			}
		}
	}
	return out
}

// parseFolder parses a folder's Go files, tests left out.
func parseFolder(t *testing.T, folder string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(folder), "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no Go files in %s (%v)", folder, err)
	}
	var files []*ast.File
	set := token.NewFileSet()
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}
