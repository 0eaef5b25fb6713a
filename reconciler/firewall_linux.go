package reconciler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	nl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxElements is how many set elements go into one message: the attribute's length has 16 bits, and what is beyond is
// lost without an error. It is even, so that the two ends of an interval stay together.
const maxElements = 500

// nftBuffer is the size of the socket buffers: a batch larger than the default fails with "message too long".
const nftBuffer = 8 << 20

// linuxFirewall keeps tables of family inet in nftables. Transactions use a socket each; gen is kept for the cheap and
// frequent question for the generation.
type linuxFirewall struct {
	mu  sync.Mutex
	gen *nl.Conn
}

func (f *linuxFirewall) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gen == nil {
		return nil
	}
	err := f.gen.Close()
	f.gen = nil
	return err
}

func openNFT() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(
		func(c *nl.Conn) error { return c.SetReadBuffer(nftBuffer) },
		func(c *nl.Conn) error { return c.SetWriteBuffer(nftBuffer) },
	))
}

func (f *linuxFirewall) Generation(context.Context) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gen == nil {
		c, err := nl.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return 0, explain(err)
		}
		f.gen = c
	}
	replies, err := f.gen.Execute(nl.Message{
		Header: nl.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: nl.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		_ = f.gen.Close()
		f.gen = nil
		return 0, explain(err)
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := nl.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("nftables told no generation")
}

func (f *linuxFirewall) Table(_ context.Context, name string) (Table, error) {
	c, err := openNFT()
	if err != nil {
		return Table{}, explain(err)
	}
	t, err := findTable(c, name)
	if t == nil || err != nil {
		return Table{}, explain(err)
	}
	out := Table{Exists: true, Sets: make(map[string][]Range)}
	chains, err := tableChains(c, name)
	if err != nil {
		return Table{}, explain(err)
	}
	sets, err := c.GetSets(t)
	if err != nil {
		return Table{}, explain(err)
	}
	slices.SortFunc(sets, func(a, b *nftables.Set) int { return cmp.Compare(a.Name, b.Name) })
	form := newForm()
	for _, s := range sets {
		form.set(s)
		elements, err := c.GetSetElements(s)
		if err != nil {
			return Table{}, explain(err)
		}
		out.Sets[s.Name] = rangesOf(elements, s.Interval)
	}
	known := false
	for _, chain := range chains {
		known = known || slices.Contains(chainNames(), chain.Name)
		rules, err := c.GetRules(t, chain)
		if err != nil {
			return Table{}, explain(err)
		}
		if err := form.chain(chain, rules); err != nil {
			return Table{}, err
		}
	}
	out.Foreign = !known && len(chains)+len(sets) > 0
	out.Form = form.sum()
	return out, nil
}

func findTable(c *nftables.Conn, name string) (*nftables.Table, error) {
	t, err := c.ListTableOfFamily(name, nftables.TableFamilyINet)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return t, err
}

func tableChains(c *nftables.Conn, name string) ([]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(all, func(ch *nftables.Chain) bool { return ch.Table.Name != name })
	slices.SortFunc(out, func(a, b *nftables.Chain) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// form digests the parts of a table that its rules are made of, so that what was written and what is read compare equal
// exactly when they do the same.
type form struct{ h hash.Hash }

func newForm() form { return form{sha256.New()} }

func (f form) sum() string { return hex.EncodeToString(f.h.Sum(nil)) }

func (f form) set(s *nftables.Set) {
	fmt.Fprintf(f.h, "set %q %d %t\n", s.Name, s.KeyType.Bytes, s.Interval)
}

func (f form) chain(c *nftables.Chain, rules []*nftables.Rule) error {
	fmt.Fprintf(f.h, "chain %q", c.Name)
	if c.Hooknum != nil && c.Priority != nil {
		fmt.Fprintf(f.h, " %s %d %d", c.Type, *c.Hooknum, *c.Priority)
	}
	if c.Policy != nil {
		fmt.Fprintf(f.h, " %d", *c.Policy)
	}
	for _, r := range rules {
		fmt.Fprintf(f.h, "\nrule %q", r.UserData)
		for _, e := range r.Exprs {
			switch x := e.(type) {
			case *expr.Counter:
				e = &expr.Counter{}
			case *expr.Lookup:
				y := *x
				y.SetID = 0
				e = &y
			}
			b, err := expr.Marshal(byte(nftables.TableFamilyINet), e)
			if err != nil {
				return fmt.Errorf("encode a firewall rule: %w", err)
			}
			fmt.Fprintf(f.h, " %x", b)
		}
	}
	f.h.Write([]byte{'\n'})
	return nil
}

// Form builds r as Replace would, and digests it.
func (f *linuxFirewall) Form(r Ruleset) (string, error) {
	b := newTableBuilder(&r)
	form := newForm()
	sets := slices.Clone(b.sets)
	slices.SortFunc(sets, func(a, b *nftables.Set) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range sets {
		form.set(s)
	}
	chains := slices.Clone(b.chains)
	slices.SortFunc(chains, func(a, b builtChain) int { return cmp.Compare(a.chain.Name, b.chain.Name) })
	for _, c := range chains {
		if err := form.chain(c.chain, c.rules); err != nil {
			return "", err
		}
	}
	return form.sum(), nil
}

func (f *linuxFirewall) Replace(_ context.Context, r Ruleset) error {
	c, err := openNFT()
	if err != nil {
		return explain(err)
	}
	b := newTableBuilder(&r)
	// Adding first makes the deletion succeed whether or not the table stands; all of it is one transaction.
	c.AddTable(b.table)
	c.DelTable(b.table)
	c.AddTable(b.table)
	for i, s := range b.sets {
		if err := c.AddSet(s, nil); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
		if err := eachChunk(elementsOf(r.Sets[i].Elements, s.Interval), func(part []nftables.SetElement) error {
			return c.SetAddElements(s, part)
		}); err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
	}
	for _, chain := range b.chains { // all of them before a rule that jumps
		c.AddChain(chain.chain)
	}
	for _, chain := range b.chains {
		for _, rule := range chain.rules {
			c.AddRule(rule)
		}
	}
	return explain(c.Flush())
}

func (f *linuxFirewall) UpdateSets(_ context.Context, table string, updates []SetUpdate) error {
	c, err := openNFT()
	if err != nil {
		return explain(err)
	}
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	for _, u := range updates {
		s := &nftables.Set{Table: t, Name: u.Set, KeyType: keyType(u.V6)}
		if err := eachChunk(elementsOf(u.Add, false), func(part []nftables.SetElement) error {
			return c.SetAddElements(s, part)
		}); err != nil {
			return fmt.Errorf("set %s: %w", u.Set, err)
		}
		if err := eachChunk(elementsOf(u.Remove, false), func(part []nftables.SetElement) error {
			return c.SetDeleteElements(s, part)
		}); err != nil {
			return fmt.Errorf("set %s: %w", u.Set, err)
		}
	}
	return explain(c.Flush())
}

func eachChunk(list []nftables.SetElement, f func([]nftables.SetElement) error) error {
	for part := range slices.Chunk(list, maxElements) {
		if err := f(part); err != nil {
			return err
		}
	}
	return nil
}

func (f *linuxFirewall) Delete(_ context.Context, table string) error {
	c, err := openNFT()
	if err != nil {
		return explain(err)
	}
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	c.AddTable(t)
	c.DelTable(t)
	return explain(c.Flush())
}

func (f *linuxFirewall) Counters(_ context.Context, table string) ([]RuleCounter, error) {
	c, err := openNFT()
	if err != nil {
		return nil, explain(err)
	}
	t, err := findTable(c, table)
	if t == nil || err != nil {
		return nil, explain(err)
	}
	chains, err := tableChains(c, table)
	if err != nil {
		return nil, explain(err)
	}
	var out []RuleCounter
	for _, chain := range chains {
		rules, err := c.GetRules(t, chain)
		if err != nil {
			return nil, explain(err)
		}
		for _, r := range rules {
			id, named := userdata.GetString(r.UserData, userdata.TypeComment)
			for _, e := range r.Exprs {
				if n, ok := e.(*expr.Counter); ok && named {
					out = append(out, RuleCounter{ID: id, Packets: n.Packets, Bytes: n.Bytes})
				}
			}
		}
	}
	return out, nil
}

func keyType(v6 bool) nftables.SetDatatype {
	if v6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// elementsOf turns ranges into set elements: hosts into keys, intervals into a first key and an exclusive end.
func elementsOf(ranges []Range, interval bool) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(ranges))
	for _, r := range ranges {
		out = append(out, nftables.SetElement{Key: r.First.AsSlice()})
		if !interval {
			continue
		}
		if end := r.Last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	// An open end leaves a lone element, which would shift the pairs of what follows; it is the last range there is.
	return out
}

// rangesOf is the reverse of elementsOf for elements in any order.
func rangesOf(elements []nftables.SetElement, interval bool) []Range {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if c := slices.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		switch {
		case a.IntervalEnd == b.IntervalEnd:
			return 0
		case a.IntervalEnd:
			return -1
		}
		return 1
	})
	out := make([]Range, 0, len(elements))
	for _, e := range elements {
		a, ok := netip.AddrFromSlice(e.Key)
		switch {
		case !ok:
		case e.IntervalEnd:
			if n := len(out); n > 0 {
				out[n-1].Last = a.Prev()
			}
		case interval:
			out = append(out, Range{a, lastAddr(a)}) // until its end is seen; the last range may have none
		default:
			out = append(out, Range{a, a})
		}
	}
	return out
}

func lastAddr(a netip.Addr) netip.Addr { return rangeOf(netip.PrefixFrom(a, 0)).Last }
