//go:build unix

package controller_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
)

const (
	burstHosts = 300
	// burstLanes is how many ask at once, burstKill how many have their binding when the leader is killed.
	burstLanes = 16
	burstKill  = 100
)

// applicant is a host that asks with the same request until it has its binding.
type applicant struct {
	joiner
	body []byte
	has  *binding.Binding // as it was acknowledged
	err  error            // why it was not
}

// ask sends the request to a replica once.
func (a *applicant) ask(ctx context.Context, at *world, client *http.Client) {
	ctx, cancel := context.WithTimeout(ctx, hung)
	defer cancel()
	a.has, a.err = a.answer(ctx, at, client)
}

func (a *applicant) answer(ctx context.Context, at *world, client *http.Client) (*binding.Binding, error) {
	u := at.url(protocol.EnrolPath(at.name, "prod"))
	proof, err := protocol.NewProof(a.name, http.MethodPost, u, a.body, time.Now())
	if err != nil {
		return nil, err
	}
	token, err := proof.Sign(a.id.Sign)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(a.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set(protocol.ProofHeader, token)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, protocol.ReadProblem(resp)
	}
	var result protocol.EnrolResult
	if err := protocol.Read(resp.Body, protocol.MaxEnrolBytes*4, &result); err != nil {
		return nil, err
	}
	env, err := signer.ParseEnvelope(result.Binding, binding.MaxEnvelopeBytes)
	if err != nil {
		return nil, err
	}
	b, err := binding.Parse(env.Payload)
	return &b, err
}

// refusal says whether asking again is of no use: a controller that is killed, or takes over, says 5xx or nothing.
func (a *applicant) refusal() bool {
	var p *protocol.Problem
	return errors.As(a.err, &p) && p.Status < http.StatusInternalServerError
}

// TestLeaderDiesInABurstOfEnrolments kills the leader, with no time to say anything, while hundreds of hosts enrol through it
// and through a follower. Whoever was told a binding has it, no address stands twice, and the others ask again with the very
// request that was lost.
func TestLeaderDiesInABurstOfEnrolments(t *testing.T) {
	j := newJoinable(t)
	j.writeConfig("    enrolment: {perAddress: 1000000}\n") // all come from one
	p := newProcesses(j.world, 3, 2)
	j.clock.Advance(time.Since(j.clock.Now())) // processes have the machine's
	p.same(p.repo.Head())
	leader, survivor := p.leader()
	j.world = survivor
	challenge := j.challenge()
	all := make([]*applicant, burstHosts)
	for i := range all {
		h := newJoiner(t, fmt.Sprintf("host-%03d", i))
		all[i] = &applicant{joiner: h, body: j.request(h, h.name, "ops", challenge)}
	}

	began := time.Now()
	p.burst(all, leader, survivor)
	var lost []*applicant
	for _, a := range all {
		if a.has == nil {
			lost = append(lost, a)
		}
		if a.refusal() {
			t.Fatalf("%s was refused: %v", a.name, a.err)
		}
	}
	t.Logf("measured: %d of %d hosts have no answer, %s after the first asked", len(lost), burstHosts, time.Since(began).Round(time.Millisecond))
	if len(lost) == 0 {
		t.Fatal("the leader was killed, and no host noticed")
	}
	p.leader() // it is the other one now
	j.holds(all)

	client, deadline := newBurstClient(t), time.Now().Add(hung)
	each(lost, func(_ int, a *applicant) {
		for a.ask(t.Context(), survivor, client); a.has == nil && !a.refusal() && time.Now().Before(deadline); a.ask(t.Context(), survivor, client) {
			time.Sleep(20 * time.Millisecond) // until it leads
		}
	})
	for _, a := range lost {
		if a.has == nil {
			t.Fatalf("%s asks again: %v", a.name, a.err)
		}
	}
	j.holds(all)
	j.enrolled(burstHosts)
	t.Logf("measured: all %d are published %s after the first asked", burstHosts, time.Since(began).Round(time.Millisecond))
}

// burst has all ask, half of them each replica, and kills the leader when some have their binding.
func (p *processes) burst(all []*applicant, leader, survivor *world) {
	p.t.Helper()
	client, victim, deadline := newBurstClient(p.t), p.index(leader), time.Now().Add(hung)
	var bound atomic.Int32
	each(all, func(i int, a *applicant) {
		at := leader
		if i%2 == 1 {
			at = survivor
		}
		// Before the leader is killed an answer to come back is none: leaders change where nothing is scheduled for seconds.
		for a.ask(p.t.Context(), at, client); a.has == nil && !a.refusal() && bound.Load() < burstKill && time.Now().Before(deadline); a.ask(p.t.Context(), at, client) {
			time.Sleep(20 * time.Millisecond)
		}
		if a.has != nil && bound.Add(1) == burstKill {
			p.kill(victim)
		}
	})
	if n := bound.Load(); n < burstKill {
		p.t.Fatalf("%d of %d hosts have their binding, too few to kill the leader: %v", n, len(all), all[0].err)
	}
}

// each calls do for every applicant, for some of them at once.
func each(list []*applicant, do func(int, *applicant)) {
	queue := make(chan int)
	var lanes sync.WaitGroup
	for range burstLanes {
		lanes.Go(func() {
			for i := range queue {
				do(i, list[i])
			}
		})
	}
	for i := range list {
		queue <- i
	}
	close(queue)
	lanes.Wait()
}

// newBurstClient keeps a connection for each lane.
func newBurstClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: burstLanes,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // who serves is proven by signatures, not by TLS
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// holds demands of the controller's list that whoever was acknowledged has that binding, and nobody another's address.
func (j *joining) holds(all []*applicant) {
	j.t.Helper()
	j.clock.Advance(time.Since(j.clock.Now()))
	listed, taken := map[string]binding.Binding{}, map[netip.Addr]string{}
	for _, payload := range j.enrolments(j.owner).Bindings {
		b, err := binding.Parse(payload)
		if err != nil {
			j.t.Fatal(err)
		}
		listed[b.Node] = b
		for _, addr := range b.Addresses {
			if other := taken[addr]; other != "" {
				j.t.Errorf("%s and %s have address %s", other, b.Node, addr)
			}
			taken[addr] = b.Node
		}
	}
	for _, a := range all {
		if a.has == nil {
			continue
		}
		b, ok := listed[a.name]
		if !ok || !slices.Equal(b.Addresses, a.has.Addresses) || b.PublicKey != a.public() || b.Issued != a.has.Issued {
			j.t.Errorf("%s was told %v of %d; the controller has %v of %d", a.name, a.has.Addresses, a.has.Issued, b.Addresses, b.Issued)
		}
	}
}
