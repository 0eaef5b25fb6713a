// Command prepare builds the OpenID providers that tests run against, so that tests which are cut off from the network
// find them in the cache.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/apex-network/apex/internal/idp"
)

func main() {
	if err := idp.Prepare(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}
