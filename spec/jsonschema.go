package spec

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// object is a JSON object; encoding/json writes its keys in sorted order.
type object = map[string]any

// JSONSchemas gives the JSON Schema (2020-12) of each kind as "<kind>.schema.json", in lower case, and that of all of them
// as "apex.schema.json". Doc gives the doc comment of a field of a Go type of this package, or of the type itself if field
// is empty. The schemas serve editors: they accept everything that Load accepts, and some of what it refuses.
func JSONSchemas(doc func(typeName, field string) string) (map[string][]byte, error) {
	out := map[string][]byte{}
	all := object{}
	var choices []any
	for i := range kinds {
		k := &kinds[i]
		w := schemaWriter{doc: doc, defs: object{}}
		body := w.document(k)
		maps.Copy(all, w.defs)
		all[string(k.kind)] = body
		choices = append(choices, object{
			"if":   object{"properties": object{"kind": object{"const": k.kind}}, "required": []string{"kind"}},
			"then": object{"$ref": "#/$defs/" + string(k.kind)},
		})
		top := maps.Clone(body)
		if len(w.defs) > 0 {
			top["$defs"] = w.defs
		}
		if err := addSchema(out, strings.ToLower(string(k.kind)), "Apex "+string(k.kind), top); err != nil {
			return nil, err
		}
	}
	combined := object{
		"type":     "object",
		"required": []string{"apiVersion", "kind"},
		"properties": object{
			"apiVersion": object{"const": APIVersion},
			"kind":       object{"enum": strings.Split(kindNames(), ", ")},
		},
		"allOf": choices,
		"$defs": all,
	}
	return out, addSchema(out, "apex", "Apex document of any kind", combined)
}

func addSchema(out map[string][]byte, name, title string, body object) error {
	body["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	body["$id"] = name + ".schema.json"
	body["title"] = title
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(body); err != nil {
		return err
	}
	out[name+".schema.json"] = b.Bytes()
	return nil
}

type schemaWriter struct {
	doc  func(typeName, field string) string
	defs object // of struct types, by name
}

// document writes the schema of a kind: its type, with apiVersion and kind, and with or without metadata.zone.
func (w *schemaWriter) document(k *kindInfo) object {
	s := w.structure(k.shape)
	props := s["properties"].(object)
	props["apiVersion"] = object{"const": APIVersion, "description": "The version of the language."}
	props["kind"] = object{"const": k.kind, "description": "The kind of the document."}
	s["required"] = append([]string{"apiVersion", "kind"}, s["required"].([]string)...)
	metadata := w.structure(k.shape.fields[k.shape.byName["metadata"]].shape)
	if k.zoned {
		metadata["required"] = []string{"name", "zone"}
	} else {
		delete(metadata["properties"].(object), "zone")
	}
	props["metadata"] = metadata
	delete(w.defs, "Metadata")
	return s
}

// structure writes an object schema of a struct.
func (w *schemaWriter) structure(s *shape) object {
	name := s.typ.Name()
	props, required := object{}, []string{}
	for i := range s.fields {
		f := &s.fields[i]
		p := w.value(f.shape, &f.bounds)
		if text := w.doc(name, s.typ.Field(f.index).Name); text != "" {
			p["description"] = text
		}
		if props[f.name] = p; f.required {
			required = append(required, f.name)
		}
	}
	out := object{"type": "object", "additionalProperties": false, "properties": props, "required": required}
	if text := w.doc(name, ""); text != "" {
		out["description"] = text
	}
	switch s.typ {
	case reflect.TypeFor[Selector]():
		out["minProperties"], out["maxProperties"] = 1, 1
		props["any"].(object)["const"] = true
	case reflect.TypeFor[TrustKey]():
		var one []any
		for _, form := range []keyForm{sshKey, openpgpKey, rawKey} {
			one = append(one, object{"required": []keyForm{form}})
		}
		out["oneOf"] = one
	}
	return out
}

// value writes the schema of any shape within its bounds.
func (w *schemaWriter) value(s *shape, b *bounds) object {
	switch s.form {
	case structForm:
		name := s.typ.Name()
		if w.defs[name] == nil {
			w.defs[name] = object{} // a place for it, should the type hold itself
			w.defs[name] = w.structure(s)
		}
		return object{"$ref": "#/$defs/" + name}
	case listForm:
		out := object{"type": "array", "items": w.value(s.elem, b)}
		if b.hasItems {
			out["minItems"], out["maxItems"] = b.minItems, b.maxItems
		}
		if b.unique {
			out["uniqueItems"] = true
		}
		return out
	case mapForm:
		return object{"type": "object", "propertyNames": text(&bounds{syntax: keySyntax(b.syntax)}), "additionalProperties": w.value(s.elem, b)}
	case intForm:
		out := object{"type": "integer"}
		if b.hasMin {
			out["minimum"] = b.min
		}
		if b.hasMax {
			out["maximum"] = b.max
		}
		return out
	case boolForm:
		return object{"type": "boolean"}
	case stringForm:
		return text(b)
	}
	return object{"type": "string", "pattern": textPattern(s.typ)}
}

// text writes the schema of a string within b.
func text(b *bounds) object {
	out := object{"type": "string"}
	if len(b.enum) > 0 {
		out["enum"] = slices.Clone(b.enum)
	}
	const alnum = "[A-Za-z0-9]"
	switch b.syntax {
	case "name":
		out["pattern"] = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
	case "labelKey":
		out["pattern"] = "^" + alnum + "([-A-Za-z0-9_./]{0,61}" + alnum + ")?$"
	case "labels":
		out["pattern"] = "^(" + alnum + "([-A-Za-z0-9_./]{0,61}" + alnum + ")?)?$"
	case "endpoint":
		out["pattern"] = `^([-a-z0-9.]+|\[[0-9a-f:.]+\]):[1-9][0-9]{0,4}$`
	case "glob":
		out["pattern"] = `^[^/\[\]{}\\]+(/[^/\[\]{}\\]+)*$`
	case "identity":
		out["minLength"], out["maxLength"] = 1, 256
	}
	return out
}

// textPattern gives a pattern for the text of a type; Load looks closer.
func textPattern(t reflect.Type) string {
	switch t.Name() {
	case "Prefix":
		return "^[0-9a-f.:]+/[0-9]{1,3}$"
	case "Addr":
		return "^[0-9a-f.:]+$"
	case "Time":
		return "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[-+][0-9]{2}:[0-9]{2})$"
	case "Key":
		return "^[A-Za-z0-9+/]{43}=$"
	case "Duration":
		return "^[-+]?([0-9]*\\.?[0-9]+(ns|us|µs|ms|s|m|h))+$"
	case "Port":
		return "^(icmp|(tcp|udp)(/[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?)?)$"
	}
	return ""
}
