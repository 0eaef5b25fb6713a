package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/cli"
)

func newTrustIssuerKeys(s cli.Streams) *cobra.Command {
	var format, caFile string
	c := &cobra.Command{
		Use:   "issuer-keys URL",
		Short: "Print the signing keys of an identity provider, as witnesses.identities pins them",
		Long: `Issuer-keys asks an OpenID provider for its public keys (its discovery document and JWK set) and prints those that
agents can verify, one JSON Web Key on a line, to be listed in trust/root.yaml under witnesses.identities[].keys. Agents
know these keys only and ask nobody, so when the provider rotates its keys the trust root has to follow.`,
		Example: "  apex trust issuer-keys https://token.actions.githubusercontent.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return trustIssuerKeys(c.Context(), s, args[0], caFile, format)
		},
	}
	c.Flags().StringVar(&caFile, "ca-file", "", "certificate authorities to trust besides the system's, PEM")
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print them: text, json or yaml")
	return c
}

func trustIssuerKeys(ctx context.Context, s cli.Streams, url, caFile, format string) error {
	keys, skipped, err := tokens.IssuerKeys(ctx, tokens.Options{CAFile: caFile}, url)
	if err != nil {
		return err
	}
	for _, why := range skipped {
		fmt.Fprintf(s.Err, "left out: %v\n", why)
	}
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = k.Line()
	}
	if format != "text" {
		return cli.Print(s.Out, format, lines)
	}
	for _, line := range lines {
		fmt.Fprintln(s.Out, line)
	}
	return nil
}
