package spec

import (
	"syscall"
	"testing"
	"time"
)

// Spends demands that f needs no more than this much of the processor. Wall time would say how busy the machine is. The tests
// that use it run alone in their process.
func Spends(t *testing.T, most time.Duration, f func()) {
	t.Helper()
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := spent()
	f()
	if d := spent() - before; d > most {
		t.Errorf("took %s of the processor, more than %s", d, most)
	}
}
