package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec/peermap"
)

// RoundTrip lets an agent be asked without a socket, which a clock that stands still could not wait for.
func (a *fakeAgent) RoundTrip(r *http.Request) (*http.Response, error) {
	mux := http.NewServeMux()
	control.Handle(mux, a)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w.Result(), nil
}

// TestWaiting: commands that wait, for a controller that restarts, a maintainer or new keys, on a clock that stands still while
// anybody works. Whoever waits for the controller signs in once.
func TestWaiting(t *testing.T) {
	e := enrolment("https://login.example.com")
	silent := staged(e, control.Unbound, func(e *control.Enrolment) { e.Info, e.InfoError, e.InfoLater = nil, "no head yet", true })
	bound := staged(e, control.Bound)
	review := staged(e, control.Waiting, func(e *control.Enrolment) { e.WaitingID = "3f9c" })
	going := control.Rotation{Zones: []string{"office"}, Message: "on the way", PublicKey: peermap.Key{5: 1}}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUuY29tIn0.c2ln"), 0o600); err != nil {
		t.Fatal(err)
	}
	const questions = 30
	const timeout = questions*readyPoll - readyPoll/2 // not when the next question is due
	type command = func(context.Context, cli.Streams, *control.Client) error
	join := func(edit func(*joinFlags)) command {
		return func(ctx context.Context, s cli.Streams, agent *control.Client) error {
			f := joinFlags{signInFlags: signInFlags{timeout: timeout}, format: "table"}
			edit(&f)
			return runJoin(ctx, s, agent, f)
		}
	}
	withToken := join(func(f *joinFlags) { f.tokenFile = token })
	var login command = func(ctx context.Context, s cli.Streams, agent *control.Client) error {
		return runLogin(ctx, s, agent, signInFlags{timeout: timeout, device: true}, "", "", "-")
	}
	var rotate command = func(ctx context.Context, s cli.Streams, agent *control.Client) error {
		return rotateHere(ctx, s, agent, "", timeout)
	}
	for name, c := range map[string]struct {
		agent *fakeAgent
		run   command
		code  cli.Code
		says  string
		after time.Duration
		joins int
	}{
		"before the sign-in": {agent: &fakeAgent{now: silent, next: []control.Enrolment{e, bound}}, run: withToken,
			says: "no head yet", after: readyPoll, joins: 1},
		"after the sign-in": {agent: &fakeAgent{now: e, next: []control.Enrolment{e, bound}, busy: 1}, run: withToken,
			says: "no head yet", after: readyPoll, joins: 2},
		"for too long": {agent: &fakeAgent{now: silent}, run: join(func(f *joinFlags) { f.device = true }),
			code: cli.TimedOut, says: "no head yet", after: timeout},
		"too long after the sign-in": {agent: &fakeAgent{now: e, busy: 99}, run: withToken,
			code: cli.TimedOut, says: "no head yet", after: timeout, joins: questions},
		"while a request is printed": {agent: &fakeAgent{now: silent, next: []control.Enrolment{e}}, run: join(func(f *joinFlags) { f.request = true }),
			says: "no head yet", after: readyPoll},
		"while a login begins": {agent: &fakeAgent{now: silent}, run: login, code: cli.TimedOut, says: "no head yet", after: timeout},
		"before a rotation": {agent: &fakeAgent{busy: 1, turns: []control.Rotation{{Done: true}}}, run: rotate,
			says: "no head yet", after: readyPoll},
		"too long before a rotation": {agent: &fakeAgent{busy: 99}, run: rotate, code: cli.TimedOut, says: "no head yet", after: timeout},
		"and the host is a member":   {agent: &fakeAgent{now: staged(silent, control.Bound)}, run: join(func(*joinFlags) {}), says: "a member of zone office already"},
		"for a maintainer, too long": {agent: &fakeAgent{now: e, next: []control.Enrolment{e, review}},
			run: join(func(f *joinFlags) { f.tokenFile, f.wait = token, true }), code: cli.TimedOut, says: "not joined yet", after: timeout, joins: 1},
		"for new keys, too long": {agent: &fakeAgent{turns: []control.Rotation{going}}, run: rotate, code: cli.TimedOut,
			says: "on the way\nthe new keys are not in force yet", after: timeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var talk bytes.Buffer
				began := time.Now()
				err := c.run(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &talk}, control.NewClientOver(c.agent, "socket"))
				took, said := time.Since(began), fmt.Sprintf("%s%v", &talk, err)
				if code := cli.CodeOf(err); code != c.code || took != c.after || !strings.Contains(said, c.says) {
					t.Errorf("exit code %d after %s, want %d after %s and %q:\n%s", code, took, c.code, c.after, c.says, said)
				}
				if len(c.agent.joined) != c.joins {
					t.Errorf("%d joins were asked for, want %d", len(c.agent.joined), c.joins)
				}
				for _, j := range c.agent.joined {
					if j.IDToken != c.agent.joined[0].IDToken {
						t.Error("another token was given the second time")
					}
				}
			})
		})
	}
}
