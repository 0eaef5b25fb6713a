//go:build linux

package lab

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// nftLines describes every nftables table of the calling thread's network namespace. A rule is the list of its
// expressions as the library decodes them, in order; rules of one chain are numbered, because their order matters.
func nftLines() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var out []string
	for _, t := range tables {
		prefix := fmt.Sprintf("nft %d %s", t.Family, t.Name)
		out = append(out, prefix)
		for _, c := range chains {
			if c.Table.Name != t.Name || c.Table.Family != t.Family {
				continue
			}
			lines, err := chainLines(conn, prefix+" chain "+c.Name, t, c)
			if err != nil {
				return nil, err
			}
			out = append(out, lines...)
		}
		lines, err := setLines(conn, prefix, t)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	return out, nil
}

func chainLines(conn *nftables.Conn, prefix string, t *nftables.Table, c *nftables.Chain) ([]string, error) {
	head := prefix
	if c.Hooknum != nil && c.Priority != nil {
		head += fmt.Sprintf(" type %s hook %d priority %d", c.Type, *c.Hooknum, *c.Priority)
	}
	if c.Policy != nil {
		head += fmt.Sprintf(" policy %d", *c.Policy)
	}
	out := []string{head}
	rules, err := conn.GetRules(t, c)
	if err != nil {
		return nil, fmt.Errorf("list rules of %s: %w", prefix, err)
	}
	for i, r := range rules {
		var text []string
		for _, e := range r.Exprs {
			s, err := exprText(e)
			if err != nil {
				return nil, fmt.Errorf("rule %d of %s: %w", i, prefix, err)
			}
			text = append(text, s)
		}
		out = append(out, fmt.Sprintf("%s rule %04d %s comment %q", prefix, i, strings.Join(text, " "), r.UserData))
	}
	return out, nil
}

// exprText gives an expression with its own type as its name and without what it counts.
func exprText(e expr.Any) (string, error) {
	switch counting := e.(type) {
	case *expr.Counter:
		e = &expr.Counter{}
	case *expr.Quota:
		without := *counting
		without.Consumed = 0
		e = &without
	}
	b, err := json.Marshal(e)
	return strings.TrimPrefix(fmt.Sprintf("%T", e), "*expr.") + string(b), err
}

func setLines(conn *nftables.Conn, prefix string, t *nftables.Table) ([]string, error) {
	sets, err := conn.GetSets(t)
	if err != nil {
		return nil, fmt.Errorf("list sets of %s: %w", prefix, err)
	}
	var out []string
	for _, s := range sets {
		head := fmt.Sprintf("%s set %s key %s data %s map %t interval %t dynamic %t",
			prefix, s.Name, s.KeyType.Name, s.DataType.Name, s.IsMap, s.Interval, s.Dynamic)
		out = append(out, head)
		if s.Dynamic {
			continue // packets fill it
		}
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("list elements of %s: %w", head, err)
		}
		for _, e := range elements {
			verdict := ""
			if e.VerdictData != nil {
				verdict = fmt.Sprintf(" verdict %d %s", e.VerdictData.Kind, e.VerdictData.Chain)
			}
			out = append(out, fmt.Sprintf("%s set %s element %x-%x end %t value %x%s",
				prefix, s.Name, e.Key, e.KeyEnd, e.IntervalEnd, e.Val, verdict))
		}
	}
	return out, nil
}
