// Command apex-controller follows network repositories and serves agents. See controller.example.yaml for its
// configuration.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/spec"
)

// version is set by the linker.
var version = "dev"

func main() {
	streams := cli.StandardStreams()
	os.Exit(int(cli.Run("apex-controller", streams, func(ctx context.Context) error {
		cmd := root(streams)
		return cmd.ExecuteContext(ctx)
	})))
}

func root(s cli.Streams) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "apex-controller --config FILE",
		Short: "Follow network repositories and serve agents",
		Args:  cobra.NoArgs, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return cli.WithCode(cli.Invalid, errors.New("--config is missing: name the configuration file"))
			}
			return run(cmd.Context(), path, s.Err)
		},
	}
	cmd.SetIn(s.In)
	cmd.SetOut(s.Out)
	cmd.SetErr(s.Err)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.WithCode(cli.Invalid, err) })
	cmd.Flags().StringVar(&path, "config", "", "configuration file, YAML")
	cmd.AddCommand(check(s), keygen(s), newBackup(s), newRestore(s), newVersion(s))
	return cmd
}

func run(ctx context.Context, path string, out io.Writer) error {
	cfg, err := config.Load(path)
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	level := &slog.LevelVar{}
	controller.SetLevel(level, cfg.Log.Level)
	log := newLogger(out, cfg.Log.Format, level)
	c, err := controller.New(cfg, controller.Options{
		Path: path, Version: version, Logger: log, Level: level,
		Ready: func(a controller.Addresses) {
			log.Info("serving", "api", a.API, "metrics", a.Metrics, "admin", a.Admin, "tlsPin", a.TLSPin, "version", version)
		},
	})
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

func newLogger(out io.Writer, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}

func check(s cli.Streams) *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Read a configuration and say what is wrong with it", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := config.Load(args[0]); err != nil {
				return cli.WithCode(cli.Invalid, err)
			}
			_, err := fmt.Fprintln(s.Err, "configuration is valid")
			return err
		},
	}
}

func keygen(s cli.Streams) *cobra.Command {
	return &cobra.Command{
		Use: "keygen FILE", Short: "Make a manifest, timestamp, enrolment or witness key and print its public half for the trust root",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := keyfile.NewEd25519(args[0], rand.Reader)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.Out, spec.Key(key.Raw()))
			return err
		},
	}
}

func newVersion(s cli.Streams) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, "apex-controller "+version)
			return err
		},
	}
}
