//go:build linux

package integration

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apex-network/apex/agent"
	"github.com/apex-network/apex/agent/keys"
	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/keyfile"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
)

// crowd is how many agents TestControllerRestart has.
const crowd = 50

// TestControllerRestart kills and restarts the controller under fifty agents. The controller is the real program; the
// agents are package agent inside this process, each with a host in memory (package twin), because fifty processes with
// a WireGuard each would measure this machine and not the controller. They reach the controller through a forwarder.
func TestControllerRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleet.Options{}, map[string]string{
		"zones/office.yaml":    zoneDoc("office", "10.10.0.0/16"),
		"policies/office.yaml": policyDoc("mesh", "office", "{from: [{any: true}], to: [{any: true}], ports: [tcp/443]}"),
	})
	var configs []agent.Options
	for i := range crowd {
		configs = append(configs, w.light(fmt.Sprintf("n%02d", i), netip.AddrFrom4([4]byte{10, 10, 1, byte(i + 1)})))
	}
	first := w.merge("Add fifty nodes")
	w.must(w.Controller.Start(w.ctx))
	forward := w.forward()
	pin := w.tlsPin()
	var agents []*agent.Agent
	for _, o := range configs {
		o.Config.Controllers, o.Config.TLSPin = []string{"https://" + forward}, pin
		agents = append(agents, w.run(o))
	}
	w.allEnforce(agents, first)

	w.must(w.Controller.Process.Kill(w.ctx))
	w.must(each(w.ctx, "all agents to notice", agents, func(a *agent.Agent) error {
		if a.Status(w.ctx).Zones[0].Controller.Connected {
			return errors.New("still connected")
		}
		return nil
	}))
	w.write("policies/office.yaml", policyDoc("mesh", "office", "{from: [{any: true}], to: [{any: true}], ports: [tcp/80]}"))
	second := w.merge("Swap the port while the controller is away")
	started := time.Now()
	w.must(w.Controller.Start(w.ctx))
	w.allEnforce(agents, second)
	t.Logf("measured: %d agents enforce a new commit %s after the controller started again (they wait up to some seconds between attempts)",
		crowd, time.Since(started).Round(time.Millisecond))
	for _, a := range agents {
		if c := condition(a.Status(w.ctx).Zones[0], "TrustAlarm"); c.Status {
			t.Errorf("%s: %s", c.Reason, c.Message)
		}
	}

	started = time.Now()
	w.write("policies/office.yaml", policyDoc("mesh", "office", "{from: [{any: true}], to: [{any: true}], ports: [tcp/22]}"))
	third := w.merge("And once more")
	w.allEnforce(agents, third)
	t.Logf("measured: merge to enforced on %d agents: %s (the controller polls each second)", crowd, time.Since(started).Round(time.Millisecond))
}

// light writes a node into the clone and gives the options of its agent, whose host is in memory.
func (w *world) light(name string, addr netip.Addr) agent.Options {
	w.t.Helper()
	dir := filepath.Join(w.Lab.Dir(), "light", name)
	w.must(os.MkdirAll(dir, 0o700))
	private, err := keyfile.NewWireGuard(filepath.Join(dir, "wireguard.key"), rand.Reader)
	w.must(err)
	identity, err := signer.GenerateKey(rand.Reader)
	w.must(err)
	doc := spec.Node{Metadata: spec.Metadata{Name: name, Zone: "office"}, Spec: spec.NodeSpec{
		Addresses: []netip.Addr{addr}, PublicKey: spec.Key(private.Public()), IdentityKey: spec.Key(identity.Raw())}}
	text, err := spec.Marshal(doc)
	w.must(err)
	w.write(fleet.NodePath("office", name), string(text))
	host := twin.New()
	return agent.Options{
		Config: agent.Config{Network: w.Network, Node: name, RootDigest: w.Pin.String(), Zones: []agent.ZoneConfig{{Name: "office"}},
			StateDir: dir, Socket: filepath.Join(dir, "sock")},
		Version: "test", Keys: keys.InMemory(identity, map[string]reconciler.PrivateKey{"office": reconciler.PrivateKey(private)}, rand.Reader),
		NewEngine: func(o reconciler.Options) (agent.Engine, error) {
			o.Backends = host.Backends()
			return reconciler.New(o)
		},
		Times: agent.Times{BackoffMin: 100 * time.Millisecond, BackoffMax: 2 * time.Second},
	}
}

// run runs an agent until the test ends.
func (w *world) run(o agent.Options) *agent.Agent {
	w.t.Helper()
	o.Config = o.Config.WithDefaults()
	w.must(o.Config.Validate())
	a, err := agent.New(o)
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("agent %s: %v", o.Config.Node, err)
		}
	})
	return a
}

// allEnforce waits until every agent enforces commit.
func (w *world) allEnforce(agents []*agent.Agent, commit string) {
	w.t.Helper()
	w.must(each(w.ctx, "all agents to enforce "+commit, agents, func(a *agent.Agent) error {
		if z := a.Status(w.ctx).Zones[0]; z.Applied == nil || z.Applied.Commit != commit {
			return fmt.Errorf("applied %+v, conditions %+v", z.Applied, z.Conditions)
		}
		return nil
	}))
}

// forward lets this process reach the controller: a TCP listener on loopback.
func (w *world) forward() string {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	target := strings.TrimPrefix(w.Controller.URL(), "https://")
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { splice(ctx, conn, w.Controller.Host, target) })
		}
	})
	w.t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		group.Wait()
	})
	return listener.Addr().String()
}

// splice joins a connection with a new one from host to target.
func splice(ctx context.Context, near net.Conn, host *lab.Host, target string) {
	defer near.Close()
	far, err := host.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	var group sync.WaitGroup
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		group.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			near.Close()
			far.Close()
		})
	}
	group.Wait()
}

// tlsPin is the controller's TLS key in the words of an agent's configuration.
func (w *world) tlsPin() string {
	w.t.Helper()
	text, err := os.ReadFile(w.Controller.CAFile)
	w.must(err)
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	w.must(err)
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// each waits until something holds of every agent.
func each(ctx context.Context, what string, agents []*agent.Agent, holds func(*agent.Agent) error) error {
	return lab.Await(ctx, what, func(context.Context) error {
		for _, a := range agents {
			if err := holds(a); err != nil {
				return err
			}
		}
		return nil
	})
}
