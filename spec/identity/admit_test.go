package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/peermap"
)

const repository = `apiVersion: apex/v1alpha1
kind: Network
metadata: {name: acme}
spec:
  issuers:
    - {name: corp, url: "https://login.acme.example"}
    - {name: ci, url: "https://ci.example"}
  revoked:
    - {issuer: corp, user: mallory@acme.example}
    - {zone: prod, node: lost, before: 2027-01-10T00:00:00Z}
---
apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: prod}
spec:
  ranges: [10.0.0.0/16]
  dynamic: [10.0.128.0/17]
  members:
    - {name: staff, issuer: corp, users: [eva@acme.example], groups: [ops], labels: {role: laptop}, ttl: 24h, maxNodes: 2}
    - {name: runners, issuer: ci, match: {repository: acme/*}, labels: {role: ci}, ttl: 1h, routes: [192.168.0.0/16], relay: true, maxNodes: 50}
    - {name: guests, issuer: corp, match: {hd: acme.example}, approval: review, routes: [192.168.0.0/16], relay: true}
  approved:
    - {node: guest-1, publicKey: KEY1, identityKey: KEY2, issuer: corp, subject: eva, rule: guests, routes: [192.168.9.0/24, 192.168.8.0/24], relay: true}
---
apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: lab}
spec:
  ranges: [10.0.0.0/16]
  dynamic: [10.0.0.0/17]
  members: [{name: all, issuer: corp, match: {sub: "*"}}]
---
apiVersion: apex/v1alpha1
kind: Node
metadata: {name: db, zone: prod}
spec:
  addresses: [10.0.0.1]
  publicKey: KEY3
  identityKey: KEY4
  routes: [{prefix: 192.168.7.0/24}]
---
apiVersion: apex/v1alpha1
kind: TrustRoot
metadata: {name: acme}
spec: {}
`

// key makes a key that is not weak.
func key(n int) peermap.Key {
	seed := sha256.Sum256(fmt.Append(nil, n))
	return peermap.Key(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
}

func load(t testing.TB, replace ...string) *spec.Repository {
	t.Helper()
	text := repository[:strings.LastIndex(repository, "---")]
	for i := range 9 {
		text = strings.ReplaceAll(text, fmt.Sprintf("KEY%d", i), spec.Key(key(i)).String())
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("nothing to replace: %s", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	repo, problems := spec.Load([]spec.File{{Path: "all.yaml", Data: []byte(text)}})
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	return repo
}

var issued = time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)

func eva() binding.Identity {
	return binding.Identity{Issuer: "corp", URL: "https://login.acme.example", Subject: "eva", Username: "eva@acme.example",
		Groups: []string{"dev"}, Claims: []binding.Claim{{Name: "hd", Values: []string{"acme.example"}}}}
}

func runner() binding.Identity {
	return binding.Identity{Issuer: "ci", URL: "https://ci.example", Subject: "repo:acme/app", Groups: []string{},
		Claims: []binding.Claim{{Name: "repository", Values: []string{"acme/app"}}}}
}

// node makes a binding; n tells its keys and its address from those of others.
func node(n int, name string, id binding.Identity, change ...func(b *binding.Binding)) *binding.Signed {
	b := binding.Binding{Type: binding.Type, Network: "acme", Zone: "prod", Node: name, Identity: id,
		PublicKey: key(1000 + 2*n), IdentityKey: key(1001 + 2*n), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 129, byte(n)})},
		Labels: []binding.Pair{{Key: "role", Value: "admin"}}, Routes: []netip.Prefix{}, Rule: binding.Rule{Name: "staff", File: "f", Line: 1},
		Commit: strings.Repeat("a", 40), Issued: issued.Unix(), Expires: issued.Add(12 * time.Hour).Unix(), Evidence: peermap.Digest{1}}
	for _, c := range change {
		c(&b)
	}
	d, err := b.Digest()
	if err != nil {
		d = peermap.DigestOf(fmt.Append(nil, b)) // a binding that no honest controller makes
	}
	return &binding.Signed{Binding: b, Digest: d}
}

func TestMembersGetWhatTheRuleSays(t *testing.T) {
	repo := load(t)
	a := Admit(repo, []*binding.Signed{node(1, "eva-laptop", eva())}, issued.Add(time.Minute))
	if len(a.Rejected) != 0 || len(a.Members) != 1 {
		t.Fatalf("%+v", a.Rejected)
	}
	n := a.Repo.Node("prod", "eva-laptop")
	if n == nil || n.Value.Metadata.Labels["role"] != "laptop" || n.Value.Enrolled.User != "corp:eva@acme.example" ||
		!slices.Equal(n.Value.Enrolled.Groups, []string{"corp:dev"}) || n.Value.Enrolled.Rule != "staff" {
		t.Fatalf("%+v %+v", n, n.Value.Enrolled)
	}
	if repo.Node("prod", "eva-laptop") != nil || len(repo.Nodes) != 1 {
		t.Error("the repository itself was changed")
	}
	if !a.NextExpiry.Equal(issued.Add(12 * time.Hour)) {
		t.Errorf("next expiry %s", a.NextExpiry)
	}
	entries, err := binding.ParseList(a.Lists["prod"])
	if err != nil || len(entries) != 1 || entries[0].Node != "eva-laptop" {
		t.Errorf("%v %v", entries, err)
	}
	short := Admit(load(t, "ttl: 24h", "ttl: 1h"), []*binding.Signed{node(1, "eva-laptop", eva())}, issued)
	if got := short.Members[0].Node.Value.Enrolled.Expires; got != issued.Add(time.Hour).Unix() {
		t.Errorf("a shorter ttl does not shorten a life: %s", instant(got))
	}
}

// guest1 makes a binding what the zone approves.
func guest1(b *binding.Binding) {
	b.PublicKey, b.IdentityKey, b.Relay = key(1), key(2), true
	b.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24"), netip.MustParsePrefix("192.168.9.0/24")}
}

// TestRejected holds Admit to what a stolen enrolment key could make it believe.
func TestRejected(t *testing.T) {
	route := func(p string) func(b *binding.Binding) {
		return func(b *binding.Binding) { b.Routes = []netip.Prefix{netip.MustParsePrefix(p)} }
	}
	at := func(zone string) func(b *binding.Binding) { return func(b *binding.Binding) { b.Zone = zone } }
	addr := func(a string) func(b *binding.Binding) {
		return func(b *binding.Binding) { b.Addresses = []netip.Addr{netip.MustParseAddr(a)} }
	}
	with := func(change func(id *binding.Identity)) binding.Identity { id := eva(); change(&id); return id }
	guest := with(func(id *binding.Identity) { id.Username = "guest" })
	for name, c := range map[string]struct {
		signed *binding.Signed
		want   Reason
	}{
		"other url":        {node(1, "n", with(func(id *binding.Identity) { id.URL = "https://evil.example" })), NoRule},
		"unknown issuer":   {node(1, "n", with(func(id *binding.Identity) { id.Issuer = "corp2" })), NoRule},
		"wrong issuer":     {node(1, "n", with(func(id *binding.Identity) { id.Issuer, id.URL = "ci", "https://ci.example" })), NoRule},
		"no user":          {node(1, "n", with(func(id *binding.Identity) { id.Username, id.Claims = "", []binding.Claim{} })), NoRule},
		"looks like":       {node(1, "n", func() binding.Identity { id := runner(); id.Claims[0].Values = []string{"acme-evil/app"}; return id }()), NoRule},
		"no zone":          {node(1, "n", eva(), at("none")), NoRule},
		"expired":          {node(1, "n", eva(), func(b *binding.Binding) { b.Expires = issued.Add(time.Minute).Unix() }), Expired},
		"future":           {node(1, "n", eva(), func(b *binding.Binding) { b.Issued += 7200; b.Expires += 7200 }), Invalid},
		"network":          {node(1, "n", eva(), func(b *binding.Binding) { b.Network = "other" }), Invalid},
		"weak":             {node(1, "n", eva(), func(b *binding.Binding) { b.PublicKey = peermap.Key{1} }), Invalid},
		"bad name":         {node(1, "Not A Name", eva()), Invalid},
		"static address":   {node(1, "n", eva(), addr("10.0.0.9")), NotDynamic},
		"db's address":     {node(1, "n", eva(), addr("10.0.0.1")), NotDynamic},
		"foreign address":  {node(1, "n", eva(), addr("8.8.8.8")), NotDynamic},
		"broadcast":        {node(1, "n", eva(), addr("10.0.255.255")), NotDynamic},
		"route":            {node(1, "n", eva(), route("192.168.1.0/24")), NotGranted},
		"wider route":      {node(1, "n", runner(), route("192.0.0.0/8")), NotGranted},
		"relay":            {node(1, "n", eva(), func(b *binding.Binding) { b.Relay = true }), NotGranted},
		"route of db":      {node(1, "n", runner(), route("192.168.7.128/25")), Clash},
		"route around db":  {node(1, "n", runner(), route("192.168.0.0/16")), Clash},
		"name of db":       {node(1, "db", eva()), Clash},
		"key of db":        {node(1, "n", eva(), func(b *binding.Binding) { b.PublicKey = key(3) }), Clash},
		"key crossed":      {node(1, "n", eva(), func(b *binding.Binding) { b.PublicKey = key(4) }), Clash},
		"key of db, other": {node(1, "n", eva(), at("lab"), addr("10.0.0.9"), func(b *binding.Binding) { b.IdentityKey = key(4) }), Clash},
		"db in lab": {node(1, "db", eva(), at("lab"), addr("10.0.0.9"), func(b *binding.Binding) {
			b.PublicKey, b.IdentityKey = key(3), key(4)
		}), Clash}, // one host, but the ranges overlap
		"revoked user":             {node(1, "n", with(func(id *binding.Identity) { id.Username = "mallory@acme.example" })), Revoked},
		"unapproved":               {node(1, "n", guest), Unapproved},
		"approved other keys":      {node(1, "guest-1", guest, guest1, func(b *binding.Binding) { b.IdentityKey = key(3001) }), Unapproved},
		"approved other name":      {node(1, "guest-2", guest, guest1), Unapproved},
		"approved other identity":  {node(1, "guest-1", with(func(id *binding.Identity) { id.Username, id.Subject = "guest", "bob" }), guest1), Unapproved},
		"approved fewer routes":    {node(1, "guest-1", guest, guest1, func(b *binding.Binding) { b.Routes = b.Routes[:1] }), Unapproved},
		"approved other routes":    {node(1, "guest-1", guest, guest1, route("192.168.10.0/24")), Unapproved},
		"approved no relay":        {node(1, "guest-1", guest, guest1, func(b *binding.Binding) { b.Relay = false }), Unapproved},
		"approved by another rule": {node(1, "n", guest, func(b *binding.Binding) { b.Approved = true }), Unapproved}, // that of node: staff
	} {
		a := Admit(load(t), []*binding.Signed{c.signed}, issued.Add(30*time.Minute))
		if len(a.Members) != 0 || len(a.Rejected) != 1 || a.Rejected[0].Reason != c.want {
			t.Errorf("%s: %d members, %+v, want %s", name, len(a.Members), a.Rejected, c.want)
		}
	}
}

func TestAdmittedAfterAll(t *testing.T) {
	guest := eva()
	guest.Username = "guest"
	for name, s := range map[string]*binding.Signed{
		"approved":        node(1, "n", guest, func(b *binding.Binding) { b.Approved, b.Rule.Name = true, "guests" }),
		"approved in git": node(1, "guest-1", guest, guest1),
		"route": node(1, "n", runner(), func(b *binding.Binding) {
			b.Routes = []netip.Prefix{netip.MustParsePrefix("192.168.8.0/24")}
			b.Relay = true
		}),
		"back again": node(1, "lost", eva()),
		"another db": node(1, "db", eva(), func(b *binding.Binding) { // a host of another zone that is called alike
			b.Zone, b.Addresses = "lab", []netip.Addr{netip.MustParseAddr("10.0.0.9")}
		}),
	} {
		if a := Admit(load(t), []*binding.Signed{s}, issued); len(a.Members) != 1 {
			t.Errorf("%s: %+v", name, a.Rejected)
		}
	}
}

func TestTheOlderKeepsItsPlace(t *testing.T) {
	other := eva()
	other.Subject, other.Groups = "bob", []string{"ops"}
	later := func(b *binding.Binding) { b.Issued++ }
	first := node(1, "laptop", eva())
	for name, second := range map[string]*binding.Signed{
		"name":     node(2, "laptop", other, later),
		"key":      node(2, "n", other, later, func(b *binding.Binding) { b.PublicKey = first.Binding.PublicKey }),
		"identity": node(2, "n", other, later, func(b *binding.Binding) { b.PublicKey = first.Binding.IdentityKey }),
		"address":  node(2, "n", other, later, func(b *binding.Binding) { b.Addresses = first.Binding.Addresses }),
		"tie":      node(2, "n", other, func(b *binding.Binding) { b.Addresses = first.Binding.Addresses }),
	} {
		for _, list := range [][]*binding.Signed{{first, second}, {second, first}} {
			a := Admit(load(t), list, issued.Add(time.Minute))
			if len(a.Members) != 1 || a.Members[0].Signed != first || a.Rejected[0].Reason != Clash {
				t.Errorf("%s: %+v", name, a.Rejected)
			}
		}
	}
	renewed := node(1, "laptop", eva(), later)
	for _, list := range [][]*binding.Signed{{first, renewed}, {renewed, first, first}} {
		a := Admit(load(t), list, issued.Add(time.Minute))
		if len(a.Members) != 1 || a.Members[0].Signed != renewed || a.Rejected[0].Reason != Superseded {
			t.Errorf("a renewal: %+v", a.Rejected)
		}
	}
	a := Admit(load(t), []*binding.Signed{node(3, "c", eva(), later, later), node(2, "b", eva(), later), first}, issued.Add(time.Minute))
	if len(a.Members) != 2 || len(a.Rejected) != 1 || a.Rejected[0].Node != "c" || a.Rejected[0].Reason != OverMax {
		t.Errorf("over the maximum: %+v", a.Rejected)
	}
}

// hostile makes bindings that fight for few names, keys, addresses and routes.
func hostile(r *rand.Rand, n int) []*binding.Signed {
	var out []*binding.Signed
	for range n {
		id := []binding.Identity{eva(), runner()}[r.IntN(2)]
		id.Subject = fmt.Sprint("s", r.IntN(6))
		s := node(r.IntN(12), fmt.Sprint("n", r.IntN(12)), id, func(b *binding.Binding) {
			b.IdentityKey = key(3000 + r.IntN(12))
			b.Issued += int64(r.IntN(4))
			b.Expires = b.Issued + int64(1+r.IntN(7200))
			if r.IntN(4) == 0 {
				b.Zone = "lab"
			}
			if r.IntN(3) == 0 {
				b.Routes = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(r.IntN(16)), 0}), 20+r.IntN(5)).Masked()}
			}
		})
		out = append(out, s)
	}
	return out
}

func digests(a *Admitted) []string {
	var out []string
	for _, m := range a.Members {
		out = append(out, m.Signed.Digest.String())
	}
	return out
}

// TestAdmitIsAFunctionOfValues: order and history mean nothing, every part of an admitted list is admitted, and nothing
// clashes in what is.
func TestAdmitIsAFunctionOfValues(t *testing.T) {
	kept := NewAdmitter()
	repos := []*spec.Repository{load(t), load(t, "maxNodes: 2", "maxNodes: 1"), load(t, "groups: [ops], ", "")}
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 7))
		repo := repos[r.IntN(len(repos))]
		list := hostile(r, 1+r.IntN(60))
		asOf := issued.Add(time.Duration(r.IntN(3600)) * time.Second)
		want := Admit(repo, list, asOf)
		shuffled := slices.Clone(list)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		got := kept.Admit(repo, shuffled, asOf)
		if !reflect.DeepEqual(digests(got), digests(want)) || !reflect.DeepEqual(got.Rejected, want.Rejected) ||
			!reflect.DeepEqual(got.Lists, want.Lists) || !got.NextExpiry.Equal(want.NextExpiry) {
			t.Fatalf("seed %d: the order or the past counts", seed)
		}
		if again := kept.Admit(repo, list, asOf); !slices.Equal(again.Repo.Nodes, got.Repo.Nodes) {
			t.Fatalf("seed %d: the same round gives other documents", seed)
		}
		var part []*binding.Signed
		for _, m := range want.Members {
			if r.IntN(2) == 0 {
				part = append(part, m.Signed)
			}
		}
		if a := Admit(repo, part, asOf); len(a.Rejected) > 0 {
			t.Fatalf("seed %d: a part of an admitted list is not admitted: %+v", seed, a.Rejected)
		}
		seen := map[any]string{}
		for _, n := range want.Repo.Nodes {
			m := n.Value.Metadata
			for _, k := range []any{[2]string{m.Zone, m.Name}, [2]any{n.Value.Spec.PublicKey, m.Name}, [2]any{m.Zone, n.Value.Spec.Addresses[0]}} {
				if other := seen[k]; other != "" && other != m.Zone+"/"+m.Name {
					if _, isKey := k.([2]any); !isKey || strings.HasPrefix(other, m.Zone+"/") {
						t.Fatalf("seed %d: %s and %s share %v", seed, other, m.Zone+"/"+m.Name, k)
					}
				}
				seen[k] = m.Zone + "/" + m.Name
			}
		}
	}
}

func TestRevokedByDigest(t *testing.T) {
	s := node(1, "n", eva())
	repo := load(t, "revoked:\n", "revoked:\n    - {binding: \""+s.Digest.String()+"\"}\n")
	if a := Admit(repo, []*binding.Signed{s}, issued); a.Rejected[0].Reason != Revoked || !strings.Contains(a.Rejected[0].Detail, "all.yaml:9:") {
		t.Errorf("%+v", a.Rejected)
	}
	if r, _ := FindRevocation(repo, &s.Binding, s.Digest); r == nil {
		t.Error("not found")
	}
	if r, _ := FindRevocation(repo, &s.Binding, peermap.Digest{}); r != nil {
		t.Error("a binding that is yet to be made is revoked by another's digest")
	}
}

func TestFromClaims(t *testing.T) {
	issuer := spec.Issuer{Name: "corp", URL: "https://login.acme.example"}
	read := func(issuer spec.Issuer, token string, wanted ...string) (binding.Identity, error) {
		c, err := claims.Decode([]byte(token))
		if err != nil {
			t.Fatal(err)
		}
		return FromClaims(issuer, c, wanted)
	}
	id, err := read(issuer, `{"sub":"s","email":"e@x","email_verified":true,"groups":["b","a","b"," spaced"],"n":12,"o":{"p":["q"]}}`, "n", "/o/p", "none")
	if err != nil || id.Username != "e@x" || !slices.Equal(id.Groups, []string{"a", "b"}) || len(id.Claims) != 2 || id.Claims[1].Values[0] != "12" {
		t.Fatalf("%+v %v", id, err)
	}
	for token, want := range map[string]int{`{"sub":"s","email":"e@x"}`: 0, `{"sub":"s","email":"e@x","email_verified":true}`: 1} {
		if id, err := read(issuer, token, "email"); err != nil || len(id.Claims) != want {
			t.Errorf("%s: %+v %v", token, id.Claims, err)
		}
	}
	mapped := func(user, groups string) spec.Issuer {
		i := issuer
		i.Claims = spec.ClaimMapping{Username: user, Groups: groups}
		return i
	}
	for token, want := range map[string]string{
		`{"sub":"s","email":"e@x"}`:                           "",
		`{"sub":"s","email":"e@x","email_verified":false}`:    "",
		`{"sub":"s","email":"e@x","email_verified":"true"}`:   "e@x",
		`{"sub":"s","email":["e@x"],"email_verified":true}`:   "e@x",
		`{"sub":"s","email":["a","b"],"email_verified":true}`: "",
	} {
		for _, claim := range []string{"email", "/email"} {
			if id, err := read(mapped(claim, ""), token); err != nil || id.Username != want {
				t.Errorf("%s by %s: %q %v", token, claim, id.Username, err)
			}
		}
	}
	if id, _ := read(issuer, `{"sub":"s","email":"e@x","email_verified":false}`); id.Username != "s" {
		t.Errorf("the default is not sub: %q", id.Username)
	}
	if id, _ := read(mapped("preferred_username", "/realm/roles"), `{"sub":"s","preferred_username":"eva","realm":{"roles":["r"]}}`); id.Username != "eva" || id.Groups[0] != "r" {
		t.Errorf("%+v", id)
	}
	many, _ := json.Marshal(map[string]any{"sub": "s", "groups": func() (out []string) {
		for i := range binding.MaxGroups + 1 {
			out = append(out, fmt.Sprint("g", i))
		}
		return
	}()})
	for _, bad := range []string{`{}`, `{"sub":""}`, `{"sub":7.5}`, `{"sub":"` + strings.Repeat("x", 256) + `"}`, `{"sub":"a\u0007"}`, string(many)} {
		if _, err := read(issuer, bad); !errors.Is(err, ErrClaims) {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
}

func TestNoRuleExplains(t *testing.T) {
	_, err := Match(load(t), "prod", func() binding.Identity { id := eva(); id.Username, id.Claims = "x", []binding.Claim{}; return id }())
	var none *NoRuleError
	if !errors.As(err, &none) || len(none.Misses) != 2 {
		t.Fatal(err)
	}
	const want = `no member rule of zone prod admits "corp:x": rule staff (all.yaml:19:7): neither the username nor a group of the ` +
		`identity is among its users and groups; rule guests (all.yaml:21:7): claim hd is missing`
	if err.Error() != want {
		t.Errorf("%s\nwant\n%s", err, want)
	}
	if bytes.Contains([]byte(err.Error()), []byte("ops")) {
		t.Error("the refusal tells who would be admitted")
	}
}
