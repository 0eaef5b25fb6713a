package enrol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// Errors of an attempt; those of fetch, token, oidcclient and the controller (*protocol.Problem) pass through, wrapped.
var (
	// ErrNoToken: no token could be had.
	ErrNoToken = errors.New("no token to enrol with")
	// ErrIssuer: the network has no such issuer.
	ErrIssuer = errors.New("no such issuer")
	// ErrTokenUsed: the token gives no more than the binding that it was used for, which the host has.
	ErrTokenUsed = errors.New("the token is the one that the binding was made with")
	// ErrStatic: the zone knows this node from git; there is no binding to act on.
	ErrStatic = errors.New("this host has no binding in the zone")
)

type reasonRow struct {
	is     error
	reason string
}

// reasons sorts the errors without a Problem; the first that fits counts.
func reasons() []reasonRow {
	return []reasonRow{
		{token.ErrSpent, ReasonSignIn}, {ErrBinding, ReasonBinding}, {oidcclient.ErrUnavailable, ReasonProvider},
		{ErrNoToken, ReasonNoToken}, {ErrAudience, ReasonToken}, {ErrTokenUsed, ReasonTokenUsed}, {ErrIssuer, ReasonRefused},
		{fetch.ErrUnreachable, ReasonUnreachable}, {fetch.ErrSlow, ReasonUnreachable},
	}
}

// act does what is due and keeps the books of it.
func (m *Member) act(ctx context.Context, action action) {
	m.step.Lock()
	defer m.step.Unlock()
	if now, _ := m.due(); now != action {
		return // a person was faster
	}
	_ = m.attempt(ctx, action, func(ctx context.Context) error { // what went wrong is in the state
		switch action {
		case rotate:
			return m.rotateKeys(ctx)
		case again:
			return m.askAgain(ctx)
		}
		return m.enrol(ctx, m.ask(), m.source(), "")
	})
}

// attempt counts one attempt, notes how it ended, and says when the next may begin: after a good answer too, whose times are the
// controller's word. step is held.
func (m *Member) attempt(ctx context.Context, action action, do func(context.Context) error) error {
	var before uint64
	m.change(func(s *state) { s.attempts++; s.busy = true; before = s.tokens })
	err := do(ctx)
	if err != nil && ctx.Err() != nil {
		m.change(func(s *state) { s.busy = false })
		return err
	}
	quiet := errors.Is(err, ErrTokenUsed) && m.mayCome()
	m.change(func(s *state) {
		s.busy = false
		p := s.paceOf(action)
		switch {
		case err == nil:
			s.reason, s.message = "", ""
			s.pace = pace{hold: m.opt.Now().Add(m.opt.Times.RetryMin)}
			s.rotation = s.pace // a new binding may lift what stood in the way
			return
		case quiet:
			s.reason, s.message = "", ""
			*p = pace{}
		default:
			s.failures++
			s.reason, s.message = reasonOf(err), err.Error()
		}
		if s.tokens == before { // one that was renewed meanwhile is not kept waiting for the old one
			p.hold = m.opt.Now().Add(m.pause(s, p, err))
		}
	})
	switch {
	case quiet:
		m.opt.Logger.Info("not renewed yet: waiting for a new token", "error", err)
	case err != nil:
		m.opt.Logger.Warn("enrolment failed", "error", err)
	}
	return err
}

// pause is how long nothing is asked after an error.
func (m *Member) pause(s *state, p *pace, err error) time.Duration {
	pause := p.retry.next(m.opt.Times)
	var problem *protocol.Problem
	switch {
	case errors.As(err, &problem) && problem.RetryAfter > 0:
		return max(pause, min(time.Duration(problem.RetryAfter)*time.Second, m.opt.Times.RetryMax))
	case errors.Is(err, ErrTokenUsed):
		return m.opt.Times.RetryMax // whoever renews the token is in no hurry
	case s.reason == ReasonRefused || s.reason == ReasonSignIn:
		return max(pause, m.opt.Times.RetryMax/2) // the same question has the same answer for a while
	}
	return pause
}

// mayCome says whether there is time enough for whoever renews the token to do so: Kubernetes, for one, renews it at four
// fifths of its life, which is later than a binding of the same life asks for the next. Whether the token has run out the
// controller says.
func (m *Member) mayCome() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.binding != nil && !m.state.late(m.opt.Now())
}

// change edits what is in memory and tells of it.
func (m *Member) change(edit func(*state)) {
	m.mu.Lock()
	edit(&m.state)
	m.mu.Unlock()
	m.opt.Changed()
}

// ask is what the host asks for: the last word is a person's, if there was one.
func (m *Member) ask() Ask {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.grant != nil || !m.opt.Configured {
		return m.state.record.Ask
	}
	return m.opt.Ask
}

// source is where tokens come from: what a person left, before the configured one. Nil if there is none.
func (m *Member) source() token.Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.grant == nil {
		return m.opt.Source
	}
	return token.Refresh{
		Client: m.opt.OIDC,
		Load: func() (token.Grant, bool) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.state.grant == nil {
				return token.Grant{}, false
			}
			return *m.state.grant, true
		},
		Save: func(g token.Grant) error { return m.keep(func(s *state) { s.grant = &g }) },
	}
}

// pair is the keys that a binding is asked for: those of the binding held, else those in force.
func (m *Member) pair() keys.Pair {
	m.mu.Lock()
	b := m.state.binding
	m.mu.Unlock()
	if b != nil {
		if pair, ok := m.opt.Keys.Find(m.opt.Zone, b.PublicKey); ok {
			return pair
		}
	}
	return m.opt.Keys.Current(m.opt.Zone)
}

// enrol asks for a binding with raw, or if that is empty with a token of the source. step is held.
func (m *Member) enrol(ctx context.Context, ask Ask, source token.Source, raw string) error {
	info, err := m.info(ctx)
	if err != nil {
		return err
	}
	here := m.opt.Now()
	return withSkew(m.enrolWith(ctx, info, ask, source, raw), info.Time, here)
}

func (m *Member) enrolWith(ctx context.Context, info protocol.EnrolmentInfo, ask Ask, source token.Source, raw string) error {
	issuer, err := pick(info, ask.Issuer)
	if err != nil {
		return err
	}
	pair := m.pair()
	wireguard, identity := pair.Public()
	if raw == "" {
		if raw, err = m.token(ctx, source, issuer, protocol.Commitment(m.opt.Network, wireguard, identity)); err != nil {
			return err
		}
	}
	if err := checkMeant(raw, issuer); err != nil {
		return err
	}
	req := protocol.NewEnrol(protocol.EnrolRequest{
		Network: m.opt.Network, Zone: m.opt.Zone, Node: m.opt.Node, PublicKey: wireguard, IdentityKey: identity,
		Issuer: issuer.Name, Token: raw, Routes: slices.Clone(ask.Routes), Relay: ask.Relay, Address: m.held(),
	})
	if req.Mac, err = protocol.EnrolMac([32]byte(pair.WireGuard), info.Challenge, req); err != nil {
		return err
	}
	result, err := m.opt.Controller.Enrol(ctx, pair.Identity, req)
	if err != nil {
		return err
	}
	ask.Issuer = issuer.Name
	return m.take(ctx, result, pair, ask, raw)
}

// held are the addresses that the node would like to keep.
func (m *Member) held() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state.binding == nil {
		return nil
	}
	return slices.Clone(m.state.binding.Addresses[:min(len(m.state.binding.Addresses), protocol.MaxEnrolAddresses)])
}

// token asks the source.
func (m *Member) token(ctx context.Context, source token.Source, issuer protocol.IssuerInfo, commitment string) (string, error) {
	if source == nil {
		return "", fmt.Errorf("%w: run `apex join` on this host", ErrNoToken)
	}
	raw, err := source.Token(ctx, token.Need{
		Issuer: issuer.URL, Audience: issuer.Audience, ClientID: issuer.ClientID, Scopes: issuer.Scopes, Commitment: commitment,
	})
	if errors.Is(err, token.ErrSpent) {
		err = errors.Join(err, m.keep(func(s *state) { s.grant = nil })) // it would be refused again
	}
	if err != nil {
		return "", fmt.Errorf("%w from %s: %w", ErrNoToken, source.Name(), err)
	}
	return raw, nil
}

// askAgain asks what became of a request that waits: with the same token, and if that is not taken any more with a new one. Only
// what a controller says of the token or of the request ends the wait; a proxy's page, or a fault of the way there, does not.
func (m *Member) askAgain(ctx context.Context) error {
	m.mu.Lock()
	raw, ask := m.state.token, m.state.record.Ask
	m.mu.Unlock()
	source := m.source()
	if raw == "" {
		return m.enrol(ctx, ask, source, "")
	}
	err := m.enrol(ctx, ask, nil, raw)
	used, denied := false, false
	switch codeOf(err) {
	case protocol.CodeToken, protocol.CodeReplay:
		used = true
	case protocol.CodeEnrolRefused, protocol.CodeNameTaken, protocol.CodeExhausted:
		denied = true
	}
	if used || denied {
		if lost := m.keep(func(s *state) { s.record.Waiting, s.token = "", "" }); lost != nil {
			return errors.Join(err, lost)
		}
	}
	if source != nil && (used || errors.Is(err, ErrAudience)) {
		return m.enrol(ctx, ask, source, "")
	}
	return err
}

// rotateKeys asks for a binding of the next keys.
func (m *Member) rotateKeys(ctx context.Context) error {
	current := m.opt.Keys.Current(m.opt.Zone)
	next, ok := m.opt.Keys.Next(m.opt.Zone)
	if !ok {
		return nil
	}
	info, err := m.opt.Controller.EnrolmentInfo(ctx)
	if err != nil {
		return err
	}
	here := m.opt.Now()
	wireguard, identity := next.Public()
	result, err := m.opt.Controller.RotateKeys(ctx, current.Identity, next.Identity, func(proof string) (protocol.RotateRequest, error) {
		req := protocol.RotateRequest{PublicKey: wireguard, IdentityKey: identity, Proof: proof}
		var err error
		req.Mac, err = protocol.RotateMac([32]byte(next.WireGuard), info.Challenge, m.opt.Network, m.opt.Zone, m.opt.Node, req)
		return req, err
	})
	if err != nil {
		return withSkew(err, info.Time, here)
	}
	m.mu.Lock()
	ask := m.state.record.Ask
	m.mu.Unlock()
	return withSkew(m.take(ctx, result, next, ask, ""), info.Time, here)
}

// take checks an answer and keeps it.
func (m *Member) take(ctx context.Context, result protocol.EnrolResult, pair keys.Pair, ask Ask, raw string) error {
	now := m.opt.Now()
	if len(result.Binding) == 0 {
		if len(result.Waiting) == 0 || len(result.Waiting) > 64 {
			return fmt.Errorf("%w: the answer holds neither a binding nor the ID of a request that waits", ErrBinding)
		}
		at := min(max(result.RenewAfter, now.Add(m.opt.Times.RetryMin).Unix()), now.Add(m.opt.Times.RetryMax).Unix())
		m.opt.Logger.Info("the enrolment waits for a maintainer", "request", cut(result.Waiting))
		return m.keep(func(s *state) {
			s.record.Waiting, s.record.Ask, s.record.RenewAt, s.record.Left, s.token = cut(result.Waiting), ask, at, false, raw
		})
	}
	m.mu.Lock()
	held := bytes.Equal(result.Binding, m.state.record.Binding) && now.Unix() >= m.state.record.RenewAt
	m.mu.Unlock()
	if held {
		return fmt.Errorf("%w: the next one needs a new token", ErrTokenUsed)
	}
	root, err := m.opt.Root(ctx)
	if err != nil {
		return fmt.Errorf("trust root to check the binding with: %w", err)
	}
	wireguard, identity := pair.Public()
	b, err := Check(root, result.Binding, Want{m.opt.Network, m.opt.Zone, m.opt.Node, wireguard, identity}, now)
	if err != nil {
		return err
	}
	at := renewAt(b, result.RenewAfter)
	err = m.keep(func(s *state) {
		s.record = record{Binding: result.Binding, Ask: ask, RenewAt: at}
		s.binding, s.since, s.token, s.disowned = b, now, "", false
	})
	if err != nil {
		return err
	}
	m.opt.Logger.Info("bound", "issuer", b.Identity.Issuer, "subject", b.Identity.Subject, "addresses", b.Addresses,
		"expires", time.Unix(b.Expires, 0).UTC(), "rule", b.Rule.Name)
	m.opt.Bound()
	return nil
}

// withSkew puts in front of an error that the clocks are apart, which is then its likely cause: proofs and tokens carry
// times.
func withSkew(err error, there, here time.Time) error {
	if hint := clocksApart(there, here); err != nil && hint != "" {
		return &saying{hint, err}
	}
	return err
}

// clocksApart says by how much the clocks are apart; empty if that does no harm.
func clocksApart(there, here time.Time) string {
	apart := here.Truncate(time.Second).Sub(there.Truncate(time.Second))
	if there.IsZero() || apart.Abs() <= protocol.ProofSkew {
		return ""
	}
	direction := "ahead of"
	if apart < 0 {
		direction = "behind"
	}
	return fmt.Sprintf("this host's clock is %s %s the controller's (here %s, there %s): set the clock", apart.Abs(), direction,
		here.UTC().Format(time.RFC3339), there.UTC().Format(time.RFC3339))
}

// saying puts words before an error, and before the detail of the Problem in it, which is all that the socket passes on.
type saying struct {
	words string
	err   error
}

func (s *saying) Error() string { return s.words + ": " + s.err.Error() }
func (s *saying) Unwrap() error { return s.err }

// As gives a Problem that says the words too.
func (s *saying) As(target any) bool {
	p, ok := target.(**protocol.Problem)
	if !ok || !errors.As(s.err, p) {
		return false
	}
	said := **p
	said.Detail = strings.TrimSuffix(s.words+": "+said.Detail, ": ")
	*p = &said
	return true
}
