package enrol

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
)

// The records. Both are in the zone's state folder, mode 0600.
const (
	// Record holds the binding and what was asked for.
	Record = "enrolment"
	// CredentialRecord holds what gets tokens: a refresh token, or the token of a request that waits.
	CredentialRecord = "credential"
)

// record is what is on disk, without secrets.
type record struct {
	// Binding is the signed envelope; empty if there is none.
	Binding []byte `json:"binding"`
	// Waiting is the ID of the request that waits.
	Waiting string `json:"waiting"`
	// Ask is what was asked for last, by a person or by the configuration.
	Ask Ask `json:"ask"`
	// RenewAt (Unix seconds) is when the next binding, or the answer to a request that waits, is asked for.
	RenewAt int64 `json:"renewAt"`
	// Left says that a person took the host out.
	Left bool `json:"left"`
}

// credential is what is on disk with secrets.
type credential struct {
	Grant *token.Grant `json:"grant"`
	// Token is the ID token of the request that waits.
	Token string `json:"token"`
}

// state is what decides what happens next. Its methods are pure.
type state struct {
	record  record
	binding *binding.Binding // of record
	grant   *token.Grant
	token   string // of the request that waits
	since   time.Time
	// A rotation has a pace of its own: one that is refused must not keep a renewal from its turn.
	pace
	rotation pace
	disowned bool
	tokens   uint64 // how often the token's file was seen to be another
	busy     bool   // an exchange is under way
	// reason and message of the last failure.
	reason, message    string
	attempts, failures uint64
}

// pace says before which instant nothing is asked, and how the pause grows from one failure to the next.
type pace struct {
	hold  time.Time
	retry retry
}

func (s *state) paceOf(a action) *pace {
	if a == rotate {
		return &s.rotation
	}
	return &s.pace
}

type action int

const (
	rest  action = iota
	ask          // for a first binding, or again after it ran out or was lost
	again        // for the answer to a request that waits
	renew
	rotate
)

// due says what is to be done and when; a time that has passed, or zero, means now.
func (s *state) due(now time.Time, automatic, rotating bool) (action, time.Time) {
	at := time.Unix(s.record.RenewAt, 0)
	switch {
	case s.record.Left:
		return rest, time.Time{}
	case s.record.Waiting != "" && (s.token != "" || automatic):
		return again, later(at, s.hold)
	case s.binding == nil || s.expired(now) || s.disowned:
		if automatic {
			return ask, s.hold
		}
	case automatic && (!rotating || later(at, s.hold).Before(s.rotation.hold)):
		return renew, later(at, s.hold)
	case rotating:
		return rotate, s.rotation.hold
	}
	return rest, time.Time{}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (s *state) expired(now time.Time) bool {
	return s.binding != nil && now.Unix() >= s.binding.Expires
}

// longestWarning is how long before its end a binding is complained of at most.
const longestWarning = 7 * 24 * time.Hour

// expiring says whether the end of the binding is near and nothing will replace it that needs no person: from the last
// third of its life on, or the last week if that is shorter.
func (s *state) expiring(now time.Time, automatic bool) bool {
	if s.binding == nil || automatic && s.reason == "" {
		return false
	}
	life := time.Duration(s.binding.Expires-s.binding.Issued) * time.Second
	return time.Unix(s.binding.Expires, 0).Sub(now) <= min(life/3, longestWarning)
}

// late says whether the last tenth of the binding's life has begun.
func (s *state) late(now time.Time) bool {
	return 10*(s.binding.Expires-now.Unix()) < s.binding.Expires-s.binding.Issued
}

func (s *state) stage(now time.Time, automatic bool) control.Stage {
	switch {
	case s.binding != nil && !s.expired(now):
		switch {
		case s.expiring(now, automatic):
			return control.Expiring
		case automatic && now.Unix() >= s.record.RenewAt:
			return control.Renewing
		}
		return control.Bound
	case s.record.Waiting != "":
		return control.Waiting
	case s.binding != nil:
		return control.Expired
	case s.busy || automatic && !s.record.Left:
		return control.Enrolling
	}
	return control.Unbound
}

// renewAt is when to ask for the next binding: when the controller says, or at two thirds of its life; give or take a
// thirtieth, so that nodes that came together do not come back together.
func renewAt(b *binding.Binding, said int64) int64 {
	life := b.Expires - b.Issued
	at := b.Issued + life*2/3
	if said > b.Issued && said < b.Expires {
		at = said
	}
	if spread := life / 30; spread > 0 {
		at += rand.Int64N(2*spread+1) - spread
	}
	return at
}

// retry gives growing pauses with jitter.
type retry struct{ current time.Duration }

func (r *retry) next(t Times) time.Duration {
	r.current = min(max(2*r.current, t.RetryMin), t.RetryMax)
	return r.current/2 + rand.N(r.current/2+1)
}

// load takes up the records.
func (m *Member) load() {
	s := &m.state
	if ok, err := m.opt.Records.Load(Record, &s.record); err != nil || !ok {
		s.record = record{}
		if err != nil {
			m.opt.Logger.Error("the record of the enrolment is damaged; enrolling again", "error", err)
		}
	}
	var c credential
	if ok, err := m.opt.Records.Load(CredentialRecord, &c); err != nil {
		m.opt.Logger.Error("the record with the refresh token is damaged; a person has to sign in again", "error", err)
	} else if ok {
		s.grant, s.token = c.Grant, c.Token
	}
	if s.record.Waiting == "" {
		s.token = "" // of a request whose record was never written, or that is over
	}
	if s.record.Left {
		s.grant = nil
	}
	if s.record.Waiting != "" && s.token == "" && !m.automatic() {
		m.opt.Logger.Error("the token of the request that waits is lost; a person has to sign in again", "request", s.record.Waiting)
		s.record.Waiting = ""
	}
	if len(s.record.Binding) > 0 {
		b, err := parse(s.record.Binding)
		if err == nil && (b.Network != m.opt.Network || b.Zone != m.opt.Zone || b.Node != m.opt.Node) {
			err = errors.New("it is of another node")
		}
		if err != nil {
			m.opt.Logger.Error("the stored binding is of no use; enrolling again", "error", err)
			s.record.Binding = nil
		} else {
			s.binding, s.since = b, time.Unix(b.Issued, 0)
		}
	}
}

// keep writes a changed record, and then makes it count. A disk that does not take it changes nothing. A secret is there before
// the record that needs it, and goes after the one that does not, so that a crash between the two costs no token.
func (m *Member) keep(change func(*state)) error {
	m.mu.Lock()
	next := m.state
	change(&next)
	m.mu.Unlock()
	secret := next.grant != nil || next.token != ""
	if secret {
		if err := m.opt.Records.Save(CredentialRecord, credential{next.grant, next.token}); err != nil {
			return err
		}
	}
	if err := m.opt.Records.Save(Record, next.record); err != nil {
		return err
	}
	if !secret {
		if err := m.opt.Records.Remove(CredentialRecord); err != nil {
			return err
		}
	}
	m.mu.Lock()
	change(&m.state)
	m.mu.Unlock()
	m.opt.Changed()
	return nil
}

// Reasons of a failure, for the condition.
const (
	ReasonRefused     = "Refused"             // the controller's words say why
	ReasonToken       = "TokenRefused"        // another token may do
	ReasonNoToken     = "NoToken"             // the source gave none
	ReasonTokenUsed   = "TokenUsed"           // the source has nothing newer
	ReasonSignIn      = "SignInNeeded"        // only a person can go on
	ReasonUnreachable = "Unreachable"         // no controller answers
	ReasonLimited     = "RateLimited"         // later
	ReasonProvider    = "ProviderUnavailable" // the OpenID provider does not answer
	ReasonBinding     = "BindingRefused"      // the answer is not what was asked for
	ReasonFailed      = "Failed"
)

// codeOf is the code of the Problem in err; empty without one.
func codeOf(err error) string {
	var problem *protocol.Problem
	if errors.As(err, &problem) {
		return problem.Code
	}
	return ""
}

// reasonOf sorts an error.
func reasonOf(err error) string {
	switch codeOf(err) {
	case protocol.CodeToken, protocol.CodeReplay: // the token of an enrolment was used before
		return ReasonToken
	case protocol.CodeUnavailable:
		return ReasonProvider
	case protocol.CodeTooMany:
		return ReasonLimited
	}
	for _, row := range reasons() {
		if errors.Is(err, row.is) {
			return row.reason
		}
	}
	var problem *protocol.Problem
	if errors.As(err, &problem) && problem.Status >= 400 && problem.Status < 500 && problem.Code != protocol.CodeHTTP {
		return ReasonRefused
	}
	return ReasonFailed
}
