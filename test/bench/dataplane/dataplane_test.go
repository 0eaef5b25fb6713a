//go:build linux

// Package dataplane measures what a tunnel of Apex carries against bare wireguard-go, in one run and on the same two
// hosts of package lab, and what the real agent's process holds meanwhile. The rounds take turns, so that what else the
// machine does meets both.
package dataplane

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

const (
	zone     = "prod"
	port     = 5001
	barePort = 51900
	stretch  = 2 * time.Second // of traffic per round and tunnel
)

// BenchmarkThroughput sends one TCP stream through the agents' tunnel, with its policy in force, and through two bare
// wireguard-go devices between the same hosts.
func BenchmarkThroughput(b *testing.B) {
	labtest.NeedTunnel(b)
	ctx, cancel := context.WithTimeout(b.Context(), 3*time.Minute)
	defer cancel()
	nodes := startAgents(b, ctx)
	bare := startBare(b, ctx, nodes)
	sink := newSink(b, ctx, nodes[1].Host)
	idle := memory(b, nodes[1].Agent.Pid())
	var ratios, ours, theirs []float64
	for b.Loop() {
		o := sink.measure(b, ctx, nodes[0].Host, nodes[1].Spec.Zones[zone][0])
		t := sink.measure(b, ctx, nodes[0].Host, bare)
		ours, theirs, ratios = append(ours, o), append(theirs, t), append(ratios, o/t)
	}
	loaded := memory(b, nodes[1].Agent.Pid())
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ours), "apex-Mbit/s")
	b.ReportMetric(median(theirs), "bare-Mbit/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(idle["VmRSS"], "MB-rss-idle")
	b.ReportMetric(idle["RssAnon"], "MB-anon-idle")
	b.ReportMetric(loaded["VmRSS"], "MB-rss-loaded")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// startAgents makes a network of two nodes that may reach each other on one port.
func startAgents(b *testing.B, ctx context.Context) []*fleet.Node {
	b.Helper()
	binaries := fleet.Binaries{
		Controller: labtest.Build(b, "../../../cmd/apex-controller"), Agent: labtest.Build(b, "../../../cmd/apex-agent"),
	}
	f, err := fleet.New(ctx, fleet.Options{Lab: labtest.New(b), Binaries: binaries}, map[string]string{
		"zone.yaml": "apiVersion: apex/v1alpha1\nkind: Zone\nmetadata: {name: " + zone + "}\nspec:\n  ranges: [10.1.0.0/24]\n",
		"policy.yaml": fmt.Sprintf("apiVersion: apex/v1alpha1\nkind: Policy\nmetadata: {name: all, zone: %s}\nspec:\n  allow:\n"+
			"    - {from: [{any: true}], to: [{any: true}], ports: [tcp/%d]}\n", zone, port),
	})
	check(b, err)
	var nodes []*fleet.Node
	for i, name := range []string{"left", "right"} {
		n, err := f.AddNode(ctx, fleet.NodeSpec{Name: name, Zones: map[string][]netip.Addr{zone: {netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)})}}})
		check(b, err)
		nodes = append(nodes, n)
	}
	commit, err := f.Merge("Add the nodes")
	check(b, err)
	check(b, f.Controller.Start(ctx))
	for _, n := range nodes {
		check(b, n.Start(ctx, "--wireguard", "userspace"))
	}
	check(b, f.AwaitEnforced(ctx, commit))
	return nodes
}

// startBare puts a device without anything of Apex beside each agent's and gives the address of the second.
func startBare(b *testing.B, ctx context.Context, nodes []*fleet.Node) netip.Addr {
	b.Helper()
	binary := labtest.Build(b, "../../../internal/lab/testdata/wgnode")
	keys := make([]wgtypes.Key, len(nodes))
	addrs := []netip.Addr{netip.MustParseAddr("10.2.0.1"), netip.MustParseAddr("10.2.0.2")}
	for i := range nodes {
		var err error
		keys[i], err = wgtypes.GeneratePrivateKey()
		check(b, err)
	}
	for i, n := range nodes {
		p, err := n.Host.Start(ctx, lab.Command{Argv: []string{binary, "wg0"}, Name: "bare"})
		check(b, err)
		check(b, p.AwaitSocket(ctx, "/var/run/wireguard/wg0.sock"))
		check(b, n.Host.AddAddress(ctx, "wg0", netip.PrefixFrom(addrs[i], 24)))
		check(b, n.Host.SetLink(ctx, "wg0", true))
		other, listen := 1-i, barePort
		endpoint := netip.AddrPortFrom(nodes[other].Host.Interfaces()[0].Addr4(), barePort)
		check(b, n.Host.Do(ctx, func() error {
			client, err := wgctrl.New()
			if err != nil {
				return err
			}
			defer client.Close()
			return client.ConfigureDevice("wg0", wgtypes.Config{PrivateKey: &keys[i], ListenPort: &listen, Peers: []wgtypes.PeerConfig{{
				PublicKey: keys[other].PublicKey(), Endpoint: net.UDPAddrFromAddrPort(endpoint),
				AllowedIPs: []net.IPNet{{IP: addrs[other].AsSlice(), Mask: net.CIDRMask(32, 32)}},
			}}})
		}))
	}
	return addrs[1]
}

// sink takes streams and says how long each took from its first byte to its last, and how long it was.
type sink struct{ done chan result }

type result struct {
	bytes int64
	took  time.Duration
	err   error
}

func newSink(b *testing.B, ctx context.Context, h *lab.Host) *sink {
	b.Helper()
	l, err := h.Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	check(b, err)
	b.Cleanup(func() { l.Close() })
	s := &sink{done: make(chan result)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			since := time.Now()
			n, err := io.CopyBuffer(discard{}, conn, make([]byte, 256<<10))
			conn.Close()
			s.done <- result{n, time.Since(since), err}
		}
	}()
	return s
}

// discard has no ReadFrom, so that the copy uses the buffer it was given.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// measure gives the throughput to an address of the sink's host in Mbit/s.
func (s *sink) measure(b *testing.B, ctx context.Context, from *lab.Host, to netip.Addr) float64 {
	b.Helper()
	conn, err := from.DialContext(ctx, "tcp", netip.AddrPortFrom(to, port).String())
	check(b, err)
	buffer := make([]byte, 256<<10)
	for until := time.Now().Add(stretch); time.Now().Before(until); {
		_, err := conn.Write(buffer)
		check(b, err)
	}
	check(b, conn.Close())
	select {
	case r := <-s.done:
		check(b, r.err)
		return float64(r.bytes) * 8 / 1e6 / r.took.Seconds()
	case <-ctx.Done():
		b.Fatal(ctx.Err())
		return 0
	}
}

// memory gives the resident memory of a process in MB, by the names of proc(5).
func memory(b *testing.B, pid int) map[string]float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	check(b, err)
	out := map[string]float64{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if fields := strings.Fields(value); len(fields) == 2 && fields[1] == "kB" {
			kb, err := strconv.ParseFloat(fields[0], 64)
			check(b, err)
			out[name] = kb / 1000
		}
	}
	return out
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
