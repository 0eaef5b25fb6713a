//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/spec"
)

// TestRestore loses the controller's whole storage. Git and a backup bring everything back: members keep their names,
// addresses and packets, a token that was used stays used, and revoking works as ever.
func TestRestore(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	issuer := e.simulate("corp", spec.TokenBindingOptional)
	e.office("{name: staff, issuer: corp, match: {sub: ada}}")
	e.allow(toServer("any: true", "tcp/443"))
	laptop, phone, thief := e.joiner("laptop", nil), e.joiner("phone", nil), e.joiner("thief", nil)
	e.begin()
	used := issuer.Mint(issuer.Claims("apex", "ada", time.Now()))
	e.must(e.withToken(phone, used))
	e.must(e.withToken(laptop, e.mint(issuer, laptop, "ada")))
	address := e.bound(laptop)
	e.reaches(laptop.Host, serverAddr, tcp(443), true)

	file := filepath.Join(e.Lab.Dir(), "apex.backup")
	c := e.Controller
	config := filepath.Join(c.Dir, "controller.yaml")
	_, err := c.Host.Run(e.ctx, binaries(t).Controller, "backup", "--config", config, file)
	e.must(err)
	e.must(c.Process.Kill(e.ctx))
	e.must(os.RemoveAll(filepath.Join(c.Dir, "storage")))
	_, err = c.Host.Run(e.ctx, binaries(t).Controller, "restore", "--config", config, file)
	e.must(err)
	e.must(c.Start(e.ctx))

	e.allow(toServer("any: true", "tcp/443, icmp"))
	commit := e.merge("A change after the loss")
	e.enforced(commit)
	e.must(laptop.AwaitCommit(e.ctx, commit))
	if now := e.bound(laptop); now != address {
		t.Errorf("the laptop had %s and has %s", address, now)
	}
	e.still(laptop.Host, serverAddr, tcp(443), true)
	e.still(phone.Host, serverAddr, tcp(443), true)
	e.refusedWith(e.withToken(thief, used), "used")
	e.must(e.withToken(thief, e.mint(issuer, thief, "ada")))
	e.reaches(thief.Host, serverAddr, tcp(443), true)
}
