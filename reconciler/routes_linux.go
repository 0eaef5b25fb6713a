package reconciler

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linuxRoutes edits the main table over rtnetlink.
type linuxRoutes struct{ h *linuxHost }

func (r linuxRoutes) Routes(context.Context) ([]HostRoute, error) {
	names, err := r.h.linkNames()
	if err != nil {
		return nil, err
	}
	var out []HostRoute
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := retryDump(func() ([]netlink.Route, error) {
			return r.h.rt.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", explain(err))
		}
		for i := range list {
			out = append(out, hostRoute(&list[i], family, names))
		}
	}
	return out, nil
}

func hostRoute(r *netlink.Route, family int, names map[int]string) HostRoute {
	p, ok := prefixOf(r.Dst)
	if !ok {
		p = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			p = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	return HostRoute{
		Prefix: p, Link: names[r.LinkIndex], Metric: r.Priority,
		Ours:   r.Protocol == RouteProtocol && r.Priority == RouteMetric,
		Kernel: r.Protocol == unix.RTPROT_KERNEL,
	}
}

func (r linuxRoutes) route(l netlink.Link, p netip.Prefix) *netlink.Route {
	out := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Table: unix.RT_TABLE_MAIN, Protocol: RouteProtocol, Priority: RouteMetric}
	if p.Addr().Is4() {
		out.Scope = netlink.SCOPE_LINK
	}
	return out
}

// Add leaves a route alone that exists already. If that one is foreign, the next look says so.
func (r linuxRoutes) Add(_ context.Context, link string, p netip.Prefix) error {
	return r.h.onLink(link, func(l netlink.Link) error {
		if err := r.h.rt.RouteAdd(r.route(l, p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	})
}

func (r linuxRoutes) Remove(_ context.Context, link string, p netip.Prefix) error {
	return r.h.onLink(link, func(l netlink.Link) error {
		if err := r.h.rt.RouteDel(r.route(l, p)); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	})
}

func (r linuxRoutes) Egress(_ context.Context, addr netip.Addr) (string, error) {
	routes, err := r.h.rt.RouteGet(addr.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return "", nil
	}
	if err != nil {
		return "", explain(err)
	}
	if len(routes) == 0 {
		return "", nil
	}
	l, err := r.h.rt.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", explain(err)
	}
	return l.Attrs().Name, nil
}
