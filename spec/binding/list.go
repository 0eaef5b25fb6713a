package binding

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/peermap"
)

// Entry is one line of a zone's list: a node and the digest of its binding.
type Entry struct {
	Digest peermap.Digest
	Node   string
}

// List gives the artefact whose digest a manifest carries as its bindings: a line "<digest>  <node>\n" for every enrolled
// node, sorted by node. The order of entries does not matter; nil for none.
func List(entries []Entry) []byte {
	if len(entries) == 0 {
		return nil
	}
	sorted := entries
	byNode := func(a, b Entry) int { return strings.Compare(a.Node, b.Node) }
	if !slices.IsSortedFunc(sorted, byNode) {
		sorted = slices.SortedFunc(slices.Values(entries), byNode)
	}
	out := make([]byte, 0, len(sorted)*(2*len(peermap.Digest{})+len("  \n")+16))
	for _, e := range sorted {
		out = hex.AppendEncode(out, e.Digest[:])
		out = append(out, "  "...)
		out = append(out, e.Node...)
		out = append(out, '\n')
	}
	return out
}

// ParseList takes only what List gives, at most MaxListBytes. Errors: peermap.ErrNotCanonical, peermap.ErrTooLarge.
func ParseList(artefact []byte) ([]Entry, error) {
	if len(artefact) > MaxListBytes {
		return nil, fmt.Errorf("list of bindings: %d bytes, limit %d: %w", len(artefact), MaxListBytes, peermap.ErrTooLarge)
	}
	var out []Entry
	for line := range bytes.Lines(artefact) {
		digest, node, ok := strings.Cut(string(line), "  ")
		node, ended := strings.CutSuffix(node, "\n")
		e := Entry{Node: node}
		if err := e.Digest.UnmarshalText([]byte(digest)); err != nil || !ok || !ended || peermap.CheckName("node", node) != nil {
			return nil, fmt.Errorf("list of bindings: line %d: %w", len(out)+1, peermap.ErrNotCanonical)
		}
		if len(out) > 0 && out[len(out)-1].Node >= node {
			return nil, fmt.Errorf("list of bindings: line %d: node %s is out of order or twice: %w", len(out)+1, node,
				peermap.ErrNotCanonical)
		}
		out = append(out, e)
	}
	return out, nil
}
