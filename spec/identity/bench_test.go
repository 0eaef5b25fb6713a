package identity

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/apex-network/apex/spec/binding"
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
