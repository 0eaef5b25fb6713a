package protocol

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/apex-network/apex/spec/peermap"
)

// An update travels as several events, so that the controller encodes once what many nodes share:
//
//	artefact*   a class or block (shared by the nodes of a class)
//	manifest    the signed manifest and timestamp (shared by the zone)
//	generation  the node's own place in it; completes the update
//
// Events of the watch (Server-Sent Events, WHATWG HTML 9.2) have one data line each.
const (
	EventTimestamp  = "timestamp" // a signed timestamp envelope for the manifest the node already has
	EventArtefact   = "artefact"
	EventManifest   = "manifest"
	EventGeneration = "generation"
)

// AppendEvent appends one event. data must not contain line breaks.
func AppendEvent(dst []byte, event string, data []byte) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, event...)
	dst = append(dst, "\ndata: "...)
	dst = append(dst, data...)
	return append(dst, "\n\n"...)
}

// AppendHeartbeat appends a comment, which says only that the stream is alive.
func AppendHeartbeat(dst []byte) []byte { return append(dst, ": \n\n"...) }

// AppendUpdate appends all events of an update.
func AppendUpdate(dst []byte, u Update) ([]byte, error) {
	for _, a := range u.Artefacts {
		var err error
		if dst, err = AppendArtefact(dst, a); err != nil {
			return nil, err
		}
	}
	dst, err := AppendManifest(dst, u)
	if err != nil {
		return nil, err
	}
	return AppendLeaf(dst, u)
}

// AppendArtefact appends an artefact event.
func AppendArtefact(dst []byte, a Artefact) ([]byte, error) {
	data, err := Encode(toWire(a))
	if err != nil {
		return nil, err
	}
	return AppendEvent(dst, EventArtefact, data), nil
}

// AppendManifest appends the manifest event of u: Manifest, Timestamp and RootVersion.
func AppendManifest(dst []byte, u Update) ([]byte, error) {
	w := wireHead{Manifest: openEnvelope(u.Manifest), Timestamp: openEnvelope(u.Timestamp), RootVersion: u.RootVersion}
	data, err := Encode(w)
	if err != nil {
		return nil, err
	}
	return AppendEvent(dst, EventManifest, data), nil
}

// AppendLeaf appends the generation event of u: its Index, Size, Proof, ViewDigest and View.
func AppendLeaf(dst []byte, u Update) ([]byte, error) {
	w := wireLeaf{Index: u.Index, Size: u.Size, ViewDigest: u.ViewDigest, Proof: make([]byte, 0, len(u.Proof)*len(peermap.Digest{}))}
	for _, d := range u.Proof {
		w.Proof = append(w.Proof, d[:]...)
	}
	if u.View != nil {
		v := toWire(*u.View)
		w.View = &v
	}
	data, err := Encode(w)
	if err != nil {
		return nil, err
	}
	return AppendEvent(dst, EventGeneration, data), nil
}

type wireHead struct {
	Manifest    wireEnvelope `json:"manifest"`
	Timestamp   wireEnvelope `json:"timestamp"`
	RootVersion uint64       `json:"rootVersion"`
}

// wireLeaf holds the proof as one run of hashes.
type wireLeaf struct {
	Index      uint64         `json:"index"`
	Size       uint64         `json:"size"`
	Proof      []byte         `json:"proof"`
	ViewDigest peermap.Digest `json:"viewDigest"`
	View       *wireArtefact  `json:"view,omitempty"`
}

type wireArtefact struct {
	Digest   string   `json:"digest"`
	From     string   `json:"from,omitempty"`
	Encoding Encoding `json:"encoding"`
	Data     []byte   `json:"data"`
}

// wireEnvelope is a DSSE envelope with its payload as text instead of base64, which compresses to half the size. An
// envelope that this form would not restore to the byte travels as Raw.
type wireEnvelope struct {
	Type       string          `json:"type,omitempty"`
	Text       string          `json:"text,omitempty"`
	Signatures []wireSignature `json:"signatures,omitempty"`
	Raw        []byte          `json:"raw,omitempty"`
}

type wireSignature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// dsse is an envelope as package signer writes it.
type dsse struct {
	Type       string          `json:"payloadType"`
	Payload    string          `json:"payload"`
	Signatures []wireSignature `json:"signatures"`
}

func openEnvelope(env []byte) wireEnvelope {
	var d dsse
	raw := wireEnvelope{Raw: env}
	if json.Unmarshal(env, &d) != nil {
		return raw
	}
	payload, err := base64.StdEncoding.DecodeString(d.Payload)
	if err != nil {
		return raw
	}
	w := wireEnvelope{Type: d.Type, Text: string(payload), Signatures: d.Signatures}
	if again, err := w.close(); err != nil || !bytes.Equal(again, env) {
		return raw
	}
	return w
}

// close gives the envelope's bytes.
func (w wireEnvelope) close() ([]byte, error) {
	if w.Raw != nil {
		return w.Raw, nil
	}
	sigs := w.Signatures
	if sigs == nil {
		sigs = []wireSignature{}
	}
	return Encode(dsse{Type: w.Type, Payload: base64.StdEncoding.EncodeToString([]byte(w.Text)), Signatures: sigs})
}

// decodeHead reads the data of a manifest event into u.
func decodeHead(data []byte, u *Update) error {
	var w wireHead
	if err := Decode(data, MaxManifestEventBytes, &w); err != nil {
		return err
	}
	var err error
	if u.Manifest, err = w.Manifest.close(); err != nil {
		return err
	}
	if u.Timestamp, err = w.Timestamp.close(); err != nil {
		return err
	}
	u.RootVersion = w.RootVersion
	if len(u.Manifest) > peermap.MaxManifestBytes || len(u.Timestamp) > peermap.MaxTimestampBytes {
		return fmt.Errorf("%w: manifest of %d and timestamp of %d bytes", ErrTooLarge, len(u.Manifest), len(u.Timestamp))
	}
	return nil
}

// decodeLeaf reads the data of a generation event into u.
func decodeLeaf(data []byte, u *Update) error {
	var w wireLeaf
	if err := Decode(data, MaxUpdateBytes, &w); err != nil {
		return err
	}
	const size = len(peermap.Digest{})
	if w.Proof == nil || len(w.Proof)%size != 0 || len(w.Proof) > peermap.MaxProofHashes*size {
		return fmt.Errorf("%w: proof of %d bytes", ErrMalformed, len(w.Proof))
	}
	u.Index, u.Size, u.ViewDigest = w.Index, w.Size, w.ViewDigest
	u.Proof = make([]peermap.Digest, 0, len(w.Proof)/size)
	for p := w.Proof; len(p) > 0; p = p[size:] {
		u.Proof = append(u.Proof, peermap.Digest(p[:size]))
	}
	if w.View == nil {
		return nil
	}
	v, err := fromWire(*w.View)
	if err != nil {
		return err
	}
	if v.Digest != u.ViewDigest {
		return fmt.Errorf("%w: view is not the one announced", ErrMalformed)
	}
	u.View = &v
	return nil
}

// decodeArtefact reads the data of an artefact event.
func decodeArtefact(data []byte) (Artefact, error) {
	var w wireArtefact
	if err := Decode(data, MaxArtefactEventBytes, &w); err != nil {
		return Artefact{}, err
	}
	return fromWire(w)
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
	if !a.Encoding.known() {
		return Artefact{}, fmt.Errorf("%w: encoding %.20q", ErrMalformed, a.Encoding)
	}
	if (w.From != "") != a.Encoding.hasBase() || w.Data == nil {
		return Artefact{}, fmt.Errorf("%w: encoding %s with the wrong fields", ErrMalformed, a.Encoding)
	}
	if w.From != "" {
		if err := a.From.UnmarshalText([]byte(w.From)); err != nil {
			return Artefact{}, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	return a, nil
}
