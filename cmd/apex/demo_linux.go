package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/demo"
	"github.com/apex-network/apex/internal/lab"
)

// initialize does what has to come before everything else in a program that makes labs.
func initialize() { lab.Init() }

func newDemo(s cli.Streams) *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Watch a network change by pull request, survive an attack, and survive the loss of its controller",
		Long: `Demo builds a small internet of network namespaces on this machine, runs the real controller and agents in it, and
asserts every step it shows. It needs root, or a kernel that allows user namespaces, and touches nothing outside.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runDemo(c.Context(), s, keep) },
	}
	c.Flags().BoolVar(&keep, "keep", false, "leave the network running afterwards, with instructions")
	return c
}

// runDemo runs this program again in namespaces of its own, and in there the demo.
func runDemo(ctx context.Context, s cli.Streams, keep bool) error {
	binaries, err := demo.FindBinaries()
	if err != nil {
		return err
	}
	if lab.Isolated() {
		return demo.Run(ctx, demo.Options{Out: s.Out, Color: s.Color || os.Getenv("CLICOLOR_FORCE") != "", Binaries: binaries, Keep: keep})
	}
	if _, err := lab.Privileges(ctx); err != nil {
		return fmt.Errorf("the demo cannot run here: %w", err)
	}
	status, err := lab.Isolate(ctx)
	if err != nil {
		return fmt.Errorf("the demo cannot run here: %w", err)
	}
	return cli.Quiet(cli.Code(status))
}
