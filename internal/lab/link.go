//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is a route a test wants on a host. At least one of Via and Device is set.
type Route struct {
	Prefix netip.Prefix
	Via    netip.Addr
	Device string
	Metric int // 0: the kernel's default (0 for IPv4, 1024 for IPv6)
	Table  int // 0: main
	// Protocol tells whose route it is (rtnetlink(7)). 0: RTPROT_STATIC, an administrator's.
	Protocol int
}

// withNetlink runs fn with the host's handle, which stays open meanwhile, and names the host in errors.
func (h *Host) withNetlink(ctx context.Context, what string, fn func(*netlink.Handle) error) error {
	err := ctx.Err()
	if err == nil {
		var release func()
		if release, err = h.ns.acquire(); err == nil {
			defer release()
			err = fn(h.nl)
		}
	}
	if err != nil {
		return fmt.Errorf("host %s: %s: %w", h.name, what, err)
	}
	return nil
}

func setUp(nl *netlink.Handle, name string) error {
	link, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// SetLink sets a link up or down and waits until the kernel says it is. A link that goes down loses its routes and its
// IPv6 addresses. When a link that Attach or Join made comes up, what they configured is put back, as a machine's network
// manager would; anything else stays lost.
func (h *Host) SetLink(ctx context.Context, name string, up bool) error {
	return h.withNetlink(ctx, fmt.Sprintf("set link %s up=%t", name, up), func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		if !up {
			return nl.LinkSetDown(link)
		}
		if err := nl.LinkSetUp(link); err != nil {
			return err
		}
		if err := awaitCarrier(ctx, nl, name); err != nil {
			return err
		}
		iface := h.attached(name)
		if iface == nil {
			return nil
		}
		// Or the bridge would still drop what arrives.
		if err := awaitCarrier(ctx, h.lab.nl, iface.port.Attrs().Name); err != nil {
			return err
		}
		return h.configure(ctx, iface)
	})
}

// attached finds an interface that Attach made, or nil.
func (h *Host) attached(name string) *Interface {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, iface := range h.interfaces {
		if iface.Name == name && iface.port != nil {
			return iface
		}
	}
	return nil
}

// configure gives an interface the addresses and default routes it lacks.
func (h *Host) configure(ctx context.Context, iface *Interface) error {
	h.mu.Lock()
	gateways := slices.Clone(iface.gateways)
	h.mu.Unlock()
	for _, p := range iface.Prefixes {
		if err := h.AddAddress(ctx, iface.Name, p); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	for _, gw := range gateways {
		if err := h.DefaultRoute(ctx, gw); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return h.awaitNeighbourDiscovery(ctx, iface)
}

// awaitNeighbourDiscovery waits until the kernel listens for those who look for the interface's IPv6 addresses. It joins
// their solicited-node groups (RFC 4291, section 2.7.1) some time after it took the addresses, and a question that comes
// earlier is repeated only a second later.
func (h *Host) awaitNeighbourDiscovery(ctx context.Context, iface *Interface) error {
	return Await(ctx, "wait for neighbour discovery", func(context.Context) error {
		var groups []byte
		if err := h.ns.run(func() (err error) {
			groups, err = os.ReadFile("/proc/thread-self/net/igmp6")
			return err
		}); err != nil {
			return err
		}
		for _, p := range iface.Prefixes {
			if p.Addr().Is6() && !joined(string(groups), iface.Name, p.Addr()) {
				return fmt.Errorf("%s on %s is not announced yet", p.Addr(), iface.Name)
			}
		}
		return nil
	})
}

// joined looks for an address's solicited-node group in the text of /proc/net/igmp6.
func joined(groups, device string, a netip.Addr) bool {
	b := a.As16()
	group := fmt.Sprintf("ff0200000000000000000001ff%x", b[13:])
	for line := range strings.Lines(groups) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == device && f[2] == group {
			return true
		}
	}
	return false
}

func awaitCarrier(ctx context.Context, nl *netlink.Handle, name string) error {
	return Await(ctx, "wait for carrier", func(context.Context) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		// A TUN reports unknown: it has no carrier to speak of.
		if s := link.Attrs().OperState; s != netlink.OperUp && s != netlink.OperUnknown {
			return fmt.Errorf("link %s is %s", name, s)
		}
		return nil
	})
}

// Know gives the host a permanent neighbour entry for each of these interfaces, which are on the switch of its own first one.
// The kernel keeps 1 024 entries that were learned, for all namespaces of a machine together: of hundreds of hosts that talk
// to each other some would not find each other.
func (h *Host) Know(ctx context.Context, others ...*Interface) error {
	entries := make([]netlink.Neigh, 0, len(others))
	for _, o := range others {
		mac, err := o.mac(ctx)
		if err != nil {
			return err
		}
		entries = append(entries, netlink.Neigh{State: netlink.NUD_PERMANENT, IP: net.IP(o.Addr4().AsSlice()), HardwareAddr: mac})
	}
	return h.withNetlink(ctx, "add neighbours", func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(h.Interfaces()[0].Name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			e.LinkIndex = link.Attrs().Index
			if err := nl.NeighSet(&e); err != nil {
				return fmt.Errorf("%s: %w", e.IP, err)
			}
		}
		return nil
	})
}

func (i *Interface) mac(ctx context.Context) (mac net.HardwareAddr, err error) {
	err = i.Host.withNetlink(ctx, "read the address of "+i.Name, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(i.Name)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return mac, err
}

// SetMTU sets a link's MTU in bytes.
func (h *Host) SetMTU(ctx context.Context, name string, mtu int) error {
	return h.withNetlink(ctx, fmt.Sprintf("set MTU of %s to %d", name, mtu), func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		return nl.LinkSetMTU(link, mtu)
	})
}

// AddAddress gives a link one more address; it is usable at once.
func (h *Host) AddAddress(ctx context.Context, name string, p netip.Prefix) error {
	return h.withNetlink(ctx, fmt.Sprintf("add address %s to %s", p, name), func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return nl.AddrAdd(link, addr)
	})
}

// DeleteAddress takes an address from a link.
func (h *Host) DeleteAddress(ctx context.Context, name string, p netip.Prefix) error {
	return h.withNetlink(ctx, fmt.Sprintf("delete address %s of %s", p, name), func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		return nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(p)})
	})
}

// DefaultRoute sends everything of via's family to via.
func (h *Host) DefaultRoute(ctx context.Context, via netip.Addr) error {
	unspecified := netip.IPv4Unspecified()
	if via.Is6() {
		unspecified = netip.IPv6Unspecified()
	}
	return h.AddRoute(ctx, Route{Prefix: netip.PrefixFrom(unspecified, 0), Via: via})
}

// AddRoute adds a route as an administrator or another program would: by default it is foreign to Apex.
func (h *Host) AddRoute(ctx context.Context, r Route) error {
	return h.withNetlink(ctx, fmt.Sprintf("add route %s", r.Prefix), func(nl *netlink.Handle) error {
		route := &netlink.Route{
			Dst: ipNet(r.Prefix), Priority: r.Metric, Table: r.Table, Protocol: unix.RTPROT_STATIC, Family: family(r.Prefix.Addr()),
		}
		if r.Protocol != 0 {
			route.Protocol = netlink.RouteProtocol(r.Protocol)
		}
		if r.Via.IsValid() {
			route.Gw = net.IP(r.Via.AsSlice())
		}
		if r.Device != "" {
			link, err := nl.LinkByName(r.Device)
			if err != nil {
				return err
			}
			route.LinkIndex = link.Attrs().Index
		}
		return nl.RouteAdd(route)
	})
}

// DeleteRoute removes every route to exactly p from the main table, whoever made it. None is an error.
func (h *Host) DeleteRoute(ctx context.Context, p netip.Prefix) error {
	return h.withNetlink(ctx, fmt.Sprintf("delete route %s", p), func(nl *netlink.Handle) error {
		// Sorted out here: the kernel's strict check refuses the library's request for a single destination.
		all, err := nl.RouteListFiltered(family(p.Addr()), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		found := false
		for _, r := range all {
			if !sameNet(r.Dst, p) {
				continue
			}
			found = true
			if err := nl.RouteDel(&r); err != nil {
				return err
			}
		}
		if !found {
			return errors.New("there is none")
		}
		return nil
	})
}

// sameNet compares a destination as netlink gives it, where nil is the default route.
func sameNet(n *net.IPNet, p netip.Prefix) bool {
	if n == nil {
		return p.Bits() == 0
	}
	return n.String() == p.Masked().String()
}

// DeleteLink removes a link, as `ip link del` would.
func (h *Host) DeleteLink(ctx context.Context, name string) error {
	return h.withNetlink(ctx, "delete link "+name, func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(name)
		if err != nil {
			return err
		}
		return nl.LinkDel(link)
	})
}

// FlushNFT removes every nftables table of the host, as `nft flush ruleset` does.
func (h *Host) FlushNFT(ctx context.Context) error {
	return h.Do(ctx, func() error {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		conn.FlushRuleset()
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("flush nftables: %w", err)
		}
		return nil
	})
}

// Forwarding lets the host forward packets of both families between its interfaces, or not.
func (h *Host) Forwarding(ctx context.Context, on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	return h.Do(ctx, func() error {
		return errors.Join(sysctl("net/ipv4/ip_forward", value), sysctl("net/ipv6/conf/all/forwarding", value))
	})
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
