// Package schemas holds the JSON Schemas (2020-12) of the language for editors: one per kind, and apex.schema.json for
// files with documents of several kinds. They are generated from the Go types of spec and their doc comments; a test
// in schemas/gen fails when they drift.
package schemas

import "embed"

//go:generate go run ./gen

// Files holds every *.schema.json.
//
//go:embed *.schema.json
var Files embed.FS
