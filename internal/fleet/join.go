//go:build linux

package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/control"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/lab"
)

// AddMember makes a host without documents whose agent joins a zone by an identity. join says where its tokens come
// from; nil leaves that to a person.
func (f *Fleet) AddMember(ctx context.Context, name, zone string, join *agent.JoinConfig) (*Node, error) {
	return f.AddNode(ctx, NodeSpec{Name: name, Join: map[string]*agent.JoinConfig{zone: join}})
}

// writeJoins writes the part of the agent's configuration that has no flags.
func (n *Node) writeJoins() (path string, err error) {
	var c agent.Config
	for zone, join := range n.Spec.Join {
		if join == nil {
			join = &agent.JoinConfig{}
		}
		c.Zones = append(c.Zones, agent.ZoneConfig{Name: zone, Join: join})
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return "", err
	}
	path = filepath.Join(n.Host.Dir(), "agent.yaml")
	return path, os.WriteFile(path, text, 0o600)
}

// Apex runs the command line on a host to its end and gives what it printed; an error carries what it said.
func (f *Fleet) Apex(ctx context.Context, host *lab.Host, args ...string) (string, error) {
	return host.Run(ctx, append([]string{f.opt.Binaries.Apex}, args...)...)
}

// AskController is Apex for commands that ask the controller in the maintainer's name, about the fleet's network.
func (f *Fleet) AskController(ctx context.Context, host *lab.Host, args ...string) (string, error) {
	return f.Apex(ctx, host, append(args, "--controller", f.Controller.URL(), "--ca-file", f.Controller.CAFile,
		"--network", f.Network, "--key", f.MaintainerFile)...)
}

// JoinWith runs `apex join` on the node's host. act is given the address of the page at which a person has to sign in;
// nil if the arguments bring a token. The error of a refused or unfinished join carries what the command said.
func (n *Node) JoinWith(ctx context.Context, act func(page string) error, args ...string) error {
	return n.signIn(ctx, act, append([]string{"join"}, args...))
}

// LoginWith runs `apex login` on the node's host, which keeps what it got in the new file out. act is as in JoinWith.
func (n *Node) LoginWith(ctx context.Context, out string, act func(page string) error, args ...string) error {
	return n.signIn(ctx, act, append([]string{"login", "--out", out}, args...))
}

func (n *Node) signIn(ctx context.Context, act func(page string) error, args []string) error {
	argv := append([]string{n.fleet.opt.Binaries.Apex}, args...)
	argv = append(argv, "--issuer-ca-file", n.fleet.IssuerCAFile())
	// The page is opened by act, and by no browser.
	p, err := n.Host.Start(ctx, lab.Command{Argv: argv, Name: args[0], Env: []string{"BROWSER=true"}})
	if err != nil {
		return err
	}
	if act != nil {
		page, err := signInPage(ctx, p)
		if err == nil {
			err = act(page)
		}
		if err != nil {
			return errors.Join(err, p.Kill(context.WithoutCancel(ctx)))
		}
	}
	if err := p.Wait(ctx); err != nil {
		return errors.Join(err, p.Kill(context.WithoutCancel(ctx)))
	}
	return nil
}

// signInPage finds the address in what `apex join` says: alone on its line, or after "Or open".
func signInPage(ctx context.Context, p *lab.Process) (page string, err error) {
	err = p.Await(ctx, "wait for the page to sign in at", func(context.Context) error {
		text, err := p.Stderr()
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			line, whole := strings.CutSuffix(line, "\n")
			line = strings.TrimPrefix(strings.TrimSpace(line), "Or open ")
			if whole && strings.HasPrefix(line, "https://") && !strings.Contains(line, " ") {
				page = line
				return nil
			}
		}
		return errors.New("none yet")
	})
	return page, err
}

// Enrolment asks the agent how it stands in a zone.
func (n *Node) Enrolment(ctx context.Context, zone string) (control.Enrolment, error) {
	return control.NewClient(n.Host.Path(status.DefaultSocket)).Enrolment(ctx, zone)
}

// AwaitStage waits until the agent stands so in a zone, and gives what it says.
func (n *Node) AwaitStage(ctx context.Context, zone string, want ...control.Stage) (control.Enrolment, error) {
	var last control.Enrolment
	err := n.Agent.Await(ctx, fmt.Sprintf("%s is %v in zone %s", n.Spec.Name, want, zone), func(ctx context.Context) (err error) {
		if last, err = n.Enrolment(ctx, zone); err != nil {
			return err
		}
		for _, stage := range want {
			if last.Stage == stage {
				return nil
			}
		}
		return fmt.Errorf("it is %s: %s", last.Stage, last.Message)
	})
	return last, err
}

// Address is the first address of the node's binding in a zone.
func (n *Node) Address(ctx context.Context, zone string) (netip.Addr, error) {
	e, err := n.Enrolment(ctx, zone)
	if err != nil {
		return netip.Addr{}, err
	}
	if e.Binding == nil || len(e.Binding.Addresses) == 0 {
		return netip.Addr{}, fmt.Errorf("node %s has no binding in zone %s: it is %s", n.Spec.Name, zone, e.Stage)
	}
	return e.Binding.Addresses[0], nil
}
