package protocol_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
)

// edited is n random bytes, and the same with some taken out and others put in.
func edited(r *rand.Rand, n int) (old, plain []byte) {
	old = make([]byte, n)
	for i := range old {
		old[i] = byte(r.Uint32())
	}
	at := r.IntN(n)
	taken := r.IntN(n - at)
	return old, bytes.Join([][]byte{old[:at], []byte("a new entry"), old[at+taken:]}, nil)
}

// TestDeltasOfEverySize: a delta reaches all of its dictionary, at sizes around those where the window grows as well.
func TestDeltasOfEverySize(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sizes := []int{1, 100, 511, 512, 513, 1023, 1024, 1025, 4096, 16 << 10, 100_000, 1<<20 - 1, 1<<20 + 1}
	for range 50 {
		sizes = append(sizes, 1+r.IntN(20_000))
	}
	for _, n := range sizes {
		old, plain := edited(r, n)
		data, err := protocol.CompressDelta(old, plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := protocol.DecompressDelta(old, data, len(plain)+(64<<10))
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes from %d: %v", len(plain), n, err)
		}
		if n >= 1024 && n <= 100_000 && len(data) > 200 {
			t.Errorf("the delta of %d bytes has %d: it does not use all of its dictionary", n, len(data))
		}
	}
}

func BenchmarkCompressDelta(b *testing.B) {
	for _, n := range []int{1000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			old, plain := edited(rand.New(rand.NewPCG(1, 2)), n)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := protocol.CompressDelta(old, plain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
