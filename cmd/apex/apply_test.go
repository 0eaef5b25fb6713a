package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// scripted is a controller that takes every apply with a token, and tells the status by a list of answers, of which the
// last one stays: a protocol.FleetStatus, a *protocol.Problem, or an error if nobody answers.
type scripted struct {
	answers []any
	asked   int
}

const (
	someCommit = "1111111111111111111111111111111111111111"
	someTicket = "ticket"
)

func (c *scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.URL.Path == protocol.ApplyPath("acme") {
		return reply(w, protocol.ApplyResult{Commit: someCommit, Zones: []protocol.ZoneStatus{}, Ticket: someTicket})
	}
	if ticket, ok := protocol.GetBearer(r.Header); !ok || ticket != someTicket || r.URL.Path != protocol.FleetPath("acme") {
		return nil, errors.New("the status was not asked for with the ticket")
	}
	now := c.answers[min(c.asked, len(c.answers)-1)]
	c.asked++
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return reply(w, now)
}

func reply(w *httptest.ResponseRecorder, with any) (*http.Response, error) {
	switch v := with.(type) {
	case error:
		var p *protocol.Problem
		if !errors.As(v, &p) {
			return nil, v
		}
		p.Write(w)
	default:
		data, err := protocol.Encode(v)
		if err != nil {
			return nil, err
		}
		_, _ = w.Write(data)
	}
	return w.Result(), nil
}

// fleetOf is the status of a network with one zone.
func fleetOf(nodes ...protocol.FleetEntry) protocol.FleetStatus {
	return protocol.FleetStatus{Network: "acme", Accepted: someCommit, Zones: []protocol.ZoneStatus{{
		Zone: "prod", Current: &protocol.Published{Commit: someCommit, Epoch: 1, Serial: 5, Manifest: peermap.Digest{5}}, Nodes: nodes,
	}}}
}

// at is a connected node that enforces the generation with this manifest, and the newest that it has seen.
func at(applied, seen byte) protocol.FleetEntry {
	e := protocol.FleetEntry{Node: "a", Connected: true, Status: &protocol.NodeStatus{Network: "acme", Zone: "prod", Node: "a",
		Applied: protocol.Generation{Manifest: peermap.Digest{applied}}, Seen: protocol.Generation{Manifest: peermap.Digest{seen}},
		Conditions: []protocol.Condition{}}}
	if applied != 5 {
		e.Behind = "applying"
	}
	return e
}

// rolledBackTo is a node that took a generation back.
func rolledBackTo(applied, seen byte) protocol.FleetEntry {
	e := at(applied, seen)
	e.Status.Conditions = []protocol.Condition{{Type: protocol.ConditionRolledBack, Status: protocol.StatusTrue, Message: "no route"}}
	return e
}

func gone(e protocol.FleetEntry) protocol.FleetEntry {
	e.Connected = false
	return e
}

func unpublished(problem *protocol.PendingStatus) protocol.FleetStatus {
	f := fleetOf(at(5, 5))
	f.Zones[0].Pending = problem
	return f
}

// refusedAt is the status of a controller that refuses a commit for good, and has one node.
func refusedAt(stage, accepted, commit string) protocol.FleetStatus {
	f := fleetOf(at(5, 5))
	f.Accepted, f.Refused = accepted, &protocol.Refusal{Commit: commit, Stage: stage, Reason: "no good", Final: true}
	return f
}

// heldUp is the status of a controller that cannot take a commit at the moment.
func heldUp(stage, commit string) protocol.FleetStatus {
	f := refusedAt(stage, "", commit)
	f.Refused.Final = false
	return f
}

// TestWaitEndsWithTheRollout follows rollouts of every kind with the ticket of an apply by ID token, on a clock that stands
// still while anybody works.
func TestWaitEndsWithTheRollout(t *testing.T) {
	t.Setenv("APEX_TEST_TOKEN", strings.Join([]string{"e30", "e30", "e30"}, "."))
	const timeout = time.Minute
	refused := protocol.NewProblem(http.StatusUnprocessableEntity, protocol.CodeRefused, "nonsense")
	for name, c := range map[string]struct {
		answers []any
		code    cli.Code
		says    string
		after   time.Duration
	}{
		"done": {answers: []any{fleetOf(at(5, 5), at(5, 5))}, says: "2 of 2 nodes enforce it\n"},
		"done after a while": {answers: []any{fleetOf(at(4, 4), at(5, 5)), fleetOf(at(4, 5), at(5, 5)), fleetOf(at(5, 5), at(5, 5))},
			says: "1 of 2 nodes enforce it\n2 of 2 nodes enforce it\n", after: 2 * rolloutPoll},
		"a node is offline":        {answers: []any{fleetOf(at(5, 5), gone(at(4, 4)))}, says: "1 of 2 nodes enforce it, 1 offline"},
		"a node goes offline":      {answers: []any{fleetOf(at(4, 4)), fleetOf(gone(at(4, 4)))}, says: "0 of 1 nodes enforce it, 1 offline", after: rolloutPoll},
		"a node is behind":         {answers: []any{fleetOf(at(5, 5), at(4, 5))}, code: cli.TimedOut, says: "not everywhere in time: 1 of 2 nodes", after: timeout},
		"a node has never told":    {answers: []any{fleetOf(protocol.FleetEntry{Node: "a", Connected: true, Behind: "has not reported yet"})}, code: cli.TimedOut, says: "0 of 1 nodes", after: timeout},
		"a node rolled it back":    {answers: []any{fleetOf(at(4, 4)), fleetOf(rolledBackTo(4, 5))}, code: cli.RolledBack, says: "1 host rolled 111111111111 back", after: rolloutPoll},
		"a rollback of one before": {answers: []any{fleetOf(rolledBackTo(3, 4)), fleetOf(at(5, 5))}, says: "1 of 1 nodes enforce it", after: rolloutPoll},
		"witnesses take long": {answers: []any{unpublished(&protocol.PendingStatus{Serial: 6, Missing: "1 witness"})}, code: cli.TimedOut,
			says: "not everywhere in time: zone prod waits (the next waits for 1 witness)", after: timeout},
		"refused later": {answers: []any{fleetOf(at(4, 4)), refusedAt("test", "", someCommit)}, code: cli.Invalid,
			says: "the controller refused 111111111111 (test): no good", after: rolloutPoll},
		"another is refused":         {answers: []any{refusedAt("test", someCommit, "222"), fleetOf(at(5, 5))}, says: "1 of 1 nodes enforce it"},
		"cannot be signed":           {answers: []any{heldUp("sign", someCommit)}, code: cli.TimedOut, says: "refused (sign): no good", after: timeout},
		"cannot be loaded at first":  {answers: []any{heldUp("load", someCommit), fleetOf(at(5, 5))}, says: "1 of 1 nodes enforce it", after: rolloutPoll},
		"refused after it was taken": {answers: []any{refusedAt("load", someCommit, someCommit), fleetOf(at(5, 5))}, says: "1 of 1 nodes enforce it", after: rolloutPoll},
		"the ticket ended": {answers: []any{fleetOf(at(4, 4)), protocol.NewProblem(http.StatusUnauthorized, protocol.CodeSignature, "the ticket is no longer good")},
			code: cli.Trust, says: "the ticket is no longer good", after: rolloutPoll},
		"refused as a request": {answers: []any{refused}, code: cli.Invalid, says: "nonsense"},
		"nonsense":             {answers: []any{[]string{}}, code: cli.Failed},
		"the controller restarts": {answers: []any{fleetOf(at(4, 4)), errors.New("connection refused"),
			protocol.NewProblem(http.StatusServiceUnavailable, protocol.CodeNotReady, "another replica leads now"), fleetOf(at(5, 5))},
			says: "connection refused\n503 Service Unavailable (not-ready): another replica leads now\n1 of 1 nodes enforce it", after: 3 * rolloutPoll},
		"the controller stays away": {answers: []any{fleetOf(at(4, 4)), errors.New("connection refused")}, code: cli.TimedOut,
			says: "not everywhere in time: controller https://apex.example cannot be reached", after: timeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, err := (&idTokenFlags{env: "APEX_TEST_TOKEN"}).source(cli.Streams{})
				if err != nil {
					t.Fatal(err)
				}
				r := client.New(client.Options{URL: &url.URL{Scheme: "https", Host: "apex.example"}, Network: "acme", Token: source,
					HTTP: &http.Client{Transport: &scripted{answers: c.answers}}})
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				if _, err := r.Apply(ctx, someCommit); err != nil {
					t.Fatal(err)
				}
				var talk bytes.Buffer
				began := time.Now()
				err = follow(ctx, cli.Streams{Err: &talk}, r, someCommit)
				took, code, said := time.Since(began), cli.CodeOf(err), fmt.Sprint(&talk, err)
				if code != c.code || !strings.Contains(said, c.says) || took != c.after {
					t.Errorf("exit code %d after %s, want %d after %s and %q:\n%s", code, took, c.code, c.after, c.says, said)
				}
			})
		})
	}
}
