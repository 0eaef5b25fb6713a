//go:build linux

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
)

// enrolment is a network that people and machines join by identity: the zone "office" with a server in git, the other
// half of its range for members, and a host for providers.
type enrolment struct {
	*world
	provider *fleet.Provider
	server   *fleet.Node
}

const serverAddr = "10.10.0.1"

// newEnrolment makes the network. Its issuers, rules and policies are the test's to write before it begins.
func newEnrolment(t *testing.T, opt fleet.Options) *enrolment {
	t.Helper()
	opt.Enrolment = true
	w := newWorld(t, opt, nil)
	provider, err := w.NewProvider(w.ctx, "idp")
	w.must(err)
	e := &enrolment{world: w, provider: provider, server: w.member("server", "office", serverAddr)}
	w.echo(e.server.Host, 443, 80)
	return e
}

// in is the same network for a subtest.
func (e *enrolment) in(t *testing.T) *enrolment {
	return &enrolment{world: e.world.in(t), provider: e.provider, server: e.server}
}

// office writes the zone with its member rules, in flow style.
func (e *enrolment) office(rules ...string) {
	e.t.Helper()
	lines := []string{"dynamic: [10.10.0.128/25]", "members:"}
	for _, r := range rules {
		lines = append(lines, "  - "+r)
	}
	e.write("zones/office.yaml", zoneDoc("office", "10.10.0.0/24", lines...))
}

// allow writes the policy.
func (e *enrolment) allow(rules ...string) {
	e.t.Helper()
	e.write("policies/office.yaml", policyDoc("web", "office", rules...))
}

// toServer is a rule of a policy.
func toServer(from, ports string) string {
	return fmt.Sprintf("{from: [{%s}], to: [{node: server}], ports: [%s]}", from, ports)
}

// issuer names an issuer in the Network document.
func (e *enrolment) issuer(i spec.Issuer) {
	e.t.Helper()
	e.must(e.EditNetwork(func(n *spec.NetworkSpec) { n.Issuers = append(n.Issuers, i) }))
}

// dex starts Dex and names it as issuer "corp".
func (e *enrolment) dex(opt idp.DexOptions, binding spec.TokenBinding) *idp.Dex {
	e.t.Helper()
	dex, err := e.provider.Dex(e.ctx, opt)
	e.must(err)
	e.closed(dex.Close)
	e.issuer(corp(dex.Issuer(), binding))
	return dex
}

// corp is where people sign in.
func corp(url string, binding spec.TokenBinding) spec.Issuer {
	return spec.Issuer{Name: "corp", URL: url, ClientID: idp.ClientID, TokenBinding: binding,
		Scopes: []string{"profile", "email", "groups", "offline_access"}}
}

// simulate starts a simulated provider and names it as an issuer whose tokens must be for audience apex.
func (e *enrolment) simulate(name string, binding spec.TokenBinding) *idp.Issuer {
	e.t.Helper()
	issuer, err := e.provider.Simulate(e.ctx, idp.IssuerOptions{})
	e.must(err)
	e.t.Cleanup(issuer.Close)
	e.issuer(spec.Issuer{Name: name, URL: issuer.Issuer(), Audience: "apex", TokenBinding: binding})
	return issuer
}

// closed closes something when the test ends, before its lab.
func (e *enrolment) closed(closing func() error) {
	e.t.Cleanup(func() {
		if err := closing(); err != nil {
			e.t.Error(err)
		}
	})
}

// joiner is a host without documents.
func (e *enrolment) joiner(name string, join *agent.JoinConfig) *fleet.Node {
	e.t.Helper()
	n, err := e.AddMember(e.ctx, name, "office", join)
	e.must(err)
	return n
}

// person is somebody with a browser on a host.
func (e *enrolment) person(at *lab.Host, login string) idp.Person {
	return idp.Person{Login: login, Password: "pass", Client: e.provider.Client(at)}
}

// users are people whose password is "pass", by name, with their groups.
func users(groups map[string]string) idp.Users {
	var all idp.Users
	for name, list := range groups {
		all = append(all, idp.User{Username: name, Password: "pass", Groups: strings.Fields(list)})
	}
	return all
}

// byBrowser joins with a browser on the node's own host.
func (e *enrolment) byBrowser(n *fleet.Node, login string, args ...string) error {
	p := e.person(n.Host, login)
	return n.JoinWith(e.ctx, func(page string) error {
		_, err := p.Follow(e.ctx, page)
		return err
	}, append([]string{"--zone", "office", "--browser"}, args...)...)
}

// byDevice joins with a code that is typed in on another host.
func (e *enrolment) byDevice(n *fleet.Node, phone *lab.Host, login string, args ...string) error {
	p := e.person(phone, login)
	return n.JoinWith(e.ctx, func(page string) error { return p.Approve(e.ctx, page) },
		append([]string{"--zone", "office", "--device"}, args...)...)
}

// bound waits until the node is a member, and gives its address.
func (e *enrolment) bound(n *fleet.Node) netip.Addr {
	e.t.Helper()
	s, err := n.AwaitStage(e.ctx, "office", control.Bound, control.Renewing, control.Expiring)
	e.must(err)
	return s.Binding.Addresses[0]
}

// stop waits until packets of a kind no longer pass, and logs how long that took since began. One that is not answered
// quickly shows nothing yet: the machine may be busy.
func (e *enrolment) stop(from *fleet.Node, p lab.Probe, began time.Time, what string) {
	e.t.Helper()
	var last time.Time
	e.must(lab.Await(e.ctx, what, func(ctx context.Context) error {
		for _, p.Timeout = range []time.Duration{quick, 5 * time.Second} {
			sent := time.Now()
			if out := from.Host.Probe(ctx, netip.MustParseAddr(serverAddr), p); out.Verdict == lab.Reached {
				last = sent
				return fmt.Errorf("%s still reaches the server: %s", from.Spec.Name, out)
			}
		}
		return nil
	}))
	if last.IsZero() {
		e.t.Logf("measured: %s: no packet was seen after it", what)
		return
	}
	e.t.Logf("measured: %s: last packet %s after it", what, last.Sub(began).Round(time.Millisecond))
}

// refusedWith fails unless err is a refusal whose words name what is wrong, and carries no token.
func (e *enrolment) refusedWith(err error, words ...string) {
	e.t.Helper()
	if err == nil {
		e.t.Fatal("the host was let in")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			e.t.Errorf("the refusal does not say %q:\n%v", word, err)
		}
	}
	if strings.Contains(err.Error(), "eyJ") {
		e.t.Errorf("the refusal shows a token:\n%v", err)
	}
}

// claims are those of a sound token of a simulated provider, bound to the keys of a node: its audience says so.
func (e *enrolment) claims(issuer *idp.Issuer, n *fleet.Node, subject string) idp.Claims {
	e.t.Helper()
	s, err := n.Enrolment(e.ctx, "office")
	e.must(err)
	return issuer.Claims("apex:"+s.Commitment, subject, time.Now())
}

func (e *enrolment) mint(issuer *idp.Issuer, n *fleet.Node, subject string) string {
	e.t.Helper()
	return issuer.Mint(e.claims(issuer, n, subject))
}

// withToken joins with a token from a file.
func (e *enrolment) withToken(n *fleet.Node, token string, args ...string) error {
	file := filepath.Join(n.Host.Dir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		return err
	}
	return n.JoinWith(e.ctx, nil, append([]string{"--zone", "office", "--token-file", file}, args...)...)
}

// awaitRenewed holds once the node's binding ends later than it did.
func awaitRenewed(n *fleet.Node, before time.Time) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := n.Enrolment(ctx, "office")
		if err != nil {
			return err
		}
		if s.Binding == nil || !s.Binding.Expires.After(before) {
			return fmt.Errorf("%s: %+v: %s", s.Stage, s.Binding, s.Message)
		}
		return nil
	}
}

// logged fails unless the controller says in one line why it refused somebody.
func (e *enrolment) logged(words ...string) {
	e.t.Helper()
	line, err := e.Controller.Process.AwaitLog(e.ctx, words[0])
	e.must(err)
	for _, word := range words {
		if !strings.Contains(line, word) {
			e.t.Errorf("the controller's log does not say %q: %s", word, line)
		}
	}
}

// again joins as withToken does, with a controller that may be starting: what it cannot do yet is tried again.
func (e *enrolment) again(n *fleet.Node, token string) error {
	var last error
	err := lab.Await(e.ctx, "an answer that lasts", func(context.Context) error {
		last = e.withToken(n, token)
		if last != nil && (strings.Contains(last.Error(), "cannot be reached") || strings.Contains(last.Error(), "not-ready")) {
			return last
		}
		return nil
	})
	return errors.Join(err, last)
}
