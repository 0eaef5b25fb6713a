package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/reconciler"
)

// newRoot builds the command tree over the given streams. Without a subcommand the agent runs.
func newRoot(s cli.Streams) *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:           "apex-agent",
		Short:         "Keep this host in the state its network's signed generations say",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(c *cobra.Command, _ []string) error { return run(c.Context(), c, s, &o) },
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return cli.WithCode(cli.Invalid, fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath()))
	})
	o.register(root.PersistentFlags())
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run the agent (the default)", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), c, s, &o) },
		},
		&cobra.Command{
			Use: "down", Short: "Remove everything of ours from this host, and nothing else", Args: cobra.NoArgs,
			Long: "Remove interface, addresses, routes, firewall table and kernel parameters that the agent made.\n" +
				"Stop the agent first. Keys and the memory of which generations were seen stay in the state folder.",
			RunE: func(c *cobra.Command, _ []string) error { return down(c.Context(), c, s, &o) },
		},
		newStatus(s, &o),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintln(s.Out, "apex-agent "+version)
				return err
			},
		},
	)
	return root
}

// newAgent reads configuration and keys and makes the agent over the backends of this host.
func newAgent(c *cobra.Command, s cli.Streams, o *options) (*agent.Agent, reconciler.Backends, *slog.Logger, error) {
	none := reconciler.Backends{}
	config, err := o.config(c.Flags())
	if err != nil {
		return nil, none, nil, cli.WithCode(cli.Invalid, err)
	}
	log := newLogger(s, config)
	opt := agent.Options{Config: config, Version: version, Logger: log}
	if opt.Keys, err = openKeys(config); err != nil {
		return nil, none, nil, err
	}
	backends, err := reconciler.Host(reconciler.HostOptions{WireGuard: reconciler.WireGuardMode(config.WireGuard), Logger: log})
	if err != nil {
		return nil, none, nil, err
	}
	opt.NewEngine = func(engine reconciler.Options) (agent.Engine, error) {
		engine.Backends = backends
		return reconciler.New(engine)
	}
	a, err := agent.New(opt)
	if err != nil {
		return nil, none, nil, errors.Join(err, backends.Close())
	}
	return a, backends, log, nil
}

// openKeys loads the keys. A host that joins a zone by an identity gets those that are missing; for the others their
// public halves have to stand in git first.
func openKeys(config agent.Config) (*keys.Ring, error) {
	files := keys.Files{Identity: config.IdentityKeyFile, WireGuard: map[string]string{}}
	joins := false
	for _, zone := range config.Zones {
		files.WireGuard[zone.Name] = zone.WireGuardKeyFile
		joins = joins || zone.Join != nil
	}
	ring, err := keys.Open(files, joins, rand.Reader)
	if err != nil && !joins {
		return nil, fmt.Errorf("%w\n`apex node init` makes the two keys of a node; a zone with `join` in the configuration makes its own", err)
	}
	return ring, err
}

func newLogger(s cli.Streams, config agent.Config) *slog.Logger {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(config.LogLevel)); err != nil {
		level.Set(slog.LevelInfo)
	}
	handler := &slog.HandlerOptions{Level: level}
	if config.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(s.Err, handler))
	}
	return slog.New(slog.NewTextHandler(s.Err, handler))
}

func run(ctx context.Context, c *cobra.Command, s cli.Streams, o *options) error {
	if !gcChosen() {
		debug.SetGCPercent(agent.GCPercent)
	}
	a, backends, log, err := newAgent(c, s, o)
	if err != nil {
		return err
	}
	log.Info("apex-agent starts", "version", version)
	err = a.Run(ctx)
	log.Info("apex-agent ends; `apex-agent down` would take away what it made")
	return errors.Join(err, backends.Close())
}

func down(ctx context.Context, c *cobra.Command, s cli.Streams, o *options) error {
	config, err := o.config(c.Flags())
	if err != nil {
		return cli.WithCode(cli.Invalid, err)
	}
	switch _, err := status.NewClient(config.Socket).Get(ctx); {
	case err == nil:
		return fmt.Errorf("the agent is running (socket %s): stop it first, or it would bring everything back", config.Socket)
	case !errors.Is(err, status.ErrNoAgent):
		return err
	}
	a, backends, _, err := newAgent(c, s, o)
	if err != nil {
		return err
	}
	reports, err := a.Down(ctx)
	for _, report := range reports {
		for _, change := range report.Changes {
			fmt.Fprintln(s.Out, change)
		}
	}
	return errors.Join(err, backends.Close())
}
