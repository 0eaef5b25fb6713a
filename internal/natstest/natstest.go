// Package natstest runs NATS servers with JetStream on loopback for tests: one, or a cluster whose servers can be stopped
// and started one by one.
package natstest

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/apex-network/apex/internal/loopback"
)

// patience is for what hangs: servers find each other within a second, on a loaded machine within several.
const patience = 5 * time.Minute

// Cluster is a number of servers that know each other. Their addresses and folders stay when they are stopped and started.
type Cluster struct {
	t       *testing.T
	options []*server.Options
	servers []*server.Server // nil: stopped
}

// Start runs n servers until the test ends and waits until JetStream is usable.
func Start(t *testing.T, n int) *Cluster {
	t.Helper()
	c := &Cluster{t: t, servers: make([]*server.Server, n)}
	dir := t.TempDir()
	var routes []*url.URL
	for i := range n {
		o := &server.Options{
			ServerName: fmt.Sprintf("n%d", i), JetStream: true, NoSigs: true, NoLog: true,
			StoreDir: filepath.Join(dir, fmt.Sprint(i)), JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 4 << 30,
		}
		o.Host, o.Port = place(t)
		if n > 1 {
			o.Cluster.Name = "apex"
			o.Cluster.Host, o.Cluster.Port = place(t)
			routes = append(routes, &url.URL{Scheme: "nats", Host: address(o.Cluster.Host, o.Cluster.Port)})
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

// place gives a host and a port that a server which is stopped finds free when it is started again.
func place(t *testing.T) (host string, port int) {
	t.Helper()
	at, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return at.Addr().String(), int(at.Port())
}

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// URL lists the servers as a client wants them.
func (c *Cluster) URL() string {
	var urls []string
	for _, o := range c.options {
		urls = append(urls, "nats://"+address(o.Host, o.Port))
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
