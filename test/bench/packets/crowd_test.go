//go:build linux

package packets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
)

const (
	crowd    = 200 // agents online besides those of the revoked
	victims  = 5   // revoked one after the other
	starters = 4   // agents that start at a time, on two cores
	// round is how often a victim sends to everybody: what the figures are good to. Until the merge it sends in one round of
	// calm only, or 200 hosts that all answer would leave the two cores nothing else to do.
	round = 100 * time.Millisecond
	calm  = 10
	// silence is how long nothing may have come back before a host counts as shut. Answers take milliseconds.
	silence = 2 * time.Second
)

// BenchmarkRevokeCrowd has 200 agents online, everybody a peer of everybody, and merges revocations of members that send
// to all of them: from the call of `apply` with the commit to the last packet that each host answered. A victim is kept
// from the controller, as a stolen machine would see to itself: what is measured is that its peers shut it out, and not
// that it leaves.
func BenchmarkRevokeCrowd(b *testing.B) {
	for b.Loop() {
		s := newScene(b, "{any: true}")
		targets := s.gather(crowd - 1) // the server is one of them
		for range victims {
			_, err := s.join(s.add())
			s.check(err)
		}
		s.awaitPeers(slices.Collect(maps.Values(targets)), crowd-1+victims)
		var all, last []time.Duration
		for _, victim := range s.hosts {
			took := s.shutOut(victim, targets)
			all, last = append(all, took...), append(last, slices.Max(took))
		}
		report(b, "packet", all)
		report(b, "lastpacket", last)
	}
	b.ReportMetric(0, "ns/op")
}

// gather adds nodes to git, and gives them with the server once their agents enforce the commit.
func (s *scene) gather(nodes int) map[netip.Addr]*fleet.Node {
	s.b.Helper()
	all := map[netip.Addr]*fleet.Node{}
	addr := netip.MustParseAddr(server)
	all[addr] = s.server
	for i := range nodes {
		addr = addr.Next()
		n, err := s.AddNode(s.ctx, fleet.NodeSpec{Name: fmt.Sprintf("node-%d", i+1), Zones: map[string][]netip.Addr{zone: {addr}}})
		s.check(err)
		_, err = n.Host.Echo(s.ctx, port)
		s.check(err)
		all[addr] = n
	}
	s.introduce(s.Controller.Host, slices.Collect(maps.Values(all)))
	commit, err := s.Merge("Add the crowd")
	s.check(err)
	_, err = s.admin.Apply(s.ctx, commit)
	s.check(err)
	next := make(chan *fleet.Node)
	errs := make([]error, starters)
	var starting sync.WaitGroup
	for i := range starters {
		starting.Go(func() {
			for n := range next {
				errs[i] = errors.Join(errs[i], n.Start(s.ctx, "--wireguard", "userspace"))
			}
		})
	}
	for _, n := range all {
		if n != s.server {
			next <- n
		}
	}
	close(next)
	starting.Wait()
	s.check(errors.Join(errs...))
	s.check(s.AwaitEnforced(s.ctx, commit))
	return all
}

// introduce lets a host and the nodes' know each other on the wire: see lab.Host.Know.
func (s *scene) introduce(host *lab.Host, nodes []*fleet.Node) {
	s.b.Helper()
	own := host.Interfaces()[0]
	var others []*lab.Interface
	for _, n := range nodes {
		others = append(others, n.Host.Interfaces()[0])
		s.check(n.Host.Know(s.ctx, own))
	}
	s.check(host.Know(s.ctx, others...))
}

// awaitPeers waits until each node has so many peers.
func (s *scene) awaitPeers(nodes []*fleet.Node, peers int) {
	s.b.Helper()
	for _, n := range nodes {
		s.check(n.Agent.Await(s.ctx, n.Spec.Name+" has everybody as a peer", func(ctx context.Context) error {
			z, err := n.Zone(ctx, zone)
			if err == nil && len(z.Peers) != peers {
				err = fmt.Errorf("it has %d peers: %v", len(z.Peers), z.Conditions)
			}
			return err
		}))
	}
}

// shutOut revokes a member that has sessions with all targets, and gives for each the time until its last answer.
func (s *scene) shutOut(victim *fleet.Node, targets map[netip.Addr]*fleet.Node) []time.Duration {
	s.b.Helper()
	s.introduce(victim.Host, slices.Collect(maps.Values(targets)))
	s.check(s.hide(victim))
	flood, err := newFlood(s.ctx, victim.Host, targets)
	s.check(err)
	defer flood.close()
	s.check(s.EditNetwork(func(doc *spec.NetworkSpec) {
		doc.Revoked = append(doc.Revoked, spec.Revocation{Zone: zone, Node: victim.Spec.Name})
	}))
	commit, err := s.Merge("Revoke " + victim.Spec.Name)
	s.check(err)
	s.check(lab.Await(s.ctx, victim.Spec.Name+" reaches everybody", func(context.Context) error {
		return flood.unanswered(time.Now().Add(-2 * calm * round))
	}))
	flood.rush.Store(true)
	began := time.Now()
	_, err = s.admin.Apply(s.ctx, commit)
	s.check(err)
	s.check(lab.Await(s.ctx, "nobody answers "+victim.Spec.Name, func(context.Context) error {
		if at := flood.latest(); time.Since(at) < silence {
			return fmt.Errorf("the last answer came to what was sent %s after the merge", at.Sub(began))
		}
		return nil
	}))
	return flood.since(began)
}

// hide cuts a host off the controller in both directions.
func (s *scene) hide(n *fleet.Node) error {
	controller := s.Controller.Host.Interfaces()[0].Addr4()
	for _, rule := range [][]string{
		{"add", "table", "inet", "thief"},
		{"add", "chain", "inet", "thief", "in", "{ type filter hook input priority 0; }"},
		{"add", "chain", "inet", "thief", "out", "{ type filter hook output priority 0; }"},
		{"add", "rule", "inet", "thief", "in", "ip", "saddr", controller.String(), "drop"},
		{"add", "rule", "inet", "thief", "out", "ip", "daddr", controller.String(), "drop"},
	} {
		if _, err := n.Host.Run(s.ctx, append([]string{"nft"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

// flood sends a numbered datagram to each target every round, or while there is no rush in one round of calm, and remembers the last one that each answered.
type flood struct {
	conn    net.PacketConn
	targets map[netip.Addr]*fleet.Node
	rush    atomic.Bool
	ended   chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex
	sent     []time.Time // of each round
	answered map[netip.Addr]time.Time
}

func newFlood(ctx context.Context, from *lab.Host, targets map[netip.Addr]*fleet.Node) (*flood, error) {
	conn, err := from.ListenPacket(ctx, "udp4", "0.0.0.0:0")
	if err != nil {
		return nil, err
	}
	f := &flood{conn: conn, targets: targets, ended: make(chan struct{}), answered: map[netip.Addr]time.Time{}}
	f.running.Go(f.send)
	f.running.Go(f.receive)
	return f, nil
}

func (f *flood) send() {
	ticker := time.NewTicker(round)
	defer ticker.Stop()
	for tick := 0; ; tick++ {
		if f.rush.Load() || tick%calm == 0 {
			f.sendRound()
		}
		select {
		case <-ticker.C:
		case <-f.ended:
			return
		}
	}
}

func (f *flood) sendRound() {
	f.mu.Lock()
	number := len(f.sent)
	f.sent = append(f.sent, time.Now())
	f.mu.Unlock()
	packet := binary.BigEndian.AppendUint32(nil, uint32(number))
	for addr := range f.targets {
		// What does not leave is not answered either, and counts as that.
		_, _ = f.conn.WriteTo(packet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
	}
}

func (f *flood) receive() {
	packet := make([]byte, 64)
	for {
		n, from, err := f.conn.ReadFrom(packet)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n != 4 {
			continue // a refusal of somebody
		}
		addr := from.(*net.UDPAddr).AddrPort().Addr().Unmap()
		number := int(binary.BigEndian.Uint32(packet))
		f.mu.Lock()
		if number < len(f.sent) && f.sent[number].After(f.answered[addr]) {
			f.answered[addr] = f.sent[number]
		}
		f.mu.Unlock()
	}
}

// unanswered is an error if a target has answered nothing that was sent after an instant.
func (f *flood) unanswered(after time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for addr, n := range f.targets {
		if !f.answered[addr].After(after) {
			return fmt.Errorf("%s at %s has answered nothing since", n.Spec.Name, addr)
		}
	}
	return nil
}

// latest is when the last packet that was answered by anybody was sent.
func (f *flood) latest() (at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.answered {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// since gives for each target how long after an instant its last answered packet was sent; 0 if none was.
func (f *flood) since(began time.Time) (took []time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for addr := range f.targets {
		took = append(took, max(0, f.answered[addr].Sub(began)))
	}
	return took
}

func (f *flood) close() {
	close(f.ended)
	_ = f.conn.Close()
	f.running.Wait()
}
