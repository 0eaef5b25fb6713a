package spec

import (
	"reflect"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/apex-network/apex/spec/diag"
)

// document reads the tree of a document of a kind. It gives nil if the document has no usable name, since then nothing
// can refer to it; other problems leave the fields they concern unset.
func (d *decoder) document(root *yaml.Node, info *kindInfo) any {
	switch info.kind {
	case KindNetwork:
		return decodeKind[Network](d, root, info)
	case KindZone:
		return decodeKind[Zone](d, root, info)
	case KindNode:
		return decodeKind[Node](d, root, info)
	case KindPolicy:
		return decodeKind[Policy](d, root, info)
	case KindPolicyTest:
		return decodeKind[PolicyTest](d, root, info)
	case KindTrustRoot:
		return decodeKind[TrustRoot](d, root, info)
	}
	panic("spec: kind without a decoder: " + string(info.kind))
}

func decodeKind[T any](d *decoder, root *yaml.Node, info *kindInfo) any {
	doc := &Document[T]{Pos: diag.Position{File: d.file, Line: root.Line + d.line, Column: root.Column}}
	top := d.places.add(-1, "", -1, doc.Pos.Line, doc.Pos.Column)
	d.structure(root, reflect.ValueOf(&doc.Value).Elem(), info.shape, top, []string{"apiVersion", "kind"})
	d.places.close(top)
	doc.places = slices.Clone(d.places) // without the slack of growing: it stays as long as the document
	meta := metadataOf(&doc.Value)
	if n := lookup(root, "metadata"); n != nil && n.Kind == yaml.MappingNode {
		switch zone := lookup(n, "zone"); {
		case info.zoned && zone == nil:
			d.reportAt(n, "metadata", faultf(diag.MissingField, "name the zone the document belongs to", "zone is missing"))
		case !info.zoned && zone != nil:
			d.reportAt(zone, "metadata.zone", faultf(diag.UnknownField, "remove the field", "a %s belongs to no zone", info.kind))
		}
	}
	if meta.Name == "" || info.zoned && meta.Zone == "" {
		return nil
	}
	return doc
}

// metadataOf gives the metadata of a pointer to a value of any kind.
func metadataOf(value any) *Metadata {
	switch v := value.(type) {
	case *Network:
		return &v.Metadata
	case *Zone:
		return &v.Metadata
	case *Node:
		return &v.Metadata
	case *Policy:
		return &v.Metadata
	case *PolicyTest:
		return &v.Metadata
	case *TrustRoot:
		return &v.Metadata
	}
	return nil
}
