package peermap

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// ComparePrefixes orders prefixes by address, then by length: the order of every prefix list in this package.
func ComparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// CheckName reports by ErrInvalid what is no name; the error calls it what.
func CheckName(what, s string) error { return checkName(what, s) }

// checkName takes a DNS-1123 label of at most MaxName bytes.
func checkName(what, s string) error {
	if s == "" || len(s) > MaxName {
		return invalid("%s %.80q: want 1 to %d characters", what, s, MaxName)
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '-' || i == 0 || i == len(s)-1) {
			return invalid("%s %q: want lower-case letters, digits and inner hyphens", what, s)
		}
	}
	return nil
}

func checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() {
		return invalid("address %s: want a plain IPv4 or IPv6 address", a)
	}
	return nil
}

// checkAddrs wants at least one address, at most MaxPeerAddresses, strictly ascending.
func checkAddrs(addrs []netip.Addr) error {
	if len(addrs) == 0 || len(addrs) > MaxPeerAddresses {
		return invalid("%d addresses, want 1 to %d", len(addrs), MaxPeerAddresses)
	}
	for i, a := range addrs {
		if err := checkAddr(a); err != nil {
			return err
		}
		if i > 0 && addrs[i-1].Compare(a) >= 0 {
			return invalid("address %s is out of order or twice", a)
		}
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
		return invalid("prefix %s: want a masked IPv4 or IPv6 prefix", p)
	}
	return nil
}

// checkPrefixes wants masked prefixes in ascending order of which no two overlap.
func checkPrefixes(what string, ps []netip.Prefix, limit int) error {
	if len(ps) > limit {
		return invalid("%d %s, limit %d", len(ps), what, limit)
	}
	for i, p := range ps {
		if err := checkPrefix(p); err != nil {
			return err
		}
		// In ascending order an overlap shows between neighbours: the wider prefix stands right before what it holds.
		if i > 0 && (ComparePrefixes(ps[i-1], p) >= 0 || ps[i-1].Overlaps(p)) {
			return invalid("%s %s is out of order or overlaps %s", what, p, ps[i-1])
		}
	}
	return nil
}

func checkEndpoint(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return invalid("endpoint %.80q: %v", s, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return invalid("endpoint %.80q: want a port from 1 to 65535", s)
	}
	if host == "" || len(host) > 253 {
		return invalid("endpoint %.80q: want a host of 1 to 253 characters", s)
	}
	for i := range len(host) {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == ':') {
			return invalid("endpoint %.80q: want a host name or an IP address", s)
		}
	}
	return nil
}

func (v View) check() error {
	for _, n := range []struct{ what, name string }{{"network", v.Network}, {"zone", v.Zone}, {"node", v.Node}} {
		if err := checkName(n.what, n.name); err != nil {
			return err
		}
	}
	if err := checkAddrs(v.Addresses); err != nil {
		return err
	}
	if err := checkPrefixes("ranges", v.Ranges, MaxRanges); err != nil {
		return err
	}
	if err := checkPrefixes("routes", v.Routes, MaxVias); err != nil {
		return err
	}
	for _, a := range v.Addresses {
		if !inside(a, v.Ranges) {
			return invalid("own address %s lies outside the zone's ranges", a)
		}
	}
	if v.PublicKey == (Key{}) || v.Class.IsZero() {
		return invalid("public key or class is unset")
	}
	if v.ListenPort == 0 || v.MTU < MinMTU || v.MTU > MaxMTU {
		return invalid("listen port %d or MTU %d is out of range", v.ListenPort, v.MTU)
	}
	return nil
}

func inside(a netip.Addr, ranges []netip.Prefix) bool {
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

func (c Class) check() error {
	if len(c.Groups) > MaxGroups || len(c.Rules) > MaxRules || len(c.Vias) > MaxVias {
		return invalid("%d groups, %d rules, %d vias; limits %d, %d, %d",
			len(c.Groups), len(c.Rules), len(c.Vias), MaxGroups, MaxRules, MaxVias)
	}
	seen := make(map[Digest]struct{})
	for i, g := range c.Groups {
		if len(g.Blocks) == 0 {
			return invalid("group %d is empty", i)
		}
		for _, d := range g.Blocks {
			if _, twice := seen[d]; twice || d.IsZero() {
				return invalid("group %d: block %s is unset or named twice", i, d)
			}
			seen[d] = struct{}{}
		}
	}
	vias := make([]netip.Prefix, len(c.Vias))
	for i, v := range c.Vias {
		if err := checkName("via peer", v.Peer); err != nil {
			return err
		}
		vias[i] = v.Prefix
	}
	if err := checkPrefixes("vias", vias, MaxVias); err != nil {
		return err
	}
	for i, r := range c.Rules {
		if err := r.check(len(c.Groups)); err != nil {
			return fmt.Errorf("rule %.80q: %w", r.ID, err)
		}
		if i > 0 && (c.Rules[i-1].Hook > r.Hook || c.Rules[i-1].Hook == r.Hook && c.Rules[i-1].ID > r.ID) {
			return invalid("rule %.80q is out of order", r.ID)
		}
	}
	return nil
}

func (r Rule) check(groups int) error {
	if r.ID == "" || len(r.ID) > MaxRuleID {
		return invalid("want an ID of 1 to %d characters", MaxRuleID)
	}
	if r.NotAfter < 0 {
		return invalid("notAfter %d is negative", r.NotAfter)
	}
	fromEmpty, toEmpty := r.From.empty(), r.To.empty()
	switch r.Hook {
	case HookInput:
		if fromEmpty || !toEmpty {
			return invalid("an input rule has a source and no destination")
		}
	case HookOutput:
		if !fromEmpty || toEmpty {
			return invalid("an output rule has a destination and no source")
		}
	case HookForward:
		if fromEmpty || toEmpty {
			return invalid("a forward rule has a source and a destination")
		}
	default:
		return invalid("unknown %s", r.Hook)
	}
	for _, s := range []Set{r.From, r.To} {
		if err := s.check(groups); err != nil {
			return err
		}
	}
	return checkPorts(r.Ports)
}

func (s Set) empty() bool { return len(s.Groups) == 0 && len(s.Prefixes) == 0 }

func (s Set) check(groups int) error {
	for i, g := range s.Groups {
		if int64(g) >= int64(groups) || i > 0 && s.Groups[i-1] >= g {
			return invalid("group index %d is out of range or out of order", g)
		}
	}
	return checkPrefixes("prefixes", s.Prefixes, MaxSetPrefixes)
}

// checkPorts wants ranges in ascending order that neither overlap nor touch within a protocol.
func checkPorts(ports []PortRange) error {
	if len(ports) > MaxRulePorts {
		return invalid("%d port ranges, limit %d", len(ports), MaxRulePorts)
	}
	for i, p := range ports {
		switch p.Protocol {
		case ICMP:
			if p.First != 0 || p.Last != 0 {
				return invalid("icmp has no ports")
			}
		case TCP, UDP:
			if p.First > p.Last {
				return invalid("port range %d-%d is reversed", p.First, p.Last)
			}
		default:
			return invalid("unknown protocol %d", p.Protocol)
		}
		if i == 0 {
			continue
		}
		q := ports[i-1]
		if q.Protocol > p.Protocol || q.Protocol == p.Protocol && int(q.Last)+1 >= int(p.First) {
			return invalid("port range %d-%d is out of order or joins the one before it", p.First, p.Last)
		}
	}
	return nil
}

func (b Block) check() error {
	if len(b.Peers) == 0 || len(b.Peers) > MaxBlockPeers {
		return invalid("%d peers, want 1 to %d", len(b.Peers), MaxBlockPeers)
	}
	for i, p := range b.Peers {
		if err := p.check(); err != nil {
			return fmt.Errorf("peer %.80q: %w", p.Name, err)
		}
		if i > 0 && b.Peers[i-1].Name >= p.Name {
			return invalid("peer %q is out of order or twice", p.Name)
		}
	}
	return nil
}

func (p Peer) check() error {
	if err := checkName("name", p.Name); err != nil {
		return err
	}
	if p.PublicKey == (Key{}) {
		return invalid("public key is unset")
	}
	if err := checkAddrs(p.Addresses); err != nil {
		return err
	}
	if len(p.Endpoints) > MaxPeerEndpoints {
		return invalid("%d endpoints, limit %d", len(p.Endpoints), MaxPeerEndpoints)
	}
	for _, e := range p.Endpoints {
		if err := checkEndpoint(e); err != nil {
			return err
		}
	}
	if p.NotAfter < 0 {
		return invalid("notAfter %d is negative", p.NotAfter)
	}
	return nil
}

// Check says whether p could stand in a block: ErrInvalid with the reason if not. Encoding a block checks every peer;
// this is for a caller who wants to name the peer's source.
func (p Peer) Check() error { return p.check() }
