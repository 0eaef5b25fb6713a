package publish

import (
	"bytes"
	"testing"

	"github.com/apex-network/apex/internal/protocol"
)

func FuzzLedgerEntry(f *testing.F) {
	seed, err := protocol.Encode(entry{Epoch: 1, Serial: 7, Term: 2, Stamp: []byte("{}"), Current: &shared{}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			return
		}
		if again, err := protocol.Encode(e); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted what Encode would not write: %v", err)
		}
	})
}
