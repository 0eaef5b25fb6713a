//go:build linux

package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/spec"
)

// TestStolenTokens has a thief with somebody else's tokens, and members who ask for what is not theirs. Each is told what
// is wrong; nobody's packets change.
func TestStolenTokens(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	open := e.simulate("open", spec.TokenBindingOptional) // its tokens commit to nothing
	e.office("{name: staff, issuer: corp, groups: [staff]}", "{name: guests, issuer: open, match: {sub: ada}}")
	e.allow(toServer("any: true", "tcp/443"))
	laptop, phone, thief := e.joiner("laptop", nil), e.joiner("phone", nil), e.joiner("thief", nil)
	twin, impostor := e.joiner("twin", nil), e.joiner("impostor", nil)
	twin.Spec.Name, impostor.Spec.Name = "laptop", "server"
	staff := func(e *enrolment, n *fleet.Node, subject string) string {
		return issuer.Mint(e.claims(issuer, n, subject).With("groups", []string{"staff"}))
	}
	e.begin()
	token := staff(e, laptop, "ada")
	e.must(e.withToken(laptop, token))
	e.reaches(laptop.Host, serverAddr, tcp(443), true)
	used := open.Mint(open.Claims("apex", "ada", time.Now()))
	e.must(e.withToken(phone, used))
	e.reaches(phone.Host, serverAddr, tcp(443), true)
	before := e.snapshots()

	t.Run("the token of another host's keys", func(t *testing.T) {
		e := e.in(t)
		e.refusedWith(e.withToken(thief, token), "aud")
		e.refusedWith(e.withToken(thief, staff(e, laptop, "ada")), "aud")
	})
	t.Run("a token for another audience", func(t *testing.T) {
		e := e.in(t)
		claims := e.claims(issuer, thief, "ada").With("groups", []string{"staff"})
		other := "another:" + strings.TrimPrefix(claims["aud"].(string), "apex:")
		e.refusedWith(e.withToken(thief, issuer.Mint(claims.With("aud", other))), "aud")
	})
	t.Run("a token that has run out", func(t *testing.T) {
		e := e.in(t)
		claims := e.claims(issuer, thief, "ada").With("groups", []string{"staff"})
		now := time.Now()
		e.refusedWith(e.withToken(thief, issuer.Mint(claims.Valid(now.Add(-time.Hour), now.Add(-50*time.Minute)))), "exp")
	})
	t.Run("a provider whose clock is five minutes ahead", func(t *testing.T) {
		e := e.in(t)
		claims := e.claims(issuer, thief, "ada").With("groups", []string{"staff"})
		ahead := time.Now().Add(5 * time.Minute)
		err := e.withToken(thief, issuer.Mint(claims.Valid(ahead, ahead.Add(10*time.Minute))))
		e.refusedWith(err, "clock", "apart")
		t.Log(err)
	})
	t.Run("a token that was used", func(t *testing.T) {
		e := e.in(t)
		e.refusedWith(e.withToken(thief, used), "used")
		e.must(e.Controller.Process.Kill(e.ctx))
		e.must(e.Controller.Start(e.ctx))
		e.refusedWith(e.again(thief, used), "used")
	})
	t.Run("a name that another host has", func(t *testing.T) {
		e := e.in(t)
		e.refusedWith(e.withToken(twin, staff(e, twin, "mallory")), "laptop")
	})
	t.Run("a name that stands in git", func(t *testing.T) {
		e := e.in(t)
		e.refusedWith(e.withToken(impostor, staff(e, impostor, "mallory")), "server")
	})
	t.Run("routes and relaying that the rule does not give", func(t *testing.T) {
		e := e.in(t)
		e.refusedWith(e.withToken(thief, staff(e, thief, "mallory"), "--route", "192.0.2.0/24"), "192.0.2.0/24", "staff")
		e.refusedWith(e.withToken(thief, staff(e, thief, "mallory"), "--relay"), "relay", "staff")
	})
	t.Run("nothing has changed", func(t *testing.T) {
		e := e.in(t)
		e.untouched(before)
		for _, n := range []*fleet.Node{thief, twin, impostor} {
			e.still(n.Host, serverAddr, tcp(443), false)
		}
		e.still(laptop.Host, serverAddr, tcp(443), true)
	})
}
