package controller_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/controller"
	"github.com/apex-network/apex/controller/config"
	"github.com/apex-network/apex/controller/enrol"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/gittest"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// joining is a world in which people of an OpenID provider may enrol, with the real service.
type joining struct {
	*world
	idp *idp.Issuer
}

func newJoining(t *testing.T, change ...func(*config.Network)) *joining {
	t.Helper()
	j := newJoinable(t)
	j.startAs(func(cfg *config.Config, _ *controller.Options) {
		for _, f := range change {
			f(&cfg.Networks[0])
		}
	})
	j.await("prod", func(f protocol.FleetStatus) bool { // enrolments go by what is accepted, which comes last
		z := zoneOf(f, "prod")
		return z != nil && z.Current != nil && f.Accepted == z.Current.Commit
	})
	return j
}

// newJoinable is such a world before its controller runs.
func newJoinable(t *testing.T) *joining {
	t.Helper()
	key, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	j := &joining{idp: idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})}
	j.world = newWorld(t, func(w *world) {
		w.root.Spec.Keys = append(w.root.Spec.Keys, spec.TrustKey{Name: "enrolment", Ed25519: key.Raw()})
		w.root.Spec.Enrolment = spec.Role{Keys: []string{"enrolment"}}
	})
	text, err := signer.MarshalPrivate(key)
	if err == nil {
		err = keyfile.Create(filepath.Join(j.dir, "enrolment.key"), text)
	}
	if err != nil {
		t.Fatal(err)
	}
	j.repo.Write("network.yaml", fmt.Sprintf(
		"apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: %s}\nspec:\n  issuers: [{name: corp, url: %q, clientID: apex}]\n", j.name, j.idp.Issuer()))
	j.zone("prod", "10.1.0.0/16", `  dynamic: [10.1.128.0/17]
  members:
    - {name: staff, issuer: corp, groups: [ops], ttl: 1h}
    - {name: guests, issuer: corp, groups: [guests], ttl: 1h, approval: review}
`)
	j.push("Let people enrol")
	j.writeConfig("")
	return j
}

// joiner is a host that enrols.
type joiner struct {
	name string
	wg   *ecdh.PrivateKey
	id   signer.PrivateKey
}

func newJoiner(t *testing.T, name string) joiner {
	t.Helper()
	wg, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return joiner{name, wg, id}
}

func (h joiner) public() peermap.Key { return peermap.Key(h.wg.PublicKey().Bytes()) }

// enrol asks for a binding as somebody of a group.
func (j *joining) enrol(h joiner, who, group string) (*http.Response, []byte) {
	j.t.Helper()
	body := j.request(h, who, group, j.challenge())
	return j.do(j.prove(call{method: http.MethodPost, path: protocol.EnrolPath(j.name, "prod"), body: body}, h.name, h.id))
}

// challenge is what hosts prove their WireGuard keys with.
func (j *joining) challenge() peermap.Key {
	j.t.Helper()
	resp, data := j.ready(func() (*http.Response, []byte) { return j.do(call{path: protocol.EnrolmentPath(j.name)}) })
	if resp.StatusCode != http.StatusOK {
		j.t.Fatalf("enrolment: %d %s", resp.StatusCode, data)
	}
	return decode[protocol.EnrolmentInfo](j.t, data, protocol.MaxEnrolInfoBytes).Challenge
}

// request is the body with which a host enrols, with a token of its own.
func (j *joining) request(h joiner, who, group string, challenge peermap.Key) []byte {
	j.t.Helper()
	identity := peermap.Key(h.id.Raw())
	now := j.clock.Now()
	token := j.idp.Mint(j.idp.Claims("apex", who, now).Valid(now, now.Add(time.Hour)).With("groups", []string{group}).
		With("nonce", protocol.Commitment(j.name, h.public(), identity)))
	req := protocol.NewEnrol(protocol.EnrolRequest{
		Network: j.name, Zone: "prod", Node: h.name, PublicKey: h.public(), IdentityKey: identity, Issuer: "corp", Token: token,
	})
	mac, err := protocol.EnrolMac([32]byte(h.wg.Bytes()), challenge, req)
	if err != nil {
		j.t.Fatal(err)
	}
	req.Mac = mac
	body, err := protocol.Encode(req)
	if err != nil {
		j.t.Fatal(err)
	}
	return body
}

func (j *joining) enrolled(n uint64) {
	j.t.Helper()
	j.await(fmt.Sprint(n, " enrolled nodes"), func(f protocol.FleetStatus) bool {
		z := zoneOf(f, "prod")
		return z != nil && z.Current != nil && z.Current.Enrolled == n
	})
}

func TestHostJoinsOverHTTPAndLeaves(t *testing.T) {
	j := newJoining(t)
	h := newJoiner(t, "laptop")
	resp, data := j.enrol(h, "ann", "ops")
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	result := decode[protocol.EnrolResult](t, data, protocol.MaxEnrolBytes*4)
	env, err := signer.ParseEnvelope(result.Binding, binding.MaxEnvelopeBytes)
	if err != nil {
		t.Fatal(err)
	}
	b, err := binding.Parse(env.Payload)
	if err != nil || !netip.MustParsePrefix("10.1.128.0/17").Contains(b.Addresses[0]) {
		t.Fatalf("%+v, %v", b, err)
	}
	j.enrolled(1)
	if resp, data := j.do(j.prove(call{path: protocol.ViewPath(j.name, "prod", "laptop")}, "laptop", h.id)); resp.StatusCode != http.StatusOK {
		t.Fatalf("its view: %d %s", resp.StatusCode, data)
	}
	for name, c := range map[string]call{
		"a stranger's key": j.prove(call{method: http.MethodPost, path: protocol.LeavePath(j.name, "prod", "laptop")}, "laptop", newJoiner(t, "x").id),
		"another node":     j.prove(call{method: http.MethodPost, path: protocol.LeavePath(j.name, "prod", "a")}, "laptop", h.id),
		"another zone":     j.prove(call{method: http.MethodPost, path: protocol.LeavePath(j.name, "nope", "laptop")}, "laptop", h.id),
	} {
		if resp, data := j.do(c); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, resp.StatusCode, data)
		}
	}
	leave := j.prove(call{method: http.MethodPost, path: protocol.LeavePath(j.name, "prod", "laptop")}, "laptop", h.id)
	if resp, data := j.do(leave); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("leave: %d %s", resp.StatusCode, data)
	}
	j.enrolled(0)
}

func TestRefusedOverHTTP(t *testing.T) {
	j := newJoining(t)
	resp, data := j.enrol(newJoiner(t, "laptop"), "eve", "sales")
	if resp.StatusCode != http.StatusForbidden {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	if resp, _ := j.do(call{path: protocol.EnrolmentPath("nobody")}); resp.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown network: %d", resp.StatusCode)
	}
	if resp, _ := j.do(call{method: http.MethodPost, path: protocol.EnrolPath(j.name, "prod"), body: []byte("{}")}); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("no proof: %d", resp.StatusCode)
	}
}

// A flood of enrolments is told when to come back. Agents at the same address, in one building as it may be, are members
// still: what they ask is answered, and what is published reaches them.
func TestFloodOverHTTP(t *testing.T) {
	const limit = 5
	j := newJoining(t, func(n *config.Network) { n.Enrolment.PerAddress = limit })
	member := newJoiner(t, "laptop")
	if resp, data := j.enrol(member, "ann", "ops"); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	j.enrolled(1)
	a := j.agent("prod", "a")
	watch := a.open()
	defer watch.close()
	a.take(watch.next(t))
	var resp *http.Response
	var data []byte
	for n := 1; n < 4*limit; n++ { // the member was the first
		resp, data = j.enrol(newJoiner(t, fmt.Sprint("host", n)), "eve", "sales")
		if want := n >= limit; want != (resp.StatusCode == http.StatusTooManyRequests) {
			t.Fatalf("request %d of %d: %d %s", n+1, limit, resp.StatusCode, data)
		}
		j.get("a", protocol.ViewPath(j.name, "prod", "a"))
	}
	if again := resp.Header.Get("Retry-After"); again != "12" { // five a minute
		t.Errorf("Retry-After is %q", again)
	}
	if !strings.Contains(string(data), "from this address") {
		t.Errorf("refused with %s", data)
	}
	if resp, data := j.do(j.prove(call{path: protocol.ViewPath(j.name, "prod", "laptop")}, "laptop", member.id)); resp.StatusCode != http.StatusOK {
		t.Errorf("the member's view: %d %s", resp.StatusCode, data)
	}
	j.node("prod", "d", "10.1.0.4")
	j.mustApply(j.push("Add d"))
	for m := a.take(watch.next(t)); m == nil || peerNames(m) != "b c d laptop"; m = a.take(watch.next(t)) {
		t.Log("something else came before d")
	}
	j.clock.Advance(12 * time.Second)
	if resp, data := j.enrol(newJoiner(t, "late"), "bob", "ops"); resp.StatusCode != http.StatusOK {
		t.Errorf("after the time that was told: %d %s", resp.StatusCode, data)
	}
}

func TestReviewOverHTTP(t *testing.T) {
	j := newJoining(t)
	h := newJoiner(t, "guest")
	resp, data := j.enrol(h, "gus", "guests")
	if resp.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	list := j.enrolments(j.owner)
	if len(list.Waiting) != 1 || list.Waiting[0].Node != "guest" {
		t.Fatalf("%+v", list)
	}
	stranger := j.env.SSHKey("stranger")
	for by, want := range map[*gittest.SSHKey]int{stranger: http.StatusUnauthorized, j.owner: http.StatusNoContent} {
		payload, err := protocol.NewDecision(j.name, list.Waiting[0], true, j.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		c := call{method: http.MethodPost, path: protocol.EnrolmentsPath(j.name), body: j.signed(protocol.EnrolNamespace, payload, by)}
		if resp, data := j.do(c); resp.StatusCode != want {
			t.Fatalf("decision by %s: %d %s", by.Name(), resp.StatusCode, data)
		}
		if resp, _ := j.do(c); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("a decision was used twice: %d", resp.StatusCode)
		}
	}
	j.enrolled(1)
	if list := j.enrolments(j.owner); len(list.Waiting) != 0 || len(list.Bindings) != 1 {
		t.Errorf("%+v", list)
	}
}

func (j *joining) enrolments(by *gittest.SSHKey) protocol.EnrolmentList {
	j.t.Helper()
	resp, data := j.ready(func() (*http.Response, []byte) {
		payload, err := protocol.NewEnrolQuery(j.name, j.clock.Now())
		if err != nil {
			j.t.Fatal(err)
		}
		h := http.Header{}
		request := decode[protocol.SignedRequest](j.t, j.signed(protocol.EnrolNamespace, payload, by), protocol.MaxApplyBytes)
		if err := protocol.SetRequest(h, request); err != nil {
			j.t.Fatal(err)
		}
		return j.do(call{path: protocol.EnrolmentsPath(j.name), header: h})
	})
	if resp.StatusCode != http.StatusOK {
		j.t.Fatalf("enrolments: %d %s", resp.StatusCode, data)
	}
	return decode[protocol.EnrolmentList](j.t, data, protocol.MaxEnrolmentsBytes)
}

// What the controller stores convinces somebody who trusts git and the provider alone.
func TestStoredEvidenceConvincesAThirdParty(t *testing.T) {
	j := newJoining(t)
	if resp, data := j.enrol(newJoiner(t, "laptop"), "ann", "ops"); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	buckets, err := enrol.OpenBuckets(t.Context(), j.store)
	if err != nil {
		t.Fatal(err)
	}
	data, err := buckets.Bindings.Get(t.Context(), j.name+".prod.laptop")
	if err != nil {
		t.Fatal(err)
	}
	record := decode[protocol.BindingRecord](t, data, 1<<20)
	verifier, err := tokens.New(tokens.Options{Now: j.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	judge := enrol.Judge{Network: j.name, Published: j.own(), Verifier: verifier}
	j.clock.Advance(2 * time.Hour) // the token has expired meanwhile
	if _, err := judge.Recheck(t.Context(), record); err != nil {
		t.Error(err)
	}
}

// own is what a third party reads from the repository itself.
func (j *joining) own() *enrol.Published {
	j.t.Helper()
	var files []spec.File
	for _, name := range []string{"network.yaml", "zones/prod/zone.yaml", "trust/root.yaml"} {
		data, err := os.ReadFile(filepath.Join(j.repo.Dir(), name))
		if err != nil {
			j.t.Fatal(err)
		}
		files = append(files, spec.File{Path: name, Data: data})
	}
	repo, problems := spec.Load(files)
	if problems.HasErrors() {
		j.t.Fatal(problems.Err())
	}
	root, err := trustdir.RootFromSpec(repo.TrustRoot.Value.Spec, j.name)
	if err != nil {
		j.t.Fatal(err)
	}
	return &enrol.Published{Commit: j.repo.Head(), Repo: repo, Root: root}
}

// Whoever takes over serves what is published before it has compiled it, and enrols only after.
func TestWhoStartsSaysThatItIsNotReadyToEnrolYet(t *testing.T) {
	j := newJoinable(t)
	ask := func(words string) {
		t.Helper()
		resp, data := j.do(call{path: protocol.EnrolmentPath(j.name)})
		var p protocol.Problem
		if err := json.Unmarshal(data, &p); err != nil || resp.StatusCode != http.StatusServiceUnavailable ||
			p.Code != protocol.CodeNotReady || !strings.Contains(p.Detail, words) || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%d %s, want %q: %v", resp.StatusCode, data, words, err)
		}
	}
	hide := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	hidden := j.bare + ".hidden" // so that nothing is compiled
	hide(j.bare, hidden)
	j.start()
	ask("no published commit")
	j.stop()
	hide(hidden, j.bare)
	j.start()
	j.published("prod", j.repo.Head())
	j.stop()
	hide(j.bare, hidden)
	j.start()
	ask("compiling the published commit")
}
