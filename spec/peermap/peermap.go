// Package peermap is the compiled artefact that controller and agents share: what one node may know, in a canonical
// encoding whose bytes are what digests, proofs and signatures cover.
//
// A node's knowledge is a tree of content-addressed artefacts, so that nodes which policy treats alike share bytes:
//
//	Manifest (signed) ── ViewsRoot ── Merkle leaf ── View (one per node)
//	                                                   │ Class digest
//	                                                   ▼
//	                                                 Class (one per set of nodes that policy treats alike)
//	                                                   │ block digests
//	                                                   ▼
//	                                                 Block (at most MaxBlockPeers peer records)
//
// View, Class and Block are deterministic CBOR (RFC 8949, section 4.2.1) with arrays for structs, a Block by columns;
// Manifest and Timestamp are canonical JSON, because people read them. Decoding refuses every byte string that does not encode
// back to itself. The package holds no clock, disk or network and knows neither YAML nor git.
package peermap

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
)

// Digest is a SHA-256 of an artefact's bytes. Its text form is 64 lower-case hex digits.
type Digest [sha256.Size]byte

// DigestOf hashes b.
func DigestOf(b []byte) Digest { return sha256.Sum256(b) }

// IsZero reports whether d is unset.
func (d Digest) IsZero() bool { return d == Digest{} }

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText gives the hex form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes exactly 64 lower-case hex digits.
func (d *Digest) UnmarshalText(b []byte) error {
	var out Digest
	if len(b) != 2*len(out) {
		return fmt.Errorf("digest %.80q: want 64 hex digits", b)
	}
	if _, err := hex.Decode(out[:], b); err != nil {
		return fmt.Errorf("digest %.80q: %w", b, err)
	}
	if out.String() != string(b) {
		return fmt.Errorf("digest %.80q: want lower-case hex", b)
	}
	*d = out
	return nil
}

// Key is a WireGuard (Curve25519) or Ed25519 public key. Its text form, in JSON, is standard base64.
type Key [32]byte

// MarshalText gives the base64 form.
func (k Key) MarshalText() ([]byte, error) { return base64.StdEncoding.AppendEncode(nil, k[:]), nil }

// UnmarshalText takes canonical standard base64 of exactly 32 bytes.
func (k *Key) UnmarshalText(b []byte) error {
	out, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(out) != len(k) || base64.StdEncoding.EncodeToString(out) != string(b) {
		return fmt.Errorf("key %.80q: want 32 bytes of base64", b)
	}
	*k = Key(out)
	return nil
}

// View is what one node may know. Everything in it that other nodes share stands in the class it points to.
type View struct {
	_         struct{} `cbor:",toarray"`
	Network   string
	Zone      string
	Node      string
	PublicKey Key
	Addresses []netip.Addr   // the node's own addresses, sorted
	Ranges    []netip.Prefix // the zone's ranges, sorted
	Routes    []netip.Prefix // prefixes behind this node that it carries now, sorted
	// ListenPort is the UDP port; MTU is in bytes; Keepalive is in seconds and applies to every peer of this node.
	ListenPort uint16
	MTU        uint16
	Keepalive  uint16
	// Class is the digest of the Class.
	Class Digest
}

// Class is the part of a view that every node of one policy class shares. The node itself may stand in a group of its
// own class; an agent leaves itself out.
type Class struct {
	_      struct{} `cbor:",toarray"`
	Groups []Group  // peers, by policy class; indexed by Rule sets
	Vias   []Via    // prefixes reachable through a peer, sorted by prefix
	Rules  []Rule   // what the node's firewall lets through, sorted by (Hook, ID)
}

// Group is the peers of one policy class.
type Group struct {
	_      struct{} `cbor:",toarray"`
	Blocks []Digest // digests of the Blocks, in trie order
}

// Via says that Prefix is reached through the peer named Peer: an allowed IP of that peer and a route of this node.
type Via struct {
	_      struct{} `cbor:",toarray"`
	Prefix netip.Prefix
	Peer   string
}

// Hook is where a rule is enforced on the host.
type Hook uint8

// The hooks. Input: from others to this node itself. Output: from this node itself. Forward: between the zone's
// interface and the prefixes behind this node, in the direction of the flow's first packet.
const (
	HookInput Hook = iota + 1
	HookOutput
	HookForward
)

func (h Hook) String() string {
	switch h {
	case HookInput:
		return "input"
	case HookOutput:
		return "output"
	case HookForward:
		return "forward"
	}
	return fmt.Sprintf("hook(%d)", uint8(h))
}

// Rule lets new flows through. For HookInput, To is empty (this node); for HookOutput, From is empty.
type Rule struct {
	_ struct{} `cbor:",toarray"`
	// ID names the deciding rule in git: "<policy>/<index>", or "default" for a mesh zone.
	ID       string
	Hook     Hook
	From     Set
	To       Set
	Ports    []PortRange // empty: every protocol and port
	NotAfter int64       // Unix seconds from which the rule is void; 0: never
}

// Set is a union of the addresses of peer groups (indexes into Class.Groups, ascending) and prefixes (sorted).
type Set struct {
	_        struct{} `cbor:",toarray"`
	Groups   []uint32
	Prefixes []netip.Prefix
}

// Protocol is an IP protocol that rules can name.
type Protocol uint8

// Protocols by their IANA number. ICMP stands for ICMP and ICMPv6.
const (
	ICMP Protocol = 1
	TCP  Protocol = 6
	UDP  Protocol = 17
)

// PortRange is a protocol with an inclusive port range; ICMP has 0-0, all ports of TCP or UDP are 0-65535.
type PortRange struct {
	_        struct{} `cbor:",toarray"`
	Protocol Protocol
	First    uint16
	Last     uint16
}

// Block is a slice of peer records, sorted by name.
type Block struct {
	Peers []Peer
}

// Peer is what others may know of a node.
type Peer struct {
	Name      string
	PublicKey Key
	Addresses []netip.Addr // sorted; as allowed IPs each is a /32 or /128
	Endpoints []string     // host:port, in the order of the Node document
	NotAfter  int64        // Unix seconds at which the membership ends; 0: no end
}

// Manifest is the payload of the one signature per generation.
type Manifest struct {
	Type    string `json:"_type"` // ManifestType
	Network string `json:"network"`
	Zone    string `json:"zone"`
	Epoch   uint64 `json:"epoch"`
	Serial  uint64 `json:"serial"`
	// Previous is the digest of the manifest payload before this one; zero for the first of an epoch.
	Previous Digest `json:"previous"`
	// Commit is the git commit, hex; AsOf is the instant the compile used as its now, Unix seconds.
	Commit string `json:"commit"`
	AsOf   int64  `json:"asOf"`
	// Inputs is the digest of the Inputs artefact: path and digest of every input blob.
	Inputs Digest `json:"inputs"`
	// Bindings is the digest of the bindings that entered the compile; zero if there were none.
	Bindings Digest `json:"bindings"`
	// Compiler is the compiler's version: witnesses compare only equal versions.
	Compiler string `json:"compiler"`
	// RootVersion is the version of the trust root the commit was judged by.
	RootVersion uint64 `json:"rootVersion"`
	// ViewsRoot is the Merkle root over the views' leaf hashes, Views their count.
	ViewsRoot Digest `json:"viewsRoot"`
	Views     uint64 `json:"views"`
	Suspended bool   `json:"suspended"`
	// Expires is in Unix seconds.
	Expires int64 `json:"expires"`
}

// Timestamp is the short-lived statement that a manifest is still the current one.
type Timestamp struct {
	Type     string `json:"_type"` // TimestampType
	Network  string `json:"network"`
	Zone     string `json:"zone"`
	Epoch    uint64 `json:"epoch"`
	Serial   uint64 `json:"serial"`
	Manifest Digest `json:"manifest"` // of the manifest's payload bytes
	Issued   int64  `json:"issued"`   // Unix seconds
	Expires  int64  `json:"expires"`  // Unix seconds
}

// Payload types, used in the DSSE envelope and repeated inside the payload.
const (
	ManifestType  = "application/vnd.apex.manifest.v1+json"
	TimestampType = "application/vnd.apex.timestamp.v1+json"
)
