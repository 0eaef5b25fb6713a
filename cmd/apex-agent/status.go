package main

import (
	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/cli"
)

func newStatus(s cli.Streams, o *options) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "status",
		Short: "Print what the running agent says of itself",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			socket, err := o.socket()
			if err != nil {
				return cli.WithCode(cli.Invalid, err)
			}
			got, err := status.NewClient(socket).Get(c.Context())
			if err != nil {
				return err
			}
			if format == "table" {
				return got.Write(s.Out)
			}
			return cli.Print(s.Out, format, got)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "table", "table, json or yaml")
	return c
}
