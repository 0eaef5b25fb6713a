package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/backup"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
)

const configUse = "configuration file of the controller, YAML"

func newBackup(s cli.Streams) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "backup --config FILE TARGET",
		Short: "Copy the controller's run-time state into one file",
		Long: `Copy the controller's run-time state (bindings with their evidence, used tokens, serials, status) into the file TARGET.

A running controller is asked over its admin socket (listen.admin). If none answers there, the storage folder or the NATS
cluster of the configuration is read. The file is a secret, mode 0600: it holds the tokens that nodes enrolled with. Keys
and configuration are not in it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := load(path)
			if err != nil {
				return err
			}
			snapshot, err := copyStore(cmd.Context(), cfg, newLogger(s.Err, cfg.Log.Format, slog.LevelError))
			if err != nil {
				return err
			}
			if err := writeBackup(args[0], snapshot); err != nil {
				return err
			}
			if snapshot.Moving {
				if _, err := fmt.Fprintln(s.Err, "nodes enrolled all the time: the copy is of more than one moment"); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(s.Err, "%d values in %d buckets\n", snapshot.Keys(), len(snapshot.Buckets))
			return err
		},
	}
	cmd.Flags().StringVar(&path, "config", "", configUse)
	return cmd
}

func load(path string) (*config.Config, error) {
	if path == "" {
		return nil, cli.WithCode(cli.Invalid, errors.New("--config is missing: name the configuration file"))
	}
	cfg, err := config.Load(path)
	if err != nil {
		return nil, cli.WithCode(cli.Invalid, err)
	}
	return cfg, nil
}

// copyStore asks the running controller, or reads the store itself.
func copyStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (*backup.Snapshot, error) {
	if cfg.Listen.Admin != "" {
		snapshot, err := askForBackup(ctx, cfg.Listen.Admin)
		if !errors.Is(err, controller.ErrNotRunning) {
			return snapshot, err
		}
	}
	st, closeStore, err := controller.OpenStore(ctx, cfg, log)
	if err != nil {
		return nil, fmt.Errorf("%w; a running controller gives a backup over its admin socket: set listen.admin", err)
	}
	snapshot, err := backup.Take(ctx, st, version, time.Now())
	return snapshot, errors.Join(err, closeStore())
}

func askForBackup(ctx context.Context, socket string) (_ *backup.Snapshot, err error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+controller.BackupPath, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", controller.ErrNotRunning, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		return nil, protocol.ReadProblem(resp)
	}
	return backup.Read(resp.Body)
}

// writeBackup makes the file whole or not at all, and readable to its owner only.
func writeBackup(path string, snapshot *backup.Snapshot) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write backup: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	if err := errors.Join(snapshot.Write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func newRestore(s cli.Streams) *cobra.Command {
	var path string
	var force bool
	cmd := &cobra.Command{
		Use:   "restore --config FILE SOURCE",
		Short: "Bring a backup back into the store of a controller that does not run",
		Long: `Bring the backup SOURCE back into the storage folder or the NATS cluster of the configuration. No controller may run on it.

Serials go on far above those of the backup, so that no agent takes what is published next for a rollback. Nodes that
enrolled after the backup have to enrol again; nodes whose keys stand in git notice nothing.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := load(path)
			if err != nil {
				return err
			}
			snapshot, err := readBackup(args[0])
			if err != nil {
				return cli.WithCode(cli.Invalid, fmt.Errorf("%s: %w", args[0], err))
			}
			st, closeStore, err := controller.OpenStore(cmd.Context(), cfg, newLogger(s.Err, cfg.Log.Format, slog.LevelError))
			if err != nil {
				return err
			}
			err = errors.Join(backup.Restore(cmd.Context(), st, snapshot, force), closeStore())
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			_, err = fmt.Fprintf(s.Err, "%d values of %s are back\n", snapshot.Keys(), snapshot.Created.Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().StringVar(&path, "config", "", configUse)
	cmd.Flags().BoolVar(&force, "force", false, "replace what the store holds")
	return cmd
}

func readBackup(path string) (_ *backup.Snapshot, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return backup.Read(io.Reader(f))
}
