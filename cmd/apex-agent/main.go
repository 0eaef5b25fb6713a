// Command apex-agent is the node daemon: it keeps a host in the state that its network's signed generations say.
package main

import (
	"context"
	"os"

	"github.com/apex-network/apex/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	streams := cli.StandardStreams()
	os.Exit(int(cli.Run("apex-agent", streams, func(ctx context.Context) error {
		return newRoot(streams).ExecuteContext(ctx)
	})))
}
