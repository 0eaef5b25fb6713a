package enrol

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// Enrolment describes the enrolment for the person at the host. With info it also asks the controller how to join.
func (m *Member) Enrolment(ctx context.Context, info bool) control.Enrolment {
	snapshot := m.Snapshot()
	wireguard, identity := m.pair().Public()
	out := control.Enrolment{
		Network: m.opt.Network, Zone: m.opt.Zone, Node: m.opt.Node, PublicKey: wireguard, IdentityKey: identity,
		Commitment: protocol.Commitment(m.opt.Network, wireguard, identity),
		Stage:      snapshot.Stage, Message: snapshot.Message, WaitingID: snapshot.WaitingID,
		Lost: snapshot.Lost, Refused: snapshot.Reason == ReasonRefused || snapshot.Reason == ReasonToken,
		Automatic: snapshot.Automatic, NextAttempt: snapshot.Next.UTC(),
	}
	if b := snapshot.Binding; b != nil {
		out.Binding = &control.Binding{
			Issuer: b.Identity.Issuer, Subject: b.Identity.Subject, Username: b.Identity.Username, Groups: b.Identity.Groups,
			Addresses: b.Addresses, Rule: fmt.Sprintf("%s (%s:%d)", b.Rule.Name, b.Rule.File, b.Rule.Line), Commit: b.Commit,
			Ephemeral: b.Ephemeral, Issued: time.Unix(b.Issued, 0).UTC(), Expires: time.Unix(b.Expires, 0).UTC(),
		}
	}
	if !info {
		return out
	}
	got, err := m.info(ctx)
	if err != nil {
		out.InfoError, out.InfoLater = err.Error(), protocol.IsLater(err)
		return out
	}
	out.Info = &got
	return out
}

// Join enrols with the token that a person got, at once. Without one it uses the host's own source, which also takes back
// that a person once left.
func (m *Member) Join(ctx context.Context, in control.Join) error {
	m.step.Lock()
	defer m.step.Unlock()
	want := m.ask()
	if in.Issuer != "" {
		want.Issuer = in.Issuer
	}
	if len(in.Routes) > 0 || in.Relay {
		want.Routes, want.Relay = slices.Clone(in.Routes), in.Relay
	}
	if in.IDToken == "" {
		if err := m.keep(func(s *state) { s.record.Left = false }); err != nil {
			return err
		}
		return m.attempt(ctx, ask, func(ctx context.Context) error { return m.enrol(ctx, want, m.source(), "") })
	}
	grant, err := grantOf(in)
	if err != nil {
		return err
	}
	err = m.attempt(ctx, ask, func(ctx context.Context) error { return m.enrol(ctx, want, nil, in.IDToken) })
	if err != nil {
		return err
	}
	defer m.poke()
	return m.keep(func(s *state) { s.grant = grant })
}

// grantOf reads what the person leaves with the agent; nil if nothing.
func grantOf(in control.Join) (*token.Grant, error) {
	switch {
	case len(in.IDToken) > oidcclient.MaxTokenBytes || len(in.RefreshToken) > oidcclient.MaxTokenBytes:
		return nil, badRequest(fmt.Sprintf("a token has at most %d bytes", oidcclient.MaxTokenBytes))
	case in.RefreshToken == "":
		return nil, nil
	case in.TokenEndpoint == "" || in.ClientID == "":
		return nil, badRequest("a refresh token comes with tokenEndpoint and clientID")
	}
	if err := oidcclient.CheckEndpoint(in.TokenEndpoint); err != nil {
		return nil, badRequest(err.Error())
	}
	return &token.Grant{
		Issuer: in.Issuer, TokenEndpoint: in.TokenEndpoint, ClientID: in.ClientID, ClientSecret: in.ClientSecret,
		RefreshToken: in.RefreshToken,
	}, nil
}

func badRequest(detail string) error {
	return protocol.NewProblem(http.StatusBadRequest, protocol.CodeBadRequest, detail)
}

// Leave gives the binding back and forgets the refresh token. The host stays out until a person joins again.
func (m *Member) Leave(ctx context.Context) error {
	m.step.Lock()
	defer m.step.Unlock()
	m.mu.Lock()
	bound, waiting := m.state.binding != nil, m.state.record.Waiting != ""
	m.mu.Unlock()
	if !bound && !waiting && !m.opt.Configured {
		return fmt.Errorf("%w: if its keys stand in git, remove its Node document there", ErrStatic)
	}
	if bound {
		if err := m.goodbye(ctx); err != nil {
			return &saying{"the controller was not told, so the binding stays until it runs out; try again", err}
		}
	}
	return m.keep(func(s *state) {
		*s = state{record: record{Left: true}, attempts: s.attempts, failures: s.failures}
	})
}

// goodbye gives the binding back. That the controller knows of none will do, if it refuses every key this host has and the clocks
// agree; what a proxy says in its place will not.
func (m *Member) goodbye(ctx context.Context) error {
	var refused error
	for _, identity := range m.identities() {
		err := m.opt.Controller.Leave(ctx, identity)
		if err == nil {
			return nil
		}
		if code := codeOf(err); code != protocol.CodeProof && code != protocol.CodeNotFound {
			return err
		}
		refused = err
	}
	info, err := m.opt.Controller.EnrolmentInfo(ctx)
	if err != nil {
		return errors.Join(refused, err)
	}
	if hint := clocksApart(info.Time, m.opt.Now()); hint != "" {
		return &saying{hint, refused}
	}
	return nil
}

// identities are the keys that may prove this node to the controller: that of the binding, and while a rotation is under way
// the other one, since an answer may have been lost.
func (m *Member) identities() []signer.PrivateKey {
	first := m.pair().Identity
	out := []signer.PrivateKey{first}
	if next, ok := m.opt.Keys.Next(m.opt.Zone); ok {
		for _, other := range []signer.PrivateKey{next.Identity, m.opt.Keys.Current(m.opt.Zone).Identity} {
			if other.Raw() != first.Raw() {
				out = append(out, other)
			}
		}
	}
	return out
}

// farewell gives back the binding of an ephemeral node whose agent stops. ctx has ended.
func (m *Member) farewell(ctx context.Context) {
	m.step.Lock()
	defer m.step.Unlock()
	m.mu.Lock()
	b := m.state.binding
	m.mu.Unlock()
	if b == nil || !b.Ephemeral && !m.opt.Ephemeral {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.opt.Times.Farewell)
	defer cancel()
	if err := m.goodbye(ctx); err != nil {
		m.opt.Logger.Warn("the goodbye of this ephemeral node did not arrive; it is noticed missing", "error", err)
		return
	}
	if err := m.keep(func(s *state) { s.record.Binding, s.binding = nil, nil }); err != nil {
		m.opt.Logger.Warn("the binding was given back, but its record stays", "error", err)
	}
}

// Rotate asks for a binding of the next keys, which the Ring has already, at once. False: this host has no binding, so its
// keys stand in git and a person has to change them there.
func (m *Member) Rotate(ctx context.Context) (enrolled bool, err error) {
	m.step.Lock()
	defer m.step.Unlock()
	m.mu.Lock()
	bound, rotating := m.state.binding != nil, m.rotating()
	m.mu.Unlock()
	if !bound || !rotating {
		return bound, nil
	}
	return true, m.attempt(ctx, rotate, m.rotateKeys)
}

// Public gives the keys that the binding held names; false without one.
func (m *Member) Public() (wireguard, identity peermap.Key, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.state.binding; b != nil {
		return b.PublicKey, b.IdentityKey, true
	}
	return peermap.Key{}, peermap.Key{}, false
}
