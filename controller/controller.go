// Package controller turns signed commits into what agents are served: it follows the branch of each network, verifies,
// loads, tests, compiles, signs and publishes, and answers agents and people over HTTPS.
//
// It promises that networks do not stand in each other's way; that a commit which cannot be fetched, verified, loaded,
// tested, compiled or signed changes nothing that is served, and that status, metrics and log say which and why; and that
// a restart serves the last generations from disk at once, before it looks at any repository.
//
//	config ──▶ Controller ──▶ network (one loop each) ──▶ publish.Publisher ──▶ serve.Server ──▶ agents
//	             │  follows the file                              ▲
//	             └── store (JetStream) ── serials, nonces, status ┘
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/cluster"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/store"
)

// OpenSource opens the local copy of a network's repository in dir, without touching the remote.
type OpenSource func(n config.Network, dir string, log *slog.Logger) (build.Source, error)

// Options are what a Controller takes besides its configuration. The zero value is ready.
type Options struct {
	// Path is the configuration file to follow; empty: it does not change.
	Path string
	// Version is what status calls the controller.
	Version string
	// Logger and Level: changes of log.level in the configuration are set on Level, if there is one.
	Logger *slog.Logger
	Level  *slog.LevelVar
	// Now, OpenSource and Store replace the clock, git and JetStream in tests. A given Store is not closed.
	Now        func() time.Time
	OpenSource OpenSource
	Store      store.Store
	// Bindings replaces the service that enrols nodes. It gives where a network's bindings come from, and what they rest on;
	// changed is to be called, and does not wait, when the list is another one.
	Bindings func(network string, changed func()) (build.Bindings, serve.Records)
	// Bus makes the controller one of several replicas over a given Store; LeaseTimes are theirs. With nats.url in the
	// configuration, the bus goes over NATS.
	Bus        cluster.Bus
	LeaseTimes cluster.Times
	// Ready, if set, is called once everything listens.
	Ready func(Addresses)
}

// Controller serves any number of networks.
type Controller struct {
	cfg          *config.Config
	opts         Options
	log          *slog.Logger
	now          func() time.Time
	open         OpenSource
	store        store.Store
	replicas     *replicas // nil: this controller is alone
	server       *serve.Server
	metrics      *metrics
	enrolMetrics *enrol.Metrics
	gather       *prometheus.Registry
	tls          *certificate

	mu       sync.RWMutex
	networks map[string]*running
}

// running is a network with the means to stop it.
type running struct {
	*network
	stop context.CancelFunc
}

// New prepares a controller; Run does the work.
func New(cfg *config.Config, opts Options) (*Controller, error) {
	c := &Controller{
		cfg: cfg, opts: opts, log: opts.Logger, now: opts.Now, open: opts.OpenSource, store: opts.Store,
		gather: prometheus.NewRegistry(), networks: map[string]*running{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.open == nil {
		c.open = openGit
	}
	c.gather.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newCollector(c))
	c.metrics, c.enrolMetrics = newMetrics(c.gather), enrol.NewMetrics(c.gather)
	var err error
	c.server, err = serve.New(serve.Options{
		Version: opts.Version, Requests: cfg.Limits.Requests, Notice: c.storeNotice, Now: c.now, Logger: c.log, Metrics: serve.NewMetrics(c.gather),
	})
	if err != nil {
		return nil, err
	}
	c.server.SetHosts(cfg.PublicHosts)
	return c, nil
}

func openGit(n config.Network, dir string, log *slog.Logger) (build.Source, error) {
	r := n.Repository
	return gitsource.Open(dir, gitsource.Remote{
		URL: r.URL, Branch: r.Branch, Username: r.Username, PasswordFile: r.PasswordFile, CAFile: r.CAFile,
		SSHKeyFile: r.SSHKeyFile, SSHKnownHostsFile: r.SSHKnownHostsFile,
	}, gitsource.Options{Logger: log})
}

// Server answers for the controller's networks; tests talk to it without a socket.
func (c *Controller) Server() *serve.Server { return c.server }

// Run works until ctx ends, then stops in order: new requests, watches, loops, store. It fails if the controller cannot
// start; a network that cannot start is logged, and tried again when the configuration changes.
func (c *Controller) Run(ctx context.Context) (err error) {
	if err := os.MkdirAll(c.cfg.Storage, 0o700); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	unlock, err := lockFolder(filepath.Join(c.cfg.Storage, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if c.store == nil {
		s, err := openStore(ctx, c.cfg, c.log)
		if err != nil {
			return err
		}
		c.store = s
		defer func() { err = errors.Join(err, s.Close()) }()
	}
	if err := c.openCluster(); err != nil {
		return err
	}
	if c.tls, err = openCertificate(c.cfg, c.now(), c.log); err != nil {
		return err
	}
	listeners, err := c.listen(ctx)
	if err != nil {
		return err
	}
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer c.stopAll()
	defer stop()
	if started := c.reconcile(loops, c.cfg.Networks); started == 0 {
		return errors.Join(errors.New("no network could be started; see the log"), listeners.close())
	}
	silence, err := c.listenCluster()
	if err != nil {
		return errors.Join(err, listeners.close())
	}
	defer silence()
	serving := listeners.serve(c)
	if c.opts.Ready != nil {
		c.opts.Ready(listeners.addresses)
	}
	var follow sync.WaitGroup
	if c.opts.Path != "" {
		follow.Go(func() {
			config.Watch(ctx, c.opts.Path, c.cfg, c.log, func(next *config.Config) { c.reload(loops, next) })
		})
	}
	select {
	case <-ctx.Done():
	case err = <-serving:
	}
	c.log.Info("shutting down")
	c.server.Close()
	err = errors.Join(err, listeners.shutdown())
	follow.Wait()
	return err
}

// reconcile starts, restarts and stops networks so that they are those of cfg, and gives how many run.
func (c *Controller) reconcile(ctx context.Context, cfg []config.Network) int {
	wanted := map[string]config.Network{}
	for _, n := range cfg {
		wanted[n.Name] = n
	}
	for name, n := range c.snapshot() {
		if next, ok := wanted[name]; !ok || !reflect.DeepEqual(next, n.cfg) || n.secretsChanged() {
			c.stop(name, !ok)
		}
	}
	running := c.snapshot()
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if _, ok := running[name]; ok {
			continue
		}
		if err := c.start(ctx, wanted[name]); err != nil {
			c.log.Error("network not started, the others go on", "error", err)
		}
	}
	return len(c.snapshot())
}

func (c *Controller) snapshot() map[string]*running {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.networks)
}

// running lists the networks by name.
func (c *Controller) running() []*network {
	all := c.snapshot()
	out := make([]*network, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		out = append(out, all[name].network)
	}
	return out
}

func (c *Controller) start(ctx context.Context, cfg config.Network) error {
	n, err := c.openNetwork(ctx, cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	err = c.register(ctx, n)
	if err == nil {
		err = c.shareStatus(ctx, cfg.Name)
	}
	if err != nil {
		stop()
		return errors.Join(fmt.Errorf("network %s: %w", cfg.Name, err), n.src.Close())
	}
	c.mu.Lock()
	c.networks[cfg.Name] = &running{network: n, stop: stop}
	c.mu.Unlock()
	go n.run(ctx)
	return nil
}

// register lets the server answer for n, from disk at first.
func (c *Controller) register(ctx context.Context, n *network) error {
	nonces, err := c.store.Bucket(ctx, serve.NonceBucket())
	if err != nil {
		return err
	}
	status, err := c.store.Bucket(ctx, serve.StatusBucket())
	if err != nil {
		return err
	}
	buckets, err := enrol.OpenBuckets(ctx, c.store)
	if err != nil {
		return err
	}
	n.forget = func(ctx context.Context) error { return c.server.Tidy(ctx, n.cfg.Name) }
	served := serve.Network{
		Name: n.cfg.Name, Publisher: n.publisher, Control: n, Roots: n.roots, Records: n.records, Nonces: nonces, Status: status,
		Verifier: n.verifier, Tokens: buckets.Tokens,
		WebhookSecret: n.secret, Apply: *n.cfg.Apply, Done: ctx.Done(),
	}
	if n.enrolment != nil {
		served.Enrolment = n.enrolment
	}
	return c.server.Set(ctx, served)
}

// stop ends a network's loop and its watches. Unless it is gone for good it stays registered: requests are answered from
// what it last published until its successor takes over.
func (c *Controller) stop(name string, gone bool) {
	c.mu.Lock()
	n := c.networks[name]
	delete(c.networks, name)
	c.mu.Unlock()
	if n == nil {
		return
	}
	if gone {
		c.server.Remove(name)
	}
	n.stop()
	<-n.done
}

func (c *Controller) stopAll() {
	for name := range c.snapshot() {
		c.stop(name, true)
	}
}

// reload takes over what can change while running.
func (c *Controller) reload(ctx context.Context, next *config.Config) {
	updated, all := c.cfg.Reload(next)
	if !all {
		c.log.Warn("some changes of the configuration take effect after a restart only: all but publicHosts, networks, log.level and the TLS files")
	}
	c.server.SetHosts(next.PublicHosts)
	SetLevel(c.opts.Level, next.Log.Level)
	if err := c.tls.reload(next); err != nil {
		c.log.Error("certificate not reloaded, the old one stays", "error", err)
	}
	count := c.reconcile(ctx, next.Networks)
	c.cfg = updated
	c.log.Info("configuration reloaded", "networks", count)
}

// SetLevel sets v to a level of the configuration. A nil v is left alone.
func SetLevel(v *slog.LevelVar, name string) {
	if v == nil {
		return
	}
	var level slog.Level
	if level.UnmarshalText([]byte(name)) == nil {
		v.Set(level)
	}
}
