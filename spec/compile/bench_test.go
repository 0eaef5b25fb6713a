package compile

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/apex-network/apex/spec"
)

// cpu gives the CPU time this process has used, in nanoseconds: wall time says little on shared cores.
func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func policies() map[string]spec.Default {
	return map[string]spec.Default{"allow-all": spec.DefaultMesh, "segmented": spec.DefaultDeny}
}

func BenchmarkCold(b *testing.B) {
	for name, def := range policies() {
		for _, n := range []int{100, 1000, 2000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				in := Input{Repo: fleet(n, def), Facts: facts()}
				b.ReportAllocs()
				b.ResetTimer()
				start := cpu()
				for b.Loop() {
					if _, err := Compile(in); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu()-start)/1e6/float64(b.N), "cpu-ms/op")
			})
		}
	}
}

func BenchmarkOneNode(b *testing.B) {
	for name, def := range policies() {
		for _, n := range []int{100, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				repo := fleet(n, def)
				inc := NewIncremental()
				if _, _, err := inc.Compile(Input{Repo: repo, Facts: facts()}); err != nil {
					b.Fatal(err)
				}
				states := []*spec.Repository{touched(repo, n/2+1, "a"), touched(repo, n/2+1, "b")}
				affected := 0
				b.ReportAllocs()
				b.ResetTimer()
				start := cpu()
				for i := 0; b.Loop(); i++ {
					_, stats, err := inc.Compile(Input{Repo: states[i%2], Facts: facts()})
					if err != nil {
						b.Fatal(err)
					}
					affected = stats.Views
				}
				b.ReportMetric(float64(cpu()-start)/1e6/float64(b.N), "cpu-ms/op")
				b.ReportMetric(float64(affected), "views/op")
			})
		}
	}
}
