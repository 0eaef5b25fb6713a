//go:build linux

// Package fleet is a whole Apex network inside a lab: a person's clone and its remote, a controller, and agents on
// hosts, all of them the real programs with real keys and signatures. `apex demo` tells a story with it and the
// integration tests attack it.
//
//	person's clone ── push ──▶ bare remote ◀── fetch ── controller host
//	                                                        │ HTTPS
//	                                            switch "internet"
//	                                       ┌────────┴────────┐
//	                                  agent host         agent host …
//
// Nothing in it is simulated but the machines, which are network namespaces of package lab.
package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// Binaries are the programs to run, by path. Apex is needed by what people do on hosts: joining, deciding.
type Binaries struct {
	Controller, Agent, Apex string
}

// Options configure New.
type Options struct {
	Lab      *lab.Lab
	Binaries Binaries
	// Network is the network's name. Default: "demo".
	Network string
	// Poll is how often the controller looks at the remote. Default: 1 s, the shortest it accepts.
	Poll time.Duration
	// Witness gives the manifest a threshold of 2: the controller and a witness key.
	Witness bool
	// Routes are the prefixes that the trust root lets each zone's nodes carry.
	Routes map[string][]netip.Prefix
	// Wide makes the internet IPv6 as well as IPv4.
	Wide bool
	// Validity is how long signatures live. Default: that of the language.
	Validity spec.Validity
	// Enrolment gives the controller an enrolment key, which the trust root allows.
	Enrolment bool
	// Limits, if set, is the text of the controller's configuration field `enrolment` in YAML's flow style.
	Limits string
	// Beside puts the network onto the controller and the internet of another fleet, which must be of another network.
	Beside *Fleet
}

// Fleet is the network. Its methods are for one goroutine.
type Fleet struct {
	Lab      *lab.Lab
	Internet *lab.Switch
	Network  string
	// Repo is the person's clone, Remote the folder of the bare repository.
	Repo   *Repo
	Remote string
	// Pin is the digest of the first trust root.
	Pin peermap.Digest
	// Maintainer is the SSH key that may change everything and apply; MaintainerFile holds it.
	Maintainer     ssh.Signer
	MaintainerFile string
	Controller     *Controller
	// Replicas are further controllers of the network: see NewReplica.
	Replicas []*Controller
	Nodes    map[string]*Node
	// WitnessKeyFile is set with Options.Witness.
	WitnessKeyFile string

	opt       Options
	dir       string
	root      spec.TrustRoot
	network   spec.Network
	authority *idp.Authority // of its providers; nil if there are none
}

// New makes the internet, the keys, the trust root, the repository with its remote, and the controller's host. The
// repository's first commit holds the network, the trust root and the given documents; it is pushed. The controller
// is not started.
func New(ctx context.Context, opt Options, files map[string]string) (*Fleet, error) {
	if opt.Network == "" {
		opt.Network = "demo"
	}
	if opt.Poll == 0 {
		opt.Poll = time.Second
	}
	f := &Fleet{Lab: opt.Lab, Network: opt.Network, Nodes: map[string]*Node{}, opt: opt, dir: filepath.Join(opt.Lab.Dir(), "fleet-"+opt.Network)}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if f.Maintainer, f.MaintainerFile, err = newSSHKey(filepath.Join(f.dir, "maintainer")); err != nil {
		return nil, err
	}
	if opt.Witness {
		f.WitnessKeyFile = filepath.Join(f.dir, "witness.key")
		if _, err = keyfile.NewEd25519(f.WitnessKeyFile, rand.Reader); err != nil {
			return nil, err
		}
	}
	if err := f.place(ctx); err != nil {
		return nil, err
	}
	if err := f.begin(files); err != nil {
		return nil, err
	}
	return f, nil
}

// place makes the internet and the controller's host, or takes those of the fleet beside.
func (f *Fleet) place(ctx context.Context) (err error) {
	if beside := f.opt.Beside; beside != nil {
		f.Internet, f.Controller = beside.Internet, beside.Controller
		f.Controller.serves = append(f.Controller.serves, f)
		return nil
	}
	prefixes := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	if f.opt.Wide {
		prefixes = append(prefixes, netip.MustParsePrefix("2001:db8::/64"))
	}
	if f.Internet, err = f.Lab.Switch("internet", prefixes...); err != nil {
		return err
	}
	f.Controller, err = f.newController(ctx)
	return err
}

// begin writes the first commit.
func (f *Fleet) begin(files map[string]string) error {
	root, envelope, err := f.firstRoot()
	if err != nil {
		return err
	}
	f.Remote = filepath.Join(f.dir, "remote.git")
	if f.Repo, err = newRepo(filepath.Join(f.dir, "clone"), f.Remote, f.Maintainer); err != nil {
		return err
	}
	f.network = spec.Network{Metadata: spec.Metadata{Name: f.Network}}
	text, err := spec.Marshal(f.network)
	if err != nil {
		return err
	}
	all := map[string]string{"network.yaml": string(text), "trust/root.yaml": root, "trust/roots/1.json": envelope}
	for path, content := range files {
		all[path] = content
	}
	for path, content := range all {
		if err := f.Repo.Write(path, content); err != nil {
			return err
		}
	}
	if _, err := f.Repo.Commit("Begin the network"); err != nil {
		return err
	}
	return f.Repo.Push()
}

// NodeSpec describes a node to add.
type NodeSpec struct {
	// Name is the host's; Zones are the zones it joins, each with its addresses.
	Name   string
	Zones  map[string][]netip.Addr
	Labels map[string]string
	// Routes are prefixes behind the node, in every zone.
	Routes []netip.Prefix
	// Hidden nodes publish no endpoint: peers learn it when the node speaks first.
	Hidden bool
	// V6 nodes publish the IPv6 endpoint of their host, others the IPv4 one.
	V6 bool
	// Keepalive is the node's, if not 0.
	Keepalive time.Duration
	// Host is where the agent runs. Default: a new host on the internet.
	Host *lab.Host
	// Join makes the node one without documents, which joins zones by an identity: by a token from where the
	// configuration says, or (nil) by a person. Zones is not used then.
	Join map[string]*agent.JoinConfig
}

// Node is a host with its keys and, once started, its agent.
type Node struct {
	Spec  NodeSpec
	Host  *lab.Host
	Agent *lab.Process
	// StateDir holds the agent's state and the node's keys.
	StateDir string
	Identity signer.PrivateKey
	// PublicKey is the WireGuard key. Like Identity it is not set for nodes that join by an identity.
	PublicKey peermap.Key
	// Env is added to the environment of the agent of a node that joins by an identity.
	Env []string

	fleet *Fleet
	flags []string // of the agent, once started
}

// AddNode makes a host with keys and writes its Node documents into the clone. It commits nothing.
func (f *Fleet) AddNode(ctx context.Context, s NodeSpec) (*Node, error) {
	n := &Node{Spec: s, Host: s.Host, fleet: f}
	if n.Host == nil {
		var err error
		if n.Host, err = f.Lab.Host(s.Name); err != nil {
			return nil, err
		}
		if _, err := n.Host.Join(ctx, f.Internet); err != nil {
			return nil, err
		}
	}
	n.StateDir = filepath.Join(n.Host.Dir(), "state")
	if err := os.MkdirAll(n.StateDir, 0o700); err != nil {
		return nil, err
	}
	if len(s.Join) > 0 {
		f.Nodes[s.Name] = n // the agent makes its keys itself
		return n, nil
	}
	wg, err := keyfile.NewWireGuard(filepath.Join(n.StateDir, "wireguard.key"), rand.Reader)
	if err != nil {
		return nil, err
	}
	if n.Identity, err = keyfile.NewEd25519(filepath.Join(n.StateDir, "identity.key"), rand.Reader); err != nil {
		return nil, err
	}
	n.PublicKey = wg.Public()
	f.Nodes[s.Name] = n
	port := uint16(51820)
	for _, zone := range slices.Sorted(maps.Keys(s.Zones)) {
		if err := f.writeNode(n, zone, s.Zones[zone], port); err != nil {
			return nil, err
		}
		port++ // one host needs a port for each of its zones
	}
	return n, nil
}

// writeNode writes one Node document.
func (f *Fleet) writeNode(n *Node, zone string, addrs []netip.Addr, port uint16) error {
	doc := spec.Node{Metadata: spec.Metadata{Name: n.Spec.Name, Zone: zone, Labels: n.Spec.Labels},
		Spec: spec.NodeSpec{Addresses: addrs, PublicKey: spec.Key(n.PublicKey), IdentityKey: spec.Key(n.Identity.Raw()), ListenPort: port}}
	for _, p := range n.Spec.Routes {
		doc.Spec.Routes = append(doc.Spec.Routes, spec.NodeRoute{Prefix: p})
	}
	if n.Spec.Keepalive != 0 {
		keepalive := spec.Duration(n.Spec.Keepalive)
		doc.Spec.Keepalive = &keepalive
	}
	if addr := n.underlay(); !n.Spec.Hidden && addr.IsValid() {
		doc.Spec.Endpoints = []string{netip.AddrPortFrom(addr, port).String()}
	}
	text, err := spec.Marshal(doc)
	if err != nil {
		return err
	}
	return f.Repo.Write(NodePath(zone, n.Spec.Name), string(text))
}

// underlay is the address at which peers may reach the node's host.
func (n *Node) underlay() netip.Addr {
	interfaces := n.Host.Interfaces()
	switch {
	case len(interfaces) == 0:
		return netip.Addr{}
	case n.Spec.V6:
		return interfaces[0].Addr6()
	}
	return interfaces[0].Addr4()
}

// NodePath is where a node's document stands in the repository.
func NodePath(zone, node string) string { return "nodes/" + zone + "/" + node + ".yaml" }

// Start starts the node's agent; it is up when its status socket answers.
func (n *Node) Start(ctx context.Context, extra ...string) error {
	f := n.fleet
	flags := []string{"--ca-file", f.Controller.CAFile, "--network", f.Network,
		"--node", n.Spec.Name, "--root-digest", f.Pin.String(), "--state-dir", n.StateDir, "--log-level", "debug"}
	for _, url := range f.controllers() {
		flags = append(flags, "--controller", url)
	}
	for _, zone := range slices.Sorted(maps.Keys(n.Spec.Zones)) {
		flags = append(flags, "--zone", zone)
	}
	command := lab.Command{Name: "agent"}
	if len(n.Spec.Join) > 0 {
		path, err := n.writeJoins()
		if err != nil {
			return err
		}
		flags = append(flags, "--config", path)
		command.Env = append(n.Env, "SSL_CERT_FILE="+f.IssuerCAFile())
	}
	n.flags = append(flags, extra...)
	command.Argv = append([]string{f.opt.Binaries.Agent}, n.flags...)
	p, err := n.Host.Start(ctx, command)
	if err != nil {
		return err
	}
	n.Agent = p
	return p.AwaitSocket(ctx, status.DefaultSocket)
}

// Restart starts the agent again, after its process has ended.
func (n *Node) Restart(ctx context.Context) error {
	p, err := n.Agent.Restart(ctx)
	if err != nil {
		return err
	}
	n.Agent = p
	return p.AwaitSocket(ctx, status.DefaultSocket)
}

// Down removes what the agent made of the host, which must have been started before and have ended. It gives what the
// program says.
func (n *Node) Down(ctx context.Context) (string, error) {
	return n.Host.Run(ctx, append([]string{n.fleet.opt.Binaries.Agent, "down"}, n.flags...)...)
}

// Status asks the agent.
func (n *Node) Status(ctx context.Context) (status.Status, error) {
	return status.NewClient(n.Host.Path(status.DefaultSocket)).Get(ctx)
}

// Zone is the status of the node in one zone.
func (n *Node) Zone(ctx context.Context, zone string) (status.Zone, error) {
	s, err := n.Status(ctx)
	if err != nil {
		return status.Zone{}, err
	}
	for _, z := range s.Zones {
		if z.Zone == zone {
			return z, nil
		}
	}
	return status.Zone{}, fmt.Errorf("node %s has no zone %s", n.Spec.Name, zone)
}

// AwaitCommit waits until the host enforces a commit in all its zones.
func (n *Node) AwaitCommit(ctx context.Context, commit string) error {
	return n.Agent.Await(ctx, fmt.Sprintf("%s enforces %.12s", n.Spec.Name, commit), func(ctx context.Context) error {
		s, err := n.Status(ctx)
		if err != nil {
			return err
		}
		for _, z := range s.Zones {
			if z.Applied == nil || z.Applied.Commit != commit {
				return fmt.Errorf("zone %s: applied %s, conditions %v", z.Zone, describe(z.Applied), z.Conditions)
			}
		}
		return nil
	})
}

// AwaitCondition waits until a condition of a zone holds, or no longer does, and returns it.
func (n *Node) AwaitCondition(ctx context.Context, zone, kind string, want bool) (status.Condition, error) {
	var found status.Condition
	err := n.Agent.Await(ctx, fmt.Sprintf("%s: %s is %t", n.Spec.Name, kind, want), func(ctx context.Context) error {
		z, err := n.Zone(ctx, zone)
		if err != nil {
			return err
		}
		for _, c := range z.Conditions {
			if c.Type == kind {
				found = c
				if c.Status == want {
					return nil
				}
				return fmt.Errorf("%s is %t (%s: %s)", kind, c.Status, c.Reason, c.Message)
			}
		}
		return fmt.Errorf("no condition %s", kind)
	})
	return found, err
}

func describe(g *status.Generation) string {
	if g == nil {
		return "nothing"
	}
	return fmt.Sprintf("%d.%d of %.12s", g.Epoch, g.Serial, g.Commit)
}

// controllers are the URLs that agents are told.
func (f *Fleet) controllers() []string {
	if f.Controller.Front != "" {
		return []string{f.Controller.Front}
	}
	urls := []string{f.Controller.URL()}
	for _, c := range f.Replicas {
		urls = append(urls, c.URL())
	}
	return urls
}

// AwaitEnforced waits until every started agent of a node in git enforces a commit.
func (f *Fleet) AwaitEnforced(ctx context.Context, commit string) error {
	var errs []error
	for _, n := range f.Nodes {
		if n.Agent != nil && n.Agent.ExitCode() < 0 && len(n.Spec.Join) == 0 {
			errs = append(errs, n.AwaitCommit(ctx, commit))
		}
	}
	return errors.Join(errs...)
}

// Merge commits what stands in the clone with the maintainer's signature and pushes it.
func (f *Fleet) Merge(message string) (commit string, err error) {
	if commit, err = f.Repo.Commit(message); err != nil {
		return "", err
	}
	return commit, f.Repo.Push()
}
