package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/spec/jwk"
)

func newTrustIssuerKeys(s cli.Streams) *cobra.Command {
	var caFile string
	c := &cobra.Command{
		Use:   "issuer-keys URL",
		Short: "Print an OpenID provider's signing keys, for witnesses.identities",
		Long: `Issuer-keys asks the OpenID provider at URL for its public keys and prints those that agents can verify with (RS256, ES256,
EdDSA), one JSON Web Key per line, as TrustRoot.spec.witnesses.identities[].keys takes them. Agents know no other keys and
ask nobody: when the provider changes its keys, run it again and rotate the trust root.

What it prints is what the network between says. Compare it with the provider's on another way before you sign.`,
		Example: "  apex trust issuer-keys https://token.actions.githubusercontent.com",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return issuerKeys(c.Context(), s, args[0], caFile)
		},
	}
	c.Flags().StringVar(&caFile, "issuer-ca-file", "", "certificate authorities of the issuer instead of the system's, PEM")
	return c
}

func issuerKeys(ctx context.Context, s cli.Streams, issuer, caFile string) error {
	transport, err := fetch.NewTransport(fetch.TLS{CAFile: caFile})
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := oidcclient.New(transport, "apex/"+version)
	provider, err := client.Discover(ctx, issuer)
	if err != nil {
		return err
	}
	keys, err := client.Keys(ctx, provider)
	if err != nil {
		return err
	}
	printed := 0
	for _, text := range keys {
		key, err := jwk.Parse(text)
		if err != nil {
			fmt.Fprintf(s.Err, "left out one key: %v\n", err)
			continue
		}
		printed++
		fmt.Fprintln(s.Out, key.Line())
	}
	if printed == 0 {
		return fmt.Errorf("provider %s has no key that agents can verify with", issuer)
	}
	return nil
}
