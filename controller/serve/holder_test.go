package serve_test

import (
	"testing"

	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// holder keeps what a node was sent.
type holder struct {
	view      []byte
	artefacts map[peermap.Digest][]byte
}

// take reads one update into h.
func (h *holder) take(t *testing.T, r *protocol.WatchReader) {
	t.Helper()
	for {
		m, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.Update == nil {
			continue
		}
		if h.artefacts == nil {
			h.artefacts = map[peermap.Digest][]byte{}
		}
		u := m.Update
		if u.View != nil {
			if h.view, err = u.View.Open(peermap.MaxViewBytes, func(peermap.Digest) ([]byte, bool) { return h.view, true }); err != nil {
				t.Fatal(err)
			}
		}
		for _, a := range u.Artefacts {
			data, err := a.Open(peermap.MaxClassBytes, func(d peermap.Digest) ([]byte, bool) { b, ok := h.artefacts[d]; return b, ok })
			if err != nil {
				t.Fatal(err)
			}
			h.artefacts[a.Digest] = data
		}
		if _, err := peermap.Assemble("acme", "prod", name(0), h.view, func(d peermap.Digest) ([]byte, bool) { b, ok := h.artefacts[d]; return b, ok }); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// covers reports whether h holds all that o does.
func (h *holder) covers(o *holder) bool {
	for d := range o.artefacts {
		if _, ok := h.artefacts[d]; !ok {
			return false
		}
	}
	return true
}
