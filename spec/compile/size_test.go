package compile

import (
	"net/netip"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/spec"
)

// TestViewSize holds a full view at 10 000 peers under 48 bytes per peer, compressed as it is served: every artefact by
// itself, at the best level, which pays because a block is compressed once for all who see it. 32 of the bytes are a
// key, which does not compress.
func TestViewSize(t *testing.T) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		t.Fatal(err)
	}
	for _, endpoints := range []bool{false, true} {
		repo := fleet(10_000, spec.DefaultMesh)
		if !endpoints {
			for _, n := range repo.Nodes {
				n.Value.Spec.Endpoints = nil
			}
		}
		z := mustCompile(t, repo)["prod"]
		v, _ := z.View("node-00077")
		m := assemble(t, z, "node-00077")
		raw, packed := len(v.Leaf), len(enc.EncodeAll(v.Leaf, nil))
		for d := range digests(m) {
			b, _ := z.Artefact(d)
			raw += len(b)
			packed += len(enc.EncodeAll(b, nil))
		}
		per := float64(packed) / float64(len(m.Peers))
		t.Logf("endpoints %v: %d peers, %d blocks, %d bytes raw, %.1f bytes per peer compressed", endpoints, len(m.Peers),
			len(z.Blocks), raw, per)
		if per > 48 {
			t.Errorf("%.1f bytes per peer, want at most 48", per)
		}
	}
}

// TestRoutersShareBlocks keeps a mesh of subnet routers, each a class of its own, from naming every node in every class.
func TestRoutersShareBlocks(t *testing.T) {
	repo := fleet(500, spec.DefaultMesh)
	p := newPolicy("prod", "sites")
	for i := range repo.Nodes {
		site := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i / 16), byte(i % 16 * 16)}), 28)
		repo.Nodes[i].Value.Spec.Routes = []spec.NodeRoute{{Prefix: site}}
		p.Spec.Allow = append(p.Spec.Allow, spec.Rule{From: sel(byLabel("group", "g001")), To: sel(spec.Selector{CIDR: site})})
	}
	repo.Policies = append(repo.Policies, doc(p))
	z := mustCompile(t, repo)["prod"]
	total := 0
	for _, c := range z.Classes {
		total += len(c)
	}
	if len(z.Classes) != 500 || len(z.Blocks) > 10 || total > 500*400 {
		t.Errorf("%d classes of %d bytes in all, %d blocks", len(z.Classes), total, len(z.Blocks))
	}
	assemble(t, z, "node-00001")
	assemble(t, z, "node-00002")
}
