package controller

import (
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// FuzzFrontier: what the store says of git is read without harm, packed well or not, and no chain of trust comes of it that
// does not begin at the pin.
func FuzzFrontier(f *testing.F) {
	seed, err := protocol.Encode(sharedState{Term: 1, State: *(&state{Chain: [][]byte{{1}}}).canonical()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, packed := range [][]byte{data, enc.EncodeAll(data, nil)} {
			s, err := decodeFrontier(packed)
			if err != nil {
				continue
			}
			if root, err := s.State.root("acme", peermap.Digest{1}); err == nil && root != nil {
				t.Fatal("a chain of trust from nowhere")
			}
		}
	})
}
