// Package docs keeps the documentation true. It holds no code that a program uses: its tests generate the tables of
// docs/operations.md from the code that reports conditions and metrics, and check links, anchors, commands, flags, test
// names and example files that the pages mention.
package docs

//go:generate go test -run TestTables -update .
