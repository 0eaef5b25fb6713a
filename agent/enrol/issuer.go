package enrol

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apex-network/apex/internal/oidcclient"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
)

// ErrAudience: the token is not for this network, and was not sent.
var ErrAudience = errors.New("the token is for somebody else")

// info asks the controller how to join, and leaves out issuers that the trust root does not grant, or that are not what the
// configuration expects: what the controller says is under no signature. Errors: ErrIssuer if that leaves none; those of the
// controller.
func (m *Member) info(ctx context.Context) (protocol.EnrolmentInfo, error) {
	info, err := m.opt.Controller.EnrolmentInfo(ctx)
	if err != nil {
		return info, err
	}
	root, err := m.opt.Root(ctx)
	if err != nil {
		return info, fmt.Errorf("trust root to check the issuers with: %w", err)
	}
	told := info.Issuers
	info.Issuers = nil
	var refused error // why the first one is left out
	for _, i := range told {
		switch err := m.allowed(root, i); {
		case err == nil:
			info.Issuers = append(info.Issuers, i)
		case refused == nil:
			refused = err
		}
	}
	if len(info.Issuers) == 0 {
		return info, refused
	}
	return info, nil
}

// allowed says whether this host may get a token of an issuer that the controller names.
func (m *Member) allowed(root *signer.Root, i protocol.IssuerInfo) error {
	err := root.CheckIssuer(signer.TrustedIssuer{URL: i.URL, Audience: i.Audience, ClientID: i.ClientID})
	switch {
	case err != nil:
		return fmt.Errorf("%w: the controller names %q, and no token is got for it: %w", ErrIssuer, cut(i.Name), err)
	case !m.opt.Expect.met(i):
		return fmt.Errorf("%w: the controller names none with what the configuration says under join "+
			"(issuerURL, audience, clientID); if the network has changed, change it too", ErrIssuer)
	}
	return nil
}

func (e Expect) met(i protocol.IssuerInfo) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(e.URL, i.URL) && is(e.Audience, i.Audience) && is(e.ClientID, i.ClientID)
}

// pick finds the issuer, or the only one.
func pick(info protocol.EnrolmentInfo, name string) (protocol.IssuerInfo, error) {
	var names []string
	for _, issuer := range info.Issuers {
		if issuer.Name == name || name == "" && len(info.Issuers) == 1 {
			return issuer, checkAudience(issuer)
		}
		names = append(names, issuer.Name)
	}
	if len(names) == 0 {
		return protocol.IssuerInfo{}, fmt.Errorf("%w: the network lets nobody enrol (Network.spec.issuers is empty)", ErrIssuer)
	}
	return protocol.IssuerInfo{}, fmt.Errorf("%w: %q; the network has %q: name one of them as join.issuer", ErrIssuer, name, names)
}

// checkAudience refuses audiences that end early in the address or command that a script puts them into: the token would then
// be for another audience, without the commitment that stands behind it.
func checkAudience(issuer protocol.IssuerInfo) error {
	const most = 1024
	bad := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("&#?%+;,\"'`$\\<>|(){}[]*!", r) }
	if issuer.Audience == "" || len(issuer.Audience) > most || strings.ContainsFunc(issuer.Audience, bad) {
		return fmt.Errorf("%w: the controller names the audience %q for %q, which no token is asked for", ErrIssuer,
			cut(issuer.Audience), cut(issuer.Name))
	}
	return nil
}

// checkMeant keeps a token that is for somebody else on this host: the controller would refuse it, but would have it. What
// cannot be read, or is for other keys, is left to the controller.
func checkMeant(raw string, issuer protocol.IssuerInfo) error {
	c, err := oidcclient.Peek(raw)
	ours := func(aud string) bool { return aud == issuer.Audience || strings.HasPrefix(aud, issuer.Audience+":") }
	if err != nil || slices.ContainsFunc(c.Audience, ours) {
		return nil
	}
	return fmt.Errorf("%w: its claim aud is %q, issuer %s of the network asks for %q; it was not sent", ErrAudience,
		cut(strings.Join(c.Audience, ", ")), cut(issuer.Name), issuer.Audience)
}
