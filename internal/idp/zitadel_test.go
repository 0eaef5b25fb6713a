package idp_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/apex-network/apex/internal/idp"
)

func TestZitadelSignsPeopleIn(t *testing.T) {
	z := idp.RunZitadel(t, idp.ZitadelOptions{Users: idp.Users{alice}, Place: idp.Place{TLS: true}})
	r := newRig(t, z.Issuer(), z.Client())
	person := idp.Person{Login: alice.Username, Password: alice.Password, Client: z.Client()}

	t.Run("device flow", func(t *testing.T) {
		r := r.on(t)
		answer := r.device(person, url.Values{"nonce": {"mine"}})
		claims := r.claims(answer)
		wantGroups(t, claims, "admins", "staff")
		wantNonce(t, "device flow", claims, "")
		want := []string{"at_hash", "aud", "azp", "client_id", "email", "email_verified", "exp", "family_name", "given_name",
			"groups", "iat", "iss", "locale", "name", "preferred_username", "sub"}
		if got := names(claims); !slices.Equal(got, want) {
			t.Errorf("claims %q, want %q", got, want)
		}
		wantNonce(t, "refresh after device flow", r.claims(r.mustRefresh(answer, url.Values{"nonce": {"later"}})), "")
	})
	t.Run("authorization code", func(t *testing.T) {
		r := r.on(t)
		answer := r.code(person, "mine")
		claims := r.claims(answer)
		wantNonce(t, "code flow", claims, "mine")
		wantGroups(t, claims, "admins", "staff")
		if claims["sub"] != alice.ID {
			t.Errorf("sub %v", claims["sub"])
		}
		next := r.mustRefresh(answer, url.Values{"nonce": {"later"}})
		wantNonce(t, "refresh after code flow", r.claims(next), "")
		if status, _ := r.refresh(answer, nil); status == http.StatusOK {
			t.Error("a used refresh token still works")
		}
	})
	t.Run("client credentials", func(t *testing.T) {
		r := r.on(t)
		answer := r.mustPost(r.provider.Endpoint().TokenURL, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {idp.JobID}, "client_secret": {idp.JobSecret},
			"scope": {"openid"},
		})
		verifier := r.provider.Verifier(&oidc.Config{ClientID: idp.JobID})
		token, err := verifier.Verify(oidc.ClientContext(context.Background(), r.http), text(answer, "access_token"))
		if err != nil {
			t.Fatal(err)
		}
		claims := map[string]any{}
		if err := token.Claims(&claims); err != nil || token.Subject != idp.JobID || claims["jti"] == nil {
			t.Errorf("subject %q, claims %q: %v", token.Subject, names(claims), err)
		}
	})
	t.Run("denied", func(t *testing.T) {
		r := r.on(t)
		code := r.mustPost(r.provider.Endpoint().DeviceAuthURL, url.Values{"client_id": {idp.ClientID}, "scope": {r.scope}})
		if err := person.Deny(t.Context(), text(code, "verification_uri_complete")); err != nil {
			t.Fatal(err)
		}
		_, answer := r.post(r.provider.Endpoint().TokenURL, url.Values{
			"client_id": {idp.ClientID}, "grant_type": {deviceGrant}, "device_code": {text(code, "device_code")},
		})
		if answer["error"] != "access_denied" {
			t.Errorf("the device is told %v", answer["error"])
		}
	})
}

func TestZitadelChangesWhileItRuns(t *testing.T) {
	z := idp.RunZitadel(t, idp.ZitadelOptions{Users: idp.Users{alice}})
	r := newRig(t, z.Issuer(), z.Client())
	answer := r.code(idp.Person{Login: alice.Username, Password: alice.Password, Client: z.Client()}, "")

	moved := alice
	moved.Groups = []string{"staff"}
	if err := z.SetUsers(idp.Users{moved}); err != nil {
		t.Fatal(err)
	}
	answer = r.mustRefresh(answer, nil)
	wantGroups(t, r.claims(answer), "staff")

	before := keyIDs(t, r)
	if err := z.Rotate(""); err != nil {
		t.Fatal(err)
	}
	answer = r.mustRefresh(answer, nil)
	r.claims(answer) // go-oidc fetches the new key by itself
	if after := keyIDs(t, r); len(after) != 1 || slices.Equal(before, after) {
		t.Errorf("keys %q, then %q", before, after)
	}
	if err := z.SetUsers(nil); err != nil {
		t.Fatal(err)
	}
	if status, _ := r.refresh(answer, nil); status == http.StatusOK {
		t.Error("somebody who is gone gets new tokens")
	}
}
