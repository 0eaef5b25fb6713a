package reconciler

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// The chains of a table: one per hook, and one per kind of flow with its rules. Packets of other interfaces are accepted
// at once, which in nftables leaves them to the other tables; ours then go, in this order, through
//
//	invalid            dropped
//	related ICMP       accepted: errors about a flow that was let through
//	in a flow's own direction    input → allow-input, output → allow-output, forward → allow-forward
//	replies                      input → reply-output, output → reply-input, forward → reply-forward
//	anything else      dropped
//
// A reply chain holds the rules of its allow chain turned round, source for destination. Every packet meets the rules,
// not only the first of a flow: a rule that is withdrawn ends the flows it let through at once, in both directions, even
// where nobody waits for an answer.
const (
	chainInput   = "apex-input"
	chainOutput  = "apex-output"
	chainForward = "apex-forward"
	allowPrefix  = "allow-"
	replyPrefix  = "reply-"
)

func chainNames() []string { return []string{chainInput, chainOutput, chainForward} }

type builtChain struct {
	chain *nftables.Chain
	rules []*nftables.Rule
}

// tableBuilder is a ruleset as nftables objects.
type tableBuilder struct {
	table  *nftables.Table
	sets   []*nftables.Set
	byName map[string]*nftables.Set
	chains []builtChain
}

func newTableBuilder(r *Ruleset) *tableBuilder {
	b := &tableBuilder{table: &nftables.Table{Name: r.Table, Family: nftables.TableFamilyINet}, byName: make(map[string]*nftables.Set)}
	for i, s := range r.Sets {
		set := &nftables.Set{Table: b.table, ID: uint32(i + 1), Name: s.Name, KeyType: keyType(s.V6), Interval: s.Interval}
		b.sets = append(b.sets, set)
		b.byName[s.Name] = set
	}
	ours := ifname(r.Interface)
	in := b.add(chainInput, nftables.ChainHookInput)
	for _, a := range r.Self {
		in.rule(dropStray, meta(expr.MetaKeyIIFNAME), neq(ours), meta(expr.MetaKeyIIFNAME), neq(ifname("lo")), toAddr(a), counter(), drop())
	}
	in.rule("", meta(expr.MetaKeyIIFNAME), neq(ours), accept())
	in.flows(allowPrefix+Input.String(), replyPrefix+Output.String(), dropInput)
	out := b.add(chainOutput, nftables.ChainHookOutput)
	out.rule("", meta(expr.MetaKeyOIFNAME), neq(ours), accept())
	out.flows(allowPrefix+Output.String(), replyPrefix+Input.String(), dropOutput)
	fwd := b.add(chainForward, nftables.ChainHookForward)
	fwd.rule("", meta(expr.MetaKeyIIFNAME), neq(ours), meta(expr.MetaKeyOIFNAME), neq(ours), accept())
	fwd.flows(allowPrefix+Forward.String(), replyPrefix+Forward.String(), dropForward)
	for _, hook := range []Hook{Input, Output, Forward} {
		allow := &chainBuilder{b: b, builtChain: builtChain{chain: &nftables.Chain{Name: allowPrefix + hook.String(), Table: b.table}}}
		reply := &chainBuilder{b: b, builtChain: builtChain{chain: &nftables.Chain{Name: replyPrefix + hook.String(), Table: b.table}}}
		for i := range r.Rules {
			if f := &r.Rules[i]; f.Hook == hook {
				allow.filter(f, false)
				reply.filter(f, true)
			}
		}
		b.chains = append(b.chains, allow.builtChain, reply.builtChain)
	}
	b.chains = append(b.chains, in.builtChain, out.builtChain, fwd.builtChain)
	return b
}

// chainBuilder adds rules to one chain.
type chainBuilder struct {
	b *tableBuilder
	builtChain
}

func (b *tableBuilder) add(name string, hook *nftables.ChainHook) *chainBuilder {
	// The policy stays accept: it is of every interface, and a table whose rules are flushed must not cut off the host.
	policy := nftables.ChainPolicyAccept
	return &chainBuilder{b: b, builtChain: builtChain{chain: &nftables.Chain{
		Name: name, Table: b.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	}}}
}

// match is one or more expressions; rules are made of several.
type match []expr.Any

func (c *chainBuilder) rule(comment string, parts ...match) {
	r := &nftables.Rule{Table: c.b.table, Chain: c.chain}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	if comment != "" {
		r.UserData = userdata.AppendString(nil, userdata.TypeComment, comment)
	}
	c.rules = append(c.rules, r)
}

// flows sends packets to the rules for flows in their own direction and to those for replies; what comes back is dropped.
func (c *chainBuilder) flows(own, replies, dropID string) {
	c.rule(dropInvalid, ctState(expr.CtStateBitINVALID), counter(), drop())
	for _, proto := range []byte{protoICMP, protoICMPv6} {
		c.rule("related", ctState(expr.CtStateBitRELATED), meta(expr.MetaKeyL4PROTO), eq([]byte{proto}), counter(), accept())
	}
	c.rule("", direction(ctOriginal), jump(own))
	c.rule("", direction(ctReply), jump(replies))
	c.rule(dropID, counter(), drop())
}

// Directions of a packet in its flow: IP_CT_DIR_ORIGINAL and IP_CT_DIR_REPLY.
const (
	ctOriginal = 0
	ctReply    = 1
)

func direction(d byte) match {
	return match{&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{d}}}
}

func jump(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

// filter adds the nftables rules for one filter rule: one, or two where ICMP of both families is meant. With reply it is
// turned round.
func (c *chainBuilder) filter(f *FilterRule, reply bool) {
	head := match{}
	switch {
	case f.V4 && !f.V6:
		head = append(meta(expr.MetaKeyNFPROTO), eq([]byte{unix.NFPROTO_IPV4})...)
	case f.V6 && !f.V4:
		head = append(meta(expr.MetaKeyNFPROTO), eq([]byte{unix.NFPROTO_IPV6})...)
	}
	if f.From != "" {
		head = append(head, c.lookup(f.From, f.V6, !reply)...)
	}
	if f.To != "" {
		head = append(head, c.lookup(f.To, f.V6, reply)...)
	}
	if f.Port == nil {
		c.rule(f.ID, head, counter(), accept())
		return
	}
	if f.Port.Protocol != protoICMP {
		c.rule(f.ID, head, meta(expr.MetaKeyL4PROTO), eq([]byte{f.Port.Protocol}), ports(*f.Port, reply), counter(), accept())
		return
	}
	if f.V4 {
		c.rule(f.ID, head, meta(expr.MetaKeyL4PROTO), eq([]byte{protoICMP}), counter(), accept())
	}
	if f.V6 {
		c.rule(f.ID, head, meta(expr.MetaKeyL4PROTO), eq([]byte{protoICMPv6}), counter(), accept())
	}
}

func (c *chainBuilder) lookup(set string, v6, source bool) match {
	return append(address(v6, source), &expr.Lookup{SourceRegister: 1, SetName: set, SetID: c.b.byName[set].ID})
}

// address loads the source or destination address of the packet.
func address(v6, source bool) match {
	offset, length := uint32(12), uint32(4)
	if v6 {
		offset, length = 8, 16
	}
	if !source {
		offset += length
	}
	return match{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}}
}

func toAddr(a netip.Addr) match {
	family := byte(unix.NFPROTO_IPV4)
	if a.Is6() {
		family = unix.NFPROTO_IPV6
	}
	m := append(meta(expr.MetaKeyNFPROTO), eq([]byte{family})...)
	m = append(m, address(a.Is6(), false)...)
	return append(m, eq(a.AsSlice())...)
}

// ports matches the destination port, or the source port of a reply; a range of all ports needs no match.
func ports(p Port, reply bool) match {
	if p.First == 0 && p.Last == 65535 {
		return nil
	}
	offset := uint32(2)
	if reply {
		offset = 0
	}
	m := match{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2}}
	if p.First == p.Last {
		return append(m, eq(binaryutil.BigEndian.PutUint16(p.First))...)
	}
	return append(m,
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p.Last)})
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func ctState(bits uint32) match {
	return match{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func meta(key expr.MetaKey) match { return match{&expr.Meta{Key: key, Register: 1}} }
func eq(b []byte) match           { return match{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b}} }
func neq(b []byte) match          { return match{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: b}} }
func counter() match              { return match{&expr.Counter{}} }
func accept() match               { return match{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() match                 { return match{&expr.Verdict{Kind: expr.VerdictDrop}} }
