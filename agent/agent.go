package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/resolve"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/reconciler"
)

// Engine is what the agent needs of a reconciler.Engine; its comments say what each method does.
type Engine interface {
	Recover(ctx context.Context) (reconciler.Report, error)
	Apply(ctx context.Context, s reconciler.State, probe reconciler.Probe) (reconciler.Report, error)
	Watch(ctx context.Context, report func(reconciler.Report, error)) error
	Down(ctx context.Context) (reconciler.Report, error)
	Confirmed() (reconciler.State, bool)
	Peers(ctx context.Context) ([]reconciler.PeerStatus, error)
	Counters(ctx context.Context) ([]reconciler.RuleCounter, error)
	Stats() reconciler.Stats
}

// GCPercent is the pace of the garbage collector for a process that is an agent: it trades a little processor time for
// memory, because an agent allocates in bursts (a new generation), is idle otherwise, and shares small boards with other
// work. The command sets it unless GOGC does.
const GCPercent = 25

// Options of an Agent. Config, Keys and NewEngine are required.
type Options struct {
	Config Config // with defaults, valid
	// Version of the program, for status and reports.
	Version string
	// Keys holds the identity key, which proves the node to the controller, and each zone's WireGuard key.
	Keys *keys.Ring
	// NewEngine makes the engine of one zone; reconciler.New with the host's backends in production.
	NewEngine func(reconciler.Options) (Engine, error)
	Lookup    resolve.Lookup   // nil: the host's resolver
	Now       func() time.Time // nil: time.Now
	Logger    *slog.Logger     // nil: discard
	Times     Times
}

// Times are the agent's paces; zero fields take the default.
type Times struct {
	// BackoffMin and BackoffMax bound the pause between attempts to reach a controller. 1 s, 60 s.
	BackoffMin, BackoffMax time.Duration
	// Grace is how long an exchange with a controller may take, apart from what its bytes earn it. 15 s.
	Grace time.Duration
	// ProbeBound is how long a changed host has to reach the controller again. 20 s.
	ProbeBound time.Duration
	// HostMin and HostMax bound the pause between attempts at a change that the host refused. 2 s, 5 min.
	HostMin, HostMax time.Duration
	// Sample is the pause between looks at the peers' handshakes. 30 s, longer with many peers.
	Sample time.Duration
	// Tick is how often ages are judged (Stale, expiries). 15 s.
	Tick time.Duration
	// RootWalk is how often newer trust roots are looked for while nothing else asks for them. 1 h.
	RootWalk time.Duration
	// ReportMin and ReportMax bound the pause between two status reports. 5 s, 5 min.
	ReportMin, ReportMax time.Duration
	// Tidy is how often memory that a change has left behind is given back to the system. 1 min.
	Tidy time.Duration
	// AlarmHold is how long TrustAlarm stays up after the last reason for it. 15 min.
	AlarmHold time.Duration
	// EnrolMin and EnrolMax bound the pause between two attempts to enrol. 5 s, 5 min.
	EnrolMin, EnrolMax time.Duration
	// Patience is how long a controller may not know a node that it has just bound. 2 min.
	Patience time.Duration
	// Farewell bounds the goodbye of an ephemeral node. 5 s.
	Farewell time.Duration
}

func (t Times) withDefaults() Times {
	set := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	set(&t.BackoffMin, time.Second)
	set(&t.BackoffMax, time.Minute)
	set(&t.Grace, 15*time.Second)
	set(&t.ProbeBound, 20*time.Second)
	set(&t.HostMin, 2*time.Second)
	set(&t.HostMax, 5*time.Minute)
	set(&t.Sample, 30*time.Second)
	set(&t.Tick, 15*time.Second)
	set(&t.RootWalk, time.Hour)
	set(&t.ReportMin, 5*time.Second)
	set(&t.ReportMax, 5*time.Minute)
	set(&t.Tidy, time.Minute)
	set(&t.AlarmHold, 15*time.Minute)
	set(&t.EnrolMin, 5*time.Second)
	set(&t.EnrolMax, 5*time.Minute)
	set(&t.Patience, 2*time.Minute)
	set(&t.Farewell, 5*time.Second)
	return t
}

// Agent is the daemon of one host.
type Agent struct {
	opt     Options
	log     *slog.Logger
	started time.Time
	zones   []*zone
}

// New makes an agent. It reads and makes state folders, and touches neither host nor network.
func New(opt Options) (*Agent, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Lookup == nil {
		opt.Lookup = resolve.System()
	}
	opt.Times = opt.Times.withDefaults()
	if opt.Keys == nil {
		return nil, errors.New("agent: no keys")
	}
	a := &Agent{opt: opt, log: opt.Logger, started: opt.Now()}
	spki, err := opt.Config.spkiPin()
	if err != nil {
		return nil, fmt.Errorf("agent: tlsPin: %w", err)
	}
	transport, err := fetch.NewTransport(fetch.TLS{CAFile: opt.Config.CAFile, SPKI: spki})
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	providers, err := fetch.NewTransport(fetch.TLS{CAFile: opt.Config.IssuerCAFile})
	if err != nil {
		return nil, fmt.Errorf("agent: issuerCAFile: %w", err)
	}
	env := environment{transport: transport, oidc: oidcclient.New(providers, "apex-agent/"+opt.Version)}
	for _, config := range opt.Config.Zones {
		z, err := newZone(opt, config, a.started, env)
		if err != nil {
			return nil, fmt.Errorf("agent: zone %s: %w", config.Name, err)
		}
		a.zones = append(a.zones, z)
	}
	return a, nil
}

// environment is what the zones share.
type environment struct {
	transport *http.Transport // to controllers
	oidc      *oidcclient.Client
}

// zoneDir is the state folder of one zone; the engine has its own below it.
func zoneDir(config Config, zone string) string {
	return filepath.Join(config.StateDir, "networks", config.Network, zone)
}

// Run serves all zones until ctx ends, then returns nil. The host is left as it is: see Down. An error means that the
// agent could not begin (state folder, socket or metrics address taken).
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := lockState(a.opt.Config.StateDir)
	if err != nil {
		return err
	}
	defer unlock()
	socket, err := status.Listen(ctx, a.opt.Config.Socket)
	if err != nil {
		return err
	}
	a.warnOfOrphans()
	var metrics net.Listener
	if address := a.opt.Config.Metrics; address != "" {
		var config net.ListenConfig
		if metrics, err = config.Listen(ctx, "tcp", address); err != nil {
			socket.Close()
			return fmt.Errorf("metrics: %w", err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	failed := make(chan error, 2)
	mux := http.NewServeMux()
	status.Handle(mux, func() status.Status { return a.Status(ctx) }, a.log)
	control.Handle(mux, controls{a})
	group.Go(func() { failed <- status.Serve(ctx, socket, mux, a.log) })
	if metrics != nil {
		group.Go(func() { failed <- a.serveMetrics(ctx, metrics) })
	}
	for _, z := range a.zones {
		group.Go(func() { z.run(ctx) })
	}
	group.Go(func() { a.tidyLoop(ctx) })
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	cancel()
	group.Wait()
	return err
}

// warnOfOrphans names the zones that stand on this host but not in the configuration any more: nobody takes peers or rules
// out of them.
func (a *Agent) warnOfOrphans() {
	mine := map[string]bool{}
	for _, z := range a.zones {
		mine[zoneDir(a.opt.Config, z.name)] = true
	}
	dirs, _ := filepath.Glob(zoneDir(Config{StateDir: a.opt.Config.StateDir, Network: "*"}, "*")) // the pattern is well formed
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, appliedRecord+".json")); err != nil || mine[dir] {
			continue
		}
		zone, network := filepath.Base(dir), filepath.Base(filepath.Dir(dir))
		a.log.Error("a zone is in force on this host but no longer configured: it is frozen, and nothing that is withdrawn from it goes away; "+
			"configure it again, or stop the agent and run `apex-agent down --zone "+zone+"`", "network", network, "zone", zone)
	}
}

// tidyLoop gives memory back to the system once a change is over: assembling a large map takes several times what the
// agent keeps of it. It runs apart from the change, so that it delays none.
func (a *Agent) tidyLoop(ctx context.Context) {
	var seen uint64
	for sleep(ctx, a.opt.Times.Tidy) {
		var sum uint64
		for _, z := range a.zones {
			z.standing.count(func(c *status.Counters) { sum += c.Applied + c.RolledBack })
		}
		if sum != seen {
			seen = sum
			debug.FreeOSMemory()
		}
	}
}

// Down removes everything of ours from the host, zone by zone, and nothing else. The agent must not be running. Trust
// and artefacts stay in the cache: what has been seen must not be forgotten.
func (a *Agent) Down(ctx context.Context) ([]reconciler.Report, error) {
	unlock, err := lockState(a.opt.Config.StateDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var reports []reconciler.Report
	var all []error
	for _, z := range a.zones {
		report, err := z.engine.Down(ctx)
		if err == nil {
			err = z.store.Remove(appliedRecord)
		}
		if err != nil {
			all = append(all, fmt.Errorf("zone %s: %w", z.name, err))
		}
		reports = append(reports, report)
	}
	return reports, errors.Join(all...)
}

// Status takes a copy of what the agent knows of itself.
func (a *Agent) Status(ctx context.Context) status.Status {
	now := a.opt.Now()
	out := status.Status{
		Version: a.opt.Version, Network: a.opt.Config.Network, Node: a.opt.Config.Node,
		Started: a.started.UTC(), Taken: now.UTC(), Zones: []status.Zone{},
	}
	for _, z := range a.zones {
		out.Zones = append(out.Zones, z.status(ctx, now))
	}
	return out
}

// serveMetrics answers GET /metrics until ctx ends.
func (a *Agent) serveMetrics(ctx context.Context, listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if err := a.writeMetrics(r.Context(), w); err != nil {
			a.log.Debug("metrics reader went away", "error", err)
		}
	})
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}
