package controller

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/controller/serve"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// network is one network's loop. Its parts run side by side and fail apart:
//
//	follow     poll, poke, apply ──▶ fetch ──▶ sync (sync.go) ──▶ publisher
//	           enrolments, the ends of rules and bindings ──▶ recompile (bindings.go) ──▶ publisher
//	maintain   timestamps and manifests before they expire
//	tidy       the status of nodes that are gone
//
// What it serves comes from the publisher alone, so a loop that is stuck or failing takes nothing from the agents.
type network struct {
	cfg       config.Network
	log       *slog.Logger
	now       func() time.Time
	src       build.Source
	builder   *build.Builder
	bindings  build.Bindings // nil: nobody enrols here
	records   serve.Records
	enrolment *enrol.Service // nil: it has no enrolment key
	verifier  *tokens.OIDC   // of ID tokens
	publisher *publish.Publisher
	replica   *replica // nil: this controller is alone
	metrics   *metrics
	statePath string
	// forget deletes the status of nodes that are not published.
	forget func(context.Context) error
	// secret is the webhook's; secrets is the digest of all secret files as they were read.
	secret  []byte
	secrets [sha256.Size]byte

	poke    chan struct{}
	changed chan struct{} // the bindings are not what they were
	wake    chan struct{} // something was published: the time of the next renewal has to be found anew
	orders  chan order
	began   chan struct{} // the first commit of this leadership is published
	done    chan struct{} // closed when run ends

	// published is what enrolments are judged by; nil until a commit was compiled in this process.
	published atomic.Pointer[accepted]

	mu      sync.RWMutex // guards what people ask about
	state   *state
	head    string
	fetched time.Time
	fetch   error
	refused *protocol.Refusal
	left    []protocol.RejectedBinding // bindings that are no members
	// followed is the commit that the leader accepted, as far as a follower knows.
	followed string

	// What only the following goroutine touches.
	current  *accepted // what recompiles start from
	compiled string    // the commit that was published last in this process
	unkept   bool      // state is not written down yet
	judged   string    // the head that was refused for good
	expiry   time.Time // when the first rule or binding ends that was compiled last
	seen     uint64    // version of the bindings that were compiled last
	batch    batch
	stuck    string // why the last recompile failed
	// unwitnessed are bindings that witnesses do not sign (yet).
	unwitnessed unwitnessed
}

// accepted is a commit that was verified, loaded and tested, with what publishing it needs.
type accepted struct {
	loaded   *build.Loaded
	root     *signer.Root
	frontier verify.Frontier
	chain    [][]byte
	allowed  []string // zones that may shrink
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
		poke: make(chan struct{}, 1), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), orders: make(chan order), began: make(chan struct{}, 1), done: make(chan struct{}),
		batch: batch{window: batchWindow},
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
	if c.opts.Bindings != nil {
		n.bindings, n.records = c.opts.Bindings(cfg.Name, func() { nudge(n.changed) })
	}
	keys, err := loadKeys(cfg.Keys)
	if err != nil {
		return fail(err)
	}
	if n.secret, err = readSecret(cfg.WebhookSecretFile); err != nil {
		return fail(err)
	}
	n.secrets = digestFiles(cfg.Files())
	if n.verifier, err = tokens.New(tokens.Options{CAFile: cfg.IssuerCAFile, Now: c.now, Logger: n.log}); err != nil {
		return fail(err)
	}
	ledger, err := c.store.Bucket(ctx, publish.LedgerBucket())
	if err != nil {
		return fail(err)
	}
	var share *publish.Share
	if n.replica, share, err = c.joinCluster(ctx, cfg.Name, n.log); err != nil {
		return fail(err)
	}
	n.publisher, err = publish.Open(publish.Options{
		Network: cfg.Name, Dir: filepath.Join(dir, "zones"), Keep: cfg.KeepGenerations, Keys: keys, Ledger: ledger, Share: share,
		Now: c.now, Logger: n.log,
	}, root)
	if err != nil {
		return fail(err)
	}
	if n.src, err = c.open(cfg, filepath.Join(dir, "clone"), n.log); err != nil {
		return fail(err)
	}
	n.builder = build.New(n.src, cfg.Name, cfg.TrustRoot)
	if err := c.openEnrolment(ctx, n, cfg); err != nil {
		return fail(errors.Join(err, n.src.Close()))
	}
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

func digestFiles(files []string) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range files {
		data, err := os.ReadFile(f)
		fmt.Fprintf(h, "%s %x %t\n", f, sha256.Sum256(data), err == nil)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// secretsChanged reports whether a file was replaced since the start.
func (n *network) secretsChanged() bool { return digestFiles(n.cfg.Files()) != n.secrets }

// run works until ctx ends.
func (n *network) run(ctx context.Context) {
	defer close(n.done)
	if n.enrolment != nil {
		ctx, stop := context.WithCancel(ctx)
		var side sync.WaitGroup
		side.Go(func() { n.enrolment.Run(ctx) })
		defer side.Wait()
		defer stop()
	}
	if n.replica != nil {
		n.runReplica(ctx)
	} else {
		n.lead(ctx)
	}
	if err := n.src.Close(); err != nil {
		n.log.Warn("clone not closed", "error", err)
	}
}

// lead judges, signs and publishes until ctx ends.
func (n *network) lead(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { n.maintain(ctx) })
	parts.Go(func() { n.follow(ctx) })
	parts.Go(func() { n.tidy(ctx) })
	parts.Wait()
}

// tidyInterval is how long the status of a node that is gone stays. Members may come and go under new names all day.
const tidyInterval = time.Minute

// tidy forgets nodes that are gone, once it is known in this leadership which are not.
func (n *network) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.began:
		case <-tick.C:
		}
		if n.published.Load() == nil {
			continue
		}
		if err := n.forget(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("the status of nodes that are gone stays in the store for now", "error", err)
		}
	}
}

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
func (n *network) Poke() {
	if n.leads() {
		nudge(n.poke)
	} else {
		n.askLeader()
	}
}

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
	ended := n.ended()
	select {
	case n.orders <- o:
	case <-n.done:
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeShuttingDown, "the network is being restarted")
	case <-ended:
		return notLeading()
	case <-ctx.Done():
		return applyTimedOut()
	}
	select {
	case err := <-o.done:
		return err
	case <-n.done:
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeShuttingDown, "the network is being restarted")
	case <-ended:
		return notLeading()
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
	case n.refused != nil && n.refused.Final && n.refused.Commit == commit: // whatever became of the commit that stays
		return protocol.NewProblem(http.StatusUnprocessableEntity, protocol.CodeRefused, n.refused.Stage+": "+n.refused.Reason)
	case err != nil && (refusal == nil || !refusal.Final):
		// Nothing is wrong with the commit: it is tried again, here or by the replica that leads now.
		return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "the commit cannot be published at the moment: "+err.Error()).RetryIn(5 * time.Second)
	case n.refused != nil:
		return protocol.NewProblem(http.StatusUnprocessableEntity, protocol.CodeRefused, n.refused.Stage+": "+n.refused.Reason)
	case err != nil:
		return protocol.NewProblem(http.StatusUnprocessableEntity, protocol.CodeRefused, err.Error())
	}
	return nil
}

// notLeading is the answer to an apply whose leadership ended.
func notLeading() error {
	return protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "another replica of the controller leads now: try again").RetryIn(time.Second)
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
	f.Rejected = n.left[:min(len(n.left), maxRejected)]
	if n.enrolment != nil {
		f.Waiting = n.enrolment.CountWaiting()
	}
	n.describeReplica(f)
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
