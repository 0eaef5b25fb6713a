package bench

import (
	"slices"
	"testing"
	"time"
)

// figures collects what the rounds of a benchmark measured and reports the median of each, by unit.
type figures map[string][]float64

func (f figures) add(unit string, value float64) { f[unit] = append(f[unit], value) }

func (f figures) seconds(unit string, d time.Duration) { f.add(unit, d.Seconds()) }

func (f figures) millis(unit string, d time.Duration) { f.add(unit, d.Seconds()*1000) }

// spread adds the middle and the worst but one percent of durations.
func (f figures) spread(name string, took []time.Duration) {
	slices.Sort(took)
	f.millis(name+"-p50-ms", percentile(took, 50))
	f.millis(name+"-p99-ms", percentile(took, 99))
}

func (f figures) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // one operation is a round; its time says nothing
	for unit, values := range f {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], unit)
	}
}

// percentile gives the value that p of 100 values do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
