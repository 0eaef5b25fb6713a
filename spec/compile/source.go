package compile

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/peermap"
)

// source is what the documents say of one zone.
type source struct {
	network  string
	doc      *spec.Document[spec.Zone]
	nodes    []*spec.Document[spec.Node]   // sorted by name
	policies []*spec.Document[spec.Policy] // sorted by name
	// claims are the prefixes the trust root lets this zone route; judged only if there is a trust root.
	claims []netip.Prefix
	judged bool
	// names reads how policies name users and groups.
	names spec.IdentityNames
}

// split sorts the documents of a repository by zone.
func split(repo *spec.Repository) ([]*source, error) {
	if repo == nil || repo.Network == nil {
		return nil, fmt.Errorf("%w: there is no Network document; add one with kind: Network", ErrInvalid)
	}
	var faults faults
	zones := sorted(repo.Zones, func(z *spec.Document[spec.Zone]) spec.Metadata { return z.Value.Metadata })
	sources := make([]*source, len(zones))
	names := repo.IdentityNames()
	byName := make(map[string]*source, len(zones))
	for i, z := range zones {
		src := &source{network: repo.Network.Value.Metadata.Name, doc: z, names: names}
		if repo.TrustRoot != nil {
			src.judged = true
			for _, claim := range repo.TrustRoot.Value.Spec.Routes {
				if claim.Zone == z.Value.Metadata.Name {
					src.claims = append(src.claims, claim.Prefixes...)
				}
			}
		}
		sources[i] = src
		byName[z.Value.Metadata.Name] = src
	}
	if len(byName) != len(zones) {
		faults.addf("two Zone documents have the same name")
	}
	nodes := sorted(repo.Nodes, func(n *spec.Document[spec.Node]) spec.Metadata { return n.Value.Metadata })
	eachZone(nodes, func(n *spec.Document[spec.Node]) string { return n.Value.Metadata.Zone },
		func(zone string, run []*spec.Document[spec.Node]) {
			if src := byName[zone]; src != nil {
				src.nodes = run
				return
			}
			faults.addf("%s: node %s: there is no zone %q", run[0].Pos, run[0].Value.Metadata.Name, zone)
		})
	policies := sorted(repo.Policies, func(p *spec.Document[spec.Policy]) spec.Metadata { return p.Value.Metadata })
	eachZone(policies, func(p *spec.Document[spec.Policy]) string { return p.Value.Metadata.Zone },
		func(zone string, run []*spec.Document[spec.Policy]) {
			if src := byName[zone]; src != nil {
				src.policies = run
				return
			}
			faults.addf("%s: policy %s: there is no zone %q", run[0].Pos, run[0].Value.Metadata.Name, zone)
		})
	return sources, faults.err()
}

// sorted gives docs ordered by zone and name; it copies only what is out of order.
func sorted[T any](docs []*spec.Document[T], meta func(*spec.Document[T]) spec.Metadata) []*spec.Document[T] {
	order := func(a, b *spec.Document[T]) int {
		x, y := meta(a), meta(b)
		return cmp.Or(strings.Compare(x.Zone, y.Zone), strings.Compare(x.Name, y.Name))
	}
	if slices.IsSortedFunc(docs, order) {
		return docs
	}
	out := slices.Clone(docs)
	slices.SortFunc(out, order)
	return out
}

// eachZone cuts sorted docs into runs of one zone.
func eachZone[T any](docs []*spec.Document[T], zone func(*spec.Document[T]) string, visit func(string, []*spec.Document[T])) {
	for i := 0; i < len(docs); {
		j := i + 1
		for j < len(docs) && zone(docs[j]) == zone(docs[i]) {
			j++
		}
		visit(zone(docs[i]), docs[i:j:j])
		i = j
	}
}

// inputs is the Inputs artefact.
type inputs struct {
	text   []byte
	digest peermap.Digest
}

func (c *Incremental) makeInputs(files []Blob) (inputs, error) {
	if c.inputs.text != nil && slices.Equal(files, c.files) {
		return c.inputs, nil
	}
	order := func(a, b Blob) int { return strings.Compare(a.Path, b.Path) }
	if !slices.IsSortedFunc(files, order) {
		files = slices.Clone(files)
		slices.SortFunc(files, order)
	}
	size := 0
	for _, f := range files {
		size += 2*len(f.Digest) + len("  \n") + len(f.Path)
	}
	text := make([]byte, 0, size)
	for i, f := range files {
		if f.Path == "" || strings.ContainsAny(f.Path, "\n\r\\") {
			return inputs{}, fmt.Errorf("%w: input path %q: want a path without line breaks and backslashes", ErrInvalid, f.Path)
		}
		if i > 0 && files[i-1].Path == f.Path {
			return inputs{}, fmt.Errorf("%w: input path %q occurs twice", ErrInvalid, f.Path)
		}
		text = hex.AppendEncode(text, f.Digest[:])
		text = append(text, "  "...)
		text = append(text, f.Path...)
		text = append(text, '\n')
	}
	return inputs{text, peermap.DigestOf(text)}, nil
}
