package enrol

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
)

var now = time.Unix(1_900_000_000, 0)

// held is a binding with a life of an hour that has lived for a while.
func held(lived time.Duration) state {
	b := &binding.Binding{Issued: now.Add(-lived).Unix(), Expires: now.Add(time.Hour - lived).Unix()}
	return state{binding: b, record: record{Binding: []byte{1}, RenewAt: b.Issued + 2400}}
}

func with(s state, edit func(*state)) state {
	edit(&s)
	return s
}

func TestWhatIsDue(t *testing.T) {
	hold := now.Add(time.Minute)
	for _, row := range []struct {
		name                string
		s                   state
		automatic, rotating bool
		action              action
		at                  time.Time
		stage               control.Stage
	}{
		{"nothing to go by", state{}, false, false, rest, time.Time{}, control.Unbound},
		{"a source", state{}, true, false, ask, time.Time{}, control.Enrolling},
		{"a source, after a failure", state{pace: pace{hold: hold}}, true, false, ask, hold, control.Enrolling},
		{"left", state{record: record{Left: true}}, true, false, rest, time.Time{}, control.Unbound},
		{"waiting", state{record: record{Waiting: "1", RenewAt: now.Unix() + 9}, token: "t"}, false, false, again, now.Add(9 * time.Second), control.Waiting},
		{"waiting without a token", state{record: record{Waiting: "1"}}, false, false, rest, time.Time{}, control.Waiting},
		{"fresh", held(0), true, false, renew, now.Add(40 * time.Minute), control.Bound},
		{"fresh, a person's", held(0), false, false, rest, time.Time{}, control.Bound},
		{"due", held(45 * time.Minute), true, false, renew, now.Add(-5 * time.Minute), control.Renewing},
		{"due, after a failure", with(held(45*time.Minute), func(s *state) { s.hold, s.reason = hold, "x" }), true, false, renew, hold, control.Expiring},
		{"near its end, a person's", held(45 * time.Minute), false, false, rest, time.Time{}, control.Expiring},
		{"over", held(2 * time.Hour), true, false, ask, time.Time{}, control.Expired},
		{"over, a person's", held(2 * time.Hour), false, false, rest, time.Time{}, control.Expired},
		{"over to the second", held(time.Hour), true, false, ask, time.Time{}, control.Expired},
		{"new keys", held(0), false, true, rotate, time.Time{}, control.Bound},
		{"new keys that are refused", with(held(0), func(s *state) { s.rotation.hold = hold }), true, true, rotate, hold, control.Bound},
		{"new keys that are refused, due", with(held(45*time.Minute), func(s *state) { s.rotation.hold = hold }), true, true, renew, now.Add(-5 * time.Minute), control.Renewing},
		{"new keys and a renewal, both refused", with(held(45*time.Minute), func(s *state) { s.hold, s.rotation.hold = hold.Add(1), hold }), true, true, rotate, hold, control.Renewing},
		{"new keys for what is over", held(2 * time.Hour), false, true, rest, time.Time{}, control.Expired},
		{"lost", with(held(0), func(s *state) { s.disowned = true }), true, false, ask, time.Time{}, control.Bound},
	} {
		action, at := row.s.due(now, row.automatic, row.rotating)
		if action != row.action || !at.Equal(row.at) {
			t.Errorf("%s: %d at %s, want %d at %s", row.name, action, at, row.action, row.at)
		}
		if got := row.s.stage(now, row.automatic); got != row.stage {
			t.Errorf("%s: stage %s, want %s", row.name, got, row.stage)
		}
	}
}

// TestWarning: a third of the life, and at most a week, ahead.
func TestWarning(t *testing.T) {
	month := &binding.Binding{Issued: now.Unix(), Expires: now.Add(30 * 24 * time.Hour).Unix()}
	s := state{binding: month}
	if s.expiring(now.Add(22*24*time.Hour), false) || !s.expiring(now.Add(23*24*time.Hour), false) {
		t.Error("a month's binding is to be warned of a week ahead")
	}
	if s.expiring(now.Add(29*24*time.Hour), true) {
		t.Error("what renews itself is no reason to warn")
	}
}

// TestRenewalLeavesTime: whatever the controller says, the next binding is asked for within the life of this one, with time
// left to fail in.
func TestRenewalLeavesTime(t *testing.T) {
	check := func(life uint32, said int64) bool {
		b := &binding.Binding{Issued: now.Unix(), Expires: now.Unix() + 60 + int64(life)}
		at := renewAt(b, 0)
		spread := (b.Expires - b.Issued) / 30
		if two := b.Issued + (b.Expires-b.Issued)*2/3; at < two-spread || at > two+spread {
			return false
		}
		at = renewAt(b, said)
		return at >= b.Issued-spread && at <= b.Expires+spread
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
}

func TestRetriesGrowAndStayBounded(t *testing.T) {
	times := Times{RetryMin: time.Second, RetryMax: time.Minute}
	var r retry
	for i := range 50 {
		pause := r.next(times)
		if pause < times.RetryMin/2 || pause > times.RetryMax {
			t.Fatalf("pause %d is %s", i, pause)
		}
		if i > 10 && pause < times.RetryMax/2 {
			t.Fatalf("pause %d is still %s", i, pause)
		}
	}
}

func TestReasons(t *testing.T) {
	problem := func(status int, code string) error {
		return fmt.Errorf("enrolment: %w: %w", fetch.ErrUnreachable, protocol.NewProblem(status, code, "words"))
	}
	for _, row := range []struct {
		err  error
		want string
	}{
		{problem(401, protocol.CodeToken), ReasonToken},
		{problem(401, protocol.CodeReplay), ReasonToken},
		{problem(403, protocol.CodeEnrolRefused), ReasonUnreachable}, // never together: a refusal is an answer
		{fmt.Errorf("x: %w", protocol.NewProblem(403, protocol.CodeEnrolRefused, "")), ReasonRefused},
		{problem(503, protocol.CodeUnavailable), ReasonProvider},
		{problem(429, protocol.CodeTooMany), ReasonLimited},
		{fmt.Errorf("x: %w", fetch.ErrUnreachable), ReasonUnreachable},
		{fmt.Errorf("%w from file: %w", ErrNoToken, token.ErrNone), ReasonNoToken},
		{fmt.Errorf("%w from refresh: %w", ErrNoToken, token.ErrSpent), ReasonSignIn},
		{fmt.Errorf("%w from it: %w", ErrNoToken, oidcclient.ErrUnavailable), ReasonProvider},
		{fmt.Errorf("%w: it is for node b", ErrBinding), ReasonBinding},
		{errors.New("disk full"), ReasonFailed},
	} {
		if got := reasonOf(row.err); got != row.want {
			t.Errorf("%v: %s, want %s", row.err, got, row.want)
		}
	}
}

func TestClocksApart(t *testing.T) {
	for shift, want := range map[time.Duration]string{
		protocol.ProofSkew: "", -protocol.ProofSkew: "", 59 * time.Second: "",
		5 * time.Minute: "5m0s behind the controller's", -2 * time.Hour: "2h0m0s ahead of the controller's",
	} {
		if got := clocksApart(now.Add(shift), now.Add(time.Millisecond)); want == "" != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", shift, got, want)
		}
	}
	if got := clocksApart(time.Time{}, now); got != "" {
		t.Errorf("a controller that does not say its time: %q", got)
	}
}
