//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/spec"
)

// TestMembershipEnds lives through the shortest life that a binding can have, a minute. A person whom the directory
// behind Dex has taken out of a group loses what the group has, with the renewal that the agent does by itself; a pod goes
// on with the tokens that its volume brings; a visitor without either is dropped by the peers at the very end, with no
// controller alive to tell them, and a resident, whose binding is longer, is not.
func TestMembershipEnds(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{})
	dex, directory, err := e.provider.DexWithDirectory(e.ctx, users(map[string]string{"alice": "staff ops"}), idp.DexOptions{})
	e.must(err)
	e.closed(dex.Close)
	e.closed(directory.Close)
	people := corp(dex.Issuer(), spec.TokenBindingRequired)
	e.issuer(people)
	cluster := e.simulate("cluster", spec.TokenBindingOptional)
	e.office("{name: staff, issuer: corp, groups: [staff], ttl: 1m}",
		`{name: pods, issuer: cluster, match: {sub: "system:serviceaccount:web:*"}, labels: {kind: pod}, ttl: 1m}`,
		`{name: visitors, issuer: cluster, match: {sub: visitor}, labels: {kind: visitor}, ttl: 1m}`,
		`{name: residents, issuer: cluster, match: {sub: resident}, labels: {kind: visitor}, ttl: 1h}`)
	e.allow(toServer(`groups: ["corp:ops"]`, "tcp/443"), toServer(`groups: ["corp:staff"]`, "icmp"),
		toServer("labels: {kind: pod}", "tcp/443"), toServer("labels: {kind: visitor}", "tcp/443"))

	volume := newVolume(e, "volume")
	mount := func() string {
		return cluster.Mint(idp.ServiceAccount{Namespace: "web"}.Claims(cluster.Issuer(), "apex", time.Now()).With("jti", time.Now().String()))
	}
	volume.swap(mount())
	laptop, resident, visitor := e.joiner("laptop", nil), e.joiner("resident", nil), e.joiner("visitor", nil)
	pod := e.joiner("pod", &agent.JoinConfig{Issuer: "cluster", TokenFile: volume.token()})
	e.begin()

	e.must(e.byBrowser(laptop, "alice", "--issuer", "corp"))
	alone := func(n *fleet.Node) {
		e.must(e.withToken(n, cluster.Mint(e.claims(cluster, n, n.Spec.Name).Without("jti")), "--issuer", "cluster"))
	}
	alone(resident)
	for _, n := range []*fleet.Node{laptop, pod, resident} {
		e.bound(n)
		e.reaches(n.Host, serverAddr, tcp(443), true)
	}
	first := must(pod.Enrolment(e.ctx, "office"))(t)
	volume.swap(mount())
	e.must(directory.RemoveFromGroup(e.ctx, "alice", "ops"))
	e.stop(laptop, tcp(443), time.Now(), "the directory taking the group away")
	e.still(laptop.Host, serverAddr, icmp(), true)
	e.must(pod.Agent.Await(e.ctx, "the pod renews with the new token", awaitRenewed(pod, first.Binding.Expires)))
	e.still(pod.Host, serverAddr, tcp(443), true)

	alone(visitor) // not before: nothing else is done in this minute
	e.bound(visitor)
	e.reaches(visitor.Host, serverAddr, tcp(443), true)
	end := must(visitor.Enrolment(e.ctx, "office"))(t).Binding.Expires
	e.must(e.Controller.Process.Kill(e.ctx))
	e.still(visitor.Host, serverAddr, tcp(443), true)
	c, err := visitor.AwaitCondition(e.ctx, "office", status.EnrolmentExpiring, true)
	e.must(err)
	t.Logf("the visitor says: %s: %s", c.Reason, c.Message)
	e.gone("visitor")
	if time.Now().Before(end) {
		t.Errorf("the server let go of the visitor %s before the binding ended", time.Until(end))
	}
	e.stop(visitor, tcp(443), end, "the end of the visitor's binding, without a controller")
	s, err := visitor.AwaitStage(e.ctx, "office", control.Expired)
	e.must(err)
	t.Logf("the visitor is %s: %s", s.Stage, s.Message)
	e.still(resident.Host, serverAddr, tcp(443), true)
}

// volume is a projected volume of Kubernetes: token is a link to ..data/token, ..data a link to a folder with a date, and
// a rotation replaces the second link in one step.
type volume struct {
	e       *enrolment
	folder  string
	changes int
}

func newVolume(e *enrolment, name string) *volume {
	e.t.Helper()
	v := &volume{e: e, folder: filepath.Join(e.Lab.Dir(), name)}
	e.must(os.Mkdir(v.folder, 0o755))
	e.must(os.Symlink("..data/token", v.token()))
	return v
}

func (v *volume) token() string { return filepath.Join(v.folder, "token") }

func (v *volume) swap(token string) {
	v.e.t.Helper()
	v.changes++
	name := fmt.Sprintf("..2026_%d", v.changes)
	v.e.must(os.Mkdir(filepath.Join(v.folder, name), 0o755))
	v.e.must(os.WriteFile(filepath.Join(v.folder, name, "token"), []byte(token), 0o600))
	next := filepath.Join(v.folder, "..data_tmp")
	v.e.must(os.Symlink(name, next))
	v.e.must(os.Rename(next, filepath.Join(v.folder, "..data")))
}
