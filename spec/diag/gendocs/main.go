// Command gendocs writes the page of all diagnostics to the file named. Run it by `go generate ./spec/diag`.
package main

import (
	"fmt"
	"os"

	"github.com/apex-network/apex/spec/diag"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendocs FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], diag.Markdown(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}
