package identity

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
)

// crowd makes n bindings of n people.
func crowd(n int) []*binding.Signed {
	out := make([]*binding.Signed, n)
	for i := range out {
		id := eva()
		id.Subject = fmt.Sprint("s", i)
		out[i] = node(i, fmt.Sprintf("n%05d", i), id, func(b *binding.Binding) {
			b.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(128 + (i+1)/256), byte(i + 1)})}
			b.Issued += int64(i % 200)
		})
	}
	return out
}

// BenchmarkAdmit is one round of 10 000 bindings of which one is new, as after every enrolment.
func BenchmarkAdmit(b *testing.B) {
	repo, list := load(b), crowd(10_000)
	a := NewAdmitter()
	if got := a.Admit(repo, list, issued); len(got.Members) != len(list) {
		b.Fatalf("%d members: %+v", len(got.Members), got.Rejected[0])
	}
	for b.Loop() {
		b.StopTimer()
		list[5000] = crowd(1)[0]
		b.StartTimer()
		a.Admit(repo, list, issued)
	}
}

// BenchmarkAdmitCold is the first round.
func BenchmarkAdmitCold(b *testing.B) {
	repo, list := load(b), crowd(10_000)
	for b.Loop() {
		Admit(repo, list, issued)
	}
}

// BenchmarkAdmitCompile is the whole of what a new member means for the network, but for signatures: 10 000 members are
// admitted and the zones compiled, for the first time and with one member more.
func BenchmarkAdmitCompile(b *testing.B) {
	repo := load(b, "---\napiVersion: apex/v1alpha1\nkind: Node", policies+"apiVersion: apex/v1alpha1\nkind: Node")
	facts := compile.Facts{Commit: "0123456789abcdef0123456789abcdef01234567", AsOf: issued, RootVersion: 1}
	list := crowd(10_001)
	round := func(b *testing.B, a *Admitter, c *compile.Incremental, list []*binding.Signed) {
		admitted := a.Admit(repo, list, issued)
		if len(admitted.Members) != len(list) {
			b.Fatalf("%d members of %d", len(admitted.Members), len(list))
		}
		if _, _, err := c.Compile(compile.Input{Repo: admitted.Repo, Bindings: admitted.Lists, Facts: facts}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			round(b, NewAdmitter(), compile.NewIncremental(), list[:10_000])
		}
	})
	b.Run("oneMore", func(b *testing.B) {
		a, c := NewAdmitter(), compile.NewIncremental()
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			round(b, a, c, list[:10_000])
			b.StartTimer()
			round(b, a, c, list)
		}
	})
}
