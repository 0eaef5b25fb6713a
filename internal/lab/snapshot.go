//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Snapshot is the network state of a host as sorted text, one fact per line: links, addresses, routes, rules, nftables,
// WireGuard devices and forwarding. What moves by itself is left out: counters, handshakes, lifetimes, indexes, handles
// and the elements of dynamic nftables sets. Two equal snapshots mean that nobody has touched the host.
type Snapshot string

// Snapshot takes the host's.
func (h *Host) Snapshot(ctx context.Context) (Snapshot, error) {
	var s Snapshot
	err := h.Do(ctx, func() (err error) {
		s, err = snapshotHere()
		return err
	})
	return s, err
}

// SnapshotMachine takes that of the network namespace this program runs in, outside any lab.
func SnapshotMachine(ctx context.Context) (Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var s Snapshot
	err := onThread(func() (err error) {
		s, err = snapshotHere()
		return err
	})
	return s, err
}

// Diff gives the lines that only the older snapshot has, after a minus, and those that only the newer has, after a plus.
// It is empty if they are equal.
func (s Snapshot) Diff(newer Snapshot) string {
	old, now := strings.Split(string(s), "\n"), strings.Split(string(newer), "\n")
	var out []string
	out = append(out, onlyIn("-", old, now)...)
	out = append(out, onlyIn("+", now, old)...)
	return strings.Join(out, "\n")
}

// onlyIn counts, because a line can stand twice.
func onlyIn(sign string, lines, others []string) []string {
	count := map[string]int{}
	for _, l := range others {
		count[l]++
	}
	var out []string
	for _, l := range lines {
		if count[l]--; count[l] < 0 {
			out = append(out, sign+" "+l)
		}
	}
	return out
}

// snapshotHere reads the calling thread's namespaces, again if something changed while a list was read.
func snapshotHere() (Snapshot, error) {
	const tries = 5
	for range tries - 1 {
		s, err := readNetworkState()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return s, err
		}
	}
	return readNetworkState()
}

func readNetworkState() (Snapshot, error) {
	nl, err := openNetlink()
	if err != nil {
		return "", err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{0: "-"}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var lines []string
	var errs []error
	add := func(more []string, err error) {
		lines, errs = append(lines, more...), append(errs, err)
	}
	add(linkLines(links, names), nil)
	add(addressLines(nl, names))
	add(routeLines(nl, names))
	add(ruleLines())
	add(nftLines())
	add(wireguardLines(links))
	add(sysctlLines())
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("snapshot: %w", err)
	}
	slices.Sort(lines)
	return Snapshot(strings.Join(lines, "\n")), nil
}

func linkLines(links []netlink.Link, names map[int]string) []string {
	var out []string
	for _, l := range links {
		a := l.Attrs()
		out = append(out, fmt.Sprintf("link %s type %s mac %s mtu %d up %t master %s",
			a.Name, l.Type(), a.HardwareAddr, a.MTU, a.Flags&net.FlagUp != 0, names[a.MasterIndex]))
	}
	return out
}

func addressLines(nl *netlink.Handle, names map[int]string) ([]string, error) {
	addrs, err := nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []string
	for _, a := range addrs {
		line := fmt.Sprintf("address %s dev %s", a.IPNet, names[a.LinkIndex])
		if a.Peer != nil && a.Peer.String() != a.IPNet.String() {
			line += " peer " + a.Peer.String()
		}
		out = append(out, line)
	}
	return out, nil
}

func routeLines(nl *netlink.Handle, names map[int]string) ([]string, error) {
	var out []string
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		// A filter on table 0 means every table.
		routes, err := nl.RouteListFiltered(fam, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			// The kernel derives these from the addresses, some of them a moment late.
			if r.Table == unix.RT_TABLE_LOCAL && r.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			out = append(out, routeLine(r, names))
		}
	}
	return out, nil
}

func routeLine(r netlink.Route, names map[int]string) string {
	dst := "default"
	if r.Dst != nil {
		dst = r.Dst.String()
	}
	line := fmt.Sprintf("route %s table %d type %d dev %s proto %d metric %d scope %d",
		dst, r.Table, r.Type, names[r.LinkIndex], int(r.Protocol), r.Priority, r.Scope)
	if r.Gw != nil {
		line += " via " + r.Gw.String()
	}
	if r.Src != nil {
		line += " src " + r.Src.String()
	}
	if r.MTU != 0 {
		line += fmt.Sprintf(" mtu %d", r.MTU)
	}
	for _, hop := range r.MultiPath {
		line += fmt.Sprintf(" nexthop dev %s via %s weight %d", names[hop.LinkIndex], hop.Gw, hop.Hops+1)
	}
	return line
}

func ruleLines() ([]string, error) {
	// A handle of its own, not strict: the library's request for rules is one that the kernel's strict check refuses.
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	var out []string
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := nl.RuleList(fam)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			mask := "-"
			if r.Mask != nil {
				mask = fmt.Sprintf("%#x", *r.Mask)
			}
			out = append(out, fmt.Sprintf("rule family %d %s mark %#x mask %s proto %d", fam, r, r.Mark, mask, r.Protocol))
		}
	}
	return out, nil
}

// wireguardLines asks for each device by name: one dead socket would make a listing of all fail.
func wireguardLines(links []netlink.Link) ([]string, error) {
	sockets, err := filepath.Glob("/var/run/wireguard/*.sock")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, path := range sockets {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".sock"))
	}
	for _, l := range links {
		if l.Type() == "wireguard" {
			names = append(names, l.Attrs().Name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("open wgctrl: %w", err)
	}
	defer client.Close()
	var out []string
	for _, name := range names {
		device, err := client.Device(name)
		if err != nil {
			out = append(out, fmt.Sprintf("wireguard %s does not answer", name)) // a dead device's socket is state, too
			continue
		}
		out = append(out, deviceLines(device)...)
	}
	return out, nil
}

func deviceLines(d *wgtypes.Device) []string {
	out := []string{fmt.Sprintf("wireguard %s key %s port %d mark %#x", d.Name, d.PublicKey, d.ListenPort, d.FirewallMark)}
	for _, p := range d.Peers {
		var allowed []string
		for _, n := range p.AllowedIPs {
			allowed = append(allowed, n.String())
		}
		slices.Sort(allowed)
		out = append(out, fmt.Sprintf("wireguard %s peer %s endpoint %v keepalive %s psk %t allowed %s", d.Name, p.PublicKey,
			p.Endpoint, p.PersistentKeepaliveInterval, p.PresharedKey != wgtypes.Key{}, strings.Join(allowed, ",")))
	}
	return out
}

func sysctlLines() ([]string, error) {
	var out []string
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"} {
		b, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("sysctl %s = %s", strings.ReplaceAll(name, "/", "."), strings.TrimSpace(string(b))))
	}
	return out, nil
}
