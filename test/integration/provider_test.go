//go:build linux

package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/spec"
)

// TestProviderAway takes providers away. Members keep talking, who wants to join hears why not, the other provider's
// people join as ever, and all goes on by itself when the provider is back.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	dex := e.dex(idp.DexOptions{Users: users(map[string]string{"alice": "staff"})}, spec.TokenBindingRequired)
	cluster := e.simulate("cluster", spec.TokenBindingOptional)
	e.office("{name: staff, issuer: corp, groups: [staff]}", `{name: pods, issuer: cluster, match: {sub: "system:serviceaccount:web:*"}}`)
	e.allow(toServer("any: true", "tcp/443"))
	file := newVolume(e, "volume")
	file.swap(cluster.Mint(idp.ServiceAccount{Namespace: "web"}.Claims(cluster.Issuer(), "apex", time.Now())))
	laptop := e.joiner("laptop", nil)
	pod := e.joiner("pod", &agent.JoinConfig{Issuer: "cluster", TokenFile: file.token()})
	cluster.Break(idp.Discovery, idp.Status(http.StatusServiceUnavailable))
	e.begin()

	e.failing(pod, "cluster", "503")
	e.must(e.byBrowser(laptop, "alice@example.com", "--issuer", "corp"))
	e.reaches(laptop.Host, serverAddr, tcp(443), true)

	cluster.Break(idp.Discovery, nil)
	e.bound(pod)
	e.reaches(pod.Host, serverAddr, tcp(443), true)
	_, err := pod.AwaitCondition(e.ctx, "office", status.EnrolmentFailing, false)
	e.must(err)

	e.must(dex.Close())
	e.refusedWith(e.byBrowser(laptop, "alice@example.com", "--issuer", "corp", "--again"), dex.Issuer(), "cannot be reached")
	e.still(laptop.Host, serverAddr, tcp(443), true)
	e.must(e.Controller.Process.Kill(e.ctx))
	e.must(e.Controller.Start(e.ctx))
	e.allow(toServer("any: true", "tcp/443, icmp"))
	commit := e.merge("A change while the provider is away")
	e.enforced(commit)
	e.must(laptop.AwaitCommit(e.ctx, commit))
	e.still(laptop.Host, serverAddr, tcp(443), true)
	e.still(pod.Host, serverAddr, tcp(443), true)
}
