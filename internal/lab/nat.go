//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// NAT is how a Router treats what passes between its inside and its outside. In every kind but Open, new connections
// from the outside are dropped, to the router itself and through it; both address families are treated alike.
type NAT int

// The kinds of NAT, in the words of RFC 3489 and RFC 4787.
const (
	// Open routes without translation or filter.
	Open NAT = iota
	// Firewalled routes without translation but lets only replies in, as home routers do for IPv6.
	Firewalled
	// Cone is a port-restricted cone: one outside port per inside socket, open to addresses and ports it has written to.
	Cone
	// Symmetric takes another, random, outside port for every destination.
	Symmetric
	// FullCone is a Cone whose outside UDP port, once used, is open to everybody. If two inside sockets use the same port
	// number, it belongs to the first.
	FullCone
)

func (n NAT) String() string {
	names := []string{"open", "firewalled", "cone", "symmetric", "full cone"}
	if n < 0 || int(n) >= len(names) {
		return fmt.Sprintf("nat(%d)", int(n))
	}
	return names[n]
}

// Router is a host that forwards between an outside and one or more insides.
type Router struct {
	*Host
	Outside *Interface
	Insides []*Interface
}

// Router makes a router: on each inside it holds the gateway addresses, on the outside a free one of each prefix. It
// has no default route.
func (l *Lab) Router(ctx context.Context, name string, nat NAT, outside *Switch, insides ...*Switch) (*Router, error) {
	h, err := l.Host(name)
	if err != nil {
		return nil, err
	}
	r := &Router{Host: h}
	if r.Outside, err = h.Attach(ctx, outside); err != nil {
		return nil, err
	}
	for _, sw := range insides {
		iface, err := h.Attach(ctx, sw, sw.Gateways()...)
		if err != nil {
			return nil, err
		}
		r.Insides = append(r.Insides, iface)
	}
	if err := h.Forwarding(ctx, true); err != nil {
		return nil, err
	}
	if err := r.SetNAT(ctx, nat); err != nil {
		return nil, err
	}
	return r, nil
}

// SetNAT replaces the router's NAT. Mappings that are open stay open until their traffic stops.
func (r *Router) SetNAT(ctx context.Context, nat NAT) error {
	return r.Do(ctx, func() error {
		conn, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open nftables: %w", err)
		}
		b := &natBuilder{conn: conn, outside: r.Outside.Name}
		// Added first, so that deleting it succeeds whether or not it was there.
		b.table = conn.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet})
		conn.DelTable(b.table)
		if nat != Open {
			conn.AddTable(b.table)
			b.build(nat)
		}
		if err := errors.Join(b.err, conn.Flush()); err != nil {
			return fmt.Errorf("set up %s NAT: %w", nat, err)
		}
		return nil
	})
}

// natBuilder collects the one transaction of SetNAT.
type natBuilder struct {
	conn    *nftables.Conn
	table   *nftables.Table
	outside string
	err     error
}

func (b *natBuilder) build(nat NAT) {
	// Dropping new connections at the router itself matters for punching: a conntrack entry left by a stray packet would
	// occupy the outside port that the inside socket is about to get.
	input := b.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	b.rule(input, b.fromOutside(), newFlow(), drop())
	forward := b.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	b.rule(forward, b.fromOutside(), newFlow(), notForwardedPort(), drop())
	if nat == Firewalled {
		return
	}
	post := b.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.rule(post, b.toOutside(), []expr.Any{&expr.Masq{FullyRandom: nat == Symmetric}})
	if nat == FullCone {
		pre := b.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
		for _, f := range coneFamilies() {
			b.fullCone(forward, pre, f)
		}
	}
}

func (b *natBuilder) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: kind, Hooknum: hook, Priority: prio})
}

func (b *natBuilder) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var exprs []expr.Any
	for _, p := range parts {
		exprs = append(exprs, p...)
	}
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: exprs})
}

func (b *natBuilder) fromOutside() []expr.Any { return matchInterface(expr.MetaKeyIIFNAME, b.outside) }
func (b *natBuilder) toOutside() []expr.Any   { return matchInterface(expr.MetaKeyOIFNAME, b.outside) }

func matchInterface(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

// newFlow matches packets that conntrack calls new. Neighbour discovery is untracked and passes.
func newFlow() []expr.Any {
	return matchBits(expr.CtKeySTATE, expr.CtStateBitNEW, expr.CmpOpNeq)
}

// notForwardedPort matches flows whose destination the full cone has not rewritten.
func notForwardedPort() []expr.Any {
	const destinationNAT = 1 << 5 // IPS_DST_NAT
	return matchBits(expr.CtKeySTATUS, destinationNAT, expr.CmpOpEq)
}

// matchBits compares the masked value of a conntrack key with zero.
func matchBits(key expr.CtKey, mask uint32, op expr.CmpOp) []expr.Any {
	zero := make([]byte, 4)
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: zero},
		&expr.Cmp{Op: op, Register: 1, Data: zero},
	}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// coneFamily is where one address family keeps what a full cone needs. The map's data is the inside address followed
// by the inside port, so the port's register is the 32-bit one right behind the address that starts in register 1.
type coneFamily struct {
	name                   string
	protocol               byte
	addrType               nftables.SetDatatype
	addrOffset, addrLength uint32 // of the source address in the network header
	portRegister           uint32
}

func coneFamilies() []coneFamily {
	return []coneFamily{
		{"cone4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 12, 4, unix.NFT_REG32_01},
		{"cone6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 8, 16, unix.NFT_REG32_04},
	}
}

// fullCone learns outside port → inside socket from what leaves (masquerade keeps port numbers unless they clash), and
// sends new flows to that port inside.
func (b *natBuilder) fullCone(forward, pre *nftables.Chain, f coneFamily) {
	const keyRegister = unix.NFT_REG_4
	ports := &nftables.Set{
		Table: b.table, Name: f.name, IsMap: true, Dynamic: true, HasTimeout: true, Timeout: 5 * time.Minute, Size: 65535,
		KeyType: nftables.TypeInetService, DataType: nftables.MustConcatSetType(f.addrType, nftables.TypeInetService),
	}
	b.err = errors.Join(b.err, b.conn.AddSet(ports, nil))
	udp := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.protocol}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
	}
	port := func(offset, register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}
	}
	b.rule(forward, b.toOutside(), udp, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: f.addrOffset, Len: f.addrLength},
		port(0, f.portRegister),
		port(0, keyRegister),
		&expr.Dynset{SrcRegKey: keyRegister, SrcRegData: 1, SetName: ports.Name, SetID: ports.ID, Operation: unix.NFT_DYNSET_OP_ADD},
	})
	b.rule(pre, b.fromOutside(), udp, []expr.Any{
		port(2, keyRegister),
		&expr.Lookup{SourceRegister: keyRegister, DestRegister: 1, IsDestRegSet: true, SetName: ports.Name, SetID: ports.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.protocol), RegAddrMin: 1, RegProtoMin: f.portRegister, Specified: true},
	})
}
