package reconciler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/reconciler/wgdevice"
)

// linkGroup is the interface group our kernel interfaces are made with. The group is set in the one message that makes the
// interface, the alias is not: an interface in this group without an alias is ours, from a process that died between.
const linkGroup = 0x61706578 // "apex"

func (h *linuxHost) Link(_ context.Context, name string) (Link, error) {
	l, err := h.rt.LinkByName(name)
	if isNoLink(err) {
		return Link{}, nil
	}
	if err != nil {
		return Link{}, explain(err)
	}
	a := l.Attrs()
	out := Link{Exists: true, Index: a.Index, Alias: a.Alias, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
	kernel := l.Type() == "wireguard"
	out.Unmarked = kernel && a.Alias == "" && a.Group == linkGroup
	out.Userspace = !kernel && h.embedded(name) != nil
	out.WireGuard = kernel || out.Userspace
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return h.rt.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return Link{}, fmt.Errorf("read addresses: %w", explain(err))
	}
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		if ok && !p.Addr().IsLinkLocalUnicast() {
			out.Addresses = append(out.Addresses, p)
		}
	}
	slices.SortFunc(out.Addresses, comparePrefix)
	return out, nil
}

func isNoLink(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing)
}

// dumpTries is how often an interrupted dump is taken again: the table changed while the kernel listed it.
const dumpTries = 5

func retryDump[T any](dump func() ([]T, error)) ([]T, error) {
	var err error
	for range dumpTries {
		var out []T
		if out, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return nil, err
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (h *linuxHost) embedded(name string) *wgdevice.Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.devices[name]
	if d == nil {
		return nil
	}
	select {
	case <-d.Wait(): // its interface was deleted by somebody else
		_ = d.Close()
		delete(h.devices, name)
		return nil
	default:
		return d
	}
}

func (h *linuxHost) Create(_ context.Context, name, alias string, mtu int) error {
	if h.mode != WireGuardUserspace {
		err := h.rt.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, Group: linkGroup}})
		if err == nil {
			return h.setAlias(name, alias)
		}
		if h.mode == WireGuardKernel || !noKernelWireGuard(err) {
			return fmt.Errorf("make WireGuard interface: %w", explain(err))
		}
	}
	h.embedded(name) // forget one whose interface is gone
	d, err := wgdevice.Open(name, mtu, h.log)
	if err != nil {
		return explain(err)
	}
	h.mu.Lock()
	h.devices[name] = d
	h.mu.Unlock()
	return h.setAlias(name, alias)
}

// noKernelWireGuard: the kernel does not know the link type, built in or as a module.
func noKernelWireGuard(err error) bool { return errors.Is(err, unix.EOPNOTSUPP) }

func (h *linuxHost) Delete(_ context.Context, name string) error {
	if d := h.embedded(name); d != nil {
		h.mu.Lock()
		delete(h.devices, name)
		h.mu.Unlock()
		return d.Close()
	}
	l, err := h.rt.LinkByName(name)
	if isNoLink(err) {
		return nil
	}
	if err == nil {
		err = h.rt.LinkDel(l)
	}
	return explain(err)
}

// onLink runs f with the link of that name.
func (h *linuxHost) onLink(name string, f func(netlink.Link) error) error {
	l, err := h.rt.LinkByName(name)
	if err == nil {
		err = f(l)
	}
	return explain(err)
}

func (h *linuxHost) SetMTU(_ context.Context, name string, mtu int) error {
	return h.onLink(name, func(l netlink.Link) error { return h.rt.LinkSetMTU(l, mtu) })
}

func (h *linuxHost) SetAlias(_ context.Context, name, alias string) error {
	return h.setAlias(name, alias)
}

func (h *linuxHost) setAlias(name, alias string) error {
	return h.onLink(name, func(l netlink.Link) error { return h.rt.LinkSetAlias(l, alias) })
}

func (h *linuxHost) SetUp(_ context.Context, name string) error {
	if err := h.onLink(name, h.rt.LinkSetUp); err != nil {
		return err
	}
	if d := h.embedded(name); d != nil {
		return d.Up()
	}
	return nil
}

func (h *linuxHost) AddAddress(_ context.Context, name string, p netip.Prefix) error {
	return h.onLink(name, func(l netlink.Link) error {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD // nobody else can answer on a tunnel
		}
		if err := h.rt.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	})
}

func (h *linuxHost) RemoveAddress(_ context.Context, name string, p netip.Prefix) error {
	return h.onLink(name, func(l netlink.Link) error {
		err := h.rt.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
		return nil
	})
}

func (h *linuxHost) Holders(_ context.Context, name string, addrs []netip.Addr) (map[netip.Addr]string, error) {
	names, err := h.linkNames()
	if err != nil {
		return nil, err
	}
	all, err := retryDump(func() ([]netlink.Addr, error) { return h.rt.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, explain(err)
	}
	out := make(map[netip.Addr]string)
	for _, a := range all {
		p, ok := prefixOf(a.IPNet)
		if link := names[a.LinkIndex]; ok && link != name && slices.Contains(addrs, p.Addr()) {
			out[p.Addr()] = link
		}
	}
	return out, nil
}

func (h *linuxHost) linkNames() (map[int]string, error) {
	links, err := retryDump(h.rt.LinkList)
	if err != nil {
		return nil, explain(err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}
