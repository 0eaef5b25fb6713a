//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/spec"
)

// TestJobsJoin has jobs of a CI system join with the tokens that their system gives them, run, and leave. The system is
// simulated, in GitHub's shape.
func TestJobsJoin(t *testing.T) {
	t.Parallel()
	// Long enough for a live job's agent to come back when its stream breaks, on a machine that is busy.
	e := newEnrolment(t, fleet.Options{Limits: "{ephemeralGrace: 10s}"})
	forge := e.simulate("forge", spec.TokenBindingRequired)
	e.office(`{name: ci, issuer: forge, match: {repository: acme/*, ref: refs/heads/main}, labels: {kind: runner}, ephemeral: true}`)
	e.allow(toServer("labels: {kind: runner}", "tcp/443"))
	runner := func(name, repository, ref string) *fleet.Node {
		n := e.joiner(name, &agent.JoinConfig{GitHub: true})
		n.Env = forge.GitHubEnv(idp.GitHubJob{Repository: repository, Ref: ref}.Claims(forge.Issuer(), "", time.Now()))
		return n
	}
	job, crashing := runner("job", "acme/network", ""), runner("crashing", "acme/network", "")
	evil, branch := runner("evil", "acme-evil/network", ""), runner("branch", "acme/network", "refs/heads/feature")
	e.begin()

	t.Run("a job works, ends and is gone", func(t *testing.T) {
		e := e.in(t)
		e.bound(job)
		e.reaches(job.Host, serverAddr, tcp(443), true)
		e.still(job.Host, serverAddr, tcp(80), false)
		e.must(job.Agent.Stop(e.ctx))
		e.gone("job")
	})
	t.Run("a job that is killed is gone too", func(t *testing.T) {
		e := e.in(t)
		e.bound(crashing)
		e.reaches(crashing.Host, serverAddr, tcp(443), true)
		e.must(crashing.Agent.Kill(e.ctx))
		e.gone("crashing")
	})
	t.Run("a repository that only looks like the rule's", func(t *testing.T) {
		e := e.in(t)
		e.failing(evil, "no member rule", "repository acme-evil/network")
		e.logged("forge:repo:acme-evil/network", "rule ci (zones/office.yaml:8:7)", "claim repository")
		e.still(evil.Host, serverAddr, tcp(443), false)
	})
	t.Run("another branch", func(t *testing.T) {
		e := e.in(t)
		e.failing(branch, "no member rule", "ref refs/heads/feature")
	})
}

// gone waits until the server has no such peer.
func (e *enrolment) gone(name string) {
	e.t.Helper()
	e.must(e.server.Agent.Await(e.ctx, name+" is gone from the server", func(ctx context.Context) error {
		z, err := e.server.Zone(ctx, "office")
		if err != nil {
			return err
		}
		for _, p := range z.Peers {
			if p.Name == name {
				return fmt.Errorf("peer %s is still there", name)
			}
		}
		return nil
	}))
}

// failing waits until a host says that its enrolment fails, in words that say what is wrong.
func (e *enrolment) failing(n *fleet.Node, words ...string) {
	e.t.Helper()
	var message string
	e.must(n.Agent.Await(e.ctx, fmt.Sprintf("%s says %q", n.Spec.Name, words), func(ctx context.Context) error {
		z, err := n.Zone(ctx, "office")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(z.Conditions, func(c status.Condition) bool { return c.Type == status.EnrolmentFailing && c.Status })
		if i < 0 {
			return errors.New("its enrolment does not fail")
		}
		message = z.Conditions[i].Message
		for _, word := range words {
			if !strings.Contains(message, word) {
				return fmt.Errorf("it says: %s", message)
			}
		}
		return nil
	}))
	e.t.Logf("%s says: %s", n.Spec.Name, message)
	e.refusedWith(errors.New(message), words...)
}
