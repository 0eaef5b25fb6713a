//go:build linux

package integration

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// TestRevocation ends memberships by a commit, each by another name of what is revoked, and measures from the push to
// the last packet. A revoked host does not get back in; one revoked until now, with a new sign-in, does.
func TestRevocation(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	e.office("{name: staff, issuer: corp, groups: [staff]}")
	e.allow(toServer("groups: [staff]", "tcp/443"))
	names := []string{"by-node", "by-user", "by-binding", "kept"}
	nodes := map[string]*fleet.Node{}
	for _, name := range names {
		nodes[name] = e.joiner(name, nil)
	}
	e.begin()
	admin, err := e.NewAdmin(e.ctx)
	e.must(err)
	token := func(n *fleet.Node) string {
		return issuer.Mint(e.claims(issuer, n, "person-"+n.Spec.Name).With("groups", []string{"staff"}))
	}
	for _, n := range nodes {
		e.must(e.withToken(n, token(n)))
	}
	for _, n := range nodes {
		e.reaches(n.Host, serverAddr, tcp(443), true)
	}
	out, err := e.AskController(e.ctx, admin.Host, "enrol", "list", "-o", "json")
	e.must(err)
	var list struct {
		Bindings []struct {
			Digest  peermap.Digest
			Binding struct{ Node string }
		}
	}
	e.must(json.Unmarshal([]byte(out), &list))
	digests := map[string]string{}
	for _, b := range list.Bindings {
		digests[b.Binding.Node] = b.Digest.String()
	}
	revoke := func(e *enrolment, n *fleet.Node, r spec.Revocation) {
		e.t.Helper()
		e.must(e.EditNetwork(func(s *spec.NetworkSpec) { s.Revoked = append(s.Revoked, r) }))
		began := time.Now()
		commit := e.merge("Revoke " + n.Spec.Name)
		_, err := admin.Apply(e.ctx, commit)
		e.must(err)
		e.stop(n, tcp(443), began, "push and apply of a revocation "+n.Spec.Name)
		e.gone(n.Spec.Name)
	}
	for name, r := range map[string]spec.Revocation{
		"by-node":    {Zone: "office", Node: "by-node"},
		"by-user":    {Issuer: "corp", Subject: "person-by-user", Reason: "left the company"},
		"by-binding": {Binding: digests["by-binding"]},
	} {
		t.Run(name, func(t *testing.T) {
			e := e.in(t)
			revoke(e, nodes[name], r)
			e.still(nodes["kept"].Host, serverAddr, tcp(443), true)
		})
	}
	t.Run("the person is refused at the door", func(t *testing.T) {
		e := e.in(t)
		n := nodes["by-user"]
		e.refusedWith(e.withToken(n, token(n), "--again"), "revoked")
		e.still(n.Host, serverAddr, tcp(443), false)
	})
	t.Run("until now", func(t *testing.T) {
		e := e.in(t)
		n := nodes["kept"]
		// Bindings count in whole seconds: what was issued in this one is meant too.
		now := time.Now().Truncate(time.Second).Add(time.Second)
		revoke(e, n, spec.Revocation{Issuer: "corp", Subject: "person-kept", Before: &now})
		e.must(waitFor(e.ctx, "that second is over", func() error {
			if time.Now().Before(now) {
				return errors.New("not yet")
			}
			return nil
		}))
		e.must(e.withToken(n, token(n), "--again"))
		e.reaches(n.Host, serverAddr, tcp(443), true)
	})
}
