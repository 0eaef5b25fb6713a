//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
)

// initialize has nothing to do where there are no labs.
func initialize() {}

func newDemo(cli.Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Watch a network change by pull request, survive an attack, and survive the loss of its controller",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("the demo needs Linux: its hosts are network namespaces")
		},
	}
}
