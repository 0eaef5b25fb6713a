//go:build linux

package onlab_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/idp/onlab"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// TestMain builds the providers while there is still a network to fetch their modules from.
func TestMain(m *testing.M) {
	lab.Init()
	if !lab.Isolated() {
		if err := idp.Prepare(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "cannot run these tests:", err)
			os.Exit(1)
		}
	}
	labtest.Main(m)
}

// TestProvidersOnHosts starts Dex, with a directory, and Zitadel on a server, and reads their discovery documents over
// https from another host. Closing the lab checks that they are gone.
func TestProvidersOnHosts(t *testing.T) {
	ctx := labtest.Context(t, 3*time.Minute)
	l := labtest.New(t)
	net, err := l.Switch("internet", netip.MustParsePrefix("198.51.100.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	server, browser := host(t, l, net, "server"), host(t, l, net, "browser")
	address := server.Interfaces()[0].Addr4()
	authority, err := idp.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	users := idp.Users{{Username: "alice", Password: "wonderland", Groups: []string{"admins"}}}
	place := func(port uint16) idp.Place {
		return onlab.Place(server, netip.AddrPortFrom(address, port), authority)
	}
	directory, err := idp.StartSlapd(ctx, place(389), users)
	if err != nil {
		t.Fatal(err)
	}
	defer directory.Close()
	dex, err := idp.StartDex(ctx, idp.DexOptions{Place: place(5556), LDAP: directory})
	if err != nil {
		t.Fatal(err)
	}
	defer dex.Close()
	zitadel, err := idp.StartZitadel(ctx, idp.ZitadelOptions{Place: place(9998), Users: users})
	if err != nil {
		t.Fatal(err)
	}
	defer zitadel.Close()

	client := idp.NewClient(browser.DialContext, authority.PEM())
	defer client.CloseIdleConnections()
	for _, issuer := range []string{dex.Issuer(), zitadel.Issuer()} {
		provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
		if err != nil {
			t.Fatal(err)
		}
		approve(t, ctx, client, provider)
	}
}

func host(t *testing.T, l *lab.Lab, sw *lab.Switch, name string) *lab.Host {
	t.Helper()
	h, err := l.Host(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Attach(t.Context(), sw); err != nil {
		t.Fatal(err)
	}
	return h
}

// approve runs a device flow from the browser's host.
func approve(t *testing.T, ctx context.Context, client *http.Client, provider *oidc.Provider) {
	t.Helper()
	ctx = oidc.ClientContext(ctx, client)
	config := oauth2.Config{ClientID: idp.ClientID, Endpoint: provider.Endpoint(), Scopes: []string{"openid", "groups"}}
	code, err := config.DeviceAuth(ctx)
	if err != nil {
		t.Fatal(err)
	}
	person := idp.Person{Login: "alice", Password: "wonderland", Client: client}
	if err := person.Approve(ctx, code.VerificationURIComplete); err != nil {
		t.Fatal(err)
	}
	resp, err := client.PostForm(provider.Endpoint().TokenURL, url.Values{
		"client_id": {idp.ClientID}, "device_code": {code.DeviceCode},
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s", provider.Endpoint().TokenURL, resp.Status)
	}
}
