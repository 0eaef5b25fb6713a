package agent

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apex-network/apex/agent/agenttest"
	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// TestRotation: the host goes over to new keys with the generation that names them, keeps its interface, and forgets the
// old ones once a controller has accepted the new; a static node does so when a person has put them into git.
func TestRotation(t *testing.T) {
	t.Parallel()
	for name, enrolled := range map[string]bool{"enrolled": true, "in git": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w *world
			if enrolled {
				w = tokenWorld(t)
				w.joined()
			} else {
				w = newWorld(t)
				w.publish(nil)
				w.start()
				w.awaitApplied(1)
			}
			old := w.agent.opt.Keys.Current(testZone)
			_, oldIdentity := old.Public()
			link, err := w.host.Backends().Links.Link(t.Context(), testIface)
			if err != nil {
				t.Fatal(err)
			}
			got, err := w.control().Rotate(t.Context(), testZone)
			if err != nil || got.Done || got.Enrolled != enrolled || len(got.Static) > 0 == enrolled {
				t.Fatalf("got %+v, %v", got, err)
			}
			if again, err := w.control().Rotate(t.Context(), ""); err != nil || again.PublicKey != got.PublicKey {
				t.Errorf("a second call makes other keys: %v", err)
			}
			w.publish(func(z *agenttest.Zone) { // the controller has new keys, this generation not yet
				z.Nodes = append([]agenttest.Node(nil), w.nodes...)
				z.Rules = agenttest.SSHRule(0)
			})
			w.awaitApplied(w.serial)
			w.nodes[0].PublicKey, w.nodes[0].IdentityKey = got.PublicKey, got.IdentityKey
			w.publish(nil)
			w.awaitApplied(w.serial)
			agenttest.Await(t, "rotated", func() bool {
				r, err := w.control().Rotation(t.Context(), "")
				return err == nil && r.Done && r.PublicKey == got.PublicKey
			})
			device, err := w.host.Backends().WireGuard.Device(t.Context(), testIface)
			if err != nil || peermap.Key(device.PublicKey) != got.PublicKey {
				t.Errorf("the interface has key %v, %v", device.PublicKey, err)
			}
			if after, err := w.host.Backends().Links.Link(t.Context(), testIface); err != nil || after.Index != link.Index {
				t.Error("the interface was made anew")
			}
			if now := w.agent.zones[0].identity().Raw(); now == oldIdentity || now != got.IdentityKey {
				t.Error("the old identity key is still used")
			}
			w.awaitCondition(status.Ready, true, "")
			w.publish(nil) // and it goes on
			w.awaitApplied(w.serial)
		})
	}
}

// TestRotationWithHalfOfItInGit: a person has put the new WireGuard key into git and forgotten the identity key. The host
// must not throw away the old one.
func TestRotationWithHalfOfItInGit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(nil)
	w.start()
	w.awaitApplied(1)
	got, err := w.agent.rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.nodes[0].PublicKey = got.PublicKey
	w.publish(nil)
	w.awaitApplied(2)
	w.controller.Stop() // every connection is made anew, with whichever key is accepted
	w.controller.Start()
	w.publish(nil)
	w.awaitApplied(3)
	if r, err := w.control().Rotation(t.Context(), ""); err != nil || r.Done {
		t.Fatalf("the rotation is over: %+v, %v", r, err)
	}
	w.nodes[0].IdentityKey = got.IdentityKey
	w.publish(nil)
	w.controller.Stop()
	w.controller.Start()
	agenttest.Await(t, "rotated", func() bool { r, err := w.control().Rotation(t.Context(), ""); return err == nil && r.Done })
	w.publish(nil)
	w.awaitApplied(5)
}

// TestARefusedRotationKeepsNoRenewalWaiting: a controller that does not take the new keys must not cost the membership, which
// rests on the old ones until then. With the next binding the new keys are offered again.
func TestARefusedRotationKeepsNoRenewalWaiting(t *testing.T) {
	t.Parallel()
	w := tokenWorld(t)
	w.joined()
	var refuse atomic.Bool
	refuse.Store(true)
	w.controller.Override("rotate", func(rw http.ResponseWriter, r *http.Request) bool {
		if refuse.Load() {
			protocol.NewProblem(http.StatusUnauthorized, protocol.CodeToken, "enrol with a token for its keys first").Write(rw)
		}
		return refuse.Load()
	})
	first := w.member().Binding
	if _, err := w.control().Rotate(t.Context(), ""); err == nil {
		t.Fatal("the rotation was not refused")
	}
	w.clock.Advance(45 * time.Minute)
	agenttest.Await(t, "renewed", func() bool { return w.member().Binding.Expires > first.Expires })
	refuse.Store(false)
	agenttest.Await(t, "the controller has the new keys", func() bool { return w.member().Binding.PublicKey != first.PublicKey })
}

// TestRotationOfWhoIsNoMember: before a host has joined, and after it has left, new keys are nobody's business but its own.
func TestRotationOfWhoIsNoMember(t *testing.T) {
	t.Parallel()
	w := joining(t, JoinConfig{})
	w.start()
	w.awaitSocket()
	rotate := func() control.Rotation {
		t.Helper()
		before, _ := w.agent.opt.Keys.Current(testZone).Public()
		got, err := w.control().Rotate(t.Context(), "")
		if err != nil || !got.Done || len(got.Static) > 0 || got.PublicKey == before {
			t.Fatalf("got %+v, %v", got, err)
		}
		return got
	}
	agenttest.Await(t, "the host knows what it carries", w.agent.zones[0].idle)
	first := rotate()
	join := control.Join{Issuer: "corp", IDToken: testToken}
	if _, err := w.control().Join(t.Context(), join); err != nil {
		t.Fatal(err)
	}
	if b, _ := w.controller.Enrolment.Binding("a"); b.PublicKey != first.PublicKey {
		t.Error("it joined with other keys than its own")
	}
	w.awaitApplied(w.admit().Zone.Serial)
	if _, err := w.control().Leave(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, "the host carries nothing", w.agent.zones[0].idle)
	rotate()
	if _, err := w.control().Join(t.Context(), join); err != nil {
		t.Fatal(err)
	}
	w.awaitApplied(w.admit().Zone.Serial)
}

// TestRotationWhileAMaintainerDecides: a request that waits is for the keys in force, so they stay until it is decided.
func TestRotationWhileAMaintainerDecides(t *testing.T) {
	t.Parallel()
	w := joining(t, JoinConfig{})
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Review = true })
	w.start()
	w.awaitSocket()
	if _, err := w.control().Join(t.Context(), control.Join{Issuer: "corp", IDToken: testToken}); err != nil {
		t.Fatal(err)
	}
	got, err := w.control().Rotate(t.Context(), "")
	if err != nil || got.Done || len(got.Static) > 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	w.controller.Enrolment.Play(func(s *agenttest.Script) { s.Review = false })
	agenttest.Await(t, "bound, and the controller has the new keys", func() bool {
		b, bound := w.controller.Enrolment.Binding("a")
		return bound && b.PublicKey == got.PublicKey
	})
	w.awaitApplied(w.admit().Zone.Serial)
	agenttest.Await(t, "rotated", func() bool { r, err := w.control().Rotation(t.Context(), ""); return err == nil && r.Done })
}

// rotate asks as the socket does.
func (a *Agent) rotate(ctx context.Context) (control.Rotation, error) {
	return controls{a}.Rotate(ctx, "")
}
