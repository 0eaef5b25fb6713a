// Package binding is the signed statement by which a host that proved an identity is a node of a zone until an instant:
// its canonical bytes, its digest, and the list of them that enters a compile. It is pure, knows neither YAML nor OIDC
// nor stores, and is small enough for an agent.
//
// A binding says who holds which keys and addresses. What that identity may do stands in git: labels, routes and the
// longest life of a binding are those of the rule as it stands at the commit that is compiled (package identity), so a
// changed rule takes effect with the commit and not with the next enrolment.
package binding

import (
	"net/netip"

	"github.com/apex-network/apex/spec/peermap"
)

// Payload types, used in the DSSE envelope and repeated inside the payload.
const (
	Type = "application/vnd.apex.binding.v1+json"
)

// Binding is the payload that an enrolment key signs. Lists are sorted and never nil.
type Binding struct {
	Type    string `json:"_type"` // Type
	Network string `json:"network"`
	Zone    string `json:"zone"`
	Node    string `json:"node"`
	// Identity is who holds the keys.
	Identity Identity `json:"identity"`
	// PublicKey is the WireGuard key, IdentityKey the Ed25519 one.
	PublicKey   peermap.Key  `json:"publicKey"`
	IdentityKey peermap.Key  `json:"identityKey"`
	Addresses   []netip.Addr `json:"addresses"`
	// Labels are what the rule gave when the binding was made; the compile takes those that the rule gives now.
	Labels []Pair `json:"labels"`
	// Routes are the prefixes behind the node that were asked for and granted; Relay likewise.
	Routes []netip.Prefix `json:"routes"`
	Relay  bool           `json:"relay"`
	// Ephemeral nodes leave when they disconnect.
	Ephemeral bool `json:"ephemeral"`
	Rule      Rule `json:"rule"`
	// Commit is the published commit whose rule admitted the node.
	Commit string `json:"commit"`
	// Approved says that a maintainer approved the node, which a rule with `approval: review` asks for.
	Approved bool `json:"approved"`
	// Issued and Expires are in Unix seconds. A renewal is a new binding with later ones.
	Issued  int64 `json:"issued"`
	Expires int64 `json:"expires"`
	// Evidence is the digest of the evidence record: what a third party needs to judge the enrolment again.
	Evidence peermap.Digest `json:"evidence"`
}

// Identity is an OIDC identity as the claim mapping of its issuer reads it.
type Identity struct {
	// Issuer is the name in Network.spec.issuers, URL the issuer itself, which the token named.
	Issuer  string `json:"issuer"`
	URL     string `json:"url"`
	Subject string `json:"subject"`
	// Username and Groups are mapped claims; either may be empty.
	Username string   `json:"username"`
	Groups   []string `json:"groups"`
	// Claims are the further claims that rules of the zone look at.
	Claims []Claim `json:"claims"`
}

// Claim is one claim with its values as text; a claim that is no list has one.
type Claim struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Pair is a label.
type Pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Rule is the member rule that admitted the node, and where it stood.
type Rule struct {
	Name string `json:"name"`
	File string `json:"file"`
	Line int    `json:"line"`
}
