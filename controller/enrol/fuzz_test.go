package enrol

import (
	"testing"
	"time"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/peermap"
)

// Whatever a controller sends, a witness neither falls over nor accepts a binding that nobody made.
func FuzzRecheck(f *testing.F) {
	w := newWorld(f)
	s := w.service()
	m, next := w.machine("laptop"), w.machine("laptop#2")
	// The fuzzer's processes make the same bindings with other evidence: what is said is compared, not the digest.
	type said struct {
		node, subject   string
		key             peermap.Key
		issued, expires int64
	}
	of := func(b binding.Binding) said {
		return said{b.Node, b.Identity.Subject, b.PublicKey, b.Issued, b.Expires}
	}
	known := map[said]bool{}
	keep := func() {
		data := must(protocol.Encode(w.record(s, "laptop")))(f)
		known[of(must(openLink(w.record(s, "laptop")))(f).binding)] = true
		f.Add(data)
	}
	m.join(s, "corp", m.token(w.person("ann", "ops")))
	keep()
	w.pass(16 * time.Hour)
	m.join(s, "corp", w.tokens.Issue(w.person("ann", "ops")))
	keep()
	w.bound(w.rotate(s, m, next, protocol.RotatePath("acme", "prod", "laptop")))
	keep()
	judge := w.judge()
	f.Fuzz(func(t *testing.T, data []byte) {
		var r protocol.BindingRecord
		if protocol.Decode(data, maxRecordBytes, &r) != nil {
			return
		}
		if _, err := judge.Recheck(t.Context(), r); err != nil {
			return
		}
		if b := must(openRecord(r))(t).Binding; !known[of(b)] {
			t.Fatalf("accepted a binding that nobody made: %+v", b)
		}
	})
}
