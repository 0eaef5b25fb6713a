package spec

import (
	"net/netip"
	"time"
)

// APIVersion is the only apiVersion this package loads.
const APIVersion = "apex/v1alpha1"

// Kind names a document type of the language.
type Kind string

// The kinds of apex/v1alpha1.
const (
	KindNetwork    Kind = "Network"
	KindZone       Kind = "Zone"
	KindNode       Kind = "Node"
	KindPolicy     Kind = "Policy"
	KindPolicyTest Kind = "PolicyTest"
	KindTrustRoot  Kind = "TrustRoot"
)

// Metadata names a document. Zone is required for Node, Policy and PolicyTest and forbidden elsewhere.
type Metadata struct {
	Name        string            `yaml:"name" json:"name"`
	Zone        string            `yaml:"zone,omitempty" json:"zone,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty" json:"annotations,omitempty"`
}

// Network is the repository as a whole: exactly one per repository.
type Network struct {
	Metadata Metadata    `yaml:"metadata" json:"metadata"`
	Spec     NetworkSpec `yaml:"spec" json:"spec"`
}

// NetworkSpec holds what is true of every zone.
type NetworkSpec struct {
	// MaxShrinkPercent is the share of a zone's nodes that one change may take away without the signed trailer
	// `Apex-Allow-Shrink: <zone>`. Default 30; emptying a zone always needs the trailer.
	MaxShrinkPercent int `yaml:"maxShrinkPercent,omitempty" json:"maxShrinkPercent,omitempty"`
}

// Default is what a zone does with traffic that no rule names.
type Default string

// Zone defaults. DefaultDeny is assumed when the field is absent.
const (
	DefaultDeny Default = "deny"
	DefaultMesh Default = "mesh"
)

// Zone is an isolated address space.
type Zone struct {
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	Spec     ZoneSpec `yaml:"spec" json:"spec"`
}

// ZoneSpec describes a zone's addresses and the defaults of its interfaces.
type ZoneSpec struct {
	// Ranges are the prefixes node addresses come from: IPv4, IPv6 or both.
	Ranges []netip.Prefix `yaml:"ranges" json:"ranges"`
	// Dynamic are the parts of Ranges kept for enrolled nodes; a Node document may not use them.
	Dynamic []netip.Prefix `yaml:"dynamic,omitempty" json:"dynamic,omitempty"`
	Default Default        `yaml:"default,omitempty" json:"default,omitempty"`
	// ListenPort is the UDP port of the zone's interface on every node unless the node says otherwise. Default 51820.
	ListenPort uint16 `yaml:"listenPort,omitempty" json:"listenPort,omitempty"`
	// MTU of the zone's interfaces in bytes, 1280 to 9000. Default 1420.
	MTU int `yaml:"mtu,omitempty" json:"mtu,omitempty"`
	// Keepalive is the WireGuard persistent keepalive, whole seconds, 0 (off) to 65535s. Default 0.
	Keepalive Duration `yaml:"keepalive,omitempty" json:"keepalive,omitempty"`
	// Suspend freezes the zone's published generation.
	Suspend bool `yaml:"suspend,omitempty" json:"suspend,omitempty"`
}

// Node is a host's membership in one zone. The same name in two zones is the same host.
type Node struct {
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	Spec     NodeSpec `yaml:"spec" json:"spec"`
}

// NodeSpec is what the network says of one node; the host itself can add nothing to it.
type NodeSpec struct {
	Addresses []netip.Addr `yaml:"addresses" json:"addresses"`
	// PublicKey is the WireGuard key: 32 bytes, standard base64.
	PublicKey Key `yaml:"publicKey" json:"publicKey"`
	// IdentityKey is the Ed25519 key with which the node proves itself to the controller: 32 bytes, standard base64.
	IdentityKey Key `yaml:"identityKey" json:"identityKey"`
	// Endpoints are static host:port pairs where peers may reach the node, best first. A host is an IP or a DNS name.
	Endpoints  []string    `yaml:"endpoints,omitempty" json:"endpoints,omitempty"`
	Routes     []NodeRoute `yaml:"routes,omitempty" json:"routes,omitempty"`
	ListenPort uint16      `yaml:"listenPort,omitempty" json:"listenPort,omitempty"`
	Keepalive  *Duration   `yaml:"keepalive,omitempty" json:"keepalive,omitempty"`
	// Relay marks a node that may forward for others (used once relays exist).
	Relay bool `yaml:"relay,omitempty" json:"relay,omitempty"`
}

// NodeRoute is a prefix behind a node. Two nodes may claim overlapping prefixes only if both say Shared; the lowest
// Priority, then the lexically first name, carries the traffic.
type NodeRoute struct {
	Prefix   netip.Prefix `yaml:"prefix" json:"prefix"`
	Shared   bool         `yaml:"shared,omitempty" json:"shared,omitempty"`
	Priority int          `yaml:"priority,omitempty" json:"priority,omitempty"`
}

// Policy is a list of allow rules in one zone.
type Policy struct {
	Metadata Metadata   `yaml:"metadata" json:"metadata"`
	Spec     PolicySpec `yaml:"spec" json:"spec"`
}

// PolicySpec holds allow rules; there is no deny rule, so the order of rules and files means nothing.
type PolicySpec struct {
	Allow []Rule `yaml:"allow" json:"allow"`
}

// Rule allows new flows from any source selector to any destination selector on the given ports (none: every
// protocol and port). Replies are part of the flow.
type Rule struct {
	From  []Selector `yaml:"from" json:"from"`
	To    []Selector `yaml:"to" json:"to"`
	Ports []Port     `yaml:"ports,omitempty" json:"ports,omitempty"`
	// NotAfter is the instant (RFC 3339) from which the rule no longer allows anything.
	NotAfter *time.Time `yaml:"notAfter,omitempty" json:"notAfter,omitempty"`
}

// Selector names a set of nodes, or prefixes behind nodes. Exactly one field is set; a list of selectors is a union.
type Selector struct {
	// Any selects every node of the zone (not the prefixes behind them).
	Any bool `yaml:"any,omitempty" json:"any,omitempty"`
	// Node selects one node by name.
	Node string `yaml:"node,omitempty" json:"node,omitempty"`
	// Labels selects nodes that carry every one of these labels.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	// CIDR selects addresses behind subnet routers: a prefix equal to or inside some node's route.
	CIDR netip.Prefix `yaml:"cidr,omitempty" json:"cidr,omitempty"`
	// Group and User select enrolled nodes by identity; they match nothing until identities exist.
	Group string `yaml:"group,omitempty" json:"group,omitempty"`
	User  string `yaml:"user,omitempty" json:"user,omitempty"`
}

// PolicyTest asserts what the policy must allow and must deny. Endpoints are node names, or addresses or prefixes
// behind a router.
type PolicyTest struct {
	Metadata Metadata       `yaml:"metadata" json:"metadata"`
	Spec     PolicyTestSpec `yaml:"spec" json:"spec"`
}

// PolicyTestSpec lists the assertions.
type PolicyTestSpec struct {
	Allow []Assertion `yaml:"allow,omitempty" json:"allow,omitempty"`
	Deny  []Assertion `yaml:"deny,omitempty" json:"deny,omitempty"`
}

// Assertion is one flow. No ports: for allow, every port must be allowed; for deny, no port may be.
type Assertion struct {
	From  string `yaml:"from" json:"from"`
	To    string `yaml:"to" json:"to"`
	Ports []Port `yaml:"ports,omitempty" json:"ports,omitempty"`
}

// TrustRoot says whose signatures count for what. The YAML is what people review; its canonical JSON form
// (signer.Root) is what the root keys sign.
type TrustRoot struct {
	Metadata Metadata      `yaml:"metadata" json:"metadata"`
	Spec     TrustRootSpec `yaml:"spec" json:"spec"`
}

// TrustRootSpec lists keys once and then gives them roles by name.
type TrustRootSpec struct {
	Version int `yaml:"version" json:"version"`
	// Epoch orders generations before their serial does; raising it recovers from a fast-forward attack.
	Epoch int `yaml:"epoch" json:"epoch"`
	// Expires is the instant after which this root warns and must be rotated.
	Expires     *time.Time       `yaml:"expires,omitempty" json:"expires,omitempty"`
	Keys        []TrustKey       `yaml:"keys" json:"keys"`
	Root        Role             `yaml:"root" json:"root"`
	Maintainers []MaintainerRule `yaml:"maintainers" json:"maintainers"`
	// Forge keys sign merges as an envelope only; they never authorise content.
	Forge     Role `yaml:"forge,omitempty" json:"forge,omitempty"`
	Manifest  Role `yaml:"manifest" json:"manifest"`
	Witnesses Role `yaml:"witnesses,omitempty" json:"witnesses,omitempty"`
	Timestamp Role `yaml:"timestamp" json:"timestamp"`
	Appliers  Role `yaml:"appliers,omitempty" json:"appliers,omitempty"`
	// Routes says which prefixes outside its ranges a zone's nodes may claim.
	Routes   []RouteClaim `yaml:"routes,omitempty" json:"routes,omitempty"`
	Validity Validity     `yaml:"validity,omitempty" json:"validity,omitempty"`
}

// TrustKey is one public key: exactly one of SSH, OpenPGP and Ed25519 is set.
type TrustKey struct {
	Name string `yaml:"name" json:"name"`
	// SSH is an authorized_keys line without options.
	SSH string `yaml:"ssh,omitempty" json:"ssh,omitempty"`
	// OpenPGP is an ASCII-armoured public key.
	OpenPGP string `yaml:"openpgp,omitempty" json:"openpgp,omitempty"`
	// Ed25519 is a raw key, 32 bytes of standard base64: controllers and witnesses.
	Ed25519 Key `yaml:"ed25519,omitempty" json:"ed25519,omitempty"`
}

// Role names the keys that hold it and how many distinct ones must sign (0 means 1).
type Role struct {
	Keys      []string `yaml:"keys" json:"keys"`
	Threshold int      `yaml:"threshold,omitempty" json:"threshold,omitempty"`
}

// MaintainerRule lets keys change paths. Paths are slash-separated globs in which `**` crosses folders.
type MaintainerRule struct {
	Name  string   `yaml:"name" json:"name"`
	Keys  []string `yaml:"keys" json:"keys"`
	Paths []string `yaml:"paths" json:"paths"`
	// Zones, when set, additionally limits which zones the documents in Paths may name.
	Zones []string `yaml:"zones,omitempty" json:"zones,omitempty"`
}

// RouteClaim lets one zone's nodes carry routes inside Prefixes.
type RouteClaim struct {
	Zone     string         `yaml:"zone" json:"zone"`
	Prefixes []netip.Prefix `yaml:"prefixes" json:"prefixes"`
}

// Validity is how long signatures live. Defaults: manifest 168h, timestamp 10m.
type Validity struct {
	Manifest  Duration `yaml:"manifest,omitempty" json:"manifest,omitempty"`
	Timestamp Duration `yaml:"timestamp,omitempty" json:"timestamp,omitempty"`
}
