//go:build linux

package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/spec"
)

// memberZone is the zone shop with room for members, and who may be one.
const memberZone = `apiVersion: apex/v1alpha1
kind: Zone
metadata:
  name: shop
spec:
  ranges: [10.20.0.0/24]
  dynamic: [10.20.0.128/25]
  members:
    - {name: operators, issuer: corp, groups: [ops], ttl: 8h}
---
apiVersion: apex/v1alpha1
kind: Policy
metadata:
  name: operators
  zone: shop
spec:
  allow:
    - from: [{groups: [ops]}]
      to: [{labels: {role: web}}]
      ports: [tcp/80]
---
apiVersion: apex/v1alpha1
kind: PolicyTest
metadata:
  name: operators
  zone: shop
spec:
  allow:
    - {from: "group:ops", to: web, ports: [tcp/80]}
  deny:
    - {from: "group:ops", to: db}
`

// guest is who comes by identity.
type guest struct {
	issuer *idp.Issuer
	node   *fleet.Node
	login  string // the file with the token that let the node in
}

func (s *story) join(ctx context.Context) (string, error) {
	if err := s.invite(ctx); err != nil {
		return "", err
	}
	began := time.Now()
	if err := s.signIn(ctx); err != nil {
		return "", err
	}
	g := s.guest
	e, err := g.node.Enrolment(ctx, "shop")
	if err != nil {
		return "", err
	}
	err = lab.Await(ctx, "the notebook's first packet", func(ctx context.Context) error {
		if out := s.knock(ctx, "web", 80, time.Second); out.Verdict != lab.Reached {
			return fmt.Errorf("the notebook does not reach web: %s", out)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	if out := s.knock(ctx, "db", 5432, 300*time.Millisecond); out.Verdict == lab.Reached {
		return "", errors.New("the notebook reaches db, which nothing allows")
	}
	s.say("%s is %s:%s by rule %s until %s", e.Node, e.Binding.Issuer, e.Binding.Username, e.Binding.Rule,
		e.Binding.Expires.UTC().Format(time.TimeOnly))
	return fmt.Sprintf("signed in → bound to %s → first packet at web in %s; db stays shut", e.Binding.Addresses[0], round(took)), nil
}

// provide starts the provider that people sign in at.
func (s *story) provide(ctx context.Context) error {
	provider, err := s.fleet.NewProvider(ctx, "idp")
	if err != nil {
		return err
	}
	issuer, err := provider.Simulate(ctx, idp.IssuerOptions{})
	s.guest = &guest{issuer: issuer}
	return err
}

// invite puts into git who may join: an issuer, a member rule, and what its group may reach.
func (s *story) invite(ctx context.Context) error {
	err := s.fleet.EditNetwork(func(n *spec.NetworkSpec) {
		n.Issuers = []spec.Issuer{{Name: "corp", URL: s.guest.issuer.Issuer(), ClientID: idp.ClientID,
			Claims: spec.ClaimMapping{Username: "sub"}}}
	})
	if err != nil {
		return err
	}
	_, office, _ := strings.Cut(zones, "---\n")
	if err := s.fleet.Repo.Write("zones.yaml", memberZone+"---\n"+office); err != nil {
		return err
	}
	commit, err := s.fleet.Merge("Let the group ops join")
	if err != nil {
		return err
	}
	if _, err := s.admin.Apply(ctx, commit); err != nil {
		return err
	}
	s.guest.node, err = s.newMachine(ctx, "notebook")
	return err
}

// newMachine is a host that stands in no document.
func (s *story) newMachine(ctx context.Context, name string) (*fleet.Node, error) {
	n, err := s.fleet.AddMember(ctx, name, "shop", nil)
	if err != nil {
		return nil, err
	}
	return n, n.Start(ctx)
}

// signIn is a person at the notebook, with a browser.
func (s *story) signIn(ctx context.Context) error {
	g := s.guest
	issuer := g.issuer
	issuer.Answer(idp.Grant(issuer.Claims(idp.ClientID, "grace", time.Now()).With("groups", []string{"ops"})))
	person := idp.Person{Login: "grace", Client: idp.NewClient(g.node.Host.DialContext, issuer.CA())}
	g.login = filepath.Join(g.node.Host.Dir(), "grace.login")
	s.say("$ apex login --out grace.login && apex join --zone shop --login grace.login")
	s.say("the OpenID provider is simulated; discovery, keys, sign-in with PKCE and tokens are OpenID Connect's")
	err := g.node.LoginWith(ctx, g.login, func(page string) error {
		_, err := person.Follow(ctx, page)
		return err
	}, "--zone", "shop", "--browser")
	if err != nil {
		return err
	}
	return g.node.JoinWith(ctx, nil, "--zone", "shop", "--login", g.login)
}

func (s *story) steal(ctx context.Context) (string, error) {
	thief, err := s.newMachine(ctx, "thief")
	if err != nil {
		return "", err
	}
	err = thief.JoinWith(ctx, nil, "--zone", "shop", "--login", s.guest.login)
	if err == nil {
		return "", errors.New("the thief was let in")
	}
	if !strings.Contains(err.Error(), "nonce") {
		return "", fmt.Errorf("the thief is refused for another reason: %w", err)
	}
	if out := thief.Host.Probe(ctx, addresses["web"], webProbe(300*time.Millisecond)); out.Verdict == lab.Reached {
		return "", errors.New("the thief reaches web")
	}
	return "refused: the token commits to the notebook's keys and is worth nothing without them", thief.Agent.Stop(ctx)
}

func (s *story) revoke(ctx context.Context) (string, error) {
	err := s.fleet.EditNetwork(func(n *spec.NetworkSpec) {
		n.Revoked = []spec.Revocation{{Issuer: "corp", User: "grace", Reason: "the notebook was lost"}}
	})
	if err != nil {
		return "", err
	}
	commit, err := s.fleet.Merge("Revoke grace")
	if err != nil {
		return "", err
	}
	began := time.Now()
	var dropped time.Time
	if _, err := s.admin.Apply(ctx, commit); err != nil {
		return "", err
	}
	err = lab.Await(ctx, "the notebook's packets stop", func(ctx context.Context) error {
		sent := time.Now()
		if out := s.knock(ctx, "web", 80, 300*time.Millisecond); out.Verdict == lab.Reached {
			return errors.New("they do not")
		}
		dropped = sent
		return nil
	})
	if err != nil {
		return "", err
	}
	if _, err := s.converge(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("a packet sent %s after the push is dropped; everybody else's flows are as they were", round(dropped.Sub(began))), nil
}

// knock sends a packet from the notebook.
func (s *story) knock(ctx context.Context, node string, port uint16, limit time.Duration) lab.Outcome {
	return s.guest.node.Host.Probe(ctx, addresses[node], lab.Probe{Protocol: lab.TCP, Port: port, Timeout: limit})
}

func webProbe(limit time.Duration) lab.Probe {
	return lab.Probe{Protocol: lab.TCP, Port: 80, Timeout: limit}
}
