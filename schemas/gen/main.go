// Command gen writes schemas/*.schema.json from the types of spec. Run it by `go generate ./schemas`.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"github.com/apex-network/apex/spec"
)

func main() {
	if err := write("../spec/kinds.go", "."); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// write puts the schemas that the source of the kinds describes into dir.
func write(source, dir string) error {
	files, err := generate(source)
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate makes the schemas, with the doc comments of the Go file source as descriptions.
func generate(source string) (map[string][]byte, error) {
	file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read doc comments: %w", err)
	}
	docs := comments(file)
	return spec.JSONSchemas(func(typeName, field string) string { return docs[[2]string{typeName, field}] })
}

// comments gives the doc comments of the file's structs ({type, ""}) and their fields ({type, field}), as one paragraph.
func comments(file *ast.File) map[[2]string]string {
	docs := map[[2]string]string{}
	for _, decl := range file.Decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range d.Specs {
			t, ok := s.(*ast.TypeSpec)
			if !ok {
				continue
			}
			docs[[2]string{t.Name.Name, ""}] = paragraph(d.Doc)
			if st, ok := t.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						docs[[2]string{t.Name.Name, name.Name}] = paragraph(f.Doc)
					}
				}
			}
		}
	}
	return docs
}

// paragraph gives the first paragraph of a comment on one line.
func paragraph(c *ast.CommentGroup) string {
	text, _, _ := strings.Cut(c.Text(), "\n\n")
	return strings.Join(strings.Fields(text), " ")
}
