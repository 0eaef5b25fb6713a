//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/plan"
	"github.com/apex-network/apex/spec/policy"
)

const zones = `apiVersion: apex/v1alpha1
kind: Zone
metadata:
  name: shop
spec:
  ranges: [10.20.0.0/24]
---
apiVersion: apex/v1alpha1
kind: Zone
metadata:
  name: office
spec:
  ranges: [10.30.0.0/24]
  default: mesh
`

const shopPolicy = `apiVersion: apex/v1alpha1
kind: Policy
metadata:
  name: shop
  zone: shop
spec:
  allow:
    - from: [{labels: {role: web}}]
      to: [{labels: {role: db}}]
      ports: [%s]
---
apiVersion: apex/v1alpha1
kind: PolicyTest
metadata:
  name: shop
  zone: shop
spec:
  allow:
    - {from: web, to: db, ports: [%s]}
  deny:
    - {from: db, to: web}
    - {from: web, to: db, ports: [tcp/22]}
`

const (
	policyPath = "policy/shop.yaml"
	before     = "tcp/5432"
	after      = "tcp/5432, tcp/6379"
)

// nodes of the demo, by zone.
var addresses = map[string]netip.Addr{
	"web": addr("10.20.0.1"), "db": addr("10.20.0.2"), "laptop": addr("10.30.0.1"), "nas": addr("10.30.0.2"),
}

func zoneOf(node string) string {
	if node == "web" || node == "db" {
		return "shop"
	}
	return "office"
}

func (s *story) build(ctx context.Context) (string, error) {
	f, err := fleet.New(ctx, fleet.Options{Lab: s.lab, Binaries: s.opt.Binaries, Enrolment: true}, map[string]string{
		"zones.yaml": zones, policyPath: fmt.Sprintf(shopPolicy, before, before)})
	if err != nil {
		return "", err
	}
	s.fleet = f
	if err := s.provide(ctx); err != nil {
		return "", err
	}
	for _, name := range order {
		n, err := f.AddNode(ctx, fleet.NodeSpec{Name: name, Zones: map[string][]netip.Addr{zoneOf(name): {addresses[name]}},
			Labels: map[string]string{"role": name}})
		if err != nil {
			return "", err
		}
		for _, t := range services {
			if t.node != name {
				continue
			}
			if _, err := n.Host.Echo(ctx, t.port); err != nil {
				return "", err
			}
		}
	}
	if _, err := f.Merge("Add four nodes"); err != nil {
		return "", err
	}
	if s.admin, err = f.NewAdmin(ctx); err != nil {
		return "", err
	}
	s.say("trust root %.16s…: 1 root key, 1 maintainer, 1 controller key", f.Pin)
	return "a repository of signed YAML, its remote, and a small internet of seven machines", nil
}

var order = []string{"web", "db", "laptop", "nas"}

// service is what a packet is sent to.
type service struct {
	node string
	port uint16
}

var services = []service{{"web", 80}, {"db", 5432}, {"db", 6379}, {"laptop", 22}, {"nas", 445}}

func (s *story) start(ctx context.Context) (string, error) {
	head, err := s.fleet.Repo.Head()
	if err != nil {
		return "", err
	}
	if err := s.fleet.Controller.Start(ctx); err != nil {
		return "", err
	}
	began := time.Now()
	for _, name := range order {
		if err := s.fleet.Nodes[name].Start(ctx); err != nil {
			return "", err
		}
	}
	if err := s.fleet.AwaitEnforced(ctx, head); err != nil {
		return "", err
	}
	return fmt.Sprintf("four hosts enforce %.12s after %s", head, round(time.Since(began))), nil
}

func (s *story) measure(ctx context.Context) (string, error) {
	m, err := s.converge(ctx)
	if err != nil {
		return "", err
	}
	s.indent(m.String())
	return fmt.Sprintf("%d flows are as the policy says, and the two zones do not hear each other", len(order)*len(services)), nil
}

// converge measures until packets flow exactly as the policy in the clone says.
func (s *story) converge(ctx context.Context) (*lab.Matrix, error) {
	repo, err := s.repository(ctx)
	if err != nil {
		return nil, err
	}
	var sources []lab.Source
	for _, name := range order {
		sources = append(sources, lab.Source{Host: s.fleet.Nodes[name].Host})
	}
	var targets []lab.Target
	for _, t := range services {
		targets = append(targets, lab.Target{Name: t.node, Addr: addresses[t.node],
			Probe: lab.Probe{Protocol: lab.TCP, Port: t.port}, Host: s.fleet.Nodes[t.node].Host})
	}
	now := time.Now()
	return lab.Converge(ctx, sources, targets, func(from lab.Source, to lab.Target) bool {
		return allowed(repo, from.Host.Name(), to.Host.Name(), to.Probe.Port, now)
	})
}

// allowed asks the policy, as `apex can` does. A node that is not in git reaches nothing and is reached by nobody.
func allowed(repo *spec.Repository, from, to string, port uint16, now time.Time) bool {
	if zoneOf(from) != zoneOf(to) {
		return false
	}
	p, err := spec.ParsePort(fmt.Sprintf("tcp/%d", port))
	return err == nil && policy.New(repo, zoneOf(from)).Can(from, to, &p, now).Allowed
}

// repository loads the network as it stands in the clone.
func (s *story) repository(ctx context.Context) (*spec.Repository, error) {
	files, err := gitsource.ReadFolder(ctx, s.fleet.Repo.Dir)
	if err != nil {
		return nil, err
	}
	repo, found := spec.Load(files)
	return repo, found.Err()
}

func (s *story) propose(ctx context.Context) (string, error) {
	old, err := s.repository(ctx)
	if err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Switch("cache"); err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Write(policyPath, fmt.Sprintf(shopPolicy, after, after)); err != nil {
		return "", err
	}
	if _, err := s.fleet.Repo.Commit("Let web reach the cache"); err != nil {
		return "", err
	}
	next, err := s.repository(ctx)
	if err != nil {
		return "", err
	}
	p := plan.Diff(old, next, time.Now())
	if p.Empty() {
		return "", errors.New("the plan shows no change")
	}
	var text strings.Builder
	if err := p.Text(&text, s.opt.Color); err != nil {
		return "", err
	}
	s.say("$ apex plan")
	s.indent(text.String())
	return "the plan names what the merge will open, and nothing else", nil
}

func (s *story) merge(ctx context.Context) (string, error) {
	if out := s.probe(ctx, "web", "db", 6379, 300*time.Millisecond); out.Verdict == lab.Reached {
		return "", errors.New("the cache is reachable before the merge")
	}
	if err := s.fleet.Repo.FastForward("cache"); err != nil {
		return "", err
	}
	commit, err := s.fleet.Repo.Head()
	if err != nil {
		return "", err
	}
	if err := s.fleet.Repo.Push(); err != nil {
		return "", err
	}
	began := time.Now()
	if _, err := s.admin.Apply(ctx, commit); err != nil {
		return "", err
	}
	taken := time.Since(began)
	if err := s.fleet.AwaitEnforced(ctx, commit); err != nil {
		return "", err
	}
	enforced := time.Since(began)
	if out := s.probe(ctx, "web", "db", 6379, time.Minute); out.Verdict != lab.Reached {
		return "", fmt.Errorf("web does not reach the cache: %s", out)
	}
	s.say("$ git push && apex apply --wait")
	return fmt.Sprintf("pushed → verified, compiled, signed in %s → enforced on all hosts in %s; a packet from web reaches the cache", round(taken), round(enforced)), nil
}

func (s *story) probe(ctx context.Context, from, to string, port uint16, limit time.Duration) lab.Outcome {
	return s.fleet.Nodes[from].Host.Probe(ctx, addresses[to], lab.Probe{Protocol: lab.TCP, Port: port, Timeout: limit})
}

func (s *story) remove(ctx context.Context) (string, error) {
	if err := s.fleet.Repo.Remove(fleet.NodePath("office", "nas")); err != nil {
		return "", err
	}
	commit, err := s.fleet.Merge("Remove nas\n\nApex-Allow-Shrink: office\n")
	if err != nil {
		return "", err
	}
	if _, err := s.admin.Apply(ctx, commit); err != nil {
		return "", err
	}
	if err := s.fleet.Nodes["laptop"].AwaitCommit(ctx, commit); err != nil {
		return "", err
	}
	if _, err := s.converge(ctx); err != nil {
		return "", err
	}
	return "the signed trailer let the zone shrink by half; laptop no longer answers nas, and its packets stop", nil
}

func (s *story) killController(ctx context.Context) (string, error) {
	if err := s.fleet.Controller.Process.Kill(ctx); err != nil {
		return "", err
	}
	if _, err := s.converge(ctx); err != nil {
		return "", err
	}
	return "every flow is as it was: hosts need no controller to talk", nil
}

func (s *story) restartAgent(ctx context.Context) (string, error) {
	web := s.fleet.Nodes["web"]
	if err := web.Agent.Kill(ctx); err != nil {
		return "", err
	}
	began := time.Now()
	if err := web.Start(ctx); err != nil {
		return "", err
	}
	if _, err := s.converge(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("it came up from its last verified state; all flows are back after %s", round(time.Since(began))), nil
}

func (s *story) drift(ctx context.Context) (string, error) {
	web := s.fleet.Nodes["web"]
	if err := web.Host.FlushNFT(ctx); err != nil {
		return "", err
	}
	route, err := s.aRoute(ctx, web)
	if err != nil {
		return "", err
	}
	if err := web.Host.DeleteRoute(ctx, route); err != nil {
		return "", err
	}
	began := time.Now()
	err = web.Agent.Await(ctx, "the agent repairs the host", func(ctx context.Context) error {
		z, err := web.Zone(ctx, "shop")
		if err != nil {
			return err
		}
		if z.Counters.DriftFixed < 2 || condition(z, status.Drifted) {
			return fmt.Errorf("%d objects put back", z.Counters.DriftFixed)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	if _, err := s.converge(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("firewall and route were put back after %s, counted, and reported apart from intended change", round(took)), nil
}

func condition(z status.Zone, kind string) bool {
	for _, c := range z.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return false
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

func splitLines(text string) []string { return strings.Split(strings.TrimRight(text, "\n"), "\n") }
