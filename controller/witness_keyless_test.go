package controller_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/controller/witness"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
)

// untilFailure is the log of a witness that calls end when a round has failed.
type untilFailure struct {
	slog.Handler
	end func()
}

func (untilFailure) Enabled(context.Context, slog.Level) bool { return true }

func (u untilFailure) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "not witnessed" {
		u.end()
	}
	return nil
}

// TestWitnessWithoutAKey has a CI job as the second signer of a network: each run gets its tokens, judges and ends.
func TestWitnessWithoutAKey(t *testing.T) {
	issuer := idp.RunIssuer(t, idp.IssuerOptions{})
	keys, _, err := tokens.IssuerKeys(t.Context(), tokens.Options{}, issuer.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(w *world) {
		w.root.Spec.Witnesses = spec.WitnessRole{Identities: []spec.WitnessIdentity{{
			Name: "ci", Issuer: issuer.Issuer(), Match: map[string]string{"repository_id": "42"}, Keys: []string{keys[0].Line()},
		}}}
		w.root.Spec.Manifest.Threshold = 2
	})
	first := w.repo.Head()
	w.start()
	waits := func(commit string) {
		t.Helper()
		w.await("a pending generation", func(f protocol.FleetStatus) bool {
			z := zoneOf(f, "prod")
			return z != nil && z.Pending != nil && z.Pending.Commit == commit
		})
	}
	// A job goes on after a failure until its time is over, which here is at the first.
	job := func(repository string) error {
		ctx, cancel := context.WithTimeout(t.Context(), hung)
		defer cancel()
		return witness.Run(ctx, witness.Config{
			Network: w.name, TrustRoot: w.root.Pin(), Remote: gitsource.Remote{URL: w.bare, Branch: "main"}, Dir: t.TempDir(),
			Controller: w.url(""), Client: w.client, Now: w.clock.Now, Once: true,
			Logger: slog.New(untilFailure{slog.DiscardHandler, cancel}),
			Identity: &witness.Identity{Name: "ci", Token: func(_ context.Context, audience string) (string, error) {
				return issuer.Mint(issuer.Claims(audience, "repo:"+repository, w.clock.Now()).With("repository_id", repository)), nil
			}},
		})
	}
	waits(first)
	var problem *protocol.Problem
	if err := job("43"); !errors.As(err, &problem) || problem.Code != protocol.CodeToken {
		t.Errorf("a job of another repository: %v", err)
	}
	if z := zoneOf(w.fleet(), "prod"); z.Current != nil {
		t.Fatalf("published by another repository's job: %+v", z)
	}
	if err := job("42"); err != nil {
		t.Fatal(err)
	}
	w.published("prod", first)
	// Agents verify the token themselves, with the keys of the trust root.
	a := w.agent("prod", "a")
	s := a.open()
	a.take(s.next(t))

	w.node("prod", "d", "10.1.0.4")
	second := w.push("Add d")
	w.mustApply(second)
	waits(second)
	if err := job("42"); err != nil {
		t.Fatal(err)
	}
	w.published("prod", second)
	if m := a.take(s.next(t)); peerNames(m) != "b c d" {
		t.Fatalf("a sees %s", peerNames(m))
	}
}
