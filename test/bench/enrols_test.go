//go:build linux

package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/internal/idp"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// Groups of the provider, each with a rule and a label of its name.
const (
	staff   = "staff"   // may reach the hub
	others  = "others"  // may reach the second node of git, which has no agent
	runners = "runners" // as staff, but ephemeral
)

// enrols is what lets hosts join a network by tokens of a provider that runs in this process: the controller is measured,
// not the provider.
type enrols struct {
	issuer *idp.Issuer
	key    signer.PrivateKey
	batch  time.Duration
	// agents says that the nodes from 1 on have no documents: their agents join as staff.
	agents bool
}

// keys goes on with the configuration's `keys`; nil adds nothing, as in config and writeKey.
func (e *enrols) keys() string {
	if e == nil {
		return ""
	}
	return ", enrolmentFiles: [enrolment.key]"
}

func (e *enrols) config() string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("    enrolment: {perIssuer: 1000000, perAddress: 1000000, batch: %s}\n", e.batch)
}

func (e *enrols) writeKey(dir string) error {
	if e == nil {
		return nil
	}
	text, err := signer.MarshalPrivate(e.key)
	if err != nil {
		return err
	}
	return keyfile.Create(filepath.Join(dir, "enrolment.key"), text)
}

// newHub is a network with two nodes in git, the hub and another one, that members of two groups may reach. The dynamic
// range has a place for each of addresses hosts and hardly more, so that one that is not given back shows.
func newHub(tb testing.TB, addresses int, batch time.Duration) *network {
	tb.Helper()
	bits := 32
	for size := 1; size < addresses; size *= 2 {
		bits--
	}
	return newEnrolling(tb, 2, 2, batch, bits, `
    - {from: [{groups: [staff]}, {groups: [runners]}], to: [{node: `+nodeName(0)+`}], ports: [tcp/443]}
    - {from: [{groups: [others]}], to: [{node: `+nodeName(1)+`}], ports: [tcp/443]}
`)
}

// newMembers is a network in which node 0 stands in git and all others join, and in which everybody may reach everybody.
func newMembers(tb testing.TB, nodes int) *network {
	tb.Helper()
	n := newEnrolling(tb, nodes, 1, 250*time.Millisecond, 16, `
    - {from: [{any: true}], to: [{any: true}], ports: [tcp/22]}
`)
	n.enrols.agents = true
	return n
}

func newEnrolling(tb testing.TB, nodes, inGit int, batch time.Duration, bits int, rules string) *network {
	tb.Helper()
	n := beginNetwork(tb, shape{nodes: nodes, groups: 1})
	key, err := signer.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	n.enrols = &enrols{issuer: idp.RunIssuer(tb, idp.IssuerOptions{}), key: key, batch: batch}
	n.root.Spec.Keys = append(n.root.Spec.Keys, spec.TrustKey{Name: "enrolment", Ed25519: key.Raw()})
	n.root.Spec.Enrolment = spec.Role{Keys: []string{"enrolment"}}
	n.root.Write(n.repo, n.owner)
	n.writeNetwork()
	var zone strings.Builder
	fmt.Fprintf(&zone, "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: %s}\nspec:\n  ranges: [10.0.0.0/8]\n", zoneName)
	fmt.Fprintf(&zone, "  dynamic: [10.128.0.0/%d]\n  members:\n", bits)
	for _, group := range []string{staff, others, runners} {
		fmt.Fprintf(&zone, "    - {name: %s, issuer: corp, groups: [%s], ephemeral: %t}\n", group, group, group == runners)
	}
	n.repo.Write("zone.yaml", zone.String())
	for i := range nodes {
		n.newKeys()
		if i < inGit {
			n.writeNode(i, 51820)
		}
	}
	n.repo.Write("policy.yaml", "apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: all, zone: "+zoneName+
		"}\nspec:\n  allow:"+rules)
	n.repo.Commit(n.owner, "Begin")
	n.remote = n.repo.Bare()
	return n
}

// writeNetwork writes the Network document, with these nodes revoked.
func (n *network) writeNetwork(revoked ...string) {
	n.tb.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: apex/v1alpha1\nkind: Network\nmetadata: {name: %s}\nspec:\n", networkName)
	fmt.Fprintf(&b, "  issuers: [{name: corp, url: %q, audience: apex}]\n", n.enrols.issuer.Issuer())
	if len(revoked) > 0 {
		b.WriteString("  revoked:\n")
	}
	for _, node := range revoked {
		fmt.Fprintf(&b, "    - {zone: %s, node: %s}\n", zoneName, node)
	}
	n.repo.Write("network.yaml", b.String())
}

// mint gives a token of a member of a group for these keys.
func (e *enrols) mint(who, group string, public, identity peermap.Key) string {
	now := time.Now().Add(-time.Second) // of the second that began before the controller looks
	return e.issuer.Mint(e.issuer.Claims("apex", who, now).With("groups", []string{group}).
		With("nonce", protocol.Commitment(networkName, public, identity)))
}

// joining is how the agent of node i joins: by a token that lies in its folder; nil for nodes of git.
func (n *network) joining(i int, dir string) *agent.JoinConfig {
	n.tb.Helper()
	if n.enrols == nil || !n.enrols.agents || i == 0 {
		return nil
	}
	token := n.enrols.mint(nodeName(i), staff, n.publicKey(i), peermap.Key(n.ids[i].Raw()))
	path := filepath.Join(dir, "token")
	if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
		n.tb.Fatal(err)
	}
	return &agent.JoinConfig{TokenFile: path}
}

func (n *network) publicKey(i int) peermap.Key {
	n.tb.Helper()
	return publicOf(n.tb, n.keys[i])
}

func publicOf(tb testing.TB, k reconciler.PrivateKey) peermap.Key {
	tb.Helper()
	public, err := k.Public()
	if err != nil {
		tb.Fatal(err)
	}
	return peermap.Key(public)
}

// joiner is a host that joins by a request alone, without an agent.
type joiner struct {
	id     signer.PrivateKey
	public peermap.Key
	req    protocol.EnrolRequest
	client *fetch.Client
	asked  time.Time
	took   time.Duration
}

// door is where joiners knock: so many connections that stay open, each used by one at a time.
type door struct {
	n          *network
	p          *process
	transports []*http.Transport
	challenge  peermap.Key
	made       int
}

// connections is how many joiners ask at once. A host has a connection of its own, whose handshake costs what
// BenchmarkFleet says of TLS.
const connections = 32

func newDoor(tb testing.TB, n *network, p *process) *door {
	tb.Helper()
	d := &door{n: n, p: p}
	spki, err := hex.DecodeString(p.pin())
	if err != nil {
		tb.Fatal(err)
	}
	for range connections {
		t, err := fetch.NewTransport(fetch.TLS{SPKI: spki})
		if err != nil {
			tb.Fatal(err)
		}
		d.transports = append(d.transports, t)
		tb.Cleanup(t.CloseIdleConnections)
	}
	// A controller that begins with what it has on disk serves before it has judged a commit, by which it lets hosts in.
	p.await("the controller lets hosts in", 5*time.Millisecond, func() bool {
		info, err := d.client(0, nodeName(0), n.ids[0]).EnrolmentInfo(tb.Context())
		d.challenge = info.Challenge
		return err == nil
	})
	return d
}

func (d *door) client(connection int, node string, id signer.PrivateKey) *fetch.Client {
	c, err := fetch.New(fetch.Options{
		Controllers: []string{"https://" + d.p.api}, Network: networkName, Zone: zoneName, Node: node,
		Identity: func() signer.PrivateKey { return id }, Transport: d.transports[connection],
	})
	if err != nil {
		panic(err) // the URL is ours
	}
	return c
}

// joiners makes hosts with keys, tokens and whole requests, all but the proof, which is of the moment.
func (d *door) joiners(tb testing.TB, count int, group string) []*joiner {
	tb.Helper()
	list := make([]*joiner, count)
	for i := range list {
		d.made++
		name := fmt.Sprintf("host-%06d", d.made)
		id, key := newKeyPair(tb)
		j := &joiner{id: id, public: publicOf(tb, key), client: d.client(i%connections, name, id)}
		j.req = protocol.NewEnrol(protocol.EnrolRequest{
			Network: networkName, Zone: zoneName, Node: name, PublicKey: j.public, IdentityKey: peermap.Key(id.Raw()),
			Issuer: "corp", Token: d.n.enrols.mint(name, group, j.public, peermap.Key(id.Raw())),
		})
		mac, err := protocol.EnrolMac(key, d.challenge, j.req)
		if err != nil {
			tb.Fatal(err)
		}
		j.req.Mac = mac
		list[i] = j
	}
	return list
}

// each does something for every joiner, with as many at once as there are connections.
func (d *door) each(tb testing.TB, list []*joiner, do func(context.Context, *joiner) error) {
	tb.Helper()
	var all sync.WaitGroup
	for c := range connections {
		all.Go(func() {
			for i := c; i < len(list); i += connections {
				if err := do(tb.Context(), list[i]); err != nil {
					tb.Errorf("%s: %v", list[i].req.Node, err)
					return
				}
			}
		})
	}
	all.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
}

func join(ctx context.Context, j *joiner) error {
	j.asked = time.Now()
	result, err := j.client.Enrol(ctx, j.id, j.req)
	j.took = time.Since(j.asked)
	if err == nil && result.Binding == nil {
		err = fmt.Errorf("waits as %s", result.Waiting)
	}
	return err
}

func leave(ctx context.Context, j *joiner) error { return j.client.Leave(ctx, j.id) }

// fill lets count members join and waits until they are published.
func (d *door) fill(tb testing.TB, count int, group string) {
	tb.Helper()
	for left := count; left > 0; left -= min(left, 2000) { // tokens do not live for ever
		d.each(tb, d.joiners(tb, min(left, 2000), group), join)
	}
	d.p.awaitEnrolled(count)
}

// awaitEnrolled waits until a generation has so many enrolled nodes.
func (p *process) awaitEnrolled(count int) {
	p.tb.Helper()
	p.await(fmt.Sprintf("%d enrolled nodes are published", count), 20*time.Millisecond, func() bool { return p.enrolled() == count })
}

func (p *process) enrolled() int {
	return int(p.metric("apex_controller_generation_enrolled_nodes", ""))
}

func (p *process) serial() float64 { return p.metric("apex_controller_generation_serial", "") }
