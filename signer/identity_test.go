package signer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/peermap"
)

const ciIssuer = "https://ci.example"

// ciKey is an issuer's signing key.
type ciKey struct {
	t       testing.TB
	id, alg string
	private crypto.Signer
}

func newCIKey(t testing.TB, alg string) ciKey {
	t.Helper()
	k := ciKey{t: t, id: "kid-" + alg, alg: alg}
	var err error
	switch alg {
	case "RS256":
		k.private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		k.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, k.private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// line is the key as the trust root lists it.
func (k ciKey) line() string {
	k.t.Helper()
	return string(must(jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: k.alg, Use: "sig"}.MarshalJSON())(k.t))
}

// mint signs claims.
func (k ciKey) mint(all map[string]any) string {
	k.t.Helper()
	options := (&jose.SignerOptions{}).WithHeader("kid", k.id)
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.alg), Key: k.private}, options))(k.t)
	return must(must(s.Sign(must(json.Marshal(all))(k.t)))(k.t).CompactSerialize())(k.t)
}

// ciClaims are those of a job of repository 42 that signs digest, with changes.
func ciClaims(m generation, change map[string]any) map[string]any {
	out := map[string]any{
		"iss": ciIssuer, "sub": "repo:acme/net:ref:refs/heads/main", "aud": WitnessBinding(m.digest), "repository_id": "42",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	for k, v := range change {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

// ciRoot is a trust root with threshold 2 whose one witness is a CI job, and a manifest that its controller has signed.
func ciRoot(t testing.TB, k ciKey) (*Root, generation, *Envelope) {
	t.Helper()
	r := testRoot(t).Clone()
	r.Witnesses = Role{}
	r.Keys = slices.DeleteFunc(r.Keys, func(k RootKey) bool { return strings.HasPrefix(k.Name, "witness") })
	r.WitnessIdentities = []WitnessIdentity{{
		Name: "ci", Issuer: ciIssuer, Match: []ClaimRule{{"repository_id", "42"}}, Keys: []string{k.line()},
	}}
	r = must(r.Canonical())(t)
	g := *newGeneration(t, 1, 4, peermap.Digest{}, nil)
	env := must(SignEd25519(peermap.ManifestType, must(g.manifest.Encode())(t), testKey("controller")))(t)
	return r, g, env
}

func withToken(env *Envelope, name, token string) *Envelope {
	return env.With(Signature{KeyID: WitnessID(name), Sig: []byte(token)})
}

func TestKeylessWitness(t *testing.T) {
	for _, alg := range []string{"RS256", "ES256", "EdDSA"} {
		k := newCIKey(t, alg)
		r, g, env := ciRoot(t, k)
		if q, err := r.CheckManifest(env); err != nil || q.Met() || !slices.Contains(q.Missing, "ci") {
			t.Fatalf("%s: before: %+v, %v", alg, q, err)
		}
		for name, all := range map[string]map[string]any{
			"audience": ciClaims(g, nil), "list": ciClaims(g, map[string]any{"aud": []string{"x", WitnessBinding(g.digest)}}),
		} {
			signed := withToken(env, "ci", k.mint(all))
			q, err := r.CheckManifest(signed)
			if err != nil || !q.Met() || !slices.Equal(q.Signed, []string{"ci", "controller"}) {
				t.Errorf("%s, %s: %+v, %v", alg, name, q, err)
			}
			// What agents get holds the evidence, and they judge it alike.
			whole := must(signed.Encode())(t)
			if _, err := r.VerifyManifest(whole); err != nil || len(whole) > peermap.MaxManifestBytes {
				t.Errorf("%s: %d bytes, %v", alg, len(whole), err)
			}
		}
	}
}

// TestWitnessNonceNeedsItsClient: a website that people sign in to with the witness's issuer chooses the nonce of their
// tokens. Were that enough, it would get the signature of each visitor whom the rule admits.
func TestWitnessNonceNeedsItsClient(t *testing.T) {
	k := newCIKey(t, "EdDSA")
	r, g, env := ciRoot(t, k)
	token := k.mint(ciClaims(g, map[string]any{"aud": "apex-cli", "nonce": WitnessBinding(g.digest)}))
	if _, err := r.CheckManifest(withToken(env, "ci", token)); !errors.Is(err, ErrMismatch) {
		t.Errorf("a nonce under a rule without a client: %v", err)
	}
	for pattern, good := range map[string]bool{"apex-cli": true, "website": false} {
		named := r.Clone()
		named.WitnessIdentities[0].Match = []ClaimRule{{"aud", pattern}, {"repository_id", "42"}}
		named = must(named.Canonical())(t)
		q, err := named.CheckManifest(withToken(env, "ci", token))
		if good != (err == nil && q.Met()) {
			t.Errorf("a rule for client %s: %+v, %v", pattern, q, err)
		}
	}
}

// TestUnverifiedEmailIsNobody: an email that the issuer has not verified is what its user typed in.
func TestUnverifiedEmailIsNobody(t *testing.T) {
	for _, claim := range []string{"email", "/email"} {
		rules := []ClaimRule{{claim, "ci@acme.example"}}
		for verified, good := range map[any]bool{nil: false, false: false, "false": false, true: true, "true": true} {
			all := map[string]any{"email": "ci@acme.example"}
			if verified != nil {
				all["email_verified"] = verified
			}
			if err := matchAll(all, rules); (err == nil) != good {
				t.Errorf("claim %s, email_verified %v: %v", claim, verified, err)
			}
		}
	}
}

func TestKeylessWitnessAttacks(t *testing.T) {
	k, thief := newCIKey(t, "RS256"), newCIKey(t, "RS256")
	r, g, env := ciRoot(t, k)
	segments := strings.Split(k.mint(ciClaims(g, nil)), ".")
	encode := base64.RawURLEncoding.EncodeToString
	none := encode([]byte(`{"alg":"none","kid":"kid-RS256"}`)) + "." + segments[1] + "."
	hs := encode([]byte(`{"alg":"HS256","kid":"kid-RS256"}`)) + "." + segments[1]
	mac := hmac.New(sha256.New, []byte(k.line()))
	mac.Write([]byte(hs))
	crit := ciKeyWithHeader(t, k, "crit", []string{"exp"}, ciClaims(g, nil))
	other := *newGeneration(t, 1, 5, peermap.Digest{}, nil)
	for name, x := range map[string]struct {
		token string
		want  error
	}{
		"for another manifest":         {k.mint(ciClaims(other, nil)), ErrMismatch},
		"for access":                   {k.mint(ciClaims(g, map[string]any{"aud": WitnessAccess("acme")})), ErrMismatch},
		"for the digest alone":         {k.mint(ciClaims(g, map[string]any{"aud": g.digest.String()})), ErrMismatch},
		"audience in another case":     {k.mint(ciClaims(g, map[string]any{"aud": nil, "AUD": WitnessBinding(g.digest)})), ErrMismatch},
		"another repository":           {k.mint(ciClaims(g, map[string]any{"repository_id": "421"})), ErrIdentity},
		"no repository":                {k.mint(ciClaims(g, map[string]any{"repository_id": nil})), ErrIdentity},
		"another issuer, same key":     {k.mint(ciClaims(g, map[string]any{"iss": "https://evil.example"})), ErrIdentity},
		"key that is not pinned":       {thief.mint(ciClaims(g, nil)), ErrSignature},
		"none":                         {none, ErrSignature},
		"HS256 with the public key":    {hs + "." + encode(mac.Sum(nil)), ErrSignature},
		"tampered":                     {segments[0] + "." + encode([]byte(`{}`)) + "." + segments[2], ErrSignature},
		"critical header":              {crit, ErrFormat},
		"two segments":                 {segments[0] + "." + segments[1], ErrFormat},
		"padded":                       {segments[0] + "=." + segments[1] + "." + segments[2], ErrFormat},
		"not a token":                  {"hello", ErrFormat},
		"too large":                    {k.mint(ciClaims(g, map[string]any{"pad": strings.Repeat("a", MaxIDToken)})), ErrTooLarge},
		"no subject":                   {k.mint(ciClaims(g, map[string]any{"sub": nil})), ErrFormat},
		"no exp":                       {k.mint(ciClaims(g, map[string]any{"exp": nil})), ErrFormat},
		"expired before it was signed": {k.mint(ciClaims(g, map[string]any{"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(-50 * time.Minute).Unix()})), ErrExpired},
		"never alive":                  {k.mint(ciClaims(g, map[string]any{"exp": now.Unix()})), ErrExpired},
		"made after its end":           {k.mint(ciClaims(g, map[string]any{"iat": g.manifest.Expires + 3600, "exp": g.manifest.Expires + 7200})), ErrFuture},
	} {
		q, err := r.CheckManifest(withToken(env, "ci", x.token))
		if !errors.Is(err, x.want) || q.Met() && err == nil {
			t.Errorf("%s: %+v, %v, want %v", name, q, err, x.want)
		}
		if parts := strings.Split(x.token, "."); err != nil && len(parts) == 3 && len(parts[2]) > 8 && strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error shows the token", name)
		}
	}
	// A stranger's ID is passed over, and no token makes a manifest without a manifest key.
	if q, err := r.CheckManifest(withToken(env, "nobody", k.mint(ciClaims(g, nil)))); err != nil || q.Met() {
		t.Errorf("%+v, %v", q, err)
	}
	bare := withToken(NewEnvelope(env.PayloadType, env.Payload), "ci", k.mint(ciClaims(g, nil)))
	if q, err := r.CheckManifest(bare); err != nil || q.Met() {
		t.Errorf("without the controller: %+v, %v", q, err)
	}
}

func ciKeyWithHeader(t testing.TB, k ciKey, name string, value any, all map[string]any) string {
	t.Helper()
	head := must(json.Marshal(map[string]any{"alg": k.alg, "kid": k.id, name: value}))(t)
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(all))(t))
	sum := sha256.Sum256([]byte(signed))
	sig := must(k.private.Sign(rand.Reader, sum[:], crypto.SHA256))(t)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// TestNobodyWitnessesTwice: one job is one witness, whatever it is called and however often it signs.
func TestNobodyWitnessesTwice(t *testing.T) {
	k := newCIKey(t, "ES256")
	r, g, env := ciRoot(t, k)
	two := func(match ...ClaimRule) *Root {
		c := r.Clone()
		c.Manifest.Threshold = 3
		c.WitnessIdentities = append(c.WitnessIdentities, WitnessIdentity{Name: "twin", Issuer: ciIssuer, Match: match, Keys: []string{k.line()}})
		return c
	}
	for _, overlap := range [][]ClaimRule{{{"repository_id", "42"}}, {{"ref", "refs/heads/main"}}, {{"repository_id", "*"}, {"ref", "x"}}} {
		if _, err := two(overlap...).Canonical(); !errors.Is(err, ErrInvalidRoot) {
			t.Errorf("%v: %v", overlap, err)
		}
	}
	apart := must(two(ClaimRule{"repository_id", "43"}).Canonical())(t)
	// A list claim could still be both.
	both := k.mint(ciClaims(g, map[string]any{"repository_id": []string{"42", "43"}}))
	again := k.mint(ciClaims(g, map[string]any{"repository_id": []string{"42", "43"}, "jti": "2"}))
	if q, err := apart.CheckManifest(withToken(withToken(env, "ci", both), "twin", again)); !errors.Is(err, ErrIdentity) {
		t.Errorf("one subject as two witnesses: %+v, %v", q, err)
	}
	honest := k.mint(ciClaims(g, map[string]any{"repository_id": "43", "sub": "another"}))
	if q, err := apart.CheckManifest(withToken(withToken(env, "ci", both), "twin", honest)); err != nil || !q.Met() {
		t.Errorf("two jobs: %+v, %v", q, err)
	}
}

func TestVerifyWitness(t *testing.T) {
	k := newCIKey(t, "EdDSA")
	r, g, _ := ciRoot(t, k)
	access := ciClaims(g, map[string]any{"aud": WitnessAccess("acme")})
	if id, err := r.VerifyWitness("", k.mint(access), WitnessAccess("acme"), now); err != nil || id != WitnessID("ci") {
		t.Errorf("%s, %v", id, err)
	}
	for name, x := range map[string]struct {
		id    string
		bound string
		at    time.Time
		want  error
	}{
		"another network": {"", WitnessAccess("other"), now, ErrMismatch},
		"as a signature":  {WitnessID("ci"), WitnessBinding(g.digest), now, ErrMismatch},
		"another witness": {WitnessID("x"), WitnessAccess("acme"), now, ErrUnknownKey},
		"later":           {"", WitnessAccess("acme"), now.Add(10 * time.Minute), ErrExpired},
		"earlier":         {"", WitnessAccess("acme"), now.Add(-10 * time.Minute), ErrFuture},
	} {
		if id, err := r.VerifyWitness(x.id, k.mint(access), x.bound, x.at); !errors.Is(err, x.want) {
			t.Errorf("%s: %s, %v", name, id, err)
		}
	}
	if !r.HasRole(WitnessID("ci"), RoleWitnesses) || r.HasRole(WitnessID("ci"), RoleManifest) || r.HasRole(WitnessID("x"), RoleWitnesses) {
		t.Error("roles")
	}
}

func TestMatchApplier(t *testing.T) {
	r := testRoot(t).Clone()
	r.ApplierIdentities = []ApplierIdentity{{
		Name: "merge", Issuer: ciIssuer, CommitClaim: "sha", Match: []ClaimRule{{"repository", "acme/*"}, {"ref", "refs/heads/main"}},
	}}
	commit := strings.Repeat("a", 40)
	issuer := ApplierIssuer{ciIssuer, DefaultApplierAudience}
	if got := r.ApplierIssuers(); !slices.Equal(got, []ApplierIssuer{issuer}) {
		t.Errorf("%+v", got)
	}
	for text, want := range map[string]string{
		`{"repository":"acme/net","ref":"refs/heads/main","sha":"` + commit + `"}`:      "",
		`{"repository":"acme-evil/net","ref":"refs/heads/main","sha":"` + commit + `"}`: "claim repository",
		`{"repository":"acme/net","sha":"` + commit + `"}`:                              "no claim ref",
		`{"repository":"acme/net","ref":"refs/heads/main","sha":"b"}`:                   "claim sha",
		`{"repository":"acme/net","ref":"refs/heads/main"}`:                             "claim sha",
	} {
		name, err := r.MatchApplier(must(claims.Decode([]byte(text)))(t), issuer, commit)
		if want == "" && (err != nil || name != "merge") || want != "" && (!errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %q, %v", text, name, err)
		}
	}
	if _, err := r.MatchApplier(nil, ApplierIssuer{"https://x.example", "apex"}, commit); !errors.Is(err, ErrIdentity) {
		t.Error(err)
	}
}

func TestCheckBinding(t *testing.T) {
	r := testRoot(t).Clone()
	r.Keys = append(r.Keys, NewRootKey("enrol", testKey("enrol").Public()))
	r.Enrolment = Role{Keys: []string{"enrol"}}
	r = must(r.Canonical())(t)
	good := must(SignEd25519(bindingType, []byte("{}"), testKey("enrol")))(t)
	if err := r.CheckBinding(good); err != nil {
		t.Error(err)
	}
	wantErr(t, r.CheckBinding(must(SignEd25519(bindingType, []byte("{}"), testKey("controller")))(t)), ErrThreshold)
	wantErr(t, testRoot(t).CheckBinding(good), ErrThreshold)
	wantErr(t, r.CheckBinding(&Envelope{PayloadType: peermap.ManifestType, Payload: good.Payload, Signatures: good.Signatures}), ErrType)
	broken := good.Signatures[0]
	broken.Sig = bytes.Repeat([]byte{1}, 64)
	wantErr(t, r.CheckBinding(good.With(broken)), ErrSignature)
	if q, err := r.CheckManifest(must(SignEd25519(peermap.ManifestType, []byte("{}"), testKey("enrol")))(t)); err != nil || q.Met() || len(q.Signed) > 0 {
		t.Errorf("an enrolment key signs a manifest: %+v, %v", q, err)
	}
	if !r.HasRole(testKey("enrol").Public().ID(), RoleEnrolment) {
		t.Error("role")
	}
}

// TestRootsWithoutIdentities keep the bytes that they had before there were identities.
func TestRootsWithoutIdentities(t *testing.T) {
	payload := must(testRoot(t).Encode())(t)
	for _, word := range []string{"enrolment", "dentities", "issuers"} {
		if bytes.Contains(payload, []byte(word)) {
			t.Errorf("%s stands in %s", word, payload)
		}
	}
	for _, empty := range []string{`,"enrolment":{"keys":[],"threshold":0}}`, `,"applierIdentities":[]}`, `,"witnessIdentities":null}`, `,"issuers":[]}`} {
		if _, err := ParseRoot([]byte(strings.TrimSuffix(string(payload), "}") + empty)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", empty, err)
		}
	}
}

func TestRootRefusesIdentities(t *testing.T) {
	k := newCIKey(t, "EdDSA").line()
	sound := WitnessIdentity{Name: "ci", Issuer: ciIssuer, Match: []ClaimRule{{"a", "b"}}, Keys: []string{k}}
	for name, change := range map[string]func(*Root, *WitnessIdentity){
		"name of a key":      func(_ *Root, w *WitnessIdentity) { w.Name = "clock" },
		"no name":            func(_ *Root, w *WitnessIdentity) { w.Name = "" },
		"http":               func(_ *Root, w *WitnessIdentity) { w.Issuer = "http://ci.example" },
		"no match":           func(_ *Root, w *WitnessIdentity) { w.Match = nil },
		"only stars":         func(_ *Root, w *WitnessIdentity) { w.Match = []ClaimRule{{"a", "*/**"}} },
		"look-alike":         func(_ *Root, w *WitnessIdentity) { w.Match = []ClaimRule{{"a", "acme*"}} },
		"claim twice":        func(_ *Root, w *WitnessIdentity) { w.Match = []ClaimRule{{"a", "b"}, {"a", "c"}} },
		"no keys":            func(_ *Root, w *WitnessIdentity) { w.Keys = nil },
		"key twice":          func(_ *Root, w *WitnessIdentity) { w.Keys = []string{k, strings.ReplaceAll(k, ",", ", ")} },
		"symmetric key":      func(_ *Root, w *WitnessIdentity) { w.Keys = []string{`{"kty":"oct","k":"AAAA"}`} },
		"threshold too high": func(r *Root, _ *WitnessIdentity) { r.Manifest.Threshold = 5 },
		"enrolment and clock": func(r *Root, _ *WitnessIdentity) {
			r.Enrolment = Role{Keys: []string{"clock"}}
		},
		"enrolment of two": func(r *Root, _ *WitnessIdentity) {
			r.Keys = append(r.Keys, NewRootKey("e1", testKey("e1").Public()), NewRootKey("e2", testKey("e2").Public()))
			r.Enrolment = Role{Keys: []string{"e1", "e2"}, Threshold: 2}
		},
		"applier without a commit": func(r *Root, w *WitnessIdentity) {
			r.ApplierIdentities = []ApplierIdentity{{Name: "x", Issuer: ciIssuer, Match: w.Match}}
		},
	} {
		r, w := testRoot(t).Clone(), sound
		w.Match, w.Keys = slices.Clone(w.Match), slices.Clone(w.Keys)
		change(r, &w)
		r.WitnessIdentities = []WitnessIdentity{w}
		if _, err := r.Canonical(); !errors.Is(err, ErrInvalidRoot) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := testRoot(t).Clone()
	r.WitnessIdentities = []WitnessIdentity{sound}
	c := must(r.Canonical())(t)
	back := must(ParseRoot(must(c.Encode())(t)))(t)
	if back.Digest() != c.Digest() || len(back.WitnessIdentities) != 1 {
		t.Error("it does not read back")
	}
}

// TestTrustedIssuers: a root that lists issuers lets hosts get tokens of these, for these audiences and clients, and of no others.
func TestTrustedIssuers(t *testing.T) {
	people := TrustedIssuer{URL: "https://login.example", Audience: "apex", ClientID: "apex-cli"}
	jobs := TrustedIssuer{URL: "https://ci.example", Audience: "apex"}
	r := testRoot(t).Clone()
	if err := r.CheckIssuer(people); err != nil {
		t.Errorf("a root that lists none: %v", err)
	}
	r.Issuers = []TrustedIssuer{people, jobs}
	c := must(r.Canonical())(t)
	back := must(ParseRoot(must(c.Encode())(t)))(t)
	if back.Digest() != c.Digest() || !slices.Equal(back.Issuers, []TrustedIssuer{jobs, people}) {
		t.Errorf("it reads back as %+v", back.Issuers)
	}
	if errors.Join(back.CheckIssuer(people), back.CheckIssuer(jobs)) != nil {
		t.Error("what it lists is refused")
	}
	for what, other := range map[string]TrustedIssuer{
		"its url differs":      {"https://login.example/", "apex", "apex-cli"},
		"its audience differs": {"https://login.example", "sts.amazonaws.com", "apex-cli"},
		"its clientID differs": {"https://login.example", "apex", ""},
	} {
		if err := back.CheckIssuer(other); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), what) {
			t.Errorf("%+v: %v, want %s", other, err, what)
		}
	}
	for name, bad := range map[string][]TrustedIssuer{
		"http":        {{"http://login.example", "apex", ""}},
		"no audience": {{"https://login.example", "", ""}},
		"twice":       {jobs, jobs},
		"long client": {{"https://login.example", "apex", strings.Repeat("x", claims.MaxPattern+1)}},
		"too many":    make([]TrustedIssuer, MaxIdentities+1),
	} {
		r := testRoot(t).Clone()
		r.Issuers = bad
		if _, err := r.Canonical(); !errors.Is(err, ErrInvalidRoot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzWitnessToken: whatever stands in place of a token, only what the issuer's key signed is taken, and nothing panics.
func FuzzWitnessToken(f *testing.F) {
	k := newCIKey(f, "EdDSA")
	r, g, env := ciRoot(f, k)
	good := k.mint(ciClaims(g, nil))
	for _, seed := range []string{good, good + "A", "..", "e30.e30.e30", strings.Replace(good, ".", "..", 1), `{"payload":"e30"}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if len(token) == 0 || len(token) > MaxSignatureBytes {
			return // no envelope holds it
		}
		if q, err := r.CheckManifest(withToken(env, "ci", token)); err == nil && q.Met() && token != good {
			t.Errorf("%q signs the manifest", token)
		}
	})
}
