// Package enrol makes a host a member of a zone by an identity, and keeps it one: it gets a token for the host's keys, asks
// the controller for a binding, checks that the binding is what was asked for, and asks for the next before it runs out.
//
// Promises: it touches neither the host nor what is trusted, so that whatever goes wrong here leaves the last good state in
// force; a binding that the trust root's enrolment key did not sign, or that is for another node, zone or key, is refused;
// what it has is on disk before it counts, and a restart without a network goes on from there; it never asks faster than
// its back-off, whatever the answers; and no token, refresh token or secret is in an error, a log or the status.
//
//	          a source of tokens, or Join
//	unbound ──────────────────────────────▶ enrolling ──── 202 ────▶ waiting (a maintainer decides)
//	   ▲  ▲                                   │  ▲                     │  │ asks again with the same token
//	   │  │      refused: waits, asks again ──┴──┘                     │  └──▶ enrolling (the token ran out)
//	   │  │                                   │ 200                    │ 200
//	   │  │ Leave, or an ephemeral            ▼                        │
//	   │  └─────── node stops ────────────── bound ◀───────────────────┘
//	   │                                      │  ▲
//	   │             two thirds of its life   ▼  │ 200 (also for new keys: Rotate)
//	   │                                   renewing ── nothing works, or only a person can ──▶ expiring
//	   │                                                                                        │  │ notAfter: peers drop
//	   │                                             Join, or a source ▲                        │  ▼ the node by themselves
//	   └── Leave ────────────────────────────────────────── enrolling ─┴──────── 200 ───────────┘ expired
package enrol

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
)

// Controller is what is asked of controllers; *fetch.Client in production, whose errors are expected.
type Controller interface {
	EnrolmentInfo(ctx context.Context) (protocol.EnrolmentInfo, error)
	Enrol(ctx context.Context, identity signer.PrivateKey, req protocol.EnrolRequest) (protocol.EnrolResult, error)
	RotateKeys(ctx context.Context, old, next signer.PrivateKey,
		complete func(proof string) (protocol.RotateRequest, error)) (protocol.EnrolResult, error)
	Leave(ctx context.Context, identity signer.PrivateKey) error
}

// Records keeps small private files; *cache.Store in production.
type Records interface {
	Load(name string, out any) (bool, error)
	Save(name string, v any) error
	Remove(name string) error
}

// Ask is what a host asks for. The rule in git decides.
type Ask struct {
	// Issuer is a name in Network.spec.issuers; empty for the only one.
	Issuer string         `json:"issuer"`
	Routes []netip.Prefix `json:"routes"`
	Relay  bool           `json:"relay"`
}

// Expect is what the configuration says of the issuer. Unless the trust root lists issuers, how to join is the controller's word
// alone, so that a stolen one could name another provider, which then gets secrets, or another client or audience, whose tokens
// are worth something elsewhere. Empty fields expect nothing.
type Expect struct{ URL, Audience, ClientID string }

// Options of a Member. Source may be nil: then only a person can enrol the host.
type Options struct {
	Network, Zone, Node string
	// Configured says that the configuration wants this host enrolled; Ask is what it asks for.
	Configured bool
	Ask        Ask
	Expect     Expect
	// Ephemeral gives the binding back when the agent stops, also where the rule does not say so.
	Ephemeral  bool
	Source     token.Source
	Controller Controller
	Keys       *keys.Ring
	// Root gives the newest trust root that can be had: it is asked before an issuer is believed or a binding is checked.
	Root    func(ctx context.Context) (*signer.Root, error)
	Records Records
	OIDC    *oidcclient.Client
	Now     func() time.Time
	Logger  *slog.Logger
	Times   Times
	// Changed is called, from any goroutine, when the Snapshot is another one; Bound when a binding came that changes what
	// the network knows of this host.
	Changed func()
	Bound   func()
}

// Times are the paces.
type Times struct {
	// RetryMin and RetryMax bound the pause between two attempts.
	RetryMin, RetryMax time.Duration
	// Tick is the longest sleep: a clock that was set must not let a binding run out unnoticed.
	Tick time.Duration
	// Patience is how long a controller may not know a node that it has just bound.
	Patience time.Duration
	// Farewell bounds the goodbye of an ephemeral node.
	Farewell time.Duration
}

// Member is one zone's enrolment. Run drives it; the other methods may be called from any goroutine.
type Member struct {
	opt Options

	// step is held for the length of an exchange.
	step sync.Mutex
	wake chan struct{}

	mu    sync.Mutex // guards what follows; never held over an exchange
	state state
}

// Snapshot is how the enrolment stands at an instant.
type Snapshot struct {
	// Involved says that this host's membership rests on an identity, or is meant to. False: its keys stand in git.
	Involved bool
	Stage    control.Stage
	// Automatic says that the agent can get tokens without a person.
	Automatic bool
	// Left says that a person took the host out: it stays out until one takes it in.
	Left bool
	// Busy says that an exchange is under way, which may use the keys in force.
	Busy bool
	// Lost says that the controller does not know the binding any more.
	Lost    bool
	Binding *binding.Binding
	// WaitingID is the request a maintainer has to decide on.
	WaitingID string
	// Reason and Message say what the last attempt met; empty if all is well.
	Reason, Message string
	// Next is when the next attempt is due; zero if none is.
	Next time.Time
	// Attempts and Failures count since the process began.
	Attempts, Failures uint64
}

// New takes up what the records hold. Damage is logged and costs a new enrolment.
func New(opt Options) *Member {
	m := &Member{opt: opt, wake: make(chan struct{}, 1)}
	m.load()
	return m
}

// Run enrols and renews until ctx ends; then an ephemeral node says goodbye.
func (m *Member) Run(ctx context.Context) {
	if file, ok := m.opt.Source.(token.File); ok {
		var group sync.WaitGroup
		defer group.Wait()
		group.Go(func() {
			token.Watch(ctx, file.Path, m.opt.Times.Tick, m.opt.Logger, m.renewedToken)
		})
	}
	for {
		action, at := m.due()
		if action == rest || at.After(m.opt.Now()) {
			if !m.sleep(ctx, action, at) {
				break
			}
			continue
		}
		if m.act(ctx, action); ctx.Err() != nil {
			break
		}
	}
	m.farewell(ctx)
}

// sleep waits for at, for a wake, or for a tick; false once ctx has ended.
func (m *Member) sleep(ctx context.Context, action action, at time.Time) bool {
	pause := m.opt.Times.Tick
	if action != rest {
		pause = min(pause, max(at.Sub(m.opt.Now()), time.Millisecond))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-m.wake:
	}
	return true
}

// renewedToken is called when the token file has other content: whatever was wrong with the old token may be over.
func (m *Member) renewedToken() {
	m.mu.Lock()
	m.state.tokens++
	m.state.pace = pace{}
	m.mu.Unlock()
	m.poke()
}

func (m *Member) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Disowned tells that the controller does not know this node, or not with these keys. A node that was bound a while ago
// has then lost its binding (an ephemeral node that was away, a restored controller), and enrols again if it can.
func (m *Member) Disowned() {
	m.mu.Lock()
	b := m.state.binding
	lost := b != nil && m.opt.Now().Sub(m.state.since) > m.opt.Times.Patience
	news := lost && !m.state.disowned
	m.state.disowned = m.state.disowned || lost
	m.mu.Unlock()
	if news {
		m.poke()
	}
}

// Owned tells that the controller knows this node. If it does so long after the binding has run out, the node's keys stand in
// git by now, and the binding is forgotten.
func (m *Member) Owned() {
	m.mu.Lock()
	m.state.disowned = false
	b := m.state.binding
	inGit := b != nil && !m.opt.Configured && m.opt.Now().Sub(time.Unix(b.Expires, 0)) > m.opt.Times.Patience
	m.mu.Unlock()
	if !inGit {
		return
	}
	if err := m.keep(func(s *state) { *s = state{attempts: s.attempts, failures: s.failures} }); err != nil {
		m.opt.Logger.Warn("the binding that ran out cannot be forgotten", "error", err)
	}
}

// Left says whether a person took the host out of the zone.
func (m *Member) Left() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.record.Left
}

// Snapshot says how the enrolment stands now.
func (m *Member) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.opt.Now()
	s := &m.state
	out := Snapshot{
		Involved:  m.opt.Configured || s.binding != nil || s.record.Waiting != "" || s.record.Left,
		Stage:     s.stage(now, m.automatic()),
		Automatic: m.automatic(), Left: s.record.Left, Busy: s.busy, Lost: s.disowned, Binding: s.binding, WaitingID: s.record.Waiting,
		Reason: s.reason, Message: s.message, Attempts: s.attempts, Failures: s.failures,
	}
	if action, at := s.due(now, m.automatic(), m.rotating()); action != rest {
		out.Next = at
		if out.Next.IsZero() {
			out.Next = now
		}
	}
	return out
}

// automatic says whether a token can be had without a person. mu is held.
func (m *Member) automatic() bool { return m.opt.Source != nil || m.state.grant != nil }

// rotating says whether next keys are there that the binding does not name yet. mu is held.
func (m *Member) rotating() bool {
	if _, ok := m.opt.Keys.Next(m.opt.Zone); !ok || m.state.binding == nil {
		return false
	}
	current, _ := m.opt.Keys.Current(m.opt.Zone).Public()
	return m.state.binding.PublicKey == current
}

func (m *Member) due() (action, time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.due(m.opt.Now(), m.automatic(), m.rotating())
}
