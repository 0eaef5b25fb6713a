// Package jetstream is the durable store.Store: NATS JetStream, embedded in the process without a listener or reached by
// URL, the same code either way. It is apart from the contract so that only the controller links NATS.
package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// SyncInterval is how often the embedded JetStream flushes its files to disk by itself. A power cut may lose writes younger than
// this, but for those that Flush was called after; a crash of the process loses none. That suits what lives here: a lost status is
// reported again, a lost nonce is older than its request may be after a reboot, a serial is written to the generation's own file
// (which is flushed) first, and what enrolment acknowledges it flushes.
const SyncInterval = time.Second

const (
	// startTimeout bounds the start of the embedded server and the first connection to an external one.
	startTimeout = 10 * time.Second
	// requestTimeout bounds one write, and one read whose caller says no end. A stream whose servers have lost their leader, as
	// after a restart of all of them, does not answer at all, and a request that has minutes would wait for minutes.
	requestTimeout = 5 * time.Second
)

// Store is a store.Store in JetStream.
type Store struct {
	embedded *server.Server // nil: external
	flusher  *flusher       // nil: external
	conn     *nats.Conn
	js       jetstream.JetStream
	replicas int
	timeout  time.Duration // of one request

	mu          sync.Mutex
	reconnected chan struct{} // closed at the next reconnect
}

// Options say where JetStream is.
type Options struct {
	// URL of an external cluster, with credentials in CredentialsFile if it wants any. Empty: embedded, with files in Dir.
	URL             string
	CredentialsFile string
	Dir             string
	// Replicas per bucket on an external cluster; 0 means 1.
	Replicas int
	// Timeout bounds one request. Default 5s; tests, whose servers get little of the processor, wait longer.
	Timeout time.Duration
	Logger  *slog.Logger
}

// Open starts or reaches JetStream. The embedded server listens nowhere: it is reached through memory.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{replicas: max(o.Replicas, 1), timeout: cmp.Or(o.Timeout, requestTimeout), reconnected: make(chan struct{})}
	starting := max(startTimeout, s.timeout)
	opts := []nats.Option{
		nats.Name("apex-controller"), nats.MaxReconnects(-1), nats.ReconnectWait(time.Second), nats.Timeout(starting),
		// A write that cannot be sent fails at once: sent later, it would come as a surprise.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { o.Logger.Warn("jetstream", "error", err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				o.Logger.Warn("jetstream disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			o.Logger.Info("jetstream reconnected")
			s.announceReconnect()
		}),
	}
	url := o.URL
	if url == "" {
		if err := s.startEmbedded(o, starting); err != nil {
			return nil, err
		}
		opts = append(opts, nats.InProcessServer(s.embedded))
	} else if o.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredentialsFile))
	}
	if err := s.connect(ctx, url, opts); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) startEmbedded(o Options, limit time.Duration) error {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("jetstream folder: %w", err)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "apex-controller", DontListen: true, JetStream: true, StoreDir: o.Dir, SyncInterval: SyncInterval,
		NoSigs: true, NoLog: true, MaxPayload: 1 << 20, DisableJetStreamBanner: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 4 << 30,
	})
	if err != nil {
		return fmt.Errorf("embedded jetstream: %w", err)
	}
	s.embedded = srv
	srv.Start()
	if !srv.ReadyForConnections(limit) {
		srv.Shutdown()
		return fmt.Errorf("embedded jetstream in %s is not ready after %s: is another controller using the folder, or the disk full?", o.Dir, limit)
	}
	if s.flusher, err = newFlusher(o.Dir); err != nil {
		srv.Shutdown()
		return fmt.Errorf("embedded jetstream in %s: %w", o.Dir, err)
	}
	return nil
}

func (s *Store) connect(ctx context.Context, url string, opts []nats.Option) error {
	conn, err := nats.Connect(url, opts...)
	if err != nil {
		return fmt.Errorf("connect to jetstream at %q: %w", url, err)
	}
	s.conn = conn
	if s.js, err = jetstream.New(conn, jetstream.WithDefaultTimeout(s.timeout)); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	if _, err := s.js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("jetstream at %q: %w (is JetStream enabled for this account?)", url, err)
	}
	return nil
}

// nextReconnect gives a channel that is closed at the next reconnect.
func (s *Store) nextReconnect() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reconnected
}

func (s *Store) announceReconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.reconnected)
	s.reconnected = make(chan struct{})
}

// Conn is the connection, for what replicas say to each other besides what they store.
func (s *Store) Conn() *nats.Conn { return s.conn }

// Flush implements store.Store.
func (s *Store) Flush(ctx context.Context) error {
	if s.flusher == nil {
		return nil
	}
	if err := s.flusher.flush(ctx); err != nil {
		return fmt.Errorf("flush the store to disk: %w", err)
	}
	return nil
}

// Ready implements store.Store.
func (s *Store) Ready() error {
	if !s.conn.IsConnected() {
		return fmt.Errorf("jetstream is %s", s.conn.Status())
	}
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.embedded != nil {
		s.embedded.Shutdown()
		s.embedded.WaitForShutdown()
	}
	return nil
}
