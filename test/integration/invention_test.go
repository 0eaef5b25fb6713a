//go:build linux

package integration

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/store/jetstream"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
)

// TestInventedBinding has a thief with all keys of the controller, its store and the evidence of an honest enrolment. They
// bind keys of their own to the honest identity. The witness, whose signature the trust root asks for, sees that the token
// commits to other keys and signs nothing with it; no host is touched, and the honest go on.
func TestInventedBinding(t *testing.T) {
	t.Parallel()
	e := newEnrolment(t, fleet.Options{Witness: true})
	issuer := e.simulate("corp", spec.TokenBindingRequired)
	e.office("{name: staff, issuer: corp, match: {sub: ada}}")
	e.allow(toServer("any: true", "tcp/443"))
	laptop, mole, honest := e.joiner("laptop", nil), e.joiner("mole", nil), e.joiner("honest", nil)
	commit := e.merge("Begin")
	e.start()
	witness := e.witness()
	e.enforced(commit)
	e.must(e.withToken(laptop, e.mint(issuer, laptop, "ada")))
	e.reaches(laptop.Host, serverAddr, tcp(443), true)
	before := e.snapshots()

	e.must(e.Controller.Process.Kill(e.ctx))
	keys := must(mole.Enrolment(e.ctx, "office"))(t)
	e.inStore(func(bindings store.Bucket) {
		data, err := bindings.Get(e.ctx, e.Network+".office.laptop")
		e.must(err)
		var record protocol.BindingRecord
		e.must(protocol.Decode(data, 1<<20, &record))
		env, err := signer.ParseEnvelope(record.Envelope, binding.MaxEnvelopeBytes)
		e.must(err)
		forged, err := binding.Parse(env.Payload)
		e.must(err)
		forged.Node, forged.PublicKey, forged.IdentityKey = "mole", keys.PublicKey, keys.IdentityKey
		forged.Addresses = []netip.Addr{netip.MustParseAddr("10.10.0.200")}
		payload, err := forged.Encode()
		e.must(err)
		signed, err := signer.SignEd25519(binding.Type, payload, e.Controller.EnrolmentKey)
		e.must(err)
		record.Envelope, err = signed.Encode()
		e.must(err)
		data, err = protocol.Encode(record)
		e.must(err)
		e.must(bindings.Create(e.ctx, e.Network+".office.mole", data))
	})
	e.must(e.Controller.Start(e.ctx))
	line, err := witness.AwaitLog(e.ctx, "mole")
	e.must(err)
	t.Logf("the witness says: %s", line)
	e.untouched(before)
	e.still(mole.Host, serverAddr, tcp(443), false)
	e.still(laptop.Host, serverAddr, tcp(443), true)

	// One false binding does not keep the honest ones waiting.
	e.must(e.again(honest, e.mint(issuer, honest, "ada")))
	e.reaches(honest.Host, serverAddr, tcp(443), true)
	e.still(mole.Host, serverAddr, tcp(443), false)
	for _, p := range must(e.server.Zone(e.ctx, "office"))(t).Peers {
		if p.Name == "mole" {
			t.Error("the server has the mole for a peer")
		}
	}
}

// inStore opens the bindings of the controller, which must not run.
func (e *enrolment) inStore(change func(bindings store.Bucket)) {
	e.t.Helper()
	s, err := jetstream.Open(e.ctx, jetstream.Options{Dir: filepath.Join(e.Controller.Dir, "storage", "jetstream"), Logger: slog.New(slog.DiscardHandler)})
	e.must(err)
	defer s.Close()
	b, err := enrol.OpenBuckets(e.ctx, s)
	e.must(err)
	change(b.Bindings)
}
