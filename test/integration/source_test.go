//go:build linux

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/token"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
)

// TestTokenSourcesJoin has hosts join with what TestJobsJoin and TestPeopleJoin have not: a job's token in a variable, in
// GitLab's shape; a command that asks its cloud for a token; a client with a secret; and a person at the other real provider.
// Each reaches what the policy gives its rule and nothing else, and the last two renew, although that provider's refreshed
// tokens commit to no keys.
func TestTokenSourcesJoin(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	gitlab, cloud := e.simulate("gitlab", spec.TokenBindingOptional), e.simulate("cloud", spec.TokenBindingRequired)
	zitadel, err := e.provider.Zitadel(e.ctx, idp.ZitadelOptions{Users: users(map[string]string{"alice": "staff"})})
	e.must(err)
	e.closed(zitadel.Close)
	e.issuer(corp(zitadel.Issuer(), spec.TokenBindingRequired))
	// An access token of the client is for the client.
	e.issuer(spec.Issuer{Name: "machines", URL: zitadel.Issuer(), Audience: idp.JobID, TokenBinding: spec.TokenBindingOptional})
	e.office(`{name: ci, issuer: gitlab, match: {project_path: acme/*, ref_protected: "true"}, labels: {kind: runner}}`,
		`{name: workloads, issuer: cloud, match: {sub: "project:acme:*"}, labels: {kind: workload}}`,
		`{name: services, issuer: machines, match: {sub: apex-job}, labels: {kind: service}, ttl: 1m}`,
		`{name: staff, issuer: corp, groups: [staff], labels: {kind: laptop}, ttl: 1m}`)
	e.allow(toServer("labels: {kind: runner}", "tcp/443"), toServer("labels: {kind: workload}", "tcp/80"),
		toServer("labels: {kind: service}", "icmp"), toServer(`groups: ["corp:staff"]`, "tcp/80, icmp"))

	job := func(name, project string) *fleet.Node {
		n := e.joiner(name, &agent.JoinConfig{Issuer: "gitlab", TokenEnv: "APEX_ID_TOKEN"})
		claims := idp.GitLabJob{Project: project}.Claims(gitlab.Issuer(), "apex", time.Now())
		n.Env = []string{"APEX_ID_TOKEN=" + gitlab.Mint(claims)}
		return n
	}
	workload := func(name, variable string) *fleet.Node {
		program, err := os.Executable()
		e.must(err)
		n := e.joiner(name, &agent.JoinConfig{Issuer: "cloud", Audience: "apex", TokenCommand: []string{program, tokenCommand, variable}})
		n.Env = cloud.GitHubEnv(cloud.Claims("", "project:acme:"+name, time.Now()))
		return n
	}
	runner, fork := job("runner", "acme/network"), job("fork", "mallory/network")
	worker, careless := workload("worker", "APEX_AUDIENCE"), workload("careless", "APEX_PLAIN_AUDIENCE")
	secret := filepath.Join(e.Lab.Dir(), "client.secret")
	e.must(os.WriteFile(secret, []byte(idp.JobSecret+"\n"), 0o600))
	service := e.joiner("service", &agent.JoinConfig{Issuer: "machines", IssuerURL: zitadel.Issuer(),
		ClientCredentials: &agent.ClientCredentialsConfig{ClientID: idp.JobID, ClientSecretFile: secret, Scopes: []string{"openid"}}})
	laptop := e.joiner("laptop", nil)
	e.begin()
	e.must(e.byBrowser(laptop, "alice", "--issuer", "corp"))

	for n, may := range map[*fleet.Node][]lab.Probe{
		runner: {tcp(443)}, worker: {tcp(80)}, service: {icmp()}, laptop: {tcp(80), icmp()},
	} {
		t.Run(n.Spec.Name, func(t *testing.T) {
			e := e.in(t)
			e.bound(n)
			for _, p := range may {
				e.reaches(n.Host, serverAddr, p, true)
			}
			for _, p := range []lab.Probe{tcp(443), tcp(80), icmp()} {
				e.still(n.Host, serverAddr, p, slices.Contains(may, p))
			}
		})
	}
	t.Run("a job of another project", func(t *testing.T) {
		e := e.in(t)
		e.failing(fork, "no member rule", "project_path mallory/network")
		e.still(fork.Host, serverAddr, tcp(443), false)
	})
	t.Run("a command that asks for the plain audience", func(t *testing.T) {
		e := e.in(t)
		e.failing(careless, "cloud", "commits to no keys")
		e.still(careless.Host, serverAddr, tcp(80), false)
	})
	t.Run("renewal", func(t *testing.T) {
		e := e.in(t)
		first := map[*fleet.Node]time.Time{}
		for _, n := range []*fleet.Node{service, laptop} {
			first[n] = must(n.Enrolment(e.ctx, "office"))(t).Binding.Expires
		}
		for n, before := range first {
			e.must(n.Agent.Await(e.ctx, n.Spec.Name+" renews", awaitRenewed(n, before)))
			e.still(n.Host, serverAddr, icmp(), true)
		}
	})
}

// tokenCommand is the first argument with which this program is a tool that asks a cloud for a token, instead of tests.
const tokenCommand = "print-token"

// printToken asks, as GitHub's jobs do, for a token with the audience that stands in a variable.
func printToken(variable string) {
	raw, err := token.GitHub{}.Token(context.Background(), token.Need{Audience: os.Getenv(variable)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(raw)
}
