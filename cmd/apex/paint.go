package main

import (
	"fmt"
	"strings"

	"github.com/apex-network/apex/internal/cli"
)

// style is an ANSI SGR parameter.
type style string

const (
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	bold   style = "1"
	dim    style = "2"
)

// paint colours text when the streams show colour.
func paint(s cli.Streams, st style, text string) string {
	if !s.Color {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// joined lists words for a table cell: all of a few, the first of many with a count; a dash for none.
func joined(words []string) string {
	const most = 6
	switch {
	case len(words) == 0:
		return "-"
	case len(words) > most:
		return fmt.Sprintf("%s, … (%d in all)", strings.Join(words[:most], ", "), len(words))
	}
	return strings.Join(words, ", ")
}
