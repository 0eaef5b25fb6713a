// Package spec is the language of a network repository: its kinds, their strict loading, and what must hold between
// them.
//
//	files ─ Parse ─▶ Parsed (one per file, cacheable) ─ Assemble ─▶ Repository ─ Validate ─▶ diag.List
//
// Parse takes each document through the same steps: size cap and text lint, a yaml.Node tree, lint of the tree, then a
// decode driven by the Go types of kinds.go in which nothing is guessed: unknown fields, duplicate keys, anchors,
// aliases, tags, null, non-canonical numbers, booleans, addresses, prefixes, keys and times are errors with
// file:line:col. Every problem of every file is reported in one run.
//
// All functions are pure: bytes and an explicit now in, values and diagnostics out; no clock, no disk, no network.
// Values they return are shared and must not be changed. What policy means is decided in spec/policy, what a host may
// know in spec/compile.
package spec
