// Package natstest runs NATS servers with JetStream on loopback for tests: one, or a cluster whose servers can be stopped
// and started one by one.
package natstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// patience is for what hangs: servers find each other within a second, on a loaded machine within several.
const patience = 5 * time.Minute

// Cluster is a number of servers that know each other. Their addresses and folders stay when they are stopped and started.
type Cluster struct {
	t       *testing.T
	host    string
	ports   []int // that it took
	options []*server.Options
	servers []*server.Server // nil: stopped
}

// Start runs n servers until the test ends and waits until JetStream is usable.
func Start(t *testing.T, n int) *Cluster {
	t.Helper()
	c := &Cluster{t: t, host: ownHost(), servers: make([]*server.Server, n)}
	dir := t.TempDir()
	var routes []*url.URL
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: c.host, Port: c.freePort(), JetStream: true, NoSigs: true, NoLog: true,
			StoreDir: filepath.Join(dir, fmt.Sprint(i)), JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 4 << 30,
		}
		if n > 1 {
			o.Cluster = server.ClusterOpts{Name: "apex", Host: c.host, Port: c.freePort()}
			routes = append(routes, &url.URL{Scheme: "nats", Host: address(c.host, o.Cluster.Port)})
		}
		c.options = append(c.options, o)
	}
	for i, o := range c.options {
		o.Routes = routes
		c.begin(i)
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.Stop(i)
		}
	})
	c.await()
	return c
}

// ownHost gives an address of loopback that nobody else uses. A server that is stopped has to find its port free when it is
// started again, and on 127.0.0.1 any connection and any test may have taken it meanwhile. Connections to an address of
// 127.0.0.0/8 come from 127.0.0.1, so that nothing sits on another one by chance. Only Linux has them all.
func ownHost() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))}).String()
}

// Ports that systems give to nobody by themselves (Linux begins at 32768, others at 49152), so that who listens on all
// addresses at a port of chance is not in the way either.
const (
	firstPort = 12_000
	lastPort  = 32_000
)

// freePort gives a port that nobody listens on.
func (c *Cluster) freePort() int {
	c.t.Helper()
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if slices.Contains(c.ports, port) {
			continue
		}
		if l, err := net.Listen("tcp", address(c.host, port)); err == nil {
			l.Close()
			c.ports = append(c.ports, port)
			return port
		}
	}
	c.t.Fatalf("no free port of %s from %d to %d", c.host, firstPort, lastPort)
	return 0
}

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// URL lists the servers as a client wants them.
func (c *Cluster) URL() string {
	var urls []string
	for _, o := range c.options {
		urls = append(urls, "nats://"+address(c.host, o.Port))
	}
	return strings.Join(urls, ",")
}

func (c *Cluster) begin(i int) {
	s, err := server.NewServer(c.options[i].Clone())
	if err != nil {
		c.t.Fatal(err)
	}
	s.Start()
	c.servers[i] = s
}

// Stop ends a server at once.
func (c *Cluster) Stop(i int) {
	if s := c.servers[i]; s != nil {
		c.servers[i] = nil
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// Resume starts a server that was stopped, on the same port with the same files, and waits until JetStream is usable.
func (c *Cluster) Resume(i int) {
	c.t.Helper()
	c.begin(i)
	c.await()
}

// StopAll ends every server, ResumeAll starts them again.
func (c *Cluster) StopAll() {
	for i := range c.servers {
		c.Stop(i)
	}
}

// ResumeAll starts what is stopped.
func (c *Cluster) ResumeAll() {
	c.t.Helper()
	for i, s := range c.servers {
		if s == nil {
			c.begin(i)
		}
	}
	c.await()
}

// await waits until the servers that run have a leader that can place a copy on each of them.
func (c *Cluster) await() {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if c.usable() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("no JetStream leader among %d servers within %s: %s", len(c.servers), patience, c.describe())
}

// describe says how the servers are.
func (c *Cluster) describe() string {
	var out []string
	for i, s := range c.servers {
		if s == nil {
			out = append(out, fmt.Sprintf("n%d stopped", i))
			continue
		}
		out = append(out, fmt.Sprintf("n%d ready %t, routes %d, leader %t, peers %d", i, s.ReadyForConnections(10*time.Millisecond),
			s.NumRoutes(), s.JetStreamIsLeader(), len(s.JetStreamClusterPeers())))
	}
	return strings.Join(out, "; ")
}

func (c *Cluster) usable() bool {
	led := len(c.servers) == 1
	running, peers := 0, 0
	for _, s := range c.servers {
		if s == nil {
			continue
		}
		running++
		if !s.ReadyForConnections(10 * time.Millisecond) {
			return false
		}
		if len(c.servers) > 1 && s.JetStreamIsLeader() {
			led, peers = true, len(s.JetStreamClusterPeers())
		}
	}
	return led && (len(c.servers) == 1 || peers >= running)
}
