package enrol

import (
	"fmt"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec"
)

// wide is a zone with room for many.
var wide = spec.File{Path: "zones/wide.yaml", Data: []byte(`apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: wide}
spec:
  ranges: [10.64.0.0/10]
  dynamic: [10.64.0.0/10]
  members:
    - {name: staff, issuer: corp, groups: [ops]}
`)}

func inWide(r *protocol.EnrolRequest) { r.Zone = "wide" }

// BenchmarkOpen is a controller that starts with 10 000 bindings, without its disk, and lists those that count.
func BenchmarkOpen(b *testing.B) {
	w := newWorld(b)
	w.publish("", "", wide)
	unlimited := func(o *Options) { o.Limits = Limits{PerIssuer: -1, PerSubject: -1, PerAddress: -1} }
	s := w.service(unlimited)
	for i := range 10_000 {
		m := w.machine(fmt.Sprintf("host-%d", i))
		m.join(s, "corp", m.token(w.person(m.name, "ops")), inWide)
	}
	b.ReportAllocs()
	for b.Loop() {
		if list, _ := w.service(unlimited).Snapshot(); len(list) != 10_000 {
			b.Fatal(len(list))
		}
	}
}
