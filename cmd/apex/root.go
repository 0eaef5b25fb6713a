package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
)

// newRoot builds the command tree over the given streams.
func newRoot(s cli.Streams) *cobra.Command {
	root := &cobra.Command{
		Use:           "apex",
		Short:         "Change who can reach whom by pull request",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath()))
	})
	root.AddCommand(
		newInit(s), newFmt(s), newValidate(s), newTest(s), newCan(s), newPlan(s), newNode(s), newTrust(s), // a clone
		newApply(s), newMap(s), newEnrol(s), newWitness(s), // a controller
		newLogin(s), newJoin(s), newLeave(s), newStatus(s), // a host
		newDemo(s), newVersion(s))
	return root
}

func newVersion(s cli.Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, "apex "+version)
			return err
		},
	}
}
