package protocol

import (
	"fmt"

	"github.com/apex-network/apex/spec/peermap"
)

// ViewResponse is a node's view with its proof against the manifest with payload digest Manifest.
type ViewResponse struct {
	Manifest peermap.Digest   `json:"manifest"`
	Index    uint64           `json:"index"`
	Size     uint64           `json:"size"`
	Proof    []peermap.Digest `json:"proof"`
	View     []byte           `json:"view"`
}

// Update is a new generation as one node hears of it. Nothing in it counts before package signer has verified it.
type Update struct {
	// Manifest and Timestamp are signed envelopes.
	Manifest  []byte
	Timestamp []byte
	// RootVersion is the newest trust root there is; fetch the ones between before verifying.
	RootVersion uint64
	// Index, Size and Proof place the node's leaf, whose bytes hash to ViewDigest, under the manifest's ViewsRoot.
	Index, Size uint64
	Proof       []peermap.Digest
	ViewDigest  peermap.Digest
	// View is nil if the node holds ViewDigest already (it said so in `have`, or got it on this stream).
	View *Artefact
	// Artefacts are those the node lacks, as far as the controller can tell and as far as they fit; whatever is missing
	// or does not open is fetched by digest.
	Artefacts []Artefact
}

// Artefact is a view, class or block on its way. From is what a Delta or a NewClass starts from, zero otherwise.
type Artefact struct {
	Digest   peermap.Digest
	From     peermap.Digest
	Encoding Encoding
	Data     []byte
}

// Open gives the artefact's bytes, checked against its digest. lookup finds what it starts from among what the node
// holds.
func (a Artefact) Open(limit int, lookup func(peermap.Digest) ([]byte, bool)) ([]byte, error) {
	var old []byte
	if a.Encoding.hasBase() {
		var ok bool
		if old, ok = lookup(a.From); !ok {
			return nil, fmt.Errorf("%w: %s, which it starts from, is not here", ErrDelta, a.From)
		}
	}
	return Open(a.Encoding, a.Data, old, a.Digest, limit)
}
