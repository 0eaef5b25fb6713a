//go:build linux

package bench

import (
	"testing"
	"time"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/reconciler"
)

// hub is a fleet of one: the agent of node 0, which hears of everybody that may reach it.
type hub struct{ *fleet }

// observeHub runs that agent over a host in memory.
func observeHub(b *testing.B, n *network, p *process) *hub {
	b.Helper()
	h := &hub{newFleet(b, n, p)}
	h.enforced = make(chan arrival, 1<<16) // nobody reads while hosts join
	since := time.Now()
	h.startThese([]int{0})
	h.await([]int{0}, since)
	h.server.await("the hub watches", 20*time.Millisecond, func() bool { return p.metric("apex_controller_watches", "") >= 1 })
	return h
}

// carries waits until the hub's host has every joiner as a peer and gives how long that took from each one's request.
func (h *hub) carries(list []*joiner) []time.Duration {
	h.tb.Helper()
	missing := make(map[reconciler.Key]*joiner, len(list))
	for _, j := range list {
		missing[reconciler.Key(j.public)] = j
	}
	late := time.After(2 * time.Minute)
	var took []time.Duration
	for len(missing) > 0 {
		select {
		case a := <-h.enforced:
			if a.err != nil {
				h.tb.Fatal(a.err)
			}
			for _, k := range a.peers {
				if j := missing[k]; j != nil {
					delete(missing, k)
					took = append(took, a.at.Sub(j.asked))
				}
			}
		case <-late:
			h.tb.Fatalf("%d of %d members are not known to the hub after two minutes", len(missing), len(list))
		}
	}
	return took
}

// BenchmarkEnrol is hosts that join by tokens, with few and with many members beside them: 1 000 of them at once, and one
// after the other. hub-s is from a request until a host of git has the member as a peer.
func BenchmarkEnrol(b *testing.B) {
	binary := buildCommand(b, "apex-controller")
	b.Run("cpu", func(b *testing.B) { benchmarkEnrolCPU(b, binary) })
	for name, held := range map[string]int{"none": 0, "10000": 10_000} {
		b.Run("beside="+name, func(b *testing.B) {
			n := newHub(b, 1<<16, 250*time.Millisecond)
			p := newProcess(b, binary, n)
			p.start()
			d := newDoor(b, n, p)
			d.fill(b, held, others)
			h := observeHub(b, n, p)
			b.Run("burst", func(b *testing.B) { h.benchmarkBurst(b, d) })
			b.Run("single", func(b *testing.B) { h.benchmarkSingle(b, d) })
		})
	}
}

func (h *hub) benchmarkBurst(b *testing.B, d *door) {
	m := figures{}
	for b.Loop() {
		list := d.joiners(b, 1000, staff)
		before, cpu, since := h.server.serial(), h.server.cpu(), time.Now()
		d.each(b, list, join)
		m.add("enrolments/s", float64(len(list))/time.Since(since).Seconds())
		m.spread("hub", h.carries(list))
		m.millis("cpu-ms/enrolment", (h.server.cpu()-cpu)/time.Duration(len(list)))
		m.spread("answer", answers(list))
		m.add("generations", h.server.serial()-before)
		h.clear(b, d, list)
	}
	m.report(b)
}

// clear lets hosts leave again, so that each round begins with as many.
func (h *hub) clear(b *testing.B, d *door, list []*joiner) {
	b.Helper()
	before := h.server.enrolled()
	d.each(b, list, leave)
	h.server.awaitEnrolled(before - len(list))
}

// benchmarkSingle is one host after the other, each when the one before has been published for so long that nothing has
// to be gathered.
func (h *hub) benchmarkSingle(b *testing.B, d *door) {
	m := figures{}
	for b.Loop() {
		list := d.joiners(b, 20, staff)
		var seen []time.Duration
		cpu := h.server.cpu()
		for _, j := range list {
			time.Sleep(h.network.enrols.batch)
			if err := join(b.Context(), j); err != nil {
				b.Fatal(err)
			}
			seen = append(seen, h.carries([]*joiner{j})...)
		}
		m.millis("cpu-ms/enrolment", (h.server.cpu()-cpu)/time.Duration(len(list)))
		m.spread("hub", seen)
		m.spread("answer", answers(list))
		h.clear(b, d, list)
	}
	m.report(b)
}

// answers gives how long each joiner waited for its answer.
func answers(list []*joiner) []time.Duration {
	var took []time.Duration
	for _, j := range list {
		took = append(took, j.took)
	}
	return took
}

// benchmarkEnrolCPU is what one enrolment costs the controller by itself: bindings are published but once a minute. What
// verifying its token costs is measured beside it, in this process, with the verifier of the controller.
func benchmarkEnrolCPU(b *testing.B, binary string) {
	n := newHub(b, 1<<16, time.Minute)
	p := newProcess(b, binary, n)
	p.start()
	d := newDoor(b, n, p)
	d.each(b, d.joiners(b, 1, others), join) // the controller asks for the issuer's keys
	m := figures{}
	for b.Loop() {
		list := d.joiners(b, 2000, others)
		cpu := p.cpu()
		d.each(b, list, join)
		all := (p.cpu() - cpu) / time.Duration(len(list))
		token := verification(b, n, list)
		m.millis("cpu-ms/enrolment", all)
		m.millis("token-cpu-ms", token)
		m.millis("beyond-token-ms", all-token)
	}
	m.report(b)
}

// verification gives what it costs to verify one joiner's token.
func verification(b *testing.B, n *network, list []*joiner) time.Duration {
	b.Helper()
	v, err := tokens.New(tokens.Options{})
	if err != nil {
		b.Fatal(err)
	}
	verify := func(j *joiner) {
		demand := tokens.Issuer{URL: n.enrols.issuer.Issuer(), Audiences: []string{"apex"}, Leeway: time.Minute}
		if _, err := v.Verify(b.Context(), demand, j.req.Token); err != nil {
			b.Fatal(err)
		}
	}
	verify(list[0]) // asks for the keys
	cpu := ownCPU(b)
	for _, j := range list {
		verify(j)
	}
	return (ownCPU(b) - cpu) / time.Duration(len(list))
}

// BenchmarkEphemeral is 1 000 jobs that join and leave again. The dynamic range has 1 024 addresses, so a round that does
// not give all back fails the next.
func BenchmarkEphemeral(b *testing.B) {
	n := newHub(b, 1024, 250*time.Millisecond)
	p := newProcess(b, buildCommand(b, "apex-controller"), n)
	p.start()
	d := newDoor(b, n, p)
	h := observeHub(b, n, p)
	m := figures{}
	for b.Loop() {
		list := d.joiners(b, 1000, runners)
		before, cpu, since := p.serial(), p.cpu(), time.Now()
		d.each(b, list, join)
		h.carries(list)
		m.seconds("join-s", time.Since(since))
		half := time.Now()
		d.each(b, list, leave)
		h.bare()
		m.seconds("leave-s", time.Since(half))
		m.millis("cpu-ms/job", (p.cpu()-cpu)/time.Duration(len(list)))
		m.add("generations", p.serial()-before)
		p.awaitEnrolled(0)
		m.add("left", p.metric("apex_controller_generation_nodes", "")-2)
	}
	m.report(b)
}

// bare waits until the hub's host has no peer.
func (h *hub) bare() {
	h.tb.Helper()
	late := time.After(2 * time.Minute)
	for {
		select {
		case a := <-h.enforced:
			if a.err != nil {
				h.tb.Fatal(a.err)
			}
			if len(a.peers) == 0 {
				return
			}
		case <-late:
			h.tb.Fatal("the hub has peers after two minutes")
		}
	}
}

// BenchmarkEnrolled is what 10 000 enrolled nodes cost a controller that starts with them, against one without.
func BenchmarkEnrolled(b *testing.B) {
	const members = 10_000
	n := newHub(b, 1<<16, 250*time.Millisecond)
	p := newProcess(b, buildCommand(b, "apex-controller"), n)
	m := figures{}
	settled := func(enrolled int) (resident, live, stored float64) {
		ready := p.start()
		p.awaitEnrolled(enrolled)
		if enrolled > 0 {
			m.seconds("ready-s", ready)
			m.seconds("ready-cpu-s", p.cpu())
		}
		// The collector begins anew when the heap is twice what lived at its last end.
		resident, live, stored = p.resident(), p.metric("go_memstats_next_gc_bytes", "")/2, p.stored()
		p.stop()
		return resident, live, stored
	}
	p.start() // a first clone leaves more memory behind than a start from the cache
	p.stop()
	bare, bareLive, disk := settled(0)
	p.start()
	newDoor(b, n, p).fill(b, members, others)
	m.add("MB-rss-after-joins", p.resident()/1e6)
	p.stop()
	for b.Loop() {
		resident, live, stored := settled(members)
		m.add("KiB-rss/node", (resident-bare)/1024/members)
		m.add("KiB-live/node", (live-bareLive)/1024/members)
		m.add("KiB-stored/node", (stored-disk)/1024/members)
		m.add("MB-rss", resident/1e6)
	}
	m.report(b)
}
