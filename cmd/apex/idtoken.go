package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/signer"
)

// idTokenFlags name the ID token that a CI job shows in place of a key.
type idTokenFlags struct {
	file, env, audience string
	github              bool
}

func (f *idTokenFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "id-token-file", "", "file with the job's ID token; - reads standard input")
	c.Flags().StringVar(&f.env, "id-token-env", "", "environment variable with the job's ID token")
	c.Flags().BoolVar(&f.github, "github", false, "ask GitHub Actions for the job's ID token")
	c.Flags().StringVar(&f.audience, "audience", signer.DefaultApplierAudience, "audience to ask GitHub Actions for; the trust root says which")
}

// source gives what brings the token; nil if none was named.
func (f *idTokenFlags) source(s cli.Streams) (func(context.Context) (string, error), error) {
	given := 0
	for _, is := range []bool{f.file != "", f.env != "", f.github} {
		if is {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, cli.WithCode(cli.Invalid, errors.New("choose one of --id-token-file, --id-token-env and --github"))
	case f.github:
		return func(ctx context.Context) (string, error) {
			text, err := token.GitHub{}.Token(ctx, token.Need{Audience: f.audience})
			if errors.Is(err, token.ErrNone) {
				err = cli.WithCode(cli.Invalid, err)
			}
			return text, err
		}, nil
	case given == 1:
		return func(context.Context) (string, error) { return readToken(s, f.file, f.env) }, nil
	}
	return nil, nil
}

// readToken reads an ID token from a file or an environment variable. Its errors name the place and never the content.
func readToken(s cli.Streams, file, env string) (string, error) {
	place, text := "$"+env, os.Getenv(env)
	if file != "" {
		data, err := readInput(file, s.In)
		if err != nil {
			return "", err
		}
		place, text = file, string(data)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return "", cli.WithCode(cli.Invalid, fmt.Errorf("%s holds no token", place))
	}
	if _, err := oidcclient.Peek(text); err != nil {
		return "", cli.WithCode(cli.Invalid, fmt.Errorf("%s: %w", place, err))
	}
	return text, nil
}
