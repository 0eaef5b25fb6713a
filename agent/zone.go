package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/apex-network/apex/agent/cache"
	"github.com/apex-network/apex/agent/enrol"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/resolve"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// Cache records besides follow.Record: the generation the host was last confirmed in, the generation that was undone,
// and the last good answers of the resolver.
const (
	appliedRecord    = "applied"
	quarantineRecord = "quarantine"
	endpointsRecord  = "endpoints"
)

// zone serves one zone. Its goroutines, and what flows between them:
//
//	network ──offered──▶ host ◀──moved── resolver ◀── sample (handshakes)
//	   │                  ▲ │
//	   │          engine.Watch (drift)          every one of them ──▶ standing ──changed──▶ reporter
//	   └── follow.Follower ─┘
//
// The network loop alone verifies and stores; the host loop alone changes the host. Between them stands only what is
// trusted (follow.Trusted): the host loop takes the newest, however many came while it was busy.
type zone struct {
	opt   Options
	name  string
	iface string
	log   *slog.Logger
	now   func() time.Time

	client   *fetch.Client
	store    *cache.Store
	engine   Engine
	follower *follow.Follower
	resolver *resolve.Resolver
	member   *enrol.Member

	offered chan struct{} // something newer is trusted, or a controller was reached
	moved   chan struct{} // an endpoint has another address
	changed chan struct{} // there is something to report
	hurry   chan struct{} // the controller may know this node now
	booted  chan struct{} // closed once the host had its chance to be what it was

	standing standing
	holding  holding
	using    sync.Mutex // held while it is found out, and told to the ring, whether the zone uses keys
	trial    trial      // the host loop's own
}

func newZone(opt Options, config ZoneConfig, now time.Time, env environment) (*zone, error) {
	pin, err := opt.Config.Pin()
	if err != nil {
		return nil, fmt.Errorf("rootDigest: %w", err)
	}
	if key := opt.Keys.Current(config.Name); key.WireGuard.IsZero() || key.Identity.IsZero() {
		return nil, fmt.Errorf("a key is missing")
	}
	z := &zone{
		opt: opt, name: config.Name, iface: config.Interface, now: opt.Now,
		log:     opt.Logger.With("zone", config.Name),
		offered: make(chan struct{}, 1), moved: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		hurry: make(chan struct{}, 1), booted: make(chan struct{}),
	}
	z.standing.begin(now)
	z.trial.pause = newBackoff(opt.Times.HostMin, opt.Times.HostMax)
	dir := zoneDir(opt.Config, config.Name)
	if z.store, err = cache.Open(dir); err != nil {
		return nil, err
	}
	z.client, err = fetch.New(fetch.Options{
		Controllers: opt.Config.Controllers, Network: opt.Config.Network, Zone: config.Name, Node: opt.Config.Node,
		Identity: z.identity, Transport: env.transport.Clone(), Now: opt.Now, UserAgent: "apex-agent/" + opt.Version,
		Grace: opt.Times.Grace,
	})
	if err != nil {
		return nil, err
	}
	z.follower = follow.New(follow.Options{
		Network: opt.Config.Network, Zone: config.Name, Node: opt.Config.Node, Pin: pin,
		Source: z.client, Cache: z.store, Now: opt.Now, Logger: z.log,
	})
	z.resolver = resolve.New(opt.Lookup, opt.Now)
	z.member = enrol.New(z.enrolOptions(config, env))
	hostDir, err := filepath.Abs(filepath.Join(dir, "host"))
	if err != nil {
		return nil, err
	}
	z.engine, err = opt.NewEngine(reconciler.Options{
		Owner: opt.Config.Network + "/" + config.Name, Interface: config.Interface, StateDir: hostDir, PrivateKey: z.privateKey,
		Logger: z.log, Now: opt.Now,
	})
	return z, err
}

// privateKey gives the zone's keys to the engine, which stores none.
func (z *zone) privateKey(public reconciler.Key) (reconciler.PrivateKey, bool) {
	pair, ok := z.opt.Keys.Find(z.name, peermap.Key(public))
	return pair.WireGuard, ok
}

// run serves the zone until ctx ends.
func (z *zone) run(ctx context.Context) {
	z.restore()
	var group sync.WaitGroup
	group.Go(func() { z.hostLoop(ctx) })
	select {
	case <-z.booted:
	case <-ctx.Done():
	}
	z.noteUse()
	group.Go(func() { z.networkLoop(ctx) })
	group.Go(func() { z.resolver.Run(ctx, z.endpointsChanged) })
	group.Go(func() { z.sampleLoop(ctx) })
	group.Go(func() { z.reportLoop(ctx) })
	group.Go(func() { z.tickLoop(ctx) })
	group.Go(func() { z.member.Run(ctx) })
	group.Wait()
}

// restore takes up what the cache holds. Damage costs a fetch, never a change of the host.
func (z *zone) restore() {
	var endpoints map[string][]netip.Addr
	if ok, err := z.store.Load(endpointsRecord, &endpoints); err != nil {
		z.log.Warn("remembered endpoints are lost", "error", err)
	} else if ok {
		z.resolver.Restore(endpoints)
	}
	if err := z.follower.Load(appliedRecord); err != nil {
		z.log.Error("the cache is damaged; what is missing will be fetched again", "error", err)
		z.standing.set(status.CacheDamaged, true, "Damaged", err.Error(), z.now())
	}
	var q quarantine
	if ok, err := z.store.Load(quarantineRecord, &q); err != nil {
		z.log.Error("the quarantine record is damaged", "error", err)
	} else if ok {
		z.standing.quarantine(&q, z.now())
	}
}

// endpointsChanged is called by the resolver.
func (z *zone) endpointsChanged() {
	if err := z.store.Save(endpointsRecord, z.resolver.Save()); err != nil {
		z.log.Warn("endpoints cannot be remembered", "error", err)
	}
	z.judgeEndpoints()
	poke(z.moved)
}

func (z *zone) judgeEndpoints() {
	unresolved := z.resolver.Unresolved()
	if len(unresolved) == 0 {
		z.clear(status.EndpointUnresolved)
		return
	}
	message := unresolved[0]
	if more := len(unresolved) - 1; more > 0 {
		message += fmt.Sprintf(" and %d more", more)
	}
	z.set(status.EndpointUnresolved, "LookupFailed", message)
}

// tickLoop judges ages.
func (z *zone) tickLoop(ctx context.Context) {
	ticker := time.NewTicker(z.opt.Times.Tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			z.judge()
		}
	}
}

// set raises a condition, clear takes it down; both tell the reporter if that is news.
func (z *zone) set(kind, reason, message string) {
	if z.standing.set(kind, true, reason, message, z.now()) {
		z.log.Warn("condition raised", "condition", kind, "reason", reason, "message", message)
		poke(z.changed)
	}
	z.judge()
}

func (z *zone) clear(kind string) {
	if z.standing.set(kind, false, "", "", z.now()) {
		z.log.Info("condition cleared", "condition", kind)
		poke(z.changed)
	}
	z.judge()
}

// judge works out what follows from ages and from the other conditions.
func (z *zone) judge() {
	if z.standing.judge(z.follower.Current(), z.member.Snapshot(), z.opt.Times.AlarmHold, z.now()) {
		poke(z.changed)
	}
}

// generation describes what is trusted for people.
func generation(t follow.Trusted, since time.Time) *status.Generation {
	if !t.Complete() {
		return nil
	}
	m, _ := t.State.Manifest()
	return &status.Generation{
		Epoch: m.Epoch, Serial: m.Serial, Commit: m.Commit, Manifest: t.State.ManifestDigest().String(),
		View: t.View.String(), Since: since.UTC(),
	}
}

// quarantine is a generation that was applied and undone.
type quarantine struct {
	View   peermap.Digest `json:"view"`
	Serial uint64         `json:"serial"`
	Reason string         `json:"reason"`
	Since  time.Time      `json:"since"`
}

// poke wakes the reader of a one-slot channel.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
