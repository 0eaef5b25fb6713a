package enrol

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/controller/store"
	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

const (
	issuerURL = "https://login.example"
	ciURL     = "https://ci.example"
	host      = "controller.example"
)

// zoneFile is the zone that most tests enrol into; %s is its further lines.
const zoneFile = `apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: prod}
spec:
  ranges: [10.1.0.0/16, "fd00:1::/64"]
  dynamic: [10.1.0.0/24, "fd00:1::/80"]
  members:
    - {name: staff, issuer: corp, groups: [ops], labels: {role: laptop}, ttl: 24h, maxNodes: 3, routes: [192.168.0.0/16]}
    - {name: jobs, issuer: ci, match: {repository: "acme/*"}, ttl: 1h, ephemeral: true, maxNodes: 2000}
    - {name: guests, issuer: corp, groups: [guests], approval: review}
%s`

const networkFile = `apiVersion: apex/v1alpha1
kind: Network
metadata: {name: acme}
spec:
  issuers:
    - {name: corp, url: "https://login.example", clientID: apex-cli, clientSecret: public}
    - {name: ci, url: "https://ci.example", audience: apex, tokenBinding: optional}
%s`

const nodeFile = `apiVersion: apex/v1alpha1
kind: Node
metadata: {name: static, zone: prod}
spec:
  addresses: [10.1.1.1]
  publicKey: %s
  identityKey: %s
`

// world is a network with its store, clock and providers; services come and go over it.
type world struct {
	t        testing.TB
	clock    atomic.Int64
	store    store.Store
	tokens   *tokens.Memory
	key      signer.PrivateKey
	maintain ssh.Signer
	root     *signer.Root
	pub      atomic.Pointer[Published]
	static   *machine
	commits  int
}

func newWorld(t testing.TB) *world {
	w := &world{t: t}
	w.clock.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	w.store = store.NewMemory(w.now)
	w.tokens = &tokens.Memory{Now: w.now}
	w.key = testKey("enrolment")
	w.maintain = must(ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed("maintainer"))))(t)
	w.root = w.newRoot("zones/**")
	w.static = w.machine("static")
	w.publish("", "")
	return w
}

func seed(name string) []byte { s := sha256.Sum256([]byte(name)); return s[:] }

func testKey(name string) signer.PrivateKey {
	k, err := signer.GenerateKey(bytes.NewReader(seed(name)))
	if err != nil {
		panic(err)
	}
	return k
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newRoot makes a trust root whose maintainer may change these paths.
func (w *world) newRoot(paths ...string) *signer.Root {
	maintainer := must(signer.SSHKey(w.maintain.PublicKey()))(w.t)
	root := &signer.Root{
		Network: "acme", Version: 1,
		Keys: []signer.RootKey{
			signer.NewRootKey("root", testKey("root").Public()), signer.NewRootKey("manifest", testKey("manifest").Public()),
			signer.NewRootKey("stamp", testKey("stamp").Public()), signer.NewRootKey("enrolment", w.key.Public()),
			signer.NewRootKey("jan", maintainer),
		},
		Root: signer.Role{Keys: []string{"root"}}, Manifest: signer.Role{Keys: []string{"manifest"}},
		Timestamp: signer.Role{Keys: []string{"stamp"}}, Enrolment: signer.Role{Keys: []string{"enrolment"}},
		Maintainers: []signer.MaintainerRule{{Name: "all", Keys: []string{"jan"}, Paths: paths, Zones: []string{}}},
		Routes:      []signer.RouteClaim{{Zone: "prod", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}},
	}
	return must(root.Canonical())(w.t)
}

// publish makes a commit with further lines of the network's and the zone's spec.
func (w *world) publish(network, zone string, more ...spec.File) {
	w.t.Helper()
	files := append([]spec.File{
		{Path: "network.yaml", Data: fmt.Appendf(nil, networkFile, network)},
		{Path: "zones/prod.yaml", Data: fmt.Appendf(nil, zoneFile, zone)},
		{Path: "nodes/static.yaml", Data: fmt.Appendf(nil, nodeFile, spec.Key(w.static.public()), spec.Key(w.static.identity()))},
	}, more...)
	repo, problems := spec.Load(files)
	if problems.HasErrors() {
		w.t.Fatal(problems.Err())
	}
	w.commits++
	w.pub.Store(&Published{Commit: fmt.Sprintf("%040x", w.commits), Repo: repo, Root: w.root})
}

func (w *world) now() time.Time { return time.Unix(0, w.clock.Load()).UTC() }

func (w *world) pass(d time.Duration) { w.clock.Add(int64(d)) }

// service opens a service over the world's store.
func (w *world) service(change ...func(*Options)) *Service {
	w.t.Helper()
	o := Options{
		Network: "acme", Buckets: must(OpenBuckets(w.ctx(), w.store))(w.t), Keys: []signer.PrivateKey{w.key}, Verifier: w.tokens,
		Published: w.pub.Load, Now: w.now, Logger: slog.New(slog.DiscardHandler), Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	for _, f := range change {
		f(&o)
	}
	return must(Open(w.ctx(), o))(w.t)
}

func (w *world) ctx() context.Context {
	if t, ok := w.t.(interface{ Context() context.Context }); ok {
		return t.Context()
	}
	return context.Background()
}

// machine is a host with its keys.
type machine struct {
	w    *world
	name string
	wg   *ecdh.PrivateKey
	id   signer.PrivateKey
}

func (w *world) machine(name string) *machine {
	wg := must(ecdh.X25519().NewPrivateKey(seed("wg " + name)))(w.t)
	return &machine{w: w, name: strings.Split(name, "#")[0], wg: wg, id: testKey("id " + name)}
}

func (m *machine) public() peermap.Key   { return peermap.Key(m.wg.PublicKey().Bytes()) }
func (m *machine) identity() peermap.Key { return peermap.Key(m.id.Raw()) }

func (m *machine) commitment() string {
	return protocol.Commitment("acme", m.public(), m.identity())
}

// claims of a person of corp.
func (w *world) person(sub, group string) map[string]any {
	return map[string]any{
		"iss": issuerURL, "sub": sub, "aud": "apex-cli", "iat": w.now().Unix(), "exp": w.now().Add(time.Hour).Unix(),
		"email": sub + "@corp.example", "email_verified": true, "groups": []string{group}, "jti": fmt.Sprint(sub, w.clock.Add(1)),
	}
}

// job gives the claims of a CI job.
func (w *world) job(repository string, n int) map[string]any {
	return map[string]any{
		"iss": ciURL, "sub": "repo:" + repository, "aud": "apex", "iat": w.now().Unix(), "exp": w.now().Add(10 * time.Minute).Unix(),
		"repository": repository, "jti": fmt.Sprint("job", n, w.clock.Add(1)),
	}
}

func with(claims map[string]any, key string, value any) map[string]any {
	claims[key] = value
	return claims
}

// token gives a token with these claims that commits to the machine's keys.
func (m *machine) token(claims map[string]any) string {
	return m.w.tokens.Issue(with(claims, "nonce", m.commitment()))
}

// request gives a signed enrolment of the machine.
func (m *machine) request(s *Service, issuer, token string, change ...func(*protocol.EnrolRequest)) (*protocol.Token, protocol.EnrolRequest) {
	m.w.t.Helper()
	r := protocol.EnrolRequest{
		Network: "acme", Zone: "prod", Node: m.name, PublicKey: m.public(), IdentityKey: m.identity(), Issuer: issuer, Token: token,
	}
	for _, f := range change {
		f(&r)
	}
	r = protocol.NewEnrol(r)
	r.Mac = must(protocol.EnrolMac([32]byte(m.wg.Bytes()), s.challenges[0].public, r))(m.w.t)
	body := must(protocol.Encode(r))(m.w.t)
	return m.proof(protocol.EnrolPath("acme", r.Zone), body), r
}

func (m *machine) proof(path string, body []byte) *protocol.Token {
	u := &url.URL{Scheme: "https", Host: host, Path: path}
	p := must(protocol.NewProof(m.name, "POST", u, body, m.w.now()))(m.w.t)
	return must(protocol.ParseToken(must(p.Sign(m.id.Sign))(m.w.t)))(m.w.t)
}

// verify is what the server does with proofs.
func (w *world) verify(path string) Verify {
	return func(t *protocol.Token, key peermap.Key, body []byte) error {
		return t.Verify(key, "POST", path, []string{host}, body, w.now())
	}
}

func (m *machine) enrol(s *Service, issuer, token string, change ...func(*protocol.EnrolRequest)) (protocol.EnrolResult, error) {
	m.w.t.Helper()
	proof, r := m.request(s, issuer, token, change...)
	return s.Enrol(m.w.ctx(), netip.MustParseAddr("203.0.113.7"), proof, r)
}

// enrolFrom is enrol from an address of its own.
func (m *machine) enrolFrom(from netip.Addr, s *Service, issuer, token string) error {
	m.w.t.Helper()
	proof, r := m.request(s, issuer, token)
	_, err := s.Enrol(m.w.ctx(), from, proof, r)
	return err
}

// join enrols and demands that it works.
func (m *machine) join(s *Service, issuer, token string, change ...func(*protocol.EnrolRequest)) binding.Binding {
	m.w.t.Helper()
	return m.w.bound(m.enrol(s, issuer, token, change...))
}

func (w *world) bound(r protocol.EnrolResult, err error) binding.Binding {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	if r.Binding == nil {
		w.t.Fatalf("no binding: waiting %s", r.Waiting)
	}
	env := must(signer.ParseEnvelope(r.Binding, binding.MaxEnvelopeBytes))(w.t)
	if err := w.pub.Load().Root.CheckBinding(env); err != nil {
		w.t.Fatal(err)
	}
	return must(binding.Parse(env.Payload))(w.t)
}

// refused demands a problem with this code whose text has all of words and not the token.
func refusedWith(t testing.TB, err error, code string, words ...string) {
	t.Helper()
	var p *protocol.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Fatalf("got %v, want a problem %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(p.Detail, w) {
			t.Errorf("%q does not say %q", p.Detail, w)
		}
	}
	if strings.Contains(p.Detail, "eyJ") {
		t.Errorf("the problem shows a token: %s", p.Detail)
	}
}

// judge is a witness of the world.
func (w *world) judge() Judge {
	return Judge{Network: "acme", Published: w.pub.Load(), Verifier: w.tokens}
}

// record gives what is stored of a node.
func (w *world) record(s *Service, node string) protocol.BindingRecord {
	w.t.Helper()
	r, _, err := s.load(w.ctx(), nodeKey{"prod", node})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// recheck demands that a witness accepts what is stored of a node.
func (w *world) recheck(s *Service, node string) {
	w.t.Helper()
	if _, err := w.judge().Recheck(w.ctx(), w.record(s, node)); err != nil {
		w.t.Fatalf("recheck of %s: %v", node, err)
	}
}

// rotate asks for next's keys in place of m's.
func (w *world) rotate(s *Service, m, next *machine, path string, change ...func(*protocol.RotateRequest)) (protocol.EnrolResult, error) {
	w.t.Helper()
	r := protocol.RotateRequest{PublicKey: next.public(), IdentityKey: next.identity(), Proof: next.proof(path, nil).Compact()}
	for _, f := range change {
		f(&r)
	}
	r.Mac = must(protocol.RotateMac([32]byte(next.wg.Bytes()), s.challenges[0].public, "acme", "prod", m.name, r))(w.t)
	body := must(protocol.Encode(r))(w.t)
	return s.Rotate(w.ctx(), netip.MustParseAddr("203.0.113.7"), "prod", m.name, m.proof(path, body), body, w.verify(path))
}

func count(t testing.TB, b store.Bucket) (n int) {
	t.Helper()
	if err := b.Each(context.Background(), "", func(string, []byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}
