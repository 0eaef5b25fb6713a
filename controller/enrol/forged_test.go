package enrol

import (
	"net/netip"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// forge puts a record into the store that claims an identity for a machine, signed by a key of the thief's own.
func (w *world) forge(s *Service, m *machine) {
	w.t.Helper()
	_, r := m.request(s, "corp", "a.b.c")
	body := must(protocol.Encode(r))(w.t)
	proof := m.proof(protocol.EnrolPath("acme", "prod"), body)
	r.Token = ""
	e := protocol.Evidence{Token: "a.b.c", Key: []byte("{}"), Verified: w.now().Unix(), Request: must(protocol.Encode(r))(w.t),
		Proof: proof.Compact(), Decision: []byte{}, Previous: [][]byte{}}
	b := binding.Binding{
		Type: binding.Type, Network: "acme", Zone: "prod", Node: m.name,
		Identity: binding.Identity{Issuer: "corp", URL: issuerURL, Subject: "boss", Username: "boss@corp.example", Groups: []string{"ops"},
			Claims: []binding.Claim{}},
		PublicKey: m.public(), IdentityKey: m.identity(),
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("fd00:1::9")}, Routes: []netip.Prefix{},
		Labels: []binding.Pair{}, Rule: binding.Rule{Name: "staff", File: "x", Line: 1}, Commit: w.pub.Load().Commit,
		Issued: w.now().Unix(), Expires: w.now().Add(24 * time.Hour).Unix(), Evidence: peermap.DigestOf(must(ownEvidence(e))(w.t)),
	}
	env := must(signer.SignEd25519(binding.Type, must(b.Encode())(w.t), testKey("the thief's own")))(w.t)
	record := protocol.BindingRecord{Envelope: must(env.Encode())(w.t), Evidence: must(protocol.Encode(e))(w.t)}
	key := "acme.prod." + m.name
	data := must(protocol.Encode(record))(w.t)
	if err := s.opts.Buckets.Bindings.Put(w.ctx(), key, data); err != nil {
		w.t.Fatal(err)
	}
	_, revision, err := s.opts.Buckets.Bindings.GetRevision(w.ctx(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	s.take(store.Change{Key: key, Value: data, Revision: revision}) // as Run's watch does
}

// TestForgedRecordsAreNobodys: whoever can write to the store, and has no key of the controller's, gets nothing signed for
// what stands there; and those whom it pretends to be are not kept out by it.
func TestForgedRecordsAreNobodys(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	evil := w.machine("evil")
	w.forge(s, evil)
	w.pass(time.Second)
	_, err := w.rotate(s, evil, w.machine("evil#next"), protocol.RotatePath("acme", "prod", "evil"))
	refusedWith(t, err, protocol.CodeProof, "enrolled node")
	_, err = evil.enrol(s, "corp", "a.b.c")
	if err == nil {
		t.Error("a made up token was renewed with")
	}
	// A token that commits to no keys renews a binding; this is none.
	_, err = evil.enrol(s, "corp", w.tokens.Issue(w.person("boss", "ops")))
	refusedWith(t, err, protocol.CodeToken, "commits to no keys")
	if list, _ := s.Snapshot(); len(list) != 0 {
		t.Fatalf("%d bindings count", len(list))
	}
	honest := w.machine("evil#honest")
	honest.join(s, "corp", honest.token(w.person("ann", "ops"))) // the name is free
}

// TestBindingsEndWithTheirKey: what a stolen enrolment key signed is worth nothing after the commit that removes the key, also
// to its holder, who asks for new keys.
func TestBindingsEndWithTheirKey(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("laptop")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	fresh := testKey("new enrolment key")
	w.key = fresh
	w.root = w.newRoot("zones/**")
	w.publish("", "")
	s = w.service(func(o *Options) { o.Keys = []signer.PrivateKey{fresh} })
	w.pass(time.Minute)
	_, err := w.rotate(s, m, w.machine("laptop#next"), protocol.RotatePath("acme", "prod", "laptop"))
	refusedWith(t, err, protocol.CodeProof)
	_, err = m.enrol(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken, "commits to no keys")
	m.join(s, "corp", m.token(w.person("ann", "ops"))) // with a token for its keys it is a member again
}
