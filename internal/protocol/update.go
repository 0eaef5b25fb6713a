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

// Artefact is a view, class or block on its way. From is the dictionary of a Delta, zero otherwise.
type Artefact struct {
	Digest   peermap.Digest
	From     peermap.Digest
	Encoding Encoding
	Data     []byte
}

// Open gives the artefact's bytes, checked against its digest. lookup finds the dictionary of a Delta among what the
// node holds.
func (a Artefact) Open(limit int, lookup func(peermap.Digest) ([]byte, bool)) ([]byte, error) {
	var old []byte
	if a.Encoding == Delta {
		var ok bool
		if old, ok = lookup(a.From); !ok {
			return nil, fmt.Errorf("%w: dictionary %s is not here", ErrDelta, a.From)
		}
	}
	return Open(a.Encoding, a.Data, old, a.Digest, limit)
}

// wireArtefact is the JSON of an artefact event and of a view in a generation event.
type wireArtefact struct {
	Digest   string   `json:"digest"`
	From     string   `json:"from,omitempty"`
	Encoding Encoding `json:"encoding"`
	Data     []byte   `json:"data"`
}

// wireUpdate is the JSON of a generation event. Its artefacts travel in events of their own before it, because many
// nodes share them and the controller encodes each once.
type wireUpdate struct {
	Manifest    []byte           `json:"manifest"`
	Timestamp   []byte           `json:"timestamp"`
	RootVersion uint64           `json:"rootVersion"`
	Index       uint64           `json:"index"`
	Size        uint64           `json:"size"`
	Proof       []peermap.Digest `json:"proof"`
	ViewDigest  peermap.Digest   `json:"viewDigest"`
	View        *wireArtefact    `json:"view,omitempty"`
}

// EncodeArtefact gives the data of an artefact event.
func EncodeArtefact(a Artefact) ([]byte, error) { return Encode(toWire(a)) }

// DecodeArtefact reads the data of an artefact event.
func DecodeArtefact(data []byte) (Artefact, error) {
	var w wireArtefact
	if err := Decode(data, MaxArtefactEventBytes, &w); err != nil {
		return Artefact{}, err
	}
	return fromWire(w)
}

// EncodeUpdate gives the data of a generation event; u.Artefacts are not part of it.
func EncodeUpdate(u Update) ([]byte, error) {
	w := wireUpdate{
		Manifest: u.Manifest, Timestamp: u.Timestamp, RootVersion: u.RootVersion,
		Index: u.Index, Size: u.Size, Proof: u.Proof, ViewDigest: u.ViewDigest,
	}
	if w.Proof == nil {
		w.Proof = []peermap.Digest{}
	}
	if u.View != nil {
		v := toWire(*u.View)
		w.View = &v
	}
	return Encode(w)
}

// DecodeUpdate reads the data of a generation event.
func DecodeUpdate(data []byte) (Update, error) {
	var w wireUpdate
	if err := Decode(data, MaxUpdateBytes, &w); err != nil {
		return Update{}, err
	}
	if w.Proof == nil {
		return Update{}, fmt.Errorf("%w: no proof", ErrMalformed)
	}
	if len(w.Proof) > peermap.MaxProofHashes {
		return Update{}, fmt.Errorf("%w: proof of %d hashes", ErrTooLarge, len(w.Proof))
	}
	u := Update{
		Manifest: w.Manifest, Timestamp: w.Timestamp, RootVersion: w.RootVersion,
		Index: w.Index, Size: w.Size, Proof: w.Proof, ViewDigest: w.ViewDigest,
	}
	if w.View != nil {
		v, err := fromWire(*w.View)
		if err != nil {
			return Update{}, err
		}
		if v.Digest != u.ViewDigest {
			return Update{}, fmt.Errorf("%w: view is not the one announced", ErrMalformed)
		}
		u.View = &v
	}
	return u, nil
}

func toWire(a Artefact) wireArtefact {
	w := wireArtefact{Digest: a.Digest.String(), Encoding: a.Encoding, Data: a.Data}
	if !a.From.IsZero() {
		w.From = a.From.String()
	}
	if w.Data == nil {
		w.Data = []byte{}
	}
	return w
}

func fromWire(w wireArtefact) (Artefact, error) {
	a := Artefact{Encoding: w.Encoding, Data: w.Data}
	if err := a.Digest.UnmarshalText([]byte(w.Digest)); err != nil {
		return Artefact{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if (w.From != "") != (w.Encoding == Delta) || w.Data == nil {
		return Artefact{}, fmt.Errorf("%w: a dictionary goes with encoding %s only", ErrMalformed, Delta)
	}
	if w.From != "" {
		if err := a.From.UnmarshalText([]byte(w.From)); err != nil {
			return Artefact{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	switch a.Encoding {
	case Identity, Zstd, Delta:
		return a, nil
	}
	return Artefact{}, fmt.Errorf("%w: encoding %.20q", ErrMalformed, a.Encoding)
}
