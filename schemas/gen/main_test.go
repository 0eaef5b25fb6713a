package main

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/schemas"
)

func TestSchemasAreCurrent(t *testing.T) {
	want, err := generate("../../spec/kinds.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range want {
		got, err := schemas.Files.ReadFile(name)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s has drifted from spec/kinds.go: run go generate ./schemas (%v)", name, err)
		}
	}
	entries, err := schemas.Files.ReadDir(".")
	if err != nil || len(entries) != len(want) {
		t.Errorf("%d schemas committed, %d generated (%v)", len(entries), len(want), err)
	}
}

// TestEveryFieldIsDescribed keeps editors useful: each property carries the doc comment of its field.
func TestEveryFieldIsDescribed(t *testing.T) {
	files, err := generate("../../spec/kinds.go")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		props, _ := m["properties"].(map[string]any)
		for name, p := range props {
			if d, _ := p.(map[string]any)["description"].(string); d == "" && name != "spec" && !strings.Contains(path, "if") {
				t.Errorf("%s.%s has no description", path, name)
			}
			walk(path+"."+name, p)
		}
		defs, _ := m["$defs"].(map[string]any)
		for name, d := range defs {
			walk(path+"#"+name, d)
		}
	}
	for name, data := range files {
		if name == "apex.schema.json" {
			continue
		}
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatal(err)
		}
		walk(name, v)
	}
}

// compile reads one committed schema.
func compile(t *testing.T, path string) *jsonschema.Schema {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///"+filepath.Base(path), doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///" + filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// documents reads a YAML file as JSON values, as an editor does.
func documents(t *testing.T, data []byte) []any {
	t.Helper()
	var out []any
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, jsonValue(t, n.Content[0]))
	}
}

// jsonValue gives what JSON has for a node: an instant is a string there.
func jsonValue(t *testing.T, n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = jsonValue(t, n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			list = append(list, jsonValue(t, c))
		}
		return list
	}
	if n.Tag == "!!timestamp" || n.Tag == "!!str" {
		return n.Value
	}
	var v any
	if err := n.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestExamplesMatchTheirSchema validates every YAML file of the examples against the schema that its modeline names, and
// against the combined one.
func TestExamplesMatchTheirSchema(t *testing.T) {
	all := compile(t, "../apex.schema.json")
	checked := 0
	err := filepath.WalkDir("../../examples", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(string(data), "\n")
		name, ok := strings.CutPrefix(line, "# yaml-language-server: $schema=")
		if !ok {
			t.Errorf("%s: no modeline", path)
			return nil
		}
		own := compile(t, filepath.Join(filepath.Dir(path), name))
		for i, v := range documents(t, data) {
			for _, s := range []*jsonschema.Schema{own, all} {
				if err := s.Validate(v); err != nil {
					t.Errorf("%s, document %d: %v", path, i+1, err)
				}
			}
			checked++
		}
		return nil
	})
	if err != nil || checked < 20 {
		t.Errorf("%d documents checked: %v", checked, err)
	}
}

// TestSchemasRefuse holds the schemas to what they are for.
func TestSchemasRefuse(t *testing.T) {
	all := compile(t, "../apex.schema.json")
	for _, doc := range []string{
		"apiVersion: apex/v1alpha1\nkind: Zon\nmetadata: {name: a}\nspec: {ranges: [10.0.0.0/8]}",
		"apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: a}\nspec: {ranges: []}",
		"apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: a}\nspec: {range: [10.0.0.0/8]}",
		"apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: a, zone: b}\nspec: {ranges: [10.0.0.0/8]}",
		"apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: a, zone: b}\nspec: {allow: [{from: [{any: true, node: x}], to: [{any: true}]}]}",
		"apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: a, zone: b}\nspec: {allow: [{from: [{any: false}], to: [{any: true}]}]}",
		"apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: {allow: []}",
	} {
		for _, v := range documents(t, []byte(doc)) {
			if all.Validate(v) == nil {
				t.Errorf("accepted:\n%s", doc)
			}
		}
	}
}
