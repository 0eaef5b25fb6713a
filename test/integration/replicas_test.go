//go:build linux

package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/natstest"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// burst is how many hosts enrol while the leader is killed.
const burst = 6

// TestReplicas runs two controllers over one NATS. They serve the same bytes; one leads. It is killed while hosts enrol:
// no host that was told its binding loses it, no address is given twice, and the other one publishes the next commit
// within seconds.
func TestReplicas(t *testing.T) {
	t.Parallel()
	servers := natstest.Start(t, 1)
	e := newEnrolment(t, fleet.Options{})
	e.Controller.NATS = e.relay(servers.URL())
	second, err := e.NewReplica(e.ctx, "controller-2")
	e.must(err)
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	e.office("{name: staff, issuer: corp, groups: [staff], maxNodes: 100}")
	e.allow(toServer("any: true", "tcp/443"))
	var hosts []*fleet.Node
	for i := range burst {
		n := e.joiner(fmt.Sprintf("host-%d", i), nil)
		hosts = append(hosts, n)
	}
	e.must(second.Start(e.ctx))
	begun := e.begin()
	leader, follower := e.leads(second, begun)
	t.Logf("%s leads", leader.Host.Name())

	tokens := make([]string, burst)
	for i, n := range hosts {
		tokens[i] = issuer.Mint(e.claims(issuer, n, n.Spec.Name).With("groups", []string{"staff"}))
	}
	var group sync.WaitGroup
	errs := make([]error, burst)
	lanes := make(chan struct{}, 2) // so that some have their answer, some wait for theirs and some have not asked
	for i, n := range hosts {
		group.Go(func() {
			lanes <- struct{}{}
			errs[i] = e.withToken(n, tokens[i])
			<-lanes
		})
	}
	e.must(lab.Await(e.ctx, "the first host is bound", func(ctx context.Context) error {
		for _, n := range hosts {
			if _, err = n.Address(ctx, "office"); err == nil {
				return nil
			}
		}
		return err
	}))
	acknowledged := map[string]netip.Addr{}
	e.must(leader.Process.Kill(e.ctx))
	killed := time.Now()
	for _, n := range hosts {
		if a, err := n.Address(e.ctx, "office"); err == nil {
			acknowledged[n.Spec.Name] = a
		}
	}
	group.Wait()
	t.Logf("%d of %d hosts had their binding when the leader was killed", len(acknowledged), burst)
	for i, n := range hosts {
		if errs[i] != nil { // its token is as good as before, or was used for the answer that was lost
			t.Logf("%s tries again: %v", n.Spec.Name, errs[i])
			e.must(e.again(n, tokens[i]))
		}
	}
	seen := map[netip.Addr]string{}
	for _, n := range hosts {
		a := e.bound(n)
		if other := seen[a]; other != "" {
			t.Errorf("%s and %s have address %s", other, n.Spec.Name, a)
		}
		seen[a] = n.Spec.Name
		if was, ok := acknowledged[n.Spec.Name]; ok && was != a {
			t.Errorf("%s had %s and has %s", n.Spec.Name, was, a)
		}
		e.reaches(n.Host, serverAddr, tcp(443), true)
	}
	t.Logf("measured: all %d hosts reach the server %s after the leader was killed", burst, time.Since(killed).Round(time.Millisecond))

	e.allow(toServer("any: true", "tcp/80"))
	merged := time.Now()
	commit := e.merge("A commit for the other one")
	e.must(e.server.AwaitCommit(e.ctx, commit))
	t.Logf("measured: the next commit is enforced %s after its merge, by %s", time.Since(merged).Round(time.Millisecond), follower.Host.Name())
	e.reaches(hosts[0].Host, serverAddr, tcp(80), true)

	e.must(leader.Start(e.ctx))
	e.same(leader, follower, commit)
}

// leads waits until both serve commit, and tells the leader from the other.
func (e *enrolment) leads(second *fleet.Controller, commit string) (leader, follower *fleet.Controller) {
	e.t.Helper()
	e.same(e.Controller, second, commit)
	e.must(lab.Await(e.ctx, "both agree on a leader", func(ctx context.Context) error {
		a, err := e.StatusOf(ctx, e.Controller)
		if err != nil {
			return err
		}
		b, err := e.StatusOf(ctx, second)
		if err != nil {
			return err
		}
		if a.Leader == "" || a.Leader != b.Leader {
			return fmt.Errorf("%q and %q", a.Leader, b.Leader)
		}
		leader, follower = e.Controller, second
		if a.Leader == second.Host.Name() {
			leader, follower = second, e.Controller
		}
		return nil
	}))
	return leader, follower
}

// same waits until two controllers serve the same manifest of a commit.
func (e *enrolment) same(a, b *fleet.Controller, commit string) {
	e.t.Helper()
	served := func(ctx context.Context, c *fleet.Controller) (*protocol.Published, error) {
		s, err := e.StatusOf(ctx, c)
		if err != nil {
			return nil, err
		}
		if len(s.Zones) != 1 || s.Zones[0].Current == nil || s.Zones[0].Current.Commit != commit {
			return nil, fmt.Errorf("%s does not serve %.12s yet: %+v", c.Host.Name(), commit, s)
		}
		return s.Zones[0].Current, nil
	}
	e.must(lab.Await(e.ctx, "both serve the same", func(ctx context.Context) error {
		one, err := served(ctx, a)
		if err != nil {
			return err
		}
		two, err := served(ctx, b)
		if err != nil {
			return err
		}
		if one.Manifest == (peermap.Digest{}) || one.Manifest != two.Manifest {
			return fmt.Errorf("%+v and %+v", one, two)
		}
		return nil
	}))
}

// relay lets the fleet's hosts reach a server on this program's loopback, at a host of its own.
func (e *enrolment) relay(target string) string {
	e.t.Helper()
	u, err := url.Parse(target)
	e.must(err)
	host, err := e.Lab.Host("nats")
	e.must(err)
	nic, err := host.Join(e.ctx, e.Internet)
	e.must(err)
	listener, err := host.Listen(e.ctx, "tcp", netip.AddrPortFrom(nic.Addr4(), 4222).String())
	e.must(err)
	ctx, cancel := context.WithCancel(e.ctx)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			group.Go(func() { pass(ctx, conn, u.Host) })
		}
	})
	e.t.Cleanup(func() {
		cancel()
		listener.Close()
		group.Wait()
	})
	return "nats://" + listener.Addr().String()
}

// pass copies both ways until one side ends.
func pass(ctx context.Context, conn net.Conn, target string) {
	var d net.Dialer
	far, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		conn.Close()
		return
	}
	stop := context.AfterFunc(ctx, func() { conn.Close(); far.Close() })
	defer stop()
	var group sync.WaitGroup
	for _, way := range [][2]net.Conn{{conn, far}, {far, conn}} {
		group.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			conn.Close()
			far.Close()
		})
	}
	group.Wait()
}
