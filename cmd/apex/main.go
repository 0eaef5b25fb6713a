// Command apex is the tool of the people who change a network: it checks, tests, plans and explains a repository of
// signed YAML, keeps its trust root, and asks a controller to take a commit.
package main

import (
	"context"
	"os"

	"github.com/apex-network/apex/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	initialize()
	streams := cli.StandardStreams()
	os.Exit(int(cli.Run("apex", streams, func(ctx context.Context) error {
		return newRoot(streams).ExecuteContext(ctx)
	})))
}
