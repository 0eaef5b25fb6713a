package protocol

import (
	"fmt"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// Pending is a generation that waits for witnesses. Manifest is the payload the witness has to arrive at by itself;
// its Commit and AsOf are all the witness takes from it.
type Pending struct {
	Zone     string         `json:"zone"`
	Digest   peermap.Digest `json:"digest"`
	Manifest []byte         `json:"manifest"`
	Since    time.Time      `json:"since"`
}

// PendingList is the answer of the pending resource, sorted by zone.
type PendingList struct {
	Pending []Pending `json:"pending"`
}

// Cosign is a witness's verdict on a pending generation: a signature over the DSSE PAE of the manifest payload, or a
// refusal in words, which people see in the fleet's status.
//
// Of a witness identity of the trust root (signer.WitnessIdentity), KeyID is signer.WitnessID of its name and Signature the
// compact ID token made for signer.WitnessBinding of the digest (its `aud`; see there for `nonce`). Such a witness proves its
// requests with another token of the same job, bound to signer.WitnessAccess, as a bearer token in place of Apex-Proof: that
// one signs nothing, so that a refusal cannot be turned into a signature.
type Cosign struct {
	Zone      string         `json:"zone"`
	Digest    peermap.Digest `json:"digest"`
	KeyID     string         `json:"keyid"`
	Signature []byte         `json:"signature,omitempty"`
	Refusal   string         `json:"refusal,omitempty"`
	// Bindings are those that a refusal is about, at most MaxCosignBindings: without them the witness may sign. Later says
	// that the witness cannot judge them yet, for a provider does not answer, and goes on trying.
	Bindings []peermap.Digest `json:"bindings,omitempty"`
	Later    bool             `json:"later,omitempty"`
}

// MaxCosignBindings bounds the bindings of one refusal.
const MaxCosignBindings = 100

// DecodeCosign reads a Cosign that is either a signature or a refusal.
func DecodeCosign(data []byte) (Cosign, error) {
	var c Cosign
	if err := Decode(data, MaxCosignBytes, &c); err != nil {
		return Cosign{}, err
	}
	if (len(c.Signature) == 0) == (c.Refusal == "") {
		return Cosign{}, fmt.Errorf("%w: want either a signature or a refusal", ErrMalformed)
	}
	if c.Refusal == "" && (c.Later || len(c.Bindings) > 0) || c.Later && len(c.Bindings) == 0 {
		return Cosign{}, fmt.Errorf("%w: only a refusal is about bindings", ErrMalformed)
	}
	if len(c.Bindings) > MaxCosignBindings || len(c.Refusal) > MaxMessage || len(c.Signature) > MaxCosignature || len(c.KeyID) != 64 {
		return Cosign{}, fmt.Errorf("%w: co-signature over its bounds", ErrMalformed)
	}
	return c, nil
}
