package login

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
)

// TestDex signs a person in at a real provider, by each way.
func TestDex(t *testing.T) {
	dex := idp.RunDex(t, idp.DexOptions{Users: idp.Users{{Username: "alice", Password: "pass"}}})
	person := idp.Person{Login: "alice@example.com", Password: "pass", Client: dex.Client()}
	flow := func(bound bool) *Flow {
		return &Flow{
			Issuer: protocol.IssuerInfo{Name: "dex", URL: dex.Issuer(), Audience: idp.ClientID, ClientID: idp.ClientID,
				Scopes: []string{"profile", "email", "groups", "offline_access"}, Bound: bound},
			Commitment: commitment,
			Client:     oidcclient.New(dex.Client().Transport, "apex/test"),
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	t.Run("browser", func(t *testing.T) {
		s, err := flow(true).Browser(ctx, func(page string) error {
			_, err := person.Follow(ctx, page)
			return err
		})
		if err != nil || s.RefreshToken == "" {
			t.Fatalf("%v, %v", s, err)
		}
		tokens, err := flow(true).Client.Refresh(ctx, s.TokenEndpoint, oidcclient.Auth{ClientID: s.ClientID}, s.RefreshToken)
		if err != nil || tokens.IDToken == "" {
			t.Errorf("the session cannot be renewed: %v", err)
		}
	})
	t.Run("wrong person", func(t *testing.T) {
		mallory := person
		mallory.Password = "guess"
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := flow(true).Browser(short, func(page string) error {
			_, err := mallory.Follow(ctx, page)
			return err
		})
		if !errors.Is(err, idp.ErrRefused) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("paste", func(t *testing.T) {
		var page string
		// The other machine's browser has nobody to go to: its last address is what the provider sends it to.
		elsewhere := person
		client := *dex.Client()
		client.Transport = unreachableLoopback{client.Transport}
		elsewhere.Client = &client
		s, err := flow(true).Paste(ctx, func(url string) { page = url }, func(context.Context, error) (string, error) {
			last, err := elsewhere.Follow(ctx, page)
			if err != nil {
				return "", err
			}
			return last.String(), nil
		})
		if err != nil || s.IDToken == "" {
			t.Fatal(err)
		}
	})
	device := func(bound bool) (*Session, error) {
		approved := make(chan error, 1)
		s, err := flow(bound).Device(ctx, func(p Prompt) {
			go func() { approved <- person.Approve(ctx, p.Complete) }()
		})
		return s, errors.Join(err, <-approved)
	}
	t.Run("device", func(t *testing.T) {
		if s, err := device(false); err != nil || s.RefreshToken == "" {
			t.Errorf("%v, %v", s, err)
		}
	})
	t.Run("device where tokens must be bound", func(t *testing.T) {
		if _, err := device(true); !errors.Is(err, ErrUnbound) {
			t.Errorf("Dex carries no nonce through a device code: %v", err)
		}
	})
}

// unreachableLoopback answers for the client's own port on a machine where nobody listens there.
type unreachableLoopback struct{ next http.RoundTripper }

func (u unreachableLoopback) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == callbackPath && r.URL.Port() >= "49152" {
		return &http.Response{StatusCode: http.StatusBadGateway, Status: "502 nobody listens", Request: r, Body: http.NoBody}, nil
	}
	return u.next.RoundTrip(r)
}
