package serve_test

import (
	"bytes"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/peermap"
)

// keyless is a fixture whose manifests wait for a CI job.
type keyless struct {
	*fixture
	idp *idp.Issuer
}

func newKeyless(t *testing.T) *keyless {
	t.Helper()
	k := &keyless{fixture: newFixture(t), idp: idp.RunIssuer(t, idp.IssuerOptions{Algorithm: "ES256"})}
	keys, _, err := tokens.IssuerKeys(t.Context(), tokens.Options{}, k.idp.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	root := k.root.Clone()
	root.Manifest.Threshold = 2
	root.WitnessIdentities = []signer.WitnessIdentity{{
		Name: "ci", Issuer: k.idp.Issuer(), Match: []signer.ClaimRule{{Claim: "repository_id", Pattern: "42"}}, Keys: []string{keys[0].Line()},
	}}
	if k.root, err = root.Canonical(); err != nil {
		t.Fatal(err)
	}
	k.publish(k.nodes(2, 1))
	return k
}

func (k *keyless) token(audience string) idp.Claims {
	return k.idp.Claims(audience, "repo:acme/net", time.Now()).With("repository_id", "42")
}

// send makes a request with an access token and gives the answer's status and problem code.
func (k *keyless) send(method, path, access string, message any, answer any) (int, string) {
	k.tb.Helper()
	var body []byte
	if message != nil {
		var err error
		if body, err = protocol.Encode(message); err != nil {
			k.tb.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(k.tb.Context(), method, "http://"+k.addr+path, bytes.NewReader(body))
	if err != nil {
		k.tb.Fatal(err)
	}
	if access != "" {
		protocol.SetBearer(req.Header, access)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		k.tb.Fatal(err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= 400:
		return resp.StatusCode, problemCode(protocol.ReadProblem(resp))
	case answer != nil:
		if err := protocol.Read(resp.Body, protocol.MaxPendingBytes, answer); err != nil {
			k.tb.Fatal(err)
		}
	}
	return resp.StatusCode, ""
}

func (k *keyless) published() bool {
	z, ok := k.publisher.Zone("prod")
	if !ok {
		k.tb.Fatal("no zone")
	}
	s, _ := z.Snapshot()
	return s != nil
}

func TestKeylessWitness(t *testing.T) {
	k := newKeyless(t)
	access := k.idp.Mint(k.token(signer.WitnessAccess("acme")))
	var list protocol.PendingList
	if status, code := k.send(http.MethodGet, protocol.PendingPath("acme"), access, nil, &list); status != http.StatusOK || len(list.Pending) != 1 {
		t.Fatalf("%d %s: %+v", status, code, list)
	}
	p := list.Pending[0]
	if p.Digest != peermap.DigestOf(p.Manifest) {
		t.Error("digest of another manifest")
	}
	sign := func(token string) (int, string) {
		return k.send(http.MethodPost, protocol.CosignPath("acme"), access,
			protocol.Cosign{Zone: p.Zone, Digest: p.Digest, KeyID: signer.WitnessID("ci"), Signature: []byte(token)}, nil)
	}
	now := time.Now()
	good := k.token(signer.WitnessBinding(p.Digest))
	for name, token := range map[string]string{
		"access token":       access,
		"another digest":     k.idp.Mint(k.token(signer.WitnessBinding(peermap.DigestOf([]byte("x"))))),
		"another repository": k.idp.Mint(good.With("repository_id", "421")),
		"none":               k.idp.Mint(good, idp.AlgNone("none")),
		"HS256":              k.idp.Mint(good, idp.HS256WithPublicPEM()),
		"key of nobody":      k.idp.Mint(good, idp.WrongKey()),
		"expired by now":     k.idp.Mint(good.Valid(now.Add(-9*time.Minute), now.Add(-5*time.Minute))),
		"not yet":            k.idp.Mint(good.Valid(now.Add(5*time.Minute), now.Add(9*time.Minute))),
	} {
		if status, code := sign(token); status != http.StatusUnauthorized || code != protocol.CodeToken {
			t.Errorf("%s: %d %s", name, status, code)
		}
	}
	if k.published() {
		t.Fatal("published without the witness")
	}
	refusal := protocol.Cosign{Zone: p.Zone, Digest: p.Digest, KeyID: signer.WitnessID("ci"), Refusal: "not what I compiled"}
	if status, code := k.send(http.MethodPost, protocol.CosignPath("acme"), access, refusal, nil); status != http.StatusNoContent {
		t.Errorf("refusal: %d %s", status, code)
	}
	other := refusal
	other.KeyID = signer.WitnessID("other")
	if status, _ := k.send(http.MethodPost, protocol.CosignPath("acme"), access, other, nil); status != http.StatusBadRequest {
		t.Errorf("refusal in another's name: %d", status)
	}
	if status, code := sign(k.idp.Mint(good)); status != http.StatusNoContent || !k.published() {
		t.Errorf("%d %s, published: %v", status, code, k.published())
	}
	z, _ := k.publisher.Zone("prod")
	s, _ := z.Snapshot()
	env, err := signer.ParseEnvelope(s.Envelope, peermap.MaxManifestBytes)
	if err != nil {
		t.Fatal(err)
	}
	q, err := k.root.CheckManifest(env)
	if err != nil || !slices.Equal(q.Signed, []string{"ci", "k"}) {
		t.Errorf("what agents get: %+v, %v", q, err)
	}
}

// TestKeylessAccess: who shows no good token reads nothing, and a token for access at another network, or one that signs,
// is none.
func TestKeylessAccess(t *testing.T) {
	k := newKeyless(t)
	good := k.token(signer.WitnessAccess("acme"))
	now := time.Now()
	for name, token := range map[string]string{
		"empty":              "",
		"another network":    k.idp.Mint(k.token(signer.WitnessAccess("other"))),
		"an applier's":       k.idp.Mint(k.token("apex")),
		"another repository": k.idp.Mint(good.With("repository_id", "421")),
		"a stranger's key":   k.idp.Mint(good, idp.WrongKey()),
		"expired":            k.idp.Mint(good.Valid(now.Add(-time.Hour), now.Add(-50*time.Minute))),
		"garbage":            "hello",
	} {
		for _, path := range []string{protocol.PendingPath("acme"), protocol.PendingPath("nowhere")} {
			if status, _ := k.send(http.MethodGet, path, token, nil, nil); status != http.StatusUnauthorized {
				t.Errorf("%s, %s: %d", name, path, status)
			}
		}
	}
	if status, _ := k.send(http.MethodGet, protocol.PendingPath("nowhere"), k.idp.Mint(good), nil, nil); status != http.StatusUnauthorized {
		t.Errorf("a network that is not there: %d", status)
	}
	if status, _ := k.send(http.MethodGet, protocol.FleetPath("acme"), k.idp.Mint(good), nil, nil); status != http.StatusUnauthorized {
		t.Errorf("the fleet's status with a witness's token: %d", status)
	}
}
