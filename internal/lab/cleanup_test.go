//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/internal/lab"
	"github.com/apex-network/apex/internal/lab/labtest"
)

// patient is for probes whose answer must come, on a machine that is busy with other tests: it bounds only what hangs.
const patient = time.Minute

var patientPing = lab.Probe{Protocol: lab.ICMP, Timeout: patient}

// footprint is everything of this machine that a lab might leave a trace in.
func footprint(t testing.TB, ctx context.Context) lab.Snapshot {
	t.Helper()
	lines := strings.Split(string(must(lab.SnapshotMachine(ctx))(t)), "\n")
	lines = append(lines, strings.Split(string(must(os.ReadFile("/proc/self/mountinfo"))(t)), "\n")...)
	for _, e := range must(os.ReadDir(os.TempDir()))(t) {
		lines = append(lines, "temporary file "+e.Name())
	}
	for _, path := range must(filepath.Glob("/proc/self/fd/*"))(t) {
		if target, err := os.Readlink(path); err == nil && (strings.HasPrefix(target, "net:") || strings.HasPrefix(target, "mnt:")) {
			lines = append(lines, "descriptor "+target)
		}
	}
	for _, path := range must(filepath.Glob("/proc/self/task/*/ns/*"))(t) {
		if target, err := os.Readlink(path); err == nil {
			lines = append(lines, "thread in "+target)
		}
	}
	for _, path := range must(filepath.Glob("/proc/self/task/*/children"))(t) {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			lines = append(lines, "children "+string(b))
		}
	}
	slices.Sort(lines)
	return lab.Snapshot(strings.Join(slices.Compact(lines), "\n")) // as many threads as the runtime likes
}

// TestCloseLeavesNothing must not run beside other labs: it compares the whole program before and after.
func TestCloseLeavesNothing(t *testing.T) {
	ctx := labtest.Context(t, time.Minute)
	before := footprint(t, ctx)
	l := must(lab.New(ctx, lab.Options{}))(t)
	n := newInternet(t, ctx, l, lab.FullCone, lab.Symmetric)
	must(n.server.Echo(ctx, 80))(t)
	must(n.left.Start(ctx, lab.Command{Argv: []string{"sleep", "1000"}}))(t)
	must(n.left.DialContext(ctx, "tcp", netip.AddrPortFrom(addr4(n.server), 80).String()))(t) // never closed
	if during := footprint(t, ctx); before == during {
		t.Error("the footprint does not show a lab")
	}
	started := time.Now()
	check(t, l.Close())
	t.Logf("closed in %s", time.Since(started))
	if diff := before.Diff(footprint(t, ctx)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
}

// TestParallelLabs: labs with the same names and addresses do not hear each other, and closing one hurts no other.
func TestParallelLabs(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	var group errgroup.Group
	var mu sync.Mutex
	var firstClosed bool
	for i := range 6 {
		group.Go(func() (err error) {
			l, err := lab.New(ctx, lab.Options{})
			if err != nil {
				return err
			}
			defer func() {
				if closeErr := l.Close(); err == nil {
					err = closeErr
				}
			}()
			a, eth, err := pair(ctx, l, uint16(7000+i))
			if err != nil {
				return err
			}
			for j := range 6 {
				o := a.Probe(ctx, eth.Addr4(), lab.Probe{Protocol: lab.TCP, Port: uint16(7000 + j), Timeout: patient})
				if (o.Verdict == lab.Reached) != (i == j) {
					return fmt.Errorf("lab %d reaches the server of lab %d: %s, %v", i, j, o, o.Err)
				}
			}
			mu.Lock()
			mine := !firstClosed
			firstClosed = true
			mu.Unlock()
			if mine {
				return l.Close()
			}
			for range 20 {
				if o := a.Probe(ctx, eth.Addr4(), patientPing); o.Verdict != lab.Reached {
					return fmt.Errorf("lab %d: %s, %w", i, o, o.Err)
				}
			}
			return nil
		})
	}
	check(t, group.Wait())
}

func pair(ctx context.Context, l *lab.Lab, port uint16) (*lab.Host, *lab.Interface, error) {
	lan, err := l.Switch("lan", netip.MustParsePrefix("192.0.2.0/24"))
	if err != nil {
		return nil, nil, err
	}
	a, err := l.Host("a")
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Host("b")
	if err != nil {
		return nil, nil, err
	}
	if _, err := a.Attach(ctx, lan); err != nil {
		return nil, nil, err
	}
	eth, err := b.Attach(ctx, lan)
	if err != nil {
		return nil, nil, err
	}
	_, err = b.Echo(ctx, port)
	return a, eth, err
}

// TestSnapshotSeesTouches: every way to touch a host shows, and undoing it, or mere traffic, does not.
func TestSnapshotSeesTouches(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l := labtest.New(t)
	n := newInternet(t, ctx, l, lab.Cone, lab.FullCone)
	h := n.gwRight
	foreign := netip.MustParsePrefix("10.0.0.0/8")
	extra := netip.MustParsePrefix("198.51.100.1/24")
	for _, c := range []struct {
		name     string
		do, undo func() error
		shows    string
	}{
		{"route", func() error {
			return h.AddRoute(ctx, lab.Route{Prefix: foreign, Device: "eth0", Metric: 7, Protocol: 99})
		}, func() error { return h.DeleteRoute(ctx, foreign) }, "+ route 10.0.0.0/8 table 254 type 1 dev eth0 proto 99 metric 7"},
		{"address", func() error { return h.AddAddress(ctx, "eth0", extra) }, func() error { return h.DeleteAddress(ctx, "eth0", extra) },
			"+ address 198.51.100.1/24 dev eth0"},
		{"mtu", func() error { return h.SetMTU(ctx, "eth0", 1400) }, func() error { return h.SetMTU(ctx, "eth0", 1500) }, "mtu 1400"},
		{"link", func() error { return h.SetLink(ctx, "eth1", false) }, func() error { return h.SetLink(ctx, "eth1", true) }, "up false"},
		{"forwarding", func() error { return h.Forwarding(ctx, false) }, func() error { return h.Forwarding(ctx, true) }, "- sysctl net.ipv4.ip_forward = 1"},
		{"nftables", func() error { return h.FlushNFT(ctx) }, func() error { return h.SetNAT(ctx, lab.FullCone) }, "- nft 1 lab chain forward rule 0000"},
		{"foreign table", func() error {
			return h.Do(ctx, func() error { return editTable(func(c *nftables.Conn, t *nftables.Table) { c.AddTable(t) }) })
		}, func() error {
			return h.Do(ctx, func() error { return editTable(func(c *nftables.Conn, t *nftables.Table) { c.DelTable(t) }) })
		}, "+ nft 2 foreign"},
	} {
		before := must(h.Snapshot(ctx))(t)
		check(t, c.do())
		if diff := before.Diff(must(h.Snapshot(ctx))(t)); !strings.Contains(diff, c.shows) {
			t.Errorf("%s: the difference lacks %q:\n%s", c.name, c.shows, diff)
		}
		check(t, c.undo())
		if o := n.right.Probe(ctx, addr4(n.server), patientPing); o.Verdict != lab.Reached {
			t.Errorf("%s: ping after undoing: %s, %v", c.name, o, o.Err)
		}
		if diff := before.Diff(must(h.Snapshot(ctx))(t)); diff != "" {
			t.Errorf("%s: still different after undoing:\n%s", c.name, diff)
		}
	}
	if err := h.DeleteRoute(ctx, foreign); err == nil {
		t.Error("deleting a route that is not there is no error")
	}
}

func editTable(edit func(*nftables.Conn, *nftables.Table)) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	edit(conn, &nftables.Table{Name: "foreign", Family: nftables.TableFamily(unix.NFPROTO_IPV4)})
	return conn.Flush()
}

// TestCloseWhileBuilding: hosts that are on their way when Close is called are waited for and taken down.
func TestCloseWhileBuilding(t *testing.T) {
	t.Parallel()
	l := must(lab.New(labtest.Context(t, time.Minute), lab.Options{}))(t)
	var group errgroup.Group
	begun := make(chan struct{}, 20)
	for i := range 20 {
		group.Go(func() error {
			begun <- struct{}{}
			if _, err := l.Host(fmt.Sprintf("host-%d", i)); err != nil && !errors.Is(err, lab.ErrClosed) {
				return err
			}
			return nil
		})
	}
	<-begun
	check(t, l.Close())
	check(t, group.Wait())
}

// TestNames: a name or address is given once, and labs do not mix.
func TestNames(t *testing.T) {
	t.Parallel()
	ctx := labtest.Context(t, time.Minute)
	l, other := labtest.New(t), labtest.New(t)
	lan := must(l.Switch("lan", prefixes("192.0.2.0/30")...))(t)
	a := must(l.Host("a"))(t)
	must(a.Attach(ctx, lan))(t)
	stranger := must(other.Host("a"))(t)
	_, twice := l.Host("a")
	_, badName := l.Host("../a")
	_, switchTwice := l.Switch("lan")
	_, hostBits := l.Switch("odd", netip.MustParsePrefix("192.0.2.1/24"))
	_, taken := a.Attach(ctx, lan, netip.PrefixFrom(addr4(a), 30))
	_, full := a.Attach(ctx, lan)
	_, mixed := stranger.Attach(ctx, lan)
	for what, err := range map[string]error{
		"a host twice": twice, "a host outside the folder": badName, "a switch twice": switchTwice, "a prefix with host bits": hostBits,
		"an address twice": taken, "an address of a full switch": full, "a switch of another lab": mixed,
	} {
		if err == nil {
			t.Errorf("%s: no error", what)
		} else {
			t.Log(err)
		}
	}
}

// TestBigLab is about the cost of a big lab.
func TestBigLab(t *testing.T) {
	ctx := labtest.Context(t, time.Minute)
	started := time.Now()
	l := must(lab.New(ctx, lab.Options{}))(t)
	const hosts = 30
	sw := must(l.Switch("internet", prefixes("203.0.113.0/24")...))(t)
	var group errgroup.Group
	var sources []lab.Source
	var targets []lab.Target
	var all []*lab.Interface
	var mu sync.Mutex
	for i := range hosts {
		group.Go(func() error {
			h, err := l.Host(fmt.Sprintf("host-%d", i))
			if err != nil {
				return err
			}
			eth, err := h.Attach(ctx, sw)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, eth)
			sources = append(sources, lab.Source{Host: h})
			targets = append(targets, lab.Target{Host: h, Addr: eth.Addr4(), Probe: lab.Probe{Protocol: lab.ICMP, Timeout: patient}})
			return nil
		})
	}
	check(t, group.Wait())
	built := time.Since(started)
	for _, s := range sources { // these hosts alone would fill the kernel's table, which is one for all tests of the machine
		check(t, s.Host.Know(ctx, all...))
	}
	m := must(lab.Measure(ctx, sources, targets))(t)
	for _, line := range m.Mismatches(func(lab.Source, lab.Target) bool { return true }) {
		t.Error(line)
	}
	started = time.Now()
	check(t, l.Close())
	t.Logf("%d hosts built in %s, %d pings in %s, closed in %s", hosts, built, hosts*(hosts-1), m.Took, time.Since(started))
}
