package enrol

import (
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// rotation gives evidence by which m names the keys of next, leaning on links.
func (w *world) rotation(m, next *machine, links ...link) protocol.Evidence {
	w.t.Helper()
	path := protocol.RotatePath("acme", "prod", m.name)
	body := must(protocol.Encode(protocol.RotateRequest{
		PublicKey: next.public(), IdentityKey: next.identity(), Mac: make([]byte, 32), Proof: next.proof(path, nil).Compact(),
	}))(w.t)
	return must(leaning(protocol.Evidence{Verified: w.now().Unix(), Request: body, Proof: m.proof(path, body).Compact()}, links))(w.t)
}

// A binding of an enrolment key that git has taken away comes back neither by a rotation nor by a renewal that leans on it.
func TestWhatAChainLeansOnIsSigned(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m, next := w.machine("laptop"), w.machine("laptop#next")
	m.join(s, "corp", m.token(w.person("ann", "ops"))) // stands for one that the key's thief signed
	first := must(openLink(w.record(s, "laptop")))(t)
	w.pass(time.Minute)
	w.key = testKey("the next enrolment key")
	w.root = w.newRoot("zones/**")
	w.publish("", "")
	s = w.service(func(o *Options) { o.Keys = []signer.PrivateKey{w.key} })
	path := protocol.RotatePath("acme", "prod", "laptop")
	if _, err := w.rotate(s, m, next, path); err == nil {
		t.Error("a rotation brought it back")
	}
	_, err := m.enrol(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	refusedWith(t, err, protocol.CodeToken, "get one for this node")
	b := first.binding
	b.PublicKey, b.IdentityKey, b.Issued = next.public(), next.identity(), w.now().Unix()
	_, record, err := s.sign(w.pub.Load(), b, w.rotation(m, next, first))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.judge().Recheck(t.Context(), record); err == nil {
		t.Error("a witness takes it")
	}
	// An honest host comes back with a token for its keys, which leans on nothing.
	if b := m.join(s, "corp", m.token(w.person("ann", "ops"))); b.Issued != w.now().Unix() {
		t.Error("it was given the binding that counts for nothing")
	}
	w.recheck(s, "laptop")
}
