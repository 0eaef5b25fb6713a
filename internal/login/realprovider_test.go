package login

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// real is a real provider, and what it does otherwise than the other (the table of package idp).
type real struct {
	issuer string
	client *http.Client
	login  string // what its form wants of alice
	// refreshed is the nonce of a token that was refreshed after a code flow.
	refreshed string
	// denied is how a device's waiting ends once the person has refused; stays says that it only does when the device gives up.
	denied error
	stays  bool
}

// TestRealProviders signs a person in at each of two code bases, by each way.
func TestRealProviders(t *testing.T) {
	users := idp.Users{{Username: "alice", Password: "pass"}}
	for name, run := range map[string]func(*testing.T) real{
		"Dex": func(t *testing.T) real {
			dex := idp.RunDex(t, idp.DexOptions{Users: users})
			// A refused code stays pending: the device gives up once it has heard that.
			return real{issuer: dex.Issuer(), client: dex.Client(), login: "alice@example.com", refreshed: commitment,
				denied: context.Canceled, stays: true}
		},
		"Zitadel": func(t *testing.T) real {
			zitadel := idp.RunZitadel(t, idp.ZitadelOptions{Users: users})
			return real{issuer: zitadel.Issuer(), client: zitadel.Client(), login: "alice", refreshed: "",
				denied: ErrDenied}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t)
			t.Run("browser", r.browser)
			t.Run("wrong person", r.wrongPerson)
			t.Run("paste", r.paste)
			t.Run("device", r.device)
		})
	}
}

// flow asks for tokens that commit to keys, or not.
func (r real) flow(bound bool) *Flow {
	return &Flow{
		Issuer: protocol.IssuerInfo{Name: "corp", URL: r.issuer, Audience: idp.ClientID, ClientID: idp.ClientID,
			Scopes: []string{"profile", "email", "groups", "offline_access"}, Bound: bound},
		Commitment: commitment,
		Client:     oidcclient.New(r.client.Transport, "apex/test"),
	}
}

func (r real) person() idp.Person {
	return idp.Person{Login: r.login, Password: "pass", Client: r.client}
}

func (r real) browser(t *testing.T) {
	ctx, f := soon(t), r.flow(true)
	s, err := f.Browser(ctx, func(page string) error {
		_, err := r.person().Follow(ctx, page)
		return err
	})
	if err != nil || s.RefreshToken == "" {
		t.Fatalf("%v, %v", s, err)
	}
	tokens, err := f.Client.Refresh(ctx, s.TokenEndpoint, oidcclient.Auth{ClientID: s.ClientID}, s.RefreshToken)
	if err != nil {
		t.Fatalf("the session cannot be renewed: %v", err)
	}
	if claims, err := oidcclient.Peek(tokens.IDToken); err != nil || claims.Nonce != r.refreshed {
		t.Errorf("a refreshed token has nonce %q, want %q: %v", claims.Nonce, r.refreshed, err)
	}
}

func (r real) wrongPerson(t *testing.T) {
	ctx, mallory := soon(t), r.person()
	mallory.Password = "guess"
	_, err := r.flow(true).Browser(ctx, func(page string) error {
		_, err := mallory.Follow(ctx, page)
		return err
	})
	if !errors.Is(err, idp.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

func (r real) paste(t *testing.T) {
	ctx, page := soon(t), ""
	// The other machine's browser has nobody to go to: its last address is what the provider sends it to.
	elsewhere, client := r.person(), *r.client
	client.Transport = unreachableLoopback{client.Transport}
	elsewhere.Client = &client
	s, err := r.flow(true).Paste(ctx, func(url string) { page = url }, func(context.Context, error) (string, error) {
		last, err := elsewhere.Follow(ctx, page)
		if err != nil {
			return "", err
		}
		return last.String(), nil
	})
	if err != nil || s.IDToken == "" {
		t.Fatal(err)
	}
}

// device signs in with a code that the person decides about. All cases wait at once: each asks only after some seconds.
func (r real) device(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, c := range map[string]struct {
		bound  bool
		decide func(idp.Person, context.Context, string) error
		stays  bool
		want   error
	}{
		"approved": {false, idp.Person.Approve, false, nil},
		// A device code carries no nonce at either.
		"approved, where tokens must be bound": {true, idp.Person.Approve, false, ErrUnbound},
		"refused":                              {false, idp.Person.Deny, r.stays, r.denied},
	} {
		wg.Go(func() {
			ctx, giveUp := context.WithCancel(soon(t))
			defer giveUp()
			f := r.flow(c.bound)
			if c.stays {
				f.Client = oidcclient.New(patient{r.client.Transport, giveUp}, "apex/test")
			}
			s, err := f.Device(ctx, func(p Prompt) {
				if err := c.decide(r.person(), t.Context(), p.Complete); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
			if !errors.Is(err, c.want) || err == nil && s.RefreshToken == "" {
				t.Errorf("%s: %v, %v, want %v", name, s, err, c.want)
			}
		})
	}
}

// soon bounds what a test does, for what hangs.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// patient is the network of a device that gives up once a provider has told it to go on waiting.
type patient struct {
	next   http.RoundTripper
	giveUp func()
}

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(body), "authorization_pending") {
		p.giveUp()
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// unreachableLoopback answers for the client's own port on a machine where nobody listens there.
type unreachableLoopback struct{ next http.RoundTripper }

func (u unreachableLoopback) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == callbackPath && r.URL.Port() >= "49152" {
		return &http.Response{StatusCode: http.StatusBadGateway, Status: "502 nobody listens", Request: r, Body: http.NoBody}, nil
	}
	return u.next.RoundTrip(r)
}
