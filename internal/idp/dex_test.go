package idp_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/idp"
)

func TestDexSignsPeopleIn(t *testing.T) {
	d := idp.RunDex(t, idp.DexOptions{Users: idp.Users{alice}, Place: idp.Place{TLS: true}})
	if !strings.HasPrefix(d.Issuer(), "https://127.") {
		t.Fatalf("issuer %s", d.Issuer())
	}
	r := newRig(t, d.Issuer(), d.Client())
	person := idp.Person{Login: alice.Email, Password: alice.Password, Client: d.Client()}

	t.Run("device flow", func(t *testing.T) {
		r := r.on(t)
		answer := r.device(person, url.Values{"nonce": {"mine"}})
		claims := r.claims(answer)
		wantGroups(t, claims, "admins", "staff")
		wantNonce(t, "device flow", claims, "")
		want := []string{"at_hash", "aud", "c_hash", "email", "email_verified", "exp", "groups", "iat", "iss", "name",
			"preferred_username", "sub"}
		if got := names(claims); !slices.Equal(got, want) {
			t.Errorf("claims %q, want %q", got, want)
		}
		next := r.claims(r.mustRefresh(answer, url.Values{"nonce": {"later"}}))
		wantGroups(t, next, "admins", "staff")
		wantNonce(t, "refresh after device flow", next, "")
	})
	t.Run("authorization code", func(t *testing.T) {
		r := r.on(t)
		answer := r.code(person, "mine")
		wantNonce(t, "code flow", r.claims(answer), "mine")
		next := r.mustRefresh(answer, url.Values{"nonce": {"later"}})
		wantNonce(t, "refresh after code flow", r.claims(next), "mine")
		if text(next, "refresh_token") == text(answer, "refresh_token") {
			t.Error("the refresh token was not rotated")
		}
		if status, _ := r.refresh(answer, nil); status == http.StatusOK {
			t.Error("a used refresh token still works")
		}
	})
	t.Run("password grant of a job", func(t *testing.T) {
		r := r.on(t)
		answer := r.mustPost(r.provider.Endpoint().TokenURL, url.Values{
			"grant_type": {"password"}, "client_id": {idp.JobID}, "client_secret": {idp.JobSecret}, "nonce": {"mine"},
			"username": {alice.Email}, "password": {alice.Password}, "scope": {"openid groups"},
		})
		if got := unverified(t, text(answer, "id_token"))["nonce"]; got != "mine" {
			t.Errorf("nonce %v", got)
		}
	})
	t.Run("subject", func(t *testing.T) {
		r := r.on(t)
		sub, err := base64.RawURLEncoding.DecodeString(text(r.claims(r.device(person, nil)), "sub"))
		if want := "\x0a\x03a-1\x12\x05local"; err != nil || string(sub) != want {
			t.Errorf("sub holds %q, want %q: %v", sub, want, err)
		}
	})
	t.Run("audience of another client", func(t *testing.T) {
		r := r.on(t)
		r.scope += " " + idp.ControllerScope
		claims := r.claims(r.device(person, nil))
		if got := fmt.Sprint(claims["aud"], claims["azp"]); got != "[apex-controller apex-cli]apex-cli" {
			t.Errorf("aud and azp: %s", got)
		}
	})
	t.Run("no client credentials", func(t *testing.T) {
		r := r.on(t)
		status, answer := r.post(r.provider.Endpoint().TokenURL, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {idp.JobID}, "client_secret": {idp.JobSecret},
			"scope": {"openid"},
		})
		if status != http.StatusBadRequest || answer["error"] != "unsupported_grant_type" {
			t.Errorf("%d %v", status, answer["error"])
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		r := r.on(t)
		code := r.mustPost(r.provider.Endpoint().DeviceAuthURL, url.Values{"client_id": {idp.ClientID}, "scope": {r.scope}})
		stranger := idp.Person{Login: alice.Email, Password: "looking glass", Client: d.Client()}
		if err := stranger.Approve(t.Context(), text(code, "verification_uri_complete")); !errors.Is(err, idp.ErrRefused) {
			t.Errorf("got %v", err)
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
		if answer["error"] != "authorization_pending" {
			t.Errorf("Dex tells the device %v", answer["error"])
		}
	})
}

func TestDexExpiry(t *testing.T) {
	d := idp.RunDex(t, idp.DexOptions{
		Users: idp.Users{alice}, IDTokens: 90 * time.Second, DeviceCodes: 2 * time.Minute,
	})
	r := newRig(t, d.Issuer(), d.Client())
	code := r.mustPost(r.provider.Endpoint().DeviceAuthURL, url.Values{"client_id": {idp.ClientID}, "scope": {r.scope}})
	if code["expires_in"] != 120.0 {
		t.Errorf("a device flow may take %v s", code["expires_in"])
	}
	claims := r.claims(r.device(idp.Person{Login: alice.Email, Password: alice.Password, Client: d.Client()}, nil))
	if life := claims["exp"].(float64) - claims["iat"].(float64); life != 90 {
		t.Errorf("the ID token lives %v s", life)
	}
}

// TestStartFails looks at what a person reads when something is missing or in the way.
func TestStartFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	place := idp.Place{Folder: t.TempDir(), Addr: taken.Addr().(*net.TCPAddr).AddrPort()}
	_, err = idp.StartDex(t.Context(), idp.DexOptions{Place: place})
	if !errors.Is(err, idp.ErrExited) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("port taken: %v", err)
	}
	t.Setenv("PATH", "")
	_, err = idp.StartSlapd(t.Context(), idp.Place{Folder: t.TempDir()}, nil)
	if !errors.Is(err, idp.ErrNoSlapd) || !strings.Contains(err.Error(), "apt-get install slapd ldap-utils") {
		t.Errorf("not installed: %v", err)
	}
}

func TestDexRestarts(t *testing.T) {
	d := idp.RunDex(t, idp.DexOptions{Users: idp.Users{alice}})
	r := newRig(t, d.Issuer(), d.Client())
	answer := r.device(idp.Person{Login: alice.Email, Password: alice.Password, Client: d.Client()}, nil)

	moved := alice
	moved.Groups = []string{"staff"}
	if err := d.SetUsers(t.Context(), idp.Users{moved}); err != nil {
		t.Fatal(err)
	}
	wantGroups(t, r.claims(answer), "admins", "staff") // the old token still verifies: the keys are the same
	answer = r.mustRefresh(answer, nil)
	wantGroups(t, r.claims(answer), "staff")

	if err := d.SetUsers(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if status, _ := r.refresh(answer, nil); status == http.StatusOK {
		t.Error("somebody who is gone gets new tokens")
	}
	before := keyIDs(t, r)
	if err := d.LoseState(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := keyIDs(t, r); slices.Equal(before, after) {
		t.Error("the signing keys did not change")
	}
}

// keyIDs lists what the provider publishes, from discovery on.
func keyIDs(t *testing.T, r *rig) []string {
	t.Helper()
	var discovery struct {
		Keys string `json:"jwks_uri"`
	}
	if err := r.provider.Claims(&discovery); err != nil {
		t.Fatal(err)
	}
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	getJSON(t, r.http, discovery.Keys, &set)
	var ids []string
	for _, k := range set.Keys {
		ids = append(ids, k.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestDexWithLDAP(t *testing.T) {
	directory := idp.RunSlapd(t, idp.Users{alice, {Username: "bob", Password: "builder", Groups: []string{"staff"}}})
	d := idp.RunDex(t, idp.DexOptions{LDAP: directory})
	r := newRig(t, d.Issuer(), d.Client())
	answer := r.device(idp.Person{Login: "alice", Password: alice.Password, Client: d.Client()}, nil)
	claims := r.claims(answer)
	wantGroups(t, claims, "admins", "staff")
	if text(claims, "email") != alice.Email || text(claims, "preferred_username") != "alice" {
		t.Errorf("email %v, preferred_username %v", claims["email"], claims["preferred_username"])
	}

	// The last person leaves the group; nothing is restarted.
	if err := directory.RemoveFromGroup(t.Context(), "alice", "admins"); err != nil {
		t.Fatal(err)
	}
	answer = r.mustRefresh(answer, nil)
	wantGroups(t, r.claims(answer), "staff")
	bob := r.device(idp.Person{Login: "bob", Password: "builder", Client: d.Client()}, nil)
	wantGroups(t, r.claims(bob), "staff")
	if err := directory.AddToGroup(t.Context(), "bob", "admins"); err != nil {
		t.Fatal(err)
	}
	wantGroups(t, r.claims(r.mustRefresh(bob, nil)), "admins", "staff")

	if err := directory.RemovePerson(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	if status, _ := r.refresh(answer, nil); status == http.StatusOK {
		t.Error("somebody whom the directory lost gets new tokens")
	}
}
