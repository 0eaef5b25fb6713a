//go:build linux

package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/spec"
)

// TestPeopleJoin has people join with the real Dex, by each way to sign in: they reach what the policy gives their
// groups and nothing more, and no longer when git takes it away.
func TestPeopleJoin(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	e.dex(idp.DexOptions{Users: users(map[string]string{"alice": "staff ops", "bob": "staff", "eve": "guests"})},
		spec.TokenBindingOptional)
	e.office("{name: staff, issuer: corp, groups: [staff], labels: {kind: laptop}}")
	e.allow(toServer("groups: [ops]", "tcp/443"), toServer("labels: {kind: laptop}", "icmp"))
	laptop, desktop, other := e.joiner("laptop", nil), e.joiner("desktop", nil), e.joiner("other", nil)
	e.echo(laptop.Host, 443)
	begun := e.begin()

	t.Run("by a device code", func(t *testing.T) {
		e := e.in(t)
		phone, err := e.NewAdmin(e.ctx)
		e.must(err)
		e.must(e.byDevice(laptop, phone.Host, "alice@example.com"))
		address := e.bound(laptop)
		e.must(laptop.AwaitCommit(e.ctx, begun))
		e.reaches(laptop.Host, serverAddr, tcp(443), true)
		e.reaches(laptop.Host, serverAddr, icmp(), true)
		e.still(laptop.Host, serverAddr, tcp(80), false)
		e.still(laptop.Host, serverAddr, udp(443), false)
		e.still(e.server.Host, address.String(), tcp(443), false)
		e.still(e.server.Host, address.String(), icmp(), false)
	})
	t.Run("by a browser, with a token that must be for these keys", func(t *testing.T) {
		e := e.in(t)
		e.must(e.EditNetwork(func(n *spec.NetworkSpec) { n.Issuers[0].TokenBinding = spec.TokenBindingRequired }))
		e.enforced(e.merge("Ask for tokens that commit to keys"))
		e.refusedWith(e.byDevice(desktop, desktop.Host, "bob@example.com"), "nonce")
		e.must(e.byBrowser(desktop, "bob@example.com"))
		e.bound(desktop)
		e.reaches(desktop.Host, serverAddr, icmp(), true)
		e.still(desktop.Host, serverAddr, tcp(443), false)
		e.still(laptop.Host, serverAddr, tcp(443), true)
	})
	t.Run("nobody without a rule", func(t *testing.T) {
		e := e.in(t)
		// The host hears what its identity is, and only the controller's log which rules there are.
		err := e.byBrowser(other, "eve@example.com")
		e.refusedWith(err, "eve@example.com", "groups guests")
		if strings.Contains(err.Error(), "staff") {
			t.Errorf("a stranger learns the rule: %v", err)
		}
		e.logged("eve@example.com", "rule staff (zones/office.yaml:8:7)", "group")
		e.still(other.Host, serverAddr, icmp(), false)
	})
	t.Run("a group is taken off the policy in git", func(t *testing.T) {
		e := e.in(t)
		e.allow(toServer("labels: {kind: laptop}", "icmp"))
		began := time.Now()
		e.merge("Nothing for ops any more")
		e.stop(laptop, tcp(443), began, "merge without the group")
		e.still(laptop.Host, serverAddr, icmp(), true)
	})
	t.Run("a group is taken off the rule in git", func(t *testing.T) {
		e := e.in(t)
		e.office("{name: staff, issuer: corp, users: [bob@example.com], labels: {kind: laptop}}")
		began := time.Now()
		e.merge("Only bob\n\nApex-Allow-Shrink: office")
		e.stop(laptop, icmp(), began, "merge without the rule's group")
		e.reaches(desktop.Host, serverAddr, icmp(), true)
	})
}
