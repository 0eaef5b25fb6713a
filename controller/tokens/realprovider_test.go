package tokens_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apex-network/apex/controller/tokens"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/login"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// realProvider is Zitadel's, where alice has signed in and a machine has a secret.
type realProvider struct {
	*testing.T
	*idp.Zitadel
	client  *oidcclient.Client
	session *login.Session
}

func newRealProvider(t *testing.T) *realProvider {
	alice := idp.User{ID: "a-1", Username: "alice", Password: "pass", Groups: []string{"staff"}}
	p := &realProvider{T: t, Zitadel: idp.RunZitadel(t, idp.ZitadelOptions{Place: idp.Place{TLS: true}, Users: idp.Users{alice}})}
	p.client = oidcclient.New(p.Zitadel.Client().Transport, "apex/test")
	flow := login.Flow{
		Issuer: protocol.IssuerInfo{Name: "corp", URL: p.Issuer(), Audience: idp.ClientID, ClientID: idp.ClientID,
			Scopes: []string{"email", "groups", "offline_access"}, Bound: true},
		Commitment: "mine", Client: p.client,
	}
	person := idp.Person{Login: alice.Username, Password: alice.Password, Client: p.Zitadel.Client()}
	var err error
	if p.session, err = flow.Browser(t.Context(), func(page string) error {
		_, err := person.Follow(t.Context(), page)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

// verifier trusts the provider's authority.
func (p *realProvider) verifier() *tokens.OIDC {
	p.Helper()
	ca := filepath.Join(p.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, p.CA(), 0o600); err != nil {
		p.Fatal(err)
	}
	v, err := tokens.New(tokens.Options{CAFile: ca})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(v.Close)
	return v
}

func (p *realProvider) demand(audience string) tokens.Issuer {
	return tokens.Issuer{URL: p.Issuer(), Audiences: []string{audience}}
}

// refresh gives the person's next token, signed with the key of now.
func (p *realProvider) refresh() string {
	p.Helper()
	auth := oidcclient.Auth{ClientID: p.session.ClientID}
	next, err := p.client.Refresh(p.Context(), p.session.TokenEndpoint, auth, p.session.RefreshToken)
	if err != nil {
		p.Fatal(err)
	}
	p.session.RefreshToken = next.RefreshToken
	return next.IDToken
}

// TestRealProvider verifies what a real provider gives to a person, and to a machine with a secret.
func TestRealProvider(t *testing.T) {
	p := newRealProvider(t)
	v, ctx := p.verifier(), t.Context()
	person, err := v.Verify(ctx, p.demand(idp.ClientID), p.session.IDToken)
	if err != nil {
		t.Fatal(err)
	}
	groups, _ := person.Claims["groups"].([]any)
	if person.Subject != "a-1" || !slices.Equal(groups, []any{"staff"}) || person.Claims["email"] != "alice@example.com" {
		t.Errorf("%+v", person)
	}
	if bound, err := person.Bound(idp.ClientID, "mine"); !bound || err != nil {
		t.Errorf("its nonce does not bind it: %v", err)
	}
	if _, err := person.Bound(idp.ClientID, "theirs"); !errors.Is(err, tokens.ErrBinding) {
		t.Errorf("for other keys: %v", err)
	}
	auth := oidcclient.Auth{ClientID: idp.JobID, Secret: idp.JobSecret}
	raw, err := p.client.ClientCredentials(ctx, p.session.TokenEndpoint, auth, nil, "openid")
	if err != nil {
		t.Fatal(err)
	}
	machine, err := v.Verify(ctx, p.demand(idp.JobID), raw)
	if err != nil || machine.Subject != idp.JobID {
		t.Fatalf("%+v, %v", machine, err)
	}
	for audience, raw := range map[string]string{idp.JobID: p.session.IDToken, idp.ClientID: raw, "apex": raw} {
		if _, err := v.Verify(ctx, p.demand(audience), raw); !errors.Is(err, tokens.ErrAudience) ||
			!strings.Contains(err.Error(), audience) {
			t.Errorf("for %s: %v", audience, err)
		}
	}
}

// TestRealProviderRotates takes a key away while the verifier holds it: the next token counts at once, whatever its
// algorithm, and the old one no longer.
func TestRealProviderRotates(t *testing.T) {
	p := newRealProvider(t)
	for _, algorithm := range []string{"RS256", "ES256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			v := p.verifier()
			old := p.refresh()
			verify := func(raw string) error {
				_, err := v.Verify(context.Background(), p.demand(idp.ClientID), raw)
				return err
			}
			if err := verify(old); err != nil {
				t.Fatal(err)
			}
			if err := p.Rotate(algorithm); err != nil {
				t.Fatal(err)
			}
			if err := verify(p.refresh()); err != nil {
				t.Errorf("the first token by the new key: %v", err)
			}
			if err := verify(old); !errors.Is(err, tokens.ErrSignature) {
				t.Errorf("a token by the withdrawn key: %v", err)
			}
		})
	}
}
