//go:build linux

// Package packets measures what membership means for packets: from the start of an agent that joins until its first
// answer from a server, and from a merged revocation until its last one. Every program is the real one, on hosts of
// package lab, over wireguard-go; the provider is simulated inside the benchmark, in the shape of GitHub Actions.
package packets

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
	"github.com/apex-network/apex/spec"
)

func TestMain(m *testing.M) { labtest.Main(m) }

const (
	zone    = "prod"
	server  = "10.1.0.1"
	port    = 443
	joiners = 100 // one after the other
	atOnce  = 20  // more on two cores measure the cores
	revoked = 20  // one after the other
)

// scene is a network with a server in git, and hosts that may join it and reach the server.
type scene struct {
	*fleet.Fleet
	b      *testing.B
	ctx    context.Context
	admin  *fleet.Admin
	issuer *idp.Issuer
	server *fleet.Node
	hosts  []*fleet.Node // that join

	provider *lab.Host // where issuer answers
}

// newScene makes the network, in which everybody may reach what to selects, at a port of either protocol.
func newScene(b *testing.B, to string) *scene {
	b.Helper()
	labtest.NeedTunnel(b)
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
	b.Cleanup(cancel)
	f, err := fleet.New(ctx, fleet.Options{Lab: labtest.New(b), Enrolment: true, Binaries: fleet.Binaries{
		Controller: labtest.Build(b, "../../../cmd/apex-controller"), Agent: labtest.Build(b, "../../../cmd/apex-agent"),
	}}, map[string]string{
		"zone.yaml": "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: " + zone + "}\nspec:\n  ranges: [10.1.0.0/16]\n" +
			"  dynamic: [10.1.128.0/17]\n  members:\n    - {name: jobs, issuer: forge, match: {repository: acme/network}, maxNodes: 1000}\n",
		"policy.yaml": fmt.Sprintf("apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: all, zone: %s}\nspec:\n  allow:\n"+
			"    - {from: [{any: true}], to: [%s], ports: [tcp/%d, udp/%d]}\n", zone, to, port, port),
	})
	s := &scene{Fleet: f, b: b, ctx: ctx}
	s.check(err)
	provider, err := f.NewProvider(ctx, "idp")
	s.check(err)
	s.provider = provider.Host
	s.issuer, err = provider.Simulate(ctx, idp.IssuerOptions{})
	s.check(err)
	b.Cleanup(s.issuer.Close)
	s.check(f.EditNetwork(func(n *spec.NetworkSpec) {
		n.Issuers = append(n.Issuers, spec.Issuer{Name: "forge", URL: s.issuer.Issuer(), Audience: "apex"})
	}))
	s.server, err = f.AddNode(ctx, fleet.NodeSpec{Name: "server", Zones: map[string][]netip.Addr{zone: {netip.MustParseAddr(server)}}})
	s.check(err)
	_, err = s.server.Host.Echo(ctx, port)
	s.check(err)
	s.admin, err = f.NewAdmin(ctx)
	s.check(err)
	commit, err := f.Merge("Let jobs join")
	s.check(err)
	s.check(f.Controller.Start(ctx))
	s.check(s.server.Start(ctx, "--wireguard", "userspace"))
	s.check(s.server.AwaitCommit(ctx, commit))
	return s
}

func (s *scene) check(err error) {
	s.b.Helper()
	if err != nil {
		s.b.Fatal(err)
	}
}

// add makes a host whose agent joins when it starts.
func (s *scene) add() *fleet.Node {
	s.b.Helper()
	name := fmt.Sprintf("job-%d", len(s.hosts)+1)
	n, err := s.AddMember(s.ctx, name, zone, &agent.JoinConfig{GitHub: true})
	s.check(err)
	n.Env = s.issuer.GitHubEnv(idp.GitHubJob{Repository: "acme/network"}.Claims(s.issuer.Issuer(), "", time.Now()))
	for _, other := range []*lab.Host{s.Controller.Host, s.provider, s.server.Host} {
		s.introduce(other, []*fleet.Node{n})
	}
	s.hosts = append(s.hosts, n)
	return n
}

// join starts an agent and gives the time until the server has answered its host.
func (s *scene) join(n *fleet.Node) (time.Duration, error) {
	began := time.Now()
	if err := n.Start(s.ctx, "--wireguard", "userspace"); err != nil {
		return 0, err
	}
	err := lab.Await(s.ctx, n.Spec.Name+" reaches the server", func(ctx context.Context) error {
		return s.probe(ctx, n, 100*time.Millisecond)
	})
	return time.Since(began), err
}

func (s *scene) probe(ctx context.Context, n *fleet.Node, timeout time.Duration) error {
	out := n.Host.Probe(ctx, netip.MustParseAddr(server), lab.Probe{Protocol: lab.TCP, Port: port, Timeout: timeout})
	if out.Verdict != lab.Reached {
		return fmt.Errorf("%s: %w", out, out.Err)
	}
	return nil
}

// BenchmarkJoin is 100 hosts that join one after the other, and 20 that join at once: from the start of the agent's
// process to the first answer of the server.
func BenchmarkJoin(b *testing.B) {
	for b.Loop() {
		s := newScene(b, "{node: server}")
		var single []time.Duration
		for range joiners {
			took, err := s.join(s.add())
			s.check(err)
			single = append(single, took)
		}
		var crowd []*fleet.Node
		for range atOnce {
			crowd = append(crowd, s.add())
		}
		together := make([]time.Duration, len(crowd))
		errs := make([]error, len(crowd))
		var all sync.WaitGroup
		for i, n := range crowd {
			all.Go(func() { together[i], errs[i] = s.join(n) })
		}
		all.Wait()
		for _, err := range errs {
			s.check(err)
		}
		report(b, "single", single)
		report(b, "together", together)
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRevoke merges revocations of 20 members, one after the other: from the call of `apply` with the commit to the
// last packet that the server answered, and until the server's agent says that the peer is gone.
func BenchmarkRevoke(b *testing.B) {
	for b.Loop() {
		s := newScene(b, "{node: server}")
		for range revoked {
			_, err := s.join(s.add())
			s.check(err)
		}
		var last, gone []time.Duration
		for _, n := range s.hosts {
			l, g := s.revoke(n)
			last, gone = append(last, l), append(gone, g)
		}
		report(b, "last", last)
		report(b, "gone", gone)
	}
	b.ReportMetric(0, "ns/op")
}

func (s *scene) revoke(n *fleet.Node) (last, gone time.Duration) {
	s.b.Helper()
	s.check(s.EditNetwork(func(doc *spec.NetworkSpec) {
		doc.Revoked = append(doc.Revoked, spec.Revocation{Zone: zone, Node: n.Spec.Name})
	}))
	commit, err := s.Merge("Revoke " + n.Spec.Name)
	s.check(err)
	began := time.Now()
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			sent := time.Now()
			if s.probe(s.ctx, n, 300*time.Millisecond) != nil {
				return // probes repeat nothing for so long, so one that fails is one after the end
			}
			last = sent.Sub(began)
		}
	})
	_, err = s.admin.Apply(s.ctx, commit)
	s.check(err)
	s.check(s.server.Agent.Await(s.ctx, n.Spec.Name+" is gone", func(ctx context.Context) error {
		z, err := s.server.Zone(ctx, zone)
		if err != nil {
			return err
		}
		for _, p := range z.Peers {
			if p.Name == n.Spec.Name {
				return fmt.Errorf("peer %s is still there", p.Name)
			}
		}
		gone = time.Since(began)
		return nil
	}))
	sending.Wait()
	return last, gone
}

func report(b *testing.B, what string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds(), what+"-p50-s")
	b.ReportMetric(took[(len(took)*99+99)/100-1].Seconds(), what+"-p99-s") // the nearest rank: of 20, the worst
}
