package controller

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// network is one network's loop. Its parts run side by side and fail apart:
//
//	follow     poll, poke, apply, rule expiry ──▶ sync (sync.go) ──▶ publisher
//	maintain   timestamps and manifests before they expire
//
// What it serves comes from the publisher alone, so a loop that is stuck or failing takes nothing from the agents.
type network struct {
	cfg       config.Network
	log       *slog.Logger
	now       func() time.Time
	src       build.Source
	builder   *build.Builder
	publisher *publish.Publisher
	metrics   *metrics
	statePath string
	// secret is the webhook's; secrets is the digest of all secret files as they were read.
	secret  []byte
	secrets [sha256.Size]byte

	poke   chan struct{}
	wake   chan struct{} // something was published: the time of the next renewal has to be found anew
	orders chan order
	done   chan struct{} // closed when run ends

	mu      sync.RWMutex // guards what people ask about
	state   *state
	head    string
	fetched time.Time
	fetch   error
	refused *protocol.Refusal

	// What only the following goroutine touches.
	compiled string // the commit that was compiled last in this process
	judged   string // the head that was refused for good
	expiry   time.Time
}

// order is an apply that waits for its outcome.
type order struct {
	commit string
	done   chan error
}

// openNetwork reads what is on disk; after it the last generations can be served.
func (c *Controller) openNetwork(ctx context.Context, cfg config.Network) (_ *network, err error) {
	dir := filepath.Join(c.cfg.Storage, "networks", cfg.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("network %s: %w", cfg.Name, err)
	}
	n := &network{
		cfg: cfg, log: c.log.With("network", cfg.Name), now: c.now, metrics: c.metrics, statePath: filepath.Join(dir, "state.json"),
		poke: make(chan struct{}, 1), wake: make(chan struct{}, 1), orders: make(chan order), done: make(chan struct{}),
	}
	fail := func(err error) (*network, error) { return nil, fmt.Errorf("network %s: %w", cfg.Name, err) }
	if n.state, err = loadState(n.statePath); err != nil {
		n.log.Warn("state is lost, git is verified anew", "error", err)
		n.state = &state{}
	}
	root, err := n.state.root(cfg.Name, cfg.TrustRoot)
	if err != nil {
		return fail(fmt.Errorf("%w: %s was written under another trust root; to begin with this one, remove that folder", err, dir))
	}
	keys, err := loadKeys(cfg.Keys)
	if err != nil {
		return fail(err)
	}
	if n.secret, err = readSecret(cfg.WebhookSecretFile); err != nil {
		return fail(err)
	}
	n.secrets = digestFiles(secretFiles(cfg))
	ledger, err := c.store.Bucket(ctx, publish.LedgerBucket())
	if err != nil {
		return fail(err)
	}
	n.publisher, err = publish.Open(publish.Options{
		Network: cfg.Name, Dir: filepath.Join(dir, "zones"), Keep: cfg.KeepGenerations, Keys: keys, Ledger: ledger, Now: c.now, Logger: n.log,
	}, root)
	if err != nil {
		return fail(err)
	}
	if n.src, err = c.open(cfg, filepath.Join(dir, "clone"), n.log); err != nil {
		return fail(err)
	}
	n.builder = build.New(n.src, cfg.Name, cfg.TrustRoot)
	return n, nil
}

func loadKeys(k config.Keys) (publish.Keys, error) {
	var out publish.Keys
	var errs []error
	load := func(files []string) (keys []signer.PrivateKey) {
		for _, f := range files {
			key, err := keyfile.LoadEd25519(f)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			keys = append(keys, key)
		}
		return keys
	}
	out.Manifest, out.Timestamp = load(k.ManifestFiles), load(k.TimestampFiles)
	return out, errors.Join(errs...)
}

// minSecret is the shortest webhook secret that is taken, in bytes.
const minSecret = 16

func readSecret(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	text, err := keyfile.Load(path)
	if err != nil {
		return nil, err
	}
	if text = bytes.TrimSpace(text); len(text) < minSecret {
		return nil, fmt.Errorf("webhook secret %s: %d bytes, want at least %d: make one with `openssl rand -hex 32`", path, len(text), minSecret)
	}
	return text, nil
}

// secretFiles are the files that are read at the start of a network.
func secretFiles(cfg config.Network) []string {
	return slices.Concat([]string{cfg.WebhookSecretFile}, cfg.Keys.ManifestFiles, cfg.Keys.TimestampFiles)
}

func digestFiles(files []string) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range files {
		data, err := os.ReadFile(f)
		fmt.Fprintf(h, "%s %x %t\n", f, sha256.Sum256(data), err == nil)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// secretsChanged reports whether a file was replaced since the start.
func (n *network) secretsChanged() bool { return digestFiles(secretFiles(n.cfg)) != n.secrets }

// run works until ctx ends.
func (n *network) run(ctx context.Context) {
	defer close(n.done)
	var parts sync.WaitGroup
	parts.Go(func() { n.maintain(ctx) })
	parts.Go(func() { n.follow(ctx) })
	parts.Wait()
	if err := n.src.Close(); err != nil {
		n.log.Warn("clone not closed", "error", err)
	}
}

// follow syncs when there is a reason to.
func (n *network) follow(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var o order
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.poke:
		case o = <-n.orders:
		}
		err := n.sync(ctx)
		if o.done != nil {
			o.done <- n.answer(o.commit, err)
		}
		timer.Reset(n.nextLook())
	}
}

// nextLook is the poll interval with its jitter, or the end of a rule if that comes first.
func (n *network) nextLook() time.Duration {
	interval := time.Duration(n.cfg.Poll.Interval)
	if j := *n.cfg.Poll.JitterPercent; j > 0 {
		spread := interval * time.Duration(j) / 100
		interval += rand.N(2*spread+1) - spread
	}
	if !n.expiry.IsZero() {
		left := n.expiry.Sub(n.now()) + time.Millisecond
		if left <= 0 {
			left = overdue
		}
		interval = min(interval, left)
	}
	return interval
}

// overdue is the pause while a rule has ended and what is published still holds it: because the end came during the last
// pass, or because that pass failed (nothing could be signed or stored), which is no reason to spin.
const overdue = time.Second

// maintain keeps signatures fresh.
func (n *network) maintain(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.wake:
		}
		next, err := n.publisher.Maintain(ctx)
		if err != nil {
			n.metrics.signFailures.WithLabelValues(n.cfg.Name).Inc()
			n.log.Error("signatures not renewed; agents go stale when the old ones expire", "error", err)
		}
		timer.Reset(next)
	}
}

// Poke asks for a look soon. Many pokes are one look.
func (n *network) Poke() { nudge(n.poke) }

// nudge wakes whoever waits for c; many nudges are one.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Apply takes commit now, if it is the head of the branch and does.
func (n *network) Apply(ctx context.Context, commit string) error {
	o := order{commit: commit, done: make(chan error, 1)}
	select {
	case n.orders <- o:
	case <-n.done:
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeShuttingDown, "the network is being restarted")
	case <-ctx.Done():
		return applyTimedOut()
	}
	select {
	case err := <-o.done:
		return err
	case <-n.done:
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeShuttingDown, "the network is being restarted")
	case <-ctx.Done():
		return applyTimedOut()
	}
}

func applyTimedOut() error {
	return protocol.NewProblem(http.StatusGatewayTimeout, protocol.CodeTimeout, "the commit is still being worked on; see the status")
}

// answer says what became of an apply.
func (n *network) answer(commit string, err error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	var refusal *build.Refusal
	switch {
	case n.state.Frontier.Commit == commit && err == nil:
		return nil
	case errors.As(err, &refusal) && refusal.Stage == build.StageFetch:
		return protocol.NewProblem(http.StatusBadGateway, protocol.CodeNotReady, "the repository cannot be fetched: "+refusal.Err.Error())
	case n.head != commit:
		return protocol.NewProblem(http.StatusConflict, protocol.CodeNotAncestor,
			fmt.Sprintf("the branch %s is at %s: push the commit first", n.cfg.Repository.Branch, n.head))
	case n.refused != nil:
		return protocol.NewProblem(http.StatusUnprocessableEntity, protocol.CodeRefused, n.refused.Stage+": "+n.refused.Reason)
	case err != nil:
		return protocol.NewProblem(http.StatusUnprocessableEntity, protocol.CodeRefused, err.Error())
	}
	return nil
}

// Describe fills in what the loop knows.
func (n *network) Describe(f *protocol.FleetStatus) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	f.Head, f.Accepted = n.head, n.state.Frontier.Commit
	if !n.fetched.IsZero() {
		f.Fetched = n.fetched.UTC()
	}
	if n.fetch != nil {
		f.FetchError = n.fetch.Error()
	}
	if n.refused != nil {
		r := *n.refused
		f.Refused = &r
	}
}

// roots gives the signed trust root of a version. They count from 1, the pinned one.
func (n *network) roots(version uint64) ([]byte, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if version == 0 || version > uint64(len(n.state.Chain)) {
		return nil, false
	}
	return n.state.Chain[version-1], true
}
