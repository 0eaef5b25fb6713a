package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/apex-network/apex/controller/backup"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
	"github.com/apex-network/apex/internal/protocol"
)

// BackupPath is where the admin socket gives a backup of the store.
const BackupPath = "/v1/backup"

// TypeBackup is its media type.
const TypeBackup = "application/vnd.apex.backup+zstd"

// backupTimeout bounds the whole answer.
const backupTimeout = 10 * time.Minute

// adminHandler answers on the Unix socket, whose file mode is the authentication.
func (c *Controller) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", c.server.AdminHandler())
	mux.HandleFunc("GET "+BackupPath, c.giveBackup)
	return mux
}

// giveBackup copies the store before it writes the first byte, so that a failure is an answer and not half a file.
func (c *Controller) giveBackup(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), backupTimeout)
	defer cancel()
	snapshot, err := backup.Take(ctx, c.store, c.opts.Version, c.now())
	if err != nil {
		protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, err.Error()).Write(w)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(backupTimeout)) // test writers have none
	w.Header().Set("Content-Type", TypeBackup)
	w.Header().Set("Cache-Control", "no-store")
	if err := snapshot.Write(w); err != nil {
		c.log.Warn("backup not sent whole", "error", err)
	}
}

// OpenStore opens the store of cfg for work beside or instead of a controller. Where the store is in the storage folder, it
// fails while a controller runs. close ends it.
func OpenStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (s store.Store, closeStore func() error, err error) {
	unlock := func() {}
	if cfg.NATS.URL == "" {
		if err := os.MkdirAll(cfg.Storage, 0o700); err != nil {
			return nil, nil, fmt.Errorf("storage: %w", err)
		}
		if unlock, err = lockFolder(filepath.Join(cfg.Storage, "lock")); err != nil {
			return nil, nil, err
		}
	}
	opened, err := openStore(ctx, cfg, log)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return opened, func() error {
		err := opened.Close()
		unlock()
		return err
	}, nil
}

func openStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (*jetstream.Store, error) {
	return jetstream.Open(ctx, jetstream.Options{
		URL: cfg.NATS.URL, CredentialsFile: cfg.NATS.CredentialsFile, Replicas: cfg.NATS.Replicas,
		Dir: filepath.Join(cfg.Storage, "jetstream"), Logger: log,
	})
}

// ErrNotRunning says that no controller answers on the admin socket.
var ErrNotRunning = errors.New("no controller answers on the admin socket")
