package protocol

import (
	"crypto/sha256"
	"net/netip"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// EnrolmentInfo is what anybody may know of how to join a network: where people sign in, and the controller's key for the
// proof of the WireGuard key. It names no zone.
type EnrolmentInfo struct {
	Network string `json:"network"`
	// Time is the controller's clock, so that a host whose own is wrong can say so.
	Time time.Time `json:"time"`
	// Challenge is an X25519 public key, the same at every replica: see EnrolRequest.Mac.
	Challenge peermap.Key  `json:"challenge"`
	Issuers   []IssuerInfo `json:"issuers"`
}

// IssuerInfo says how to get a token of one issuer.
type IssuerInfo struct {
	Name     string `json:"name"`
	URL      string `json:"url"`
	Audience string `json:"audience"`
	ClientID string `json:"clientID"` // empty: people cannot sign in with it
	// ClientSecret is what the provider wants of an installed app besides; everybody may know it. Mostly empty.
	ClientSecret string   `json:"clientSecret,omitempty"`
	Scopes       []string `json:"scopes"`
	// Bound says that a token must commit to the node's keys (tokenBinding: required).
	Bound bool `json:"bound"`
}

// EnrolRequest asks for a binding, or for a later one in place of the one held. The request travels with an Apex-Proof of
// the identity key, whose subject is the node's name: the proof covers the body.
type EnrolRequest struct {
	Network     string      `json:"network"`
	Zone        string      `json:"zone"`
	Node        string      `json:"node"` // the name asked for
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
	// Mac proves the WireGuard key: only its holder and the controller can compute it (see EnrolMac).
	Mac []byte `json:"mac"`
	// Issuer is the name of the token's issuer, Token the ID token.
	Issuer string `json:"issuer"`
	Token  string `json:"token"`
	// Routes and Relay are asked for; Address, if valid, is one that the node would like to keep.
	Routes  []netip.Prefix `json:"routes"`
	Relay   bool           `json:"relay"`
	Address []netip.Addr   `json:"address"`
}

// EnrolResult is the answer: a binding (200), or the ID under which the request waits for a maintainer (202).
type EnrolResult struct {
	// Binding is a signed envelope (binding.Type); nil while the request waits.
	Binding []byte `json:"binding"`
	// Waiting is the request's ID: the first 16 hex digits of the digest of zone, node and keys.
	Waiting string `json:"waiting"`
	// RenewAfter is when the node should come back: for the next binding, or to ask again. Unix seconds.
	RenewAfter int64 `json:"renewAfter"`
}

// RotateRequest replaces the keys of an enrolled node. It travels with an Apex-Proof of the old identity key; Proof is an
// Apex-Proof token of the new one for the same request (with an empty body digest), Mac proves the new WireGuard key.
type RotateRequest struct {
	PublicKey   peermap.Key `json:"publicKey"`
	IdentityKey peermap.Key `json:"identityKey"`
	Mac         []byte      `json:"mac"`
	Proof       string      `json:"proof"`
}

// Commitment is what a token must carry to be good for these keys only: in `nonce`, or in `aud` as
// "<audience>:<commitment>". It is base64url (no padding) of SHA-256 over a fixed prefix, the network and the keys.
func Commitment(network string, wireguard, identity peermap.Key) string {
	h := sha256.New()
	h.Write([]byte("apex-enrol-commitment@v1\n" + network + "\n"))
	h.Write(wireguard[:])
	h.Write(identity[:])
	return encodeSegment(h.Sum(nil))
}

// SSHSIG namespace of enrolment lists and decisions.
const EnrolNamespace = "apex-enrol@v1"

// EnrolQuery asks for the network's enrolments.
type EnrolQuery struct {
	Network string `json:"network"`
	Nonce   string `json:"nonce"`
	Issued  int64  `json:"issued"`
}

// Decision is a maintainer's word on one waiting request. Its signature must be by a maintainer who may change the zone's
// document; it is kept as evidence, so it names everything it is about: an approval lets in what the maintainer saw, and
// nothing else that the holder of the keys asks for later.
type Decision struct {
	Network     string         `json:"network"`
	Zone        string         `json:"zone"`
	Node        string         `json:"node"`
	PublicKey   peermap.Key    `json:"publicKey"`
	IdentityKey peermap.Key    `json:"identityKey"`
	Issuer      string         `json:"issuer"`
	Subject     string         `json:"subject"`
	Rule        string         `json:"rule"`
	Routes      []netip.Prefix `json:"routes"` // sorted
	Relay       bool           `json:"relay"`
	Approve     bool           `json:"approve"` // false: denied
	Nonce       string         `json:"nonce"`
	Issued      int64          `json:"issued"`
}

// EnrolmentList is what maintainers and appliers may read: bindings in force and requests that wait. Neither holds a token.
type EnrolmentList struct {
	// Bindings are payloads (package binding), sorted by zone and node.
	Bindings [][]byte  `json:"bindings"`
	Waiting  []Waiting `json:"waiting"`
}

// Waiting is a request that waits for a maintainer.
type Waiting struct {
	ID          string         `json:"id"`
	Zone        string         `json:"zone"`
	Node        string         `json:"node"`
	PublicKey   peermap.Key    `json:"publicKey"`
	IdentityKey peermap.Key    `json:"identityKey"`
	Issuer      string         `json:"issuer"`
	Subject     string         `json:"subject"`
	Username    string         `json:"username"`
	Groups      []string       `json:"groups"`
	Rule        string         `json:"rule"`
	Routes      []netip.Prefix `json:"routes"` // sorted
	Relay       bool           `json:"relay"`
	Since       time.Time      `json:"since"`
}

// Evidence is what a binding rests on, kept beside it for third parties and never given to peers.
type Evidence struct {
	// Token is the ID token, Key the issuer's key that verified it (JSON Web Key).
	Token string `json:"token"`
	Key   []byte `json:"key"`
	// Verified is when, Unix seconds.
	Verified int64 `json:"verified"`
	// Request is the node's EnrolRequest without the token (which makes it whole again, so that Proof can be checked), or its
	// RotateRequest if Token is empty. Proof is its Apex-Proof token.
	Request []byte `json:"request"`
	Proof   string `json:"proof"`
	// Decision is the maintainer's SignedRequest (EnrolNamespace), empty if none was asked for or git approves.
	Decision []byte `json:"decision"`
	// Previous are older links, each an encoded BindingRecord without Previous of its own, the oldest first, where this one
	// leans on them: after renewals with a token that does not commit to the keys, and after rotations. Binding.Evidence is
	// the digest of the evidence without Previous. See package controller/enrol.
	Previous [][]byte `json:"previous"`
}

// BindingRecord is one binding with its evidence, for witnesses.
type BindingRecord struct {
	Envelope []byte `json:"envelope"`
	Evidence []byte `json:"evidence"`
}

// BindingsQuery asks for records by the digests of their payloads, at most MaxBindingsAsked at once.
type BindingsQuery struct {
	Digests []peermap.Digest `json:"digests"`
}

// BindingsAnswer gives the records asked for, in that order.
type BindingsAnswer struct {
	Records []BindingRecord `json:"records"`
}
