package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// hostPause sets the pauses between attempts at the host: with a long one, the clock decides when the next is.
func (w *world) hostPause(d time.Duration) {
	inner := w.edit
	w.edit = func(o *Options) {
		if inner != nil {
			inner(o)
		}
		o.Times.HostMin, o.Times.HostMax = d, d
	}
}

// passTime sets the clock forward and lets the host loop see it: its timers run by the real one.
func (w *world) passTime(d time.Duration) {
	w.clock.Advance(d)
	poke(w.agent.zones[0].offered)
}

// awaitAttempt waits for the n-th refusal in a row.
func (w *world) awaitAttempt(n int) status.Condition {
	w.t.Helper()
	var got status.Condition
	agenttest.Await(w.t, fmt.Sprintf("attempt %d was refused", n), func() bool {
		got = w.condition(status.ApplyFailed)
		return got.Status && strings.HasPrefix(got.Message, fmt.Sprintf("attempt %d, ", n))
	})
	return got
}

// uncondemned checks that nothing is quarantined, neither in memory nor on disk.
func (w *world) uncondemned() {
	w.t.Helper()
	z := w.zoneStatus()
	_, err := os.Stat(filepath.Join(zoneDir(w.options().Config, testZone), quarantineRecord+".json"))
	if len(z.Quarantined) > 0 || w.condition(status.RolledBack).Status || !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("a generation is quarantined: %v, record: %v", z.Quarantined, err)
	}
}

// refuseRoute lets the host refuse a route.
func (w *world) refuseRoute(prefix string) {
	w.host.FailWith(func(_, object string) error {
		if strings.Contains(object, prefix) {
			return syscall.ENOBUFS
		}
		return nil
	})
}

// TestShortageAtTheFirstApply: a host that lacks something when it is to become a member becomes one when it has it.
func TestShortageAtTheFirstApply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.snapshot()
	w.host.FailWith(func(operation, object string) error { return syscall.EMFILE })
	w.publish(nil)
	w.start()
	agenttest.Await(t, "several attempts", func() bool { return w.zoneStatus().Counters.RolledBack >= 5 })
	got := w.awaitCondition(status.ApplyFailed, true, "")
	if !strings.Contains(got.Message, syscall.EMFILE.Error()) {
		t.Errorf("the message hides the cause: %s", got.Message)
	}
	if after := w.snapshot(); after != before {
		t.Errorf("something was left:\n%s", after)
	}
	w.uncondemned()
	w.host.FailWith(nil)
	w.awaitApplied(1)
	w.awaitCondition(status.ApplyFailed, false, "")
	w.awaitCondition(status.Ready, true, "")
}

// TestEveryRefusalIsTriedAgain lets each write of a change fail once: the change is in force all the same, and nothing
// is condemned.
func TestEveryRefusalIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	for n := int64(1); ; n++ {
		var writes atomic.Int64
		w.host.FailWith(func(string, string) error {
			if writes.Add(1) == n {
				return errors.New("somebody else was here")
			}
			return nil
		})
		g := w.publish(func(z *agenttest.Zone) {
			if n%2 == 1 {
				routed("192.168.7.0/24")(z)
				z.Rules = z.Rules[:0]
			}
		})
		w.awaitApplied(g.Zone.Serial)
		w.uncondemned()
		if has := strings.Contains(w.snapshot(), "192.168.7.0/24"); has != (n%2 == 1) {
			t.Fatalf("write %d: route is %t:\n%s", n, has, w.snapshot())
		}
		if writes.Load() < n {
			if n < 4 {
				t.Fatalf("a change has only %d writes", writes.Load())
			}
			return
		}
	}
}

// TestAnotherGenerationDoesNotWait: what was refused delays nothing that comes after it, and the count begins anew.
func TestAnotherGenerationDoesNotWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hostPause(time.Hour)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.refuseRoute("192.168.7")
	w.publish(routed("192.168.7.0/24"))
	w.awaitAttempt(1)
	w.passTime(time.Hour)
	w.awaitAttempt(2)
	w.nodes = append(w.nodes, w.network.NewNode("d", 4))
	w.publish(routed("192.168.7.0/24"))
	w.awaitAttempt(1)
	w.publish(nil)
	w.awaitApplied(4)
	w.awaitCondition(status.ApplyFailed, false, "")

	// Back to what is in force: there is nothing to try any more.
	w.publish(routed("192.168.7.0/24"))
	w.awaitAttempt(1)
	w.publish(nil)
	w.awaitApplied(6)
	w.awaitCondition(status.ApplyFailed, false, "")
	w.awaitCondition(status.Ready, true, "")
	w.uncondemned()
}

// TestRestartTriesAtOnce: a restart is a reason to try again.
func TestRestartTriesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hostPause(time.Hour)
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.refuseRoute("192.168.7")
	w.publish(routed("192.168.7.0/24"))
	w.awaitAttempt(1)
	w.halt()
	w.host.FailWith(nil)
	w.start()
	w.awaitApplied(2)
}

// TestTheConfirmedStateIsKeptUpBehindARefusal: while a generation waits for its next attempt, what is in force follows
// its peers and loses what runs out, and neither costs an attempt.
func TestTheConfirmedStateIsKeptUpBehindARefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hostPause(24 * time.Hour)
	var address atomic.Value
	address.Store("192.0.2.1")
	w.edit = func(edit func(*Options)) func(*Options) {
		return func(o *Options) {
			edit(o)
			o.Lookup = func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr(address.Load().(string))}, nil
			}
		}
	}(w.edit)
	end := w.clock.Now().Add(time.Hour)
	zone := func(z *agenttest.Zone) {
		z.Rules = agenttest.SSHRule(end.Unix())
		z.Nodes = slices.Clone(z.Nodes)
		z.Nodes[1].Endpoints = []string{"b.example:51820"}
	}
	w.network.NextRoot(grant("192.168.7.0/24"))
	w.publish(zone)
	w.start()
	w.awaitApplied(1)
	agenttest.Await(t, "the name is resolved", func() bool { return strings.Contains(w.snapshot(), "192.0.2.1:51820") })
	w.refuseRoute("192.168.7")
	w.publish(func(z *agenttest.Zone) { zone(z); routed("192.168.7.0/24")(z) })
	w.awaitAttempt(1)

	address.Store("192.0.2.2")
	w.clock.Advance(time.Minute)
	w.agent.zones[0].resolver.Failed("b", []string{"b.example:51820"})
	agenttest.Await(t, "the peer has moved", func() bool { return strings.Contains(w.snapshot(), "192.0.2.2:51820") })
	if !strings.Contains(w.snapshot(), "ssh/0") {
		t.Errorf("gone before its end:\n%s", w.snapshot())
	}
	w.passTime(time.Hour)
	agenttest.Await(t, "the rule has run out", func() bool { return !strings.Contains(w.snapshot(), "ssh/0") })
	w.awaitAttempt(1)
	w.awaitCondition(status.Ready, false, status.ApplyFailed)
}

// blinded is an Engine whose device cannot be read at times.
type blinded struct {
	Engine
	blind atomic.Bool
}

func (b *blinded) Peers(ctx context.Context) ([]reconciler.PeerStatus, error) {
	if b.blind.Load() {
		return nil, fmt.Errorf("open netlink socket: %w", syscall.EMFILE)
	}
	return b.Engine.Peers(ctx)
}

// TestAProbeThatCannotLookCondemnsNothing: it is the host that fails there.
func TestAProbeThatCannotLookCondemnsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var engine *blinded
	inner := w.newEngine
	w.newEngine = func(o reconciler.Options) (Engine, error) {
		e, err := inner(o)
		engine = &blinded{Engine: e}
		return engine, err
	}
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	w.restart(shortProbe)
	b := reconciler.Key(w.nodes[1].PublicKey)
	w.host.Handshake(testIface, b, w.clock.Now(), netip.MustParseAddrPort("192.0.2.9:9"))
	agenttest.Await(t, "b is known to be alive", func() bool { return len(w.agent.zones[0].standing.alive()) == 1 })
	engine.blind.Store(true)
	w.publish(func(z *agenttest.Zone) { // what touches b's session and not the way to the controller, which is not asked then
		z.Nodes = slices.Clone(z.Nodes)
		z.Nodes[1].Addresses = append(slices.Clone(z.Nodes[1].Addresses), netip.MustParseAddr("10.1.0.99"))
	})
	got := w.awaitCondition(status.ApplyFailed, true, "HostRefused")
	if !strings.Contains(got.Message, errBlind.Error()) {
		t.Errorf("the message hides the cause: %s", got.Message)
	}
	w.uncondemned()
	engine.blind.Store(false)
	w.awaitApplied(2)
	w.awaitCondition(status.ApplyFailed, false, "")
}

func TestIsShortage(t *testing.T) {
	dial := func(errno syscall.Errno) error {
		return fmt.Errorf("%w: %w", fetch.ErrUnreachable, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", errno)})
	}
	for errno, want := range map[syscall.Errno]bool{
		syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOMEM: true, syscall.ENOBUFS: true,
		syscall.ECONNREFUSED: false, syscall.ENETUNREACH: false, syscall.EPERM: false,
	} {
		if got := isShortage(dial(errno)); got != want {
			t.Errorf("%v: %t, want %t", errno, got, want)
		}
	}
}

// TestTrial: pauses grow to their bound and stay there; another view begins anew.
func TestTrial(t *testing.T) {
	now := time.Unix(1e9, 0)
	const least, most = 2 * time.Second, 5 * time.Minute
	one, other := peermap.DigestOf([]byte("one")), peermap.DigestOf([]byte("other"))
	tr := trial{pause: newBackoff(least, most)}
	if tr.pending(one) || !tr.mayTry(one, now) {
		t.Error("something is pending before anything was tried")
	}
	bound := least
	for n := 1; n <= 20; n++ {
		tr.refused(one, "no", now)
		if pause := tr.next.Sub(now); pause < bound/2 || pause > bound {
			t.Errorf("pause %d is %v, want %v to %v", n, pause, bound/2, bound)
		}
		if tr.count != n || tr.mayTry(one, tr.next.Add(-1)) || !tr.mayTry(one, tr.next) || !tr.mayTry(other, now) {
			t.Errorf("after %d refusals: %+v", n, tr)
		}
		now, bound = tr.next, min(2*bound, most)
	}
	tr.refused(other, "no", now)
	if tr.count != 1 || tr.next.Sub(now) > least || tr.pending(one) {
		t.Errorf("another view does not begin anew: %+v", tr)
	}
	tr.forget()
	if tr.pending(other) || tr.pending(peermap.Digest{}) {
		t.Errorf("not forgotten: %+v", tr)
	}
}
