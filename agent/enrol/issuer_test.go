package enrol

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
)

type informant struct {
	Controller
	issuers []protocol.IssuerInfo
}

func (i informant) EnrolmentInfo(context.Context) (protocol.EnrolmentInfo, error) {
	return protocol.EnrolmentInfo{Issuers: i.issuers}, nil
}

// TestControllerCannotNameAnotherIssuer: what the configuration says of the issuer stands above what the controller says, or
// a stolen one would be sent client secrets, and tokens for others.
func TestControllerCannotNameAnotherIssuer(t *testing.T) {
	honest := protocol.IssuerInfo{Name: "corp", URL: "https://id.example", Audience: "apex", ClientID: "cli"}
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
		m := &Member{opt: Options{Expect: expect, Controller: informant{issuers: []protocol.IssuerInfo{told}}}}
		if _, err := m.info(t.Context()); !errors.Is(err, ErrIssuer) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := &Member{opt: Options{Expect: expect, Controller: informant{issuers: []protocol.IssuerInfo{{Name: "evil", URL: "https://evil.example"}, honest}}}}
	if info, err := m.info(t.Context()); err != nil || len(info.Issuers) != 1 || info.Issuers[0].Name != "corp" {
		t.Errorf("%+v, %v", info, err)
	}
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
