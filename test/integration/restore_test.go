//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/spec"
)

// TestRestore loses the controller's whole storage. Git and a backup bring everything back: members keep their names,
// addresses and packets, a token that was used stays used, and revoking works as ever.
func TestRestore(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	e.office("{name: staff, issuer: corp, match: {sub: ada}}")
	e.allow(toServer("any: true", "tcp/443"))
	laptop, left := e.joiner("laptop", nil), e.joiner("left", nil)
	e.begin()
	used := e.mint(issuer, left, "ada")
	e.must(e.withToken(left, used))
	e.must(e.withToken(laptop, e.mint(issuer, laptop, "ada")))
	address := e.bound(laptop)
	_, err := e.Apex(e.ctx, left.Host, "leave", "--zone", "office")
	e.must(err)
	e.reaches(laptop.Host, serverAddr, tcp(443), true)

	file := filepath.Join(e.Lab.Dir(), "apex.backup")
	c := e.Controller
	config := filepath.Join(c.Dir, "controller.yaml")
	_, err = c.Host.Run(e.ctx, binaries(t).Controller, "backup", "--config", config, file)
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
	e.refusedWith(e.withToken(left, used), "used")
	e.must(e.withToken(left, e.mint(issuer, left, "ada")))
	e.reaches(left.Host, serverAddr, tcp(443), true)
}
