//go:build linux

package integration

import (
	"testing"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// TestFastForward has the controller's own key stolen and used to push the numbers of a zone far ahead, so that the
// honest generations look like old ones. The hosts keep what they have and say so; a new epoch in the trust root, which
// the thief cannot sign, lets them go on.
func TestFastForward(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, office("tcp/443"))
	_, laptop := w.pair()
	liar := w.newLiar()
	w.begin()
	w.reaches(laptop.Host, "10.10.0.1", tcp(443), true)
	before := w.snapshots()

	ahead := lie{stamps, func(q *question) {
		now := time.Now().Unix()
		stamp := peermap.Timestamp{Type: peermap.TimestampType, Network: w.Network, Zone: "office", Epoch: 1, Serial: 1_000_000,
			Manifest: peermap.DigestOf([]byte("nothing")), Issued: now, Expires: now + 300}
		payload, err := stamp.Encode()
		if err != nil {
			return
		}
		env, err := signer.SignEd25519(peermap.TimestampType, payload, w.Controller.Key)
		if err != nil {
			return
		}
		body, _ := env.Encode()
		q.say(body)
	}}
	liar.tell(map[string]lie{"laptop": ahead})
	c, err := laptop.AwaitCondition(w.ctx, "office", status.NotMember, true)
	w.must(err)
	t.Logf("while the thief speaks: %s %s: %s", c.Type, c.Reason, c.Message)
	liar.tell(nil)
	c, err = laptop.AwaitCondition(w.ctx, "office", status.TrustAlarm, true)
	w.must(err)
	t.Logf("once the controller speaks again: %s %s: %s", c.Type, c.Reason, c.Message)
	if c.Reason != "Rollback" {
		t.Errorf("the alarm is %s", c.Reason)
	}
	w.untouched(before)
	w.still(laptop.Host, "10.10.0.1", tcp(443), true)

	w.must(w.Rotate(func(r *spec.TrustRootSpec) { r.Epoch = 2 }))
	w.write("policies/office.yaml", officePolicy("tcp/80"))
	w.enforced(w.merge("Begin a new epoch"))
	w.reaches(laptop.Host, "10.10.0.1", tcp(80), true)
	if z := must(laptop.Zone(w.ctx, "office"))(t); z.Applied.Epoch != 2 {
		t.Errorf("applied is %d.%d", z.Applied.Epoch, z.Applied.Serial)
	}
}
