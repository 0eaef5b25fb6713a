//go:build linux

package bench

import (
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/reconciler"
)

// members is how many agents BenchmarkMembers has online, besides that of the node in git.
const members = 200

// BenchmarkMembers is 200 agents that join at once, over hosts in memory and everybody a peer of everybody; and commits
// that each revoke one of them, until the last host does not have it as a peer any more. What that means for packets is
// measured in package packets (BenchmarkRevokeCrowd).
func BenchmarkMembers(b *testing.B) {
	binary := buildCommand(b, "apex-controller")
	b.Run("join", func(b *testing.B) {
		m := figures{}
		for b.Loop() {
			f := newMemberFleet(b, binary)
			before, cpu, own := f.server.serial(), f.server.cpu(), ownCPU(b)
			took := f.joinAll()
			m.seconds("cpu-s", f.server.cpu()-cpu)
			m.millis("agent-ms", (ownCPU(b)-own)/members)
			m.add("generations", f.server.serial()-before)
			m.spread("first", took.first)
			m.seconds("everybody-s", took.everybody)
			f.halt()
			f.server.stop()
		}
		m.report(b)
	})
	b.Run("revoke", func(b *testing.B) {
		f := newMemberFleet(b, binary)
		f.joinAll()
		f.benchmarkRevoke(b)
	})
}

func newMemberFleet(b *testing.B, binary string) *fleet {
	b.Helper()
	n := newMembers(b, members+1)
	p := newProcess(b, binary, n)
	p.start()
	f := newFleet(b, n, p)
	f.enforced = make(chan arrival, 1<<16)
	return f
}

// joined says how long agents took from their start: each until its host carries its first peers, and all of them until
// every host carries every other.
type joined struct {
	first     []time.Duration
	everybody time.Duration
}

func (f *fleet) joinAll() joined {
	f.tb.Helper()
	since := time.Now()
	f.start()
	first := map[int]bool{}
	var j joined
	all := f.network.all()
	known := f.awaitPeers(all, since, func(a arrival) bool {
		if !first[a.node] && len(a.peers) > 0 {
			first[a.node] = true
			j.first = append(j.first, a.at.Sub(since))
		}
		return len(a.peers) == len(all)-1
	})
	j.everybody = known[len(known)-1]
	return j
}

// awaitPeers waits until each of these hosts has carried peers for which ok holds, and gives when, counted from since, in
// order.
func (f *fleet) awaitPeers(nodes []int, since time.Time, ok func(arrival) bool) []time.Duration {
	f.tb.Helper()
	missing := make(map[int]bool, len(nodes))
	for _, n := range nodes {
		missing[n] = true
	}
	late := time.After(2 * time.Minute)
	var took []time.Duration
	for len(missing) > 0 {
		select {
		case a := <-f.enforced:
			if a.err != nil {
				f.tb.Fatalf("%s: %v", nodeName(a.node), a.err)
			}
			if a.at.After(since) && ok(a) && missing[a.node] {
				delete(missing, a.node)
				took = append(took, a.at.Sub(since))
			}
		case <-late:
			f.tb.Fatalf("%d of %d hosts are not so far after two minutes", len(missing), len(nodes))
		}
	}
	slices.Sort(took)
	return took
}

// benchmarkRevoke revokes one member after the other; time counts from the moment that the remote has the commit and the
// forge calls.
func (f *fleet) benchmarkRevoke(b *testing.B) {
	n := f.network
	left := n.all()
	var revoked []string
	m := figures{}
	for b.Loop() {
		victim := left[len(left)-1]
		left = left[:len(left)-1]
		revoked = append(revoked, nodeName(victim))
		n.writeNetwork(revoked...)
		n.merge("Revoke " + nodeName(victim))
		key := reconciler.Key(n.publicKey(victim))
		cpu, since := f.server.cpu(), time.Now()
		f.server.poke()
		took := f.awaitPeers(left, since, func(a arrival) bool { return !slices.Contains(a.peers, key) })
		m.seconds("cpu-s", f.server.cpu()-cpu)
		m.spread("gone", took)
		m.millis("last-ms", took[len(took)-1])
	}
	m.report(b)
}
