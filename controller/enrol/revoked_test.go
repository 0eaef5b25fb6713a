package enrol

import (
	"fmt"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
)

// revokes publishes a commit with one entry under spec.revoked, and lets the service notice.
func (w *world) revokes(s *Service, entry string) {
	w.t.Helper()
	w.pass(time.Minute)
	w.publish("  revoked: ["+entry+"]", "")
	w.pass(time.Minute)
	if err := s.tend(w.ctx()); err != nil {
		w.t.Fatal(err)
	}
}

// digest is that of the only binding that counts.
func (w *world) digest(s *Service) string {
	w.t.Helper()
	list, _ := s.Snapshot()
	if len(list) != 1 {
		w.t.Fatalf("%d bindings", len(list))
	}
	return list[0].Digest.String()
}

// TestRevokedKeysAreKnownUnderAnyName: a stolen machine calls itself something else, has a sound token for its keys, and asks
// before the controller has noted anything, and after a restart.
func TestRevokedKeysAreKnownUnderAnyName(t *testing.T) {
	for _, kind := range []string{"node", "binding", "node before"} {
		w := newWorld(t)
		s := w.service()
		m := w.machine("laptop")
		m.join(s, "corp", m.token(w.person("ann", "ops")))
		entry := map[string]string{
			"node":        "{zone: prod, node: laptop}",
			"binding":     "{binding: " + w.digest(s) + "}",
			"node before": fmt.Sprintf("{zone: prod, node: laptop, before: %q}", w.now().Add(time.Minute).Format(time.RFC3339)),
		}[kind]
		w.pass(time.Minute)
		w.publish("  revoked: ["+entry+"]", "")
		w.pass(time.Minute)
		renamed := *m
		renamed.name = "laptop2"
		refusal := func(s *Service) {
			t.Helper()
			_, err := renamed.enrol(s, "corp", m.token(w.person("ann", "ops")))
			refusedWith(t, err, protocol.CodeEnrolRefused, "make new keys", "laptop", "network.yaml")
		}
		refusal(s)
		if err := s.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Its owner's next machine takes the name, whereupon nothing is left of the binding.
		next := w.machine("laptop#next")
		if kind != "node" {
			next.join(s, "corp", next.token(w.person("ann", "ops")))
			_, err := m.enrol(s, "corp", m.token(w.person("ann", "ops")))
			refusedWith(t, err, protocol.CodeEnrolRefused, "make new keys")
			// Nor does the next machine turn to the keys of the stolen one.
			if _, err := w.rotate(s, next, m, protocol.RotatePath("acme", "prod", "laptop")); err == nil {
				t.Errorf("%s: a node rotated to revoked keys", kind)
			}
		}
		refusal(w.service())
		// Git takes the entry back.
		w.publish("", "")
		if err := s.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if kind == "node" { // its binding stands as it was
			m.join(s, "corp", m.token(w.person("ann", "ops")))
		} else {
			renamed.join(s, "corp", m.token(w.person("ann", "ops")))
		}
		if left := s.revoked.all(); len(left) != 0 {
			t.Errorf("%s: %d are still remembered", kind, len(left))
		}
	}
}

// TestRevokedEphemeralMachineStaysOut: what an ephemeral node had is forgotten half a minute after it is gone, its keys are not.
func TestRevokedEphemeralMachineStaysOut(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("job")
	m.join(s, "ci", m.token(w.job("acme/x", 1)))
	gone := s.Connected("prod", "job")
	if err := s.tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.revokes(s, "{binding: "+w.digest(s)+"}")
	gone()
	for range 2 {
		if err := s.tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.pass(s.opts.EphemeralGrace + time.Second)
	}
	if s.bindings.get(nodeKey{"prod", "job"}) != nil {
		t.Fatal("the binding is still there")
	}
	_, err := m.enrol(s, "ci", m.token(w.job("acme/x", 3)))
	refusedWith(t, err, protocol.CodeEnrolRefused, "make new keys")
}

// TestRevokedPersonUnderAnotherName: the account is the same when its mail address is another one, or is not verified any more.
func TestRevokedPersonUnderAnotherName(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	w.revokes(s, "{issuer: corp, user: ann@corp.example, reason: has left}")
	other := w.machine("other")
	for _, claims := range []map[string]any{
		with(w.person("ann", "ops"), "email_verified", false), with(w.person("ann", "ops"), "email", "anna@corp.example"),
	} {
		_, err := other.enrol(s, "corp", other.token(claims))
		refusedWith(t, err, protocol.CodeEnrolRefused, "revoked as ann@corp.example", "has left")
	}
	other.join(s, "corp", other.token(w.person("bob", "ops")))
	// With `before`, she may come back.
	w.revokes(s, fmt.Sprintf("{issuer: corp, user: ann@corp.example, before: %q}", w.now().Format(time.RFC3339)))
	third := w.machine("third")
	third.join(s, "corp", third.token(with(w.person("ann", "ops"), "email", "anna@corp.example")))
}
