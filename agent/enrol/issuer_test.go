package enrol

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

type informant struct {
	Controller
	issuers []protocol.IssuerInfo
}

func (i informant) EnrolmentInfo(context.Context) (protocol.EnrolmentInfo, error) {
	return protocol.EnrolmentInfo{Issuers: i.issuers}, nil
}

// TestControllerCannotNameAnotherIssuer: what the configuration or the trust root says of the issuer stands above what the
// controller says, or a stolen one would be sent client secrets, and tokens for others.
func TestControllerCannotNameAnotherIssuer(t *testing.T) {
	honest := protocol.IssuerInfo{Name: "corp", URL: "https://id.example", Audience: "apex", ClientID: "cli"}
	granted := signer.Root{Issuers: []signer.TrustedIssuer{
		{URL: honest.URL, Audience: honest.Audience, ClientID: honest.ClientID},
		{URL: "https://ci.example", Audience: "apex"},
	}}
	expect := Expect{URL: honest.URL, Audience: honest.Audience, ClientID: honest.ClientID}
	for name, change := range map[string]func(*protocol.IssuerInfo){
		"url":       func(i *protocol.IssuerInfo) { i.URL = "https://evil.example" },
		"slash":     func(i *protocol.IssuerInfo) { i.URL += "/" },
		"audience":  func(i *protocol.IssuerInfo) { i.Audience = "sts.amazonaws.com" },
		"client":    func(i *protocol.IssuerInfo) { i.ClientID = "kubernetes" },
		"no client": func(i *protocol.IssuerInfo) { i.ClientID = "" },
	} {
		told := honest
		change(&told)
		for how, opt := range map[string]Options{
			"configuration": {Expect: expect, Root: rootOf(signer.Root{})},
			"trust root":    {Root: rootOf(granted)},
		} {
			opt.Controller = informant{issuers: []protocol.IssuerInfo{told}}
			if _, err := (&Member{opt: opt}).info(t.Context()); !errors.Is(err, ErrIssuer) {
				t.Errorf("%s against the %s: %v", name, how, err)
			}
			opt.Controller = informant{issuers: []protocol.IssuerInfo{told, honest}}
			info, err := (&Member{opt: opt}).info(t.Context())
			if err != nil || len(info.Issuers) != 1 || !reflect.DeepEqual(info.Issuers[0], honest) {
				t.Errorf("%s against the %s, beside the honest one: %+v, %v", name, how, info, err)
			}
		}
	}
	unknown := &Member{opt: Options{Root: rootOf(signer.Root{}), Controller: informant{issuers: []protocol.IssuerInfo{honest}}}}
	if info, err := unknown.info(t.Context()); err != nil || len(info.Issuers) != 1 {
		t.Errorf("neither says anything: %+v, %v", info, err)
	}
	lost := &Member{opt: Options{
		Root:       func(context.Context) (*signer.Root, error) { return nil, errors.New("no answer") },
		Controller: informant{issuers: []protocol.IssuerInfo{honest}},
	}}
	if info, err := lost.info(t.Context()); err == nil {
		t.Errorf("without a trust root: %+v", info)
	}
}

func rootOf(r signer.Root) func(context.Context) (*signer.Root, error) {
	return func(context.Context) (*signer.Root, error) { return &r, nil }
}

// TestAudienceEndsNowhereEarly: a script writes it into an address.
func TestAudienceEndsNowhereEarly(t *testing.T) {
	for audience, good := range map[string]bool{
		"apex": true, "https://apex.example/net": true, "api://0-1": true,
		"": false, "sts.amazonaws.com&x=": false, "a b": false, "a#": false, "a%00": false, "$(id)": false, "a\n": false, "ä": false,
	} {
		_, err := pick(protocol.EnrolmentInfo{Issuers: []protocol.IssuerInfo{{Name: "corp", Audience: audience}}}, "")
		if good != (err == nil) || err != nil && !errors.Is(err, ErrIssuer) {
			t.Errorf("%q: %v", audience, err)
		}
	}
}

func TestTokenForSomebodyElseStays(t *testing.T) {
	issuer := protocol.IssuerInfo{Name: "corp", Audience: "apex"}
	for aud, good := range map[string]bool{
		`"apex"`: true, `["x","apex"]`: true, `"apex:c"`: true, `"apexx"`: false, `"https://kubernetes.default.svc"`: false, `[]`: false, `null`: false,
	} {
		raw := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":"x","aud":%s}`, aud)) + ".c2ln"
		if err := checkMeant(raw, issuer); good != (err == nil) || err != nil && !errors.Is(err, ErrAudience) {
			t.Errorf("%s: %v", aud, err)
		}
	}
	if err := checkMeant("a.b.c", issuer); err != nil {
		t.Errorf("what cannot be read: %v", err)
	}
}
