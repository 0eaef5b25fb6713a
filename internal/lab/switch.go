//go:build linux

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// Switch is an Ethernet segment: a LAN, or the internet itself. It is a bridge in the lab's hub namespace and holds no
// address: everything on it is a Host.
//
// n hosts that all talk to each other on one switch need n² neighbour entries, and the kernel has one table of about a
// thousand for all namespaces of a machine together. Put meshes of more than thirty hosts behind several routers.
type Switch struct {
	lab      *Lab
	name     string
	prefixes []netip.Prefix
	bridge   netlink.Link

	mu   sync.Mutex
	used map[netip.Addr]string // address -> host
}

// Switch makes a segment. Addresses for Attach are picked from prefixes, of which there may be none; each must be in
// masked form and leave room for two hosts.
func (l *Lab) Switch(name string, prefixes ...netip.Prefix) (*Switch, error) {
	for _, p := range prefixes {
		if p != p.Masked() || p.Addr().BitLen()-p.Bits() < 2 {
			return nil, fmt.Errorf("switch %s: prefix %s: want a masked prefix with room for two hosts", name, p)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.switches[name]
	if err := l.checkName("switch", name, taken); err != nil {
		return nil, err
	}
	snooping := false // multicast snooping without a querier loses IPv6 neighbour discovery
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("sw%d", len(l.switches))
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := l.nl.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("switch %s: create bridge: %w", name, err)
	}
	if err := l.nl.LinkSetAlias(bridge, name); err != nil {
		return nil, fmt.Errorf("switch %s: name bridge: %w", name, err)
	}
	if err := l.nl.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("switch %s: set bridge up: %w", name, err)
	}
	sw := &Switch{lab: l, name: name, prefixes: prefixes, bridge: bridge, used: map[netip.Addr]string{}}
	l.switches[name] = sw
	return sw, nil
}

// Name is the name given to Lab.Switch.
func (s *Switch) Name() string { return s.name }

// Prefixes are the prefixes given to Lab.Switch.
func (s *Switch) Prefixes() []netip.Prefix { return s.prefixes }

// Gateways gives the first host address of each prefix. Attach never picks these by itself: they are the router's.
func (s *Switch) Gateways() []netip.Prefix {
	out := make([]netip.Prefix, len(s.prefixes))
	for i, p := range s.prefixes {
		out[i] = netip.PrefixFrom(p.Addr().Next(), p.Bits())
	}
	return out
}

// claim takes the addresses for a host, or picks a free one of each prefix if none are given.
func (s *Switch) claim(host string, want []netip.Prefix) ([]netip.Prefix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(want) == 0 {
		for _, p := range s.prefixes {
			free, err := s.free(p)
			if err != nil {
				return nil, err
			}
			want = append(want, netip.PrefixFrom(free, p.Bits()))
		}
	}
	for _, p := range want {
		if owner, ok := s.used[p.Addr()]; ok {
			return nil, fmt.Errorf("address %s on switch %s belongs to host %s", p.Addr(), s.name, owner)
		}
	}
	for _, p := range want {
		s.used[p.Addr()] = host
	}
	return want, nil
}

func (s *Switch) release(addrs []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range addrs {
		delete(s.used, p.Addr())
	}
}

// free picks the lowest unused address of p behind the gateway. The caller holds s.mu.
func (s *Switch) free(p netip.Prefix) (netip.Addr, error) {
	for a := p.Addr().Next().Next(); p.Contains(a); a = a.Next() {
		if _, ok := s.used[a]; ok {
			continue
		}
		if a.Is4() && !p.Contains(a.Next()) {
			break // the broadcast address
		}
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("no address of %s is left on switch %s", p, s.name)
}

// firstPortIndex keeps the interface indexes of the hub apart from those in hosts: if both ends of a veth pair happen to
// have the same index, the kernel takes the carrier for a lesser matter and reports it up to a second late.
const firstPortIndex = 100_000

// port makes a veth pair between the bridge and h, where the far end is called name, and gives the near end.
func (s *Switch) port(h *Host, name string) (netlink.Link, error) {
	s.lab.mu.Lock()
	attrs := netlink.NewLinkAttrs()
	attrs.Index = firstPortIndex + s.lab.ports
	attrs.Name = fmt.Sprintf("port%d", s.lab.ports)
	s.lab.ports++
	s.lab.mu.Unlock()
	attrs.MasterIndex = s.bridge.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(h.ns.net.Fd())}
	if err := s.lab.nl.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("create veth: %w", err)
	}
	return veth, errors.Join(
		s.lab.nl.LinkSetAlias(veth, h.name+"/"+name),
		s.lab.nl.LinkSetUp(veth),
	)
}
