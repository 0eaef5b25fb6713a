// Package witness is the second party of a manifest threshold: from its own clone and its own clock it arrives at each
// generation that a controller wants to publish, and signs only if not a byte differs.
//
// It promises that a stolen controller, with all of its keys, gets no signature for anything but what maintainers signed
// into the branch: not for another content, an older commit, a commit beside the branch, a rule that has ended, or a
// zone emptied without the signed word that this is meant. It takes from the controller a commit, an instant and numbers,
// and checks each; it needs no open port.
package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Config is what a witness needs.
type Config struct {
	Network string
	// TrustRoot is the digest of the first trust root.
	TrustRoot peermap.Digest
	// Remote is where the witness clones from: preferably not through the controller's credentials.
	Remote gitsource.Remote
	// Dir holds the clone and what was signed last.
	Dir string
	// Controller is the base URL, such as https://controller.example:8443. Client carries its certificate authorities.
	Controller *url.URL
	Client     *http.Client
	// Key is listed under witnesses in the trust root. With Identity it is not used.
	Key signer.PrivateKey
	// Identity, if set, is a CI job's, that witnesses with ID tokens.
	Identity *Identity
	// Once ends the run when everything that waited was judged, or nothing waited for Wait. A CI job does so.
	Once   bool
	Logger *slog.Logger
	// Now and Source replace the clock and git in tests.
	Now    func() time.Time
	Source build.Source
	// Recheck judges the evidence of bindings; nil: generations with bindings that are new are refused.
	Recheck Recheck
	// Patience is how long the provider of one issuer may take over all new bindings of a generation; 0: 15 s.
	Patience time.Duration
	// Wait is how long one question to the controller waits for something to sign; 0: protocol.MaxPendingWait.
	Wait time.Duration
}

// Pauses after a failure to reach the controller.
const (
	firstPause = time.Second
	maxPause   = 30 * time.Second
	// inquiryPause is how often to look for other generations while evidence is being judged.
	inquiryPause = time.Second
)

// ErrRefused says that a run with Once ended with a generation that it would not sign; the text says why.
var ErrRefused = errors.New("generation not signed")

// Run asks, judges and signs until ctx ends. It fails only if it cannot begin. With Once it fails also with ErrRefused, and
// with the newest failure if ctx ends before everything was judged.
func Run(ctx context.Context, cfg Config) error {
	w, err := open(cfg)
	if err != nil {
		return err
	}
	defer w.close()
	defer w.running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.log.Info("witness", "network", cfg.Network, "controller", cfg.Controller.String(), "key", w.hand.id())
	pause := firstPause
	for ctx.Err() == nil {
		inquiring, err := w.round(ctx)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			pause = firstPause
			if inquiring {
				w.rest(ctx)
			} else if cfg.Once {
				return w.refused
			}
			continue
		}
		w.failure = err
		w.log.Warn("not witnessed", "error", err, "again", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	if cfg.Once {
		return errors.Join(w.refused, w.failure, context.Cause(ctx))
	}
	return nil
}

// round asks what waits and judges it. inquiring says that evidence is being judged in the background.
func (w *witness) round(ctx context.Context) (inquiring bool, err error) {
	list, err := w.pending(ctx)
	for _, p := range list {
		switch e := w.handle(ctx, p); {
		case errors.Is(e, errInquiring):
			inquiring = true
		case e != nil:
			err = errors.Join(err, fmt.Errorf("zone %s: %w", p.Zone, e))
		}
	}
	return inquiring, err
}

// rest waits until evidence was judged, or it is time to look whether something else waits.
func (w *witness) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-w.heard:
	case <-time.After(inquiryPause):
	}
}

type witness struct {
	Config
	log     *slog.Logger
	hand    hand
	builder *build.Builder
	state   *state
	memory  *memory
	// refused joins what was not signed, failure is the newest one of another kind: what a run with Once ends with.
	refused, failure error

	inquiries map[string]*inquiry // by zone
	running   sync.WaitGroup
	heard     chan struct{} // an inquiry is done
}

func open(cfg Config) (*witness, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Client == nil {
		cfg.Client = http.DefaultClient
	}
	if cfg.Patience == 0 {
		cfg.Patience = recheckTimeout
	}
	if cfg.Wait == 0 {
		cfg.Wait = protocol.MaxPendingWait
	}
	w := &witness{Config: cfg, log: cfg.Logger, hand: cfg.hand(), inquiries: map[string]*inquiry{}, heard: make(chan struct{}, 1)}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("witness folder: %w", err)
	}
	var err error
	if w.state, err = loadState(filepath.Join(cfg.Dir, "state.json")); err != nil {
		return nil, err
	}
	if w.memory, err = openMemory(filepath.Join(cfg.Dir, "judged")); err != nil {
		return nil, err
	}
	if w.Source == nil {
		if w.Source, err = gitsource.Open(filepath.Join(cfg.Dir, "clone"), cfg.Remote, gitsource.Options{Logger: w.log}); err != nil {
			return nil, err
		}
	}
	w.builder = build.New(w.Source, cfg.Network, cfg.TrustRoot)
	return w, nil
}

func (w *witness) close() {
	if err := w.Source.Close(); err != nil {
		w.log.Warn("clone not closed", "error", err)
	}
}

// handle judges one pending generation and says so. The error is for what may go away by itself.
func (w *witness) handle(ctx context.Context, p protocol.Pending) error {
	verdict := protocol.Cosign{Zone: p.Zone, Digest: p.Digest, KeyID: w.hand.id()}
	signed, err := w.judged(ctx, p)
	var no *refusal
	var later *postponed
	switch {
	case errors.As(err, &later):
		w.failure = err
		w.log.Warn("not signed yet", "zone", p.Zone, "manifest", p.Digest.String(), "reason", later)
		verdict.Refusal, verdict.Later = clip(later.Error(), protocol.MaxMessage), true
		verdict.Bindings = later.bindings[:min(len(later.bindings), protocol.MaxCosignBindings)]
		return errors.Join(errInquiring, w.answer(ctx, verdict))
	case errors.As(err, &no):
		verdict.Refusal = clip(no.Error(), protocol.MaxMessage)
		verdict.Bindings = no.bindings[:min(len(no.bindings), protocol.MaxCosignBindings)]
		w.log.Error("refused to sign", "zone", p.Zone, "manifest", p.Digest.String(), "reason", verdict.Refusal)
		if w.Once {
			w.refused = errors.Join(w.refused, fmt.Errorf("%w: zone %s: %w", ErrRefused, p.Zone, no))
		}
	case err != nil:
		return err
	default:
		// What was signed is on disk before anybody gets it, so that nothing older is ever signed after it.
		if err := w.state.save(p.Zone, signed); err != nil {
			return err
		}
		if err := w.memory.forget(p.Zone, signed.bindings()); err != nil {
			w.log.Warn("bindings that left are not forgotten", "zone", p.Zone, "error", err)
		}
		if verdict.Signature, err = w.hand.sign(ctx, p); err != nil {
			return err
		}
		w.log.Info("signed", "zone", p.Zone, "manifest", p.Digest.String(), "commit", signed.Frontier.Commit, "serial", signed.Serial)
	}
	return w.answer(ctx, verdict)
}

// judged is judge, but for the very manifest that was signed last: its signature never arrived, for the token, the network or
// the controller failed, and is given again.
func (w *witness) judged(ctx context.Context, p protocol.Pending) (*signed, error) {
	if last := w.state.zone(p.Zone); last != nil && last.Manifest == peermap.DigestOf(p.Manifest).String() &&
		peermap.DigestOf(p.Manifest) == p.Digest {
		return last, nil
	}
	return w.judge(ctx, p)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n]
}

// refusal is a verdict against a generation, as opposed to a failure to reach one.
type refusal struct {
	err error
	// bindings are those without which there would be none.
	bindings []peermap.Digest
}

func (r *refusal) Error() string { return r.err.Error() }

// Unwrap gives the cause.
func (r *refusal) Unwrap() error { return r.err }

func refusef(format string, args ...any) error { return &refusal{err: fmt.Errorf(format, args...)} }

// refuseBinding is refusef over one binding.
func refuseBinding(d peermap.Digest, format string, args ...any) error {
	return &refusal{fmt.Errorf(format, args...), []peermap.Digest{d}}
}

// postponed says which bindings cannot be judged now.
type postponed struct {
	err      error
	bindings []peermap.Digest
}

func (p *postponed) Error() string { return p.err.Error() }

// Unwrap gives the cause.
func (p *postponed) Unwrap() error { return p.err }

// refuseFinal makes a refusal of what the builder found wrong with the commit itself.
func refuseFinal(err error) error {
	var r *build.Refusal
	if errors.As(err, &r) && r.Final {
		return &refusal{err: err}
	}
	return err
}

// frontierOf gives where verification of a zone starts: at what was signed last for it.
func (s *signed) frontierOf() verify.Frontier {
	if s == nil {
		return verify.Frontier{}
	}
	return s.Frontier
}
