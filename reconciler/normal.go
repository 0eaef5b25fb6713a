package reconciler

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Limits of a State. They lie above what a compiled zone can ask for; what exceeds them is a mistake.
const (
	maxInterfaceName = 15 // IFNAMSIZ less its zero byte
	maxOwner         = 200
	maxID            = 256
	maxRuleID        = 128
	maxKeepalive     = 65535 * time.Second
	maxPeers         = 65536 // of wireguard-go
	minMTU           = 576
)

const namePrefix = "apex-"

// InterfaceName is the default interface name of a zone: "apex-<zone>", and where that is longer than 15 bytes, the
// zone's first five bytes and five characters of its SHA-256, so that the name is the same on every run.
func InterfaceName(zone string) string {
	if n := namePrefix + zone; len(n) <= maxInterfaceName {
		return n
	}
	sum := sha256.Sum256([]byte(zone))
	digest := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))
	return namePrefix + zone[:5] + digest[:5]
}

// TableName is the nftables table that belongs to an interface: the interface's name, always starting with "apex-".
func TableName(iface string) string {
	if strings.HasPrefix(iface, namePrefix) {
		return iface
	}
	return namePrefix + iface
}

// normalise checks s and returns it with every list sorted and without duplicates, prefixes masked, keepalives in whole
// seconds. Peers are sorted by key. Slices that are in order already are shared with s, not copied. base is a state that
// was normalised before, or nil: peers that are the same in it were checked against each other then.
func normalise(s State, base *State) (State, error) {
	var bad problems
	s.publicKey = Key{}
	if s.Interface.PrivateKey.IsZero() {
		bad.fail("interface %s has no private key", s.Interface.Name)
	} else if pub, err := s.Interface.PrivateKey.Public(); err != nil {
		bad.fail("interface %s: %w", s.Interface.Name, err)
	} else {
		s.publicKey = pub
	}
	return normaliseRest(s, base, &bad)
}

// normaliseStored is normalise for a state that was read from disk and therefore has no private key.
func normaliseStored(s State) (State, error) {
	var bad problems
	if s.publicKey == (Key{}) {
		bad.fail("interface %s has no public key", s.Interface.Name)
	}
	return normaliseRest(s, nil, &bad)
}

func normaliseRest(s State, base *State, bad *problems) (State, error) {
	if len(s.ID) > maxID {
		bad.fail("id is %d bytes long, at most %d are allowed", len(s.ID), maxID)
	}
	checkInterface(s.Interface, bad.fail)
	s.Addresses = normalAddresses(s.Addresses, bad.fail)
	s.Peers = normalPeers(s.Peers, base, bad.fail)
	s.Routes = normalRoutes(s.Routes, bad.fail)
	s.Forward = normalPrefixes(s.Forward, "forward", bad.fail)
	s.Firewall = normalFirewall(s.Firewall, bad.fail)
	if err := bad.err(); err != nil {
		return State{}, fmt.Errorf("%w: %w", ErrInvalidState, err)
	}
	return s, nil
}

// problems collects everything that is wrong with a state, up to a number a person reads.
type problems struct {
	list *multierror.Error
	more int
}

const maxProblems = 20

func (p *problems) fail(format string, a ...any) {
	if p.list != nil && len(p.list.Errors) >= maxProblems {
		p.more++
		return
	}
	p.list = multierror.Append(p.list, fmt.Errorf(format, a...))
}

func (p *problems) err() error {
	if p.list == nil {
		return nil
	}
	p.list.ErrorFormat = func(es []error) string {
		parts := make([]string, len(es), len(es)+1)
		for i, e := range es {
			parts[i] = e.Error()
		}
		if p.more > 0 {
			parts = append(parts, fmt.Sprintf("and %d more", p.more))
		}
		return strings.Join(parts, "; ")
	}
	return p.list.ErrorOrNil()
}

func checkInterface(i Interface, fail func(string, ...any)) {
	if err := checkInterfaceName(i.Name); err != nil {
		fail("%w", err)
	}
	if i.MTU < minMTU || i.MTU > 65535 {
		fail("interface %s: MTU %d is outside %d to 65535", i.Name, i.MTU, minMTU)
	}
}

func checkInterfaceName(n string) error {
	if n == "" || len(n) > maxInterfaceName || n == "." || n == ".." {
		return fmt.Errorf("interface name %q: want 1 to %d bytes", n, maxInterfaceName)
	}
	for _, c := range []byte(n) {
		if c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' || c == '"' || c == '\\' {
			return fmt.Errorf("interface name %q: the character %q is not allowed", n, c)
		}
	}
	return nil
}

func normalAddresses(in []netip.Prefix, fail func(string, ...any)) []netip.Prefix {
	for _, p := range in {
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() {
			fail("address %s cannot be put on an interface", p)
		}
	}
	return sortedUnique(in, comparePrefix)
}

func normalPeers(in []Peer, base *State, fail func(string, ...any)) []Peer {
	if len(in) > maxPeers {
		fail("%d peers are more than the %d a device can hold", len(in), maxPeers)
		return nil
	}
	out := sortedPeers(in)
	copied := false
	edit := func() {
		if !copied {
			out, copied = slices.Clone(out), true
		}
	}
	changed := changedPeers(out, base)
	for _, i := range changed {
		p := &out[i]
		checkPeer(p, fail)
		if k := p.Keepalive.Truncate(time.Second); k != p.Keepalive {
			edit()
			out[i].Keepalive = k
		}
		if a := sortedUnique(p.AllowedIPs, comparePrefix); !sameSlice(a, p.AllowedIPs) {
			edit()
			out[i].AllowedIPs = a
		}
	}
	for i := 1; i < len(out); i++ {
		if out[i].PublicKey == out[i-1].PublicKey {
			fail("peers %s and %s have the same public key", out[i-1].label(), out[i].label())
		}
	}
	checkClaims(out, changed, fail)
	return out
}

// sortedPeers sorts by key; peers in order are returned as they are.
func sortedPeers(in []Peer) []Peer {
	if slices.IsSortedFunc(in, comparePeer) {
		return in
	}
	out := slices.Clone(in)
	slices.SortFunc(out, comparePeer)
	return out
}

// changedPeers are the indexes of peers that are not just so in base.
func changedPeers(peers []Peer, base *State) []int {
	var before []Peer
	if base != nil {
		before = base.Peers
	}
	if sameSlice(peers, before) {
		return nil
	}
	var out []int
	j := 0
	for i := range peers {
		for j < len(before) && comparePeer(before[j], peers[i]) < 0 {
			j++
		}
		if j == len(before) || !equalPeers(&before[j], &peers[i]) {
			out = append(out, i)
		}
	}
	return out
}

func checkPeer(p *Peer, fail func(string, ...any)) {
	if p.PublicKey == (Key{}) {
		fail("peer %s has no public key", p.Name)
	}
	for _, a := range p.AllowedIPs {
		if !a.IsValid() || a.Addr().Is4In6() || a != a.Masked() {
			fail("peer %s: allowed IP %s is not a masked prefix", p.label(), a)
		}
	}
	if p.Keepalive < 0 || p.Keepalive > maxKeepalive {
		fail("peer %s: keepalive %s is outside 0 to 65535 s", p.label(), p.Keepalive)
	}
	if e := p.Endpoint; e.IsValid() && (e.Port() == 0 || e.Addr().IsUnspecified() || e.Addr().Is4In6()) {
		fail("peer %s: endpoint %s has no port, no address or an IPv4-mapped one", p.label(), e)
	}
}

// checkClaims refuses an allowed IP of two peers. Only the changed ones can have brought that about.
func checkClaims(peers []Peer, changed []int, fail func(string, ...any)) {
	claims := make(map[netip.Prefix]int, len(changed))
	for _, i := range changed {
		for _, a := range peers[i].AllowedIPs {
			claims[a] = i
		}
	}
	if len(claims) == 0 {
		return
	}
	for i := range peers {
		for _, a := range peers[i].AllowedIPs {
			if j, ok := claims[a]; ok && j != i {
				fail("peers %s and %s both claim %s", peers[i].label(), peers[j].label(), a)
			}
		}
	}
}

func (p *Peer) label() string {
	if p.Name != "" {
		return p.Name
	}
	return p.PublicKey.String()
}

func normalRoutes(in []Route, fail func(string, ...any)) []Route {
	for _, r := range in {
		if !r.Prefix.IsValid() || r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Is4In6() {
			fail("route %s is not a masked prefix", r.Prefix)
		}
	}
	return sortedUnique(in, func(a, b Route) int { return comparePrefix(a.Prefix, b.Prefix) })
}

func normalPrefixes(in []netip.Prefix, what string, fail func(string, ...any)) []netip.Prefix {
	for _, p := range in {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			fail("%s prefix %s is not a masked prefix", what, p)
		}
	}
	return sortedUnique(in, comparePrefix)
}

func normalFirewall(f Firewall, fail func(string, ...any)) Firewall {
	sets := make([][]netip.Prefix, len(f.Sets))
	for i, s := range f.Sets {
		sets[i] = normalPrefixes(s, fmt.Sprintf("firewall set %d:", i), fail)
	}
	f.Sets = sets
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.ID == "" || len(r.ID) > maxRuleID || strings.ContainsFunc(r.ID, func(c rune) bool { return c < ' ' || c > '~' || c == '"' }) {
			fail("firewall rule %q: an ID is 1 to %d printable ASCII characters without quotes", r.ID, maxRuleID)
		}
		if r.Hook < Input || r.Hook > Forward {
			fail("firewall rule %s: unknown hook %d", r.ID, r.Hook)
		}
		for _, i := range slices.Concat(r.From, r.To) {
			if i < 0 || i >= len(f.Sets) {
				fail("firewall rule %s: there is no set %d", r.ID, i)
			}
		}
		for _, p := range r.Ports {
			switch {
			case p.Protocol == protoICMP && p.First == 0 && p.Last == 0:
			case (p.Protocol == protoTCP || p.Protocol == protoUDP) && p.First <= p.Last:
			default:
				fail("firewall rule %s: port %d/%d-%d is not TCP, UDP or ICMP with a range", r.ID, p.Protocol, p.First, p.Last)
			}
		}
	}
	return f
}

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// sortedUnique returns in itself when it is sorted without duplicates, else a sorted copy without them.
func sortedUnique[T any](in []T, compare func(a, b T) int) []T {
	strict := true
	for i := 1; i < len(in) && strict; i++ {
		strict = compare(in[i-1], in[i]) < 0
	}
	if strict {
		return in
	}
	out := slices.Clone(in)
	slices.SortFunc(out, compare)
	return slices.CompactFunc(out, func(a, b T) bool { return compare(a, b) == 0 })
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

func comparePeer(a, b Peer) int { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) }

// equalStates reports whether two normalised states ask the same of the host. IDs and peer names do not count.
func equalStates(a, b *State) bool {
	return sameKey(a, b) && a.Interface.Name == b.Interface.Name &&
		a.Interface.ListenPort == b.Interface.ListenPort && a.Interface.MTU == b.Interface.MTU &&
		slices.Equal(a.Addresses, b.Addresses) &&
		slices.Equal(a.Routes, b.Routes) && slices.Equal(a.Forward, b.Forward) &&
		equalPeerLists(a.Peers, b.Peers) && equalFirewalls(&a.Firewall, &b.Firewall)
}

// sameKey compares by public key where both are known (a stored state has no other), else by private key.
func sameKey(a, b *State) bool {
	if a.publicKey != (Key{}) && b.publicKey != (Key{}) {
		return a.publicKey == b.publicKey
	}
	return !a.Interface.PrivateKey.IsZero() && a.Interface.PrivateKey == b.Interface.PrivateKey
}

func equalPeerLists(a, b []Peer) bool {
	if len(a) != len(b) {
		return false
	}
	if sameSlice(a, b) {
		return true
	}
	for i := range a {
		if !equalRecords(&a[i], &b[i]) {
			return false
		}
	}
	return true
}

// equalRecords compares all of two peers but their names; equalPeers what a device holds of them.
func equalRecords(a, b *Peer) bool { return a.NotAfter == b.NotAfter && equalPeers(a, b) }

func equalPeers(a, b *Peer) bool {
	return a.PublicKey == b.PublicKey && a.Endpoint == b.Endpoint && a.Keepalive == b.Keepalive &&
		equalPrefixes(a.AllowedIPs, b.AllowedIPs)
}

func equalPrefixes(a, b []netip.Prefix) bool { return sameSlice(a, b) || slices.Equal(a, b) }

func equalFirewalls(a, b *Firewall) bool {
	return slices.EqualFunc(a.Rules, b.Rules, equalRules) &&
		slices.EqualFunc(a.Sets, b.Sets, equalPrefixes)
}

func equalRules(a, b Rule) bool {
	return a.ID == b.ID && a.Hook == b.Hook && slices.Equal(a.From, b.From) && slices.Equal(a.To, b.To) &&
		slices.Equal(a.Ports, b.Ports) && a.NotAfter == b.NotAfter
}
