package enrol

import (
	"crypto/ed25519"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

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
	refusedWith(t, err, protocol.CodeToken, "commits to no keys")
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

// A link that calls itself approved stretches no token: a controller could sign it a week later, when the person has been
// thrown out of the group, and lean a rotation on it that asks for no review.
func TestOnlyAReviewStretchesAToken(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m, next := w.machine("laptop"), w.machine("laptop#next")
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	honest := must(openLink(w.record(s, "laptop")))(t)
	// Nor is a rotation kept until a revocation of what came before it has passed.
	kept := honest.binding
	kept.PublicKey, kept.IdentityKey, kept.Issued = next.public(), next.identity(), w.now().Add(time.Hour).Unix()
	_, record, err := s.sign(w.pub.Load(), kept, w.rotation(m, next, honest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.judge().Recheck(t.Context(), record); err == nil {
		t.Error("a rotation of an hour ago is accepted")
	}
	for name, wait := range map[string]time.Duration{"a week": 7 * 24 * time.Hour, "a minute": time.Minute} {
		at := time.Unix(honest.binding.Issued, 0).Add(wait)
		w.clock.Store(at.UnixNano())
		b := honest.binding
		b.Approved, b.Issued, b.Expires = true, at.Unix(), at.Add(24*time.Hour).Unix()
		_, record, err := s.sign(w.pub.Load(), b, honest.evidence)
		if err != nil {
			t.Fatal(err)
		}
		e := w.rotation(m, next, must(openLink(record))(t))
		b.Approved, b.PublicKey, b.IdentityKey = false, next.public(), next.identity()
		if _, record, err = s.sign(w.pub.Load(), b, e); err != nil {
			t.Fatal(err)
		}
		if _, err := w.judge().Recheck(t.Context(), record); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What waited for a maintainer carries later bindings, also when that maintainer has left and another says the same.
func TestReviewedLinkCarriesOn(t *testing.T) {
	w := newWorld(t)
	s := w.service()
	m := w.machine("guest")
	approve := func() {
		t.Helper()
		w.pass(2 * time.Hour)
		if err := w.decide(s, s.List().Waiting[0], true); err != nil {
			t.Fatal(err)
		}
		w.recheck(s, "guest")
		w.pass(16 * time.Hour)
	}
	if _, err := m.enrol(s, "corp", m.token(w.person("gus", "guests"))); err != nil {
		t.Fatal(err)
	}
	approve()
	m.join(s, "corp", w.tokens.Issue(w.person("gus", "guests")))
	w.recheck(s, "guest")
	w.maintain = must(ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed("another maintainer"))))(t)
	w.root = w.newRoot("zones/**")
	w.publish("", "")
	w.pass(16 * time.Hour)
	if r, err := m.enrol(s, "corp", w.tokens.Issue(w.person("gus", "guests"))); err != nil || r.Waiting == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	approve()
}
