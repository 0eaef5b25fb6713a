package spec

import (
	"net/netip"
	"slices"
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
//
// The tags of the kinds are the one source of their schema: a yaml tag without omitempty makes a field required, and an
// apex tag bounds its value (see bounds in shape.go). The loader enforces both, schemas/ is generated from both.
type Metadata struct {
	// Name is a DNS-1123 label, unique among the documents of its kind (and zone).
	Name string `yaml:"name" json:"name" apex:"name"`
	// Zone is the name of the zone the document belongs to.
	Zone string `yaml:"zone,omitempty" json:"zone,omitempty" apex:"name"`
	// Labels are what selectors select nodes by.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty" apex:"labels"`
	// Annotations are notes for people and tools; Apex gives them no meaning.
	Annotations map[string]string `yaml:"annotations,omitempty" json:"annotations,omitempty" apex:"annotations"`
}

// Network is the repository as a whole: exactly one per repository.
type Network struct {
	Metadata Metadata    `yaml:"metadata" json:"metadata"`
	Spec     NetworkSpec `yaml:"spec,omitempty" json:"spec,omitempty"`
}

// NetworkSpec holds what is true of every zone.
type NetworkSpec struct {
	// MaxShrinkPercent is the share of a zone's nodes that one change may take away without the signed trailer
	// `Apex-Allow-Shrink: <zone>`. Default 30; emptying a zone always needs the trailer.
	MaxShrinkPercent int `yaml:"maxShrinkPercent,omitempty" json:"maxShrinkPercent,omitempty" apex:"min=1,max=100"`
	// Issuers are the OpenID providers whose identities member rules may name.
	Issuers []Issuer `yaml:"issuers,omitempty" json:"issuers,omitempty" apex:"items=0-32"`
	// Revoked lists what no longer counts although a member rule would still admit it.
	Revoked []Revocation `yaml:"revoked,omitempty" json:"revoked,omitempty" apex:"items=0-4096"`
}

// Issuer is an OpenID provider (OpenID Connect Core 1.0) and how its tokens are read.
type Issuer struct {
	// Name is what member rules and selectors call the issuer.
	Name string `yaml:"name" json:"name" apex:"name"`
	// URL is the issuer identifier, exactly as its tokens carry it in `iss`; https, except for loopback.
	URL string `yaml:"url" json:"url"`
	// Audience is what `aud` must contain. Where the workload chooses the audience of its token, it may be bound to the
	// node's keys: "<audience>:<commitment>". Default: clientID, or "apex" without one.
	Audience string `yaml:"audience,omitempty" json:"audience,omitempty"`
	// ClientID is the public client that `apex login` signs people in with; without it people cannot use this issuer.
	ClientID string `yaml:"clientID,omitempty" json:"clientID,omitempty"`
	// ClientSecret goes with ClientID where the provider wants one of installed apps too, as Google does. It is no secret:
	// what every copy of an app carries nobody can keep (RFC 8252, section 8.5), and what stands in git is public. Never
	// write the secret of a confidential client here. It is sent in the form (client_secret_post).
	ClientSecret string `yaml:"clientSecret,omitempty" json:"clientSecret,omitempty"`
	// Scopes are what `apex login` asks for besides openid. Default: profile, email, offline_access.
	Scopes []string `yaml:"scopes,omitempty" json:"scopes,omitempty" apex:"items=0-32,unique"`
	// Claims maps claims to what rules and policies see.
	Claims ClaimMapping `yaml:"claims,omitempty" json:"claims,omitempty"`
	// ClockLeeway is how far the provider's clock may be off. Default 30s.
	ClockLeeway Duration `yaml:"clockLeeway,omitempty" json:"clockLeeway,omitempty" apex:"min=0s,max=5m,seconds"`
	// TokenBinding says whether a token must commit to the node's keys by its nonce or audience: required (the default)
	// or optional. Optional is for providers that let nobody choose either (a device code at most providers, a projected
	// Kubernetes token): there a token that is stolen before its first use enrols the thief's keys.
	TokenBinding TokenBinding `yaml:"tokenBinding,omitempty" json:"tokenBinding,omitempty" apex:"enum=required|optional"`
}

// ClaimMapping names the claims that carry an identity's username and groups. A name that begins with a slash is a JSON
// Pointer (RFC 6901) into nested claims.
type ClaimMapping struct {
	// Username is the claim that `users` compare with. Default email if the token says email_verified, else sub.
	Username string `yaml:"username,omitempty" json:"username,omitempty"`
	// Groups is the claim that `groups` compare with: a list of strings, or one. Default groups.
	Groups string `yaml:"groups,omitempty" json:"groups,omitempty"`
}

// TokenBinding says whether tokens must commit to keys.
type TokenBinding string

// The token bindings; TokenBindingRequired is assumed when the field is absent.
const (
	TokenBindingRequired TokenBinding = "required"
	TokenBindingOptional TokenBinding = "optional"
)

// Revocation ends bindings. What is set must all hold: a binding by its digest; an issuer with a user or subject; a zone
// with a node.
type Revocation struct {
	// Binding is the digest of one binding, as `apex enrol list` shows it.
	Binding string `yaml:"binding,omitempty" json:"binding,omitempty"`
	// Issuer is the name of the identity's issuer.
	Issuer string `yaml:"issuer,omitempty" json:"issuer,omitempty" apex:"name"`
	// User is the identity's username.
	User string `yaml:"user,omitempty" json:"user,omitempty" apex:"identity"`
	// Subject is the identity's `sub`.
	Subject string `yaml:"subject,omitempty" json:"subject,omitempty"`
	// Zone is where the node is that Node names; beside a user or subject it limits the revocation to one zone.
	Zone string `yaml:"zone,omitempty" json:"zone,omitempty" apex:"name"`
	// Node is the name of an enrolled node of Zone.
	Node string `yaml:"node,omitempty" json:"node,omitempty" apex:"name"`
	// Before limits the revocation to bindings issued before this instant (RFC 3339), so that who was revoked by mistake, or has
	// a new laptop, can enrol again.
	Before *time.Time `yaml:"before,omitempty" json:"before,omitempty"`
	// Reason is for people.
	Reason string `yaml:"reason,omitempty" json:"reason,omitempty"`
}

// Default is what a zone does with traffic that no rule names.
type Default string

// What holds where a document is silent.
const (
	DefaultMaxShrinkPercent  = 30
	DefaultListenPort        = 51820
	DefaultMTU               = 1420
	DefaultManifestValidity  = 168 * time.Hour
	DefaultTimestampValidity = 10 * time.Minute
)

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
	Ranges []netip.Prefix `yaml:"ranges" json:"ranges" apex:"items=1-16"`
	// Dynamic are the parts of Ranges kept for enrolled nodes; a Node document may not use them.
	Dynamic []netip.Prefix `yaml:"dynamic,omitempty" json:"dynamic,omitempty" apex:"items=0-16"`
	// Default is what happens to traffic between the zone's nodes that no rule names: deny (the default) or mesh.
	Default Default `yaml:"default,omitempty" json:"default,omitempty" apex:"enum=deny|mesh"`
	// ListenPort is the UDP port of the zone's interface on every node unless the node says otherwise. Default 51820.
	ListenPort uint16 `yaml:"listenPort,omitempty" json:"listenPort,omitempty" apex:"min=1,max=65535"`
	// MTU of the zone's interfaces in bytes, 1280 to 9000. Default 1420.
	MTU int `yaml:"mtu,omitempty" json:"mtu,omitempty" apex:"min=1280,max=9000"`
	// Keepalive is the WireGuard persistent keepalive, whole seconds, 0 (off) to 65535s. Default 0.
	Keepalive Duration `yaml:"keepalive,omitempty" json:"keepalive,omitempty" apex:"min=0s,max=65535s,seconds"`
	// Suspend freezes the zone's published generation.
	Suspend bool `yaml:"suspend,omitempty" json:"suspend,omitempty"`
	// Members are the rules by which identities may enrol nodes. The first that matches counts.
	Members []MemberRule `yaml:"members,omitempty" json:"members,omitempty" apex:"items=0-1024"`
	// Approved are nodes that wait for a review, approved here instead of by a signed statement.
	Approved []Approval `yaml:"approved,omitempty" json:"approved,omitempty" apex:"items=0-4096"`
}

// MemberRule says who may enrol nodes and what these get. Users and Groups are one union; Match must hold besides. At
// least one of the three is set.
type MemberRule struct {
	// Name is what bindings and refusals call the rule, unique in the zone.
	Name string `yaml:"name" json:"name" apex:"name"`
	// Issuer is a name of Network.spec.issuers.
	Issuer string `yaml:"issuer" json:"issuer" apex:"name"`
	// Users are usernames, exact.
	Users []string `yaml:"users,omitempty" json:"users,omitempty" apex:"identity,items=0-4096,unique"`
	// Groups are group names, exact.
	Groups []string `yaml:"groups,omitempty" json:"groups,omitempty" apex:"identity,items=0-1024,unique"`
	// Match compares claims with a value, or with a pattern in which `*` stands for one whole segment between the separators
	// `/`, `:` and `@`, and a last `**` for one or more. `acme*` is refused: it would match acme-evil.
	Match map[string]string `yaml:"match,omitempty" json:"match,omitempty"`
	// Labels are those of the enrolled nodes.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty" apex:"labels"`
	// TTL is how long a binding lives without renewal. Default 24h.
	TTL Duration `yaml:"ttl,omitempty" json:"ttl,omitempty" apex:"min=1m,max=8784h,seconds"`
	// Ephemeral nodes leave when they disconnect.
	Ephemeral bool `yaml:"ephemeral,omitempty" json:"ephemeral,omitempty"`
	// MaxNodes is how many nodes one identity may have in the zone by this rule. Default 10.
	MaxNodes int `yaml:"maxNodes,omitempty" json:"maxNodes,omitempty" apex:"min=1,max=100000"`
	// Routes are prefixes that a node may ask to carry. Default none.
	Routes []netip.Prefix `yaml:"routes,omitempty" json:"routes,omitempty" apex:"items=0-256,unique"`
	// Relay lets a node ask to be a relay. Default no.
	Relay bool `yaml:"relay,omitempty" json:"relay,omitempty"`
	// Approval is auto (the default) or review: a maintainer has to approve each node.
	Approval ApprovalMode `yaml:"approval,omitempty" json:"approval,omitempty" apex:"enum=auto|review"`
}

// ApprovalMode says whether enrolment waits for a maintainer.
type ApprovalMode string

// The approval modes; ApprovalAuto is assumed when the field is absent.
const (
	ApprovalAuto   ApprovalMode = "auto"
	ApprovalReview ApprovalMode = "review"
)

// What holds where a member rule or issuer is silent.
const (
	DefaultMemberTTL      = 24 * time.Hour
	DefaultMaxNodes       = 10
	DefaultClockLeeway    = 30 * time.Second
	DefaultIssuerAudience = "apex"
)

// Approval lets one waiting node in, as it waited: what the maintainer saw of it is all named, and with anything else of
// these it waits again. `apex enrol approve --pr` writes it.
type Approval struct {
	// Node is the name that the node asked for.
	Node string `yaml:"node" json:"node" apex:"name"`
	// PublicKey is the WireGuard key that it showed.
	PublicKey Key `yaml:"publicKey" json:"publicKey"`
	// IdentityKey is the Ed25519 key that it showed.
	IdentityKey Key `yaml:"identityKey" json:"identityKey"`
	// Issuer is the name of the identity's issuer.
	Issuer string `yaml:"issuer" json:"issuer" apex:"name"`
	// Subject is the identity's `sub`.
	Subject string `yaml:"subject" json:"subject"`
	// Rule is the name of the member rule that admits the identity.
	Rule string `yaml:"rule" json:"rule" apex:"name"`
	// Routes are the prefixes that it asked to carry.
	Routes []netip.Prefix `yaml:"routes,omitempty" json:"routes,omitempty" apex:"items=0-256,unique"`
	// Relay says that it asked to be a relay.
	Relay bool `yaml:"relay,omitempty" json:"relay,omitempty"`
}

// Equal reports whether two approvals say the same, in whatever order their routes stand.
func (a Approval) Equal(b Approval) bool {
	within := func(list, other []netip.Prefix) bool {
		return !slices.ContainsFunc(list, func(p netip.Prefix) bool { return !slices.Contains(other, p) })
	}
	return a.Node == b.Node && a.PublicKey == b.PublicKey && a.IdentityKey == b.IdentityKey && a.Issuer == b.Issuer &&
		a.Subject == b.Subject && a.Rule == b.Rule && a.Relay == b.Relay && within(a.Routes, b.Routes) && within(b.Routes, a.Routes)
}

// Node is a host's membership in one zone. The same name in two zones is the same host.
type Node struct {
	Metadata Metadata `yaml:"metadata" json:"metadata"`
	Spec     NodeSpec `yaml:"spec" json:"spec"`
	// Enrolled is set for nodes that are not in git but hold a binding (package identity makes these); nil for all others.
	Enrolled *Enrolled `yaml:"-" json:"-"`
}

// Enrolled is what a node has by its binding. It is not part of the language: no file can say it.
type Enrolled struct {
	// User and Groups are what selectors see, qualified by the issuer's name: "<issuer>:<name>".
	User   string
	Groups []string
	// Rule is the member rule that admits the node at this commit.
	Rule string
	// Expires is the instant, Unix seconds, at which the membership ends.
	Expires int64
	// Binding is the digest of the binding's payload, hex.
	Binding string
}

// NodeSpec is what the network says of one node; the host itself can add nothing to it.
type NodeSpec struct {
	// Addresses are the node's own in the zone: at least one, inside the zone's ranges and outside its dynamic ones.
	Addresses []netip.Addr `yaml:"addresses" json:"addresses" apex:"items=1-16"`
	// PublicKey is the WireGuard key: 32 bytes, standard base64.
	PublicKey Key `yaml:"publicKey" json:"publicKey"`
	// IdentityKey is the Ed25519 key with which the node proves itself to the controller: 32 bytes, standard base64.
	IdentityKey Key `yaml:"identityKey" json:"identityKey"`
	// Endpoints are static host:port pairs where peers may reach the node, best first. A host is an IP or a DNS name.
	Endpoints []string `yaml:"endpoints,omitempty" json:"endpoints,omitempty" apex:"endpoint,items=0-16,unique"`
	// Routes are the prefixes behind the node that others may reach through it.
	Routes []NodeRoute `yaml:"routes,omitempty" json:"routes,omitempty" apex:"items=0-1024"`
	// ListenPort overrides the zone's.
	ListenPort uint16 `yaml:"listenPort,omitempty" json:"listenPort,omitempty" apex:"min=1,max=65535"`
	// Keepalive overrides the zone's.
	Keepalive *Duration `yaml:"keepalive,omitempty" json:"keepalive,omitempty" apex:"min=0s,max=65535s,seconds"`
	// Relay marks a node that may forward for others (used once relays exist).
	Relay bool `yaml:"relay,omitempty" json:"relay,omitempty"`
}

// NodeRoute is a prefix behind a node. Two nodes may claim overlapping prefixes only if both say Shared; the lowest
// Priority, then the lexically first name, carries the traffic.
type NodeRoute struct {
	// Prefix is what lies behind the node; the trust root must let the zone claim it.
	Prefix netip.Prefix `yaml:"prefix" json:"prefix"`
	// Shared says that other nodes may claim the prefix too.
	Shared bool `yaml:"shared,omitempty" json:"shared,omitempty"`
	// Priority orders nodes that share a prefix: the lowest carries the traffic. Default 0.
	Priority int `yaml:"priority,omitempty" json:"priority,omitempty" apex:"min=0,max=1000000"`
}

// Policy is a list of allow rules in one zone.
type Policy struct {
	Metadata Metadata   `yaml:"metadata" json:"metadata"`
	Spec     PolicySpec `yaml:"spec" json:"spec"`
}

// PolicySpec holds allow rules; there is no deny rule, so the order of rules and files means nothing.
type PolicySpec struct {
	// Allow lists the rules; their order means nothing.
	Allow []Rule `yaml:"allow" json:"allow" apex:"items=0-4096"`
}

// Rule allows new flows from any source selector to any destination selector on the given ports (none: every
// protocol and port). Replies are part of the flow.
type Rule struct {
	// From selects who may begin a flow.
	From []Selector `yaml:"from" json:"from" apex:"items=1-256"`
	// To selects whom the flow may reach.
	To []Selector `yaml:"to" json:"to" apex:"items=1-256"`
	// Ports are those the flow may reach; none means every protocol and port.
	Ports []Port `yaml:"ports,omitempty" json:"ports,omitempty" apex:"items=1-256,unique"`
	// NotAfter is the instant (RFC 3339) from which the rule no longer allows anything.
	NotAfter *time.Time `yaml:"notAfter,omitempty" json:"notAfter,omitempty"`
}

// Selector names a set of nodes, or prefixes behind nodes. Exactly one field is set; a list of selectors is a union.
type Selector struct {
	// Any selects every node of the zone (not the prefixes behind them).
	Any bool `yaml:"any,omitempty" json:"any,omitempty"`
	// Node selects one node by name.
	Node string `yaml:"node,omitempty" json:"node,omitempty" apex:"name"`
	// Labels selects nodes that carry every one of these labels.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty" apex:"labels"`
	// CIDR selects addresses behind subnet routers: a prefix equal to or inside some node's route.
	CIDR netip.Prefix `yaml:"cidr,omitempty" json:"cidr,omitempty"`
	// Groups selects enrolled nodes whose identity is in one of these groups. Where the network has several issuers, a
	// name says which: "<issuer>:<group>".
	Groups []string `yaml:"groups,omitempty" json:"groups,omitempty" apex:"identity,items=1-256,unique"`
	// Users selects enrolled nodes by the username of their identity, qualified likewise.
	Users []string `yaml:"users,omitempty" json:"users,omitempty" apex:"identity,items=1-256,unique"`
}

// PolicyTest asserts what the policy must allow and must deny. Endpoints are node names, addresses or prefixes
// behind a router, or the users and groups that member rules admit.
type PolicyTest struct {
	Metadata Metadata       `yaml:"metadata" json:"metadata"`
	Spec     PolicyTestSpec `yaml:"spec" json:"spec"`
}

// PolicyTestSpec lists the assertions.
type PolicyTestSpec struct {
	// Allow lists flows that the policy must allow.
	Allow []Assertion `yaml:"allow,omitempty" json:"allow,omitempty" apex:"items=0-4096"`
	// Deny lists flows that the policy must not allow.
	Deny []Assertion `yaml:"deny,omitempty" json:"deny,omitempty" apex:"items=0-4096"`
}

// Assertion is one flow. No ports: for allow, every port must be allowed; for deny, no port may be.
type Assertion struct {
	// From is where the flow begins: a node, an address or prefix behind a router, or user:NAME or group:NAME for whoever a
	// member rule of the zone admits.
	From string `yaml:"from" json:"from"`
	// To is where the flow ends, named as From is.
	To string `yaml:"to" json:"to"`
	// Ports are those the assertion is about.
	Ports []Port `yaml:"ports,omitempty" json:"ports,omitempty" apex:"items=1-256,unique"`
}

// TrustRoot says whose signatures count for what. The YAML is what people review; its canonical JSON form
// (signer.Root) is what the root keys sign.
type TrustRoot struct {
	Metadata Metadata      `yaml:"metadata" json:"metadata"`
	Spec     TrustRootSpec `yaml:"spec" json:"spec"`
}

// TrustRootSpec lists keys once and then gives them roles by name.
type TrustRootSpec struct {
	// Version counts roots from 1; each is signed by the one before.
	Version int `yaml:"version" json:"version" apex:"min=1,max=2147483647"`
	// Epoch orders generations before their serial does; raising it recovers from a fast-forward attack.
	Epoch int `yaml:"epoch" json:"epoch" apex:"min=0,max=2147483647"`
	// Expires is the instant after which this root warns and must be rotated.
	Expires *time.Time `yaml:"expires,omitempty" json:"expires,omitempty"`
	// Keys are all keys that any role names.
	Keys []TrustKey `yaml:"keys" json:"keys" apex:"items=1-256"`
	// Root keys sign trust roots, offline.
	Root Role `yaml:"root" json:"root"`
	// Maintainers may change the documents under their paths.
	Maintainers []MaintainerRule `yaml:"maintainers" json:"maintainers" apex:"items=0-1024"`
	// Forge keys sign merges as an envelope only; they never authorise content.
	Forge Role `yaml:"forge,omitempty" json:"forge,omitempty"`
	// Manifest keys sign generations. Signatures of witnesses count towards the threshold too, beside at least one of these.
	Manifest Role `yaml:"manifest" json:"manifest"`
	// Witnesses recompile a commit and co-sign its manifest.
	Witnesses WitnessRole `yaml:"witnesses,omitempty" json:"witnesses,omitempty"`
	// Timestamp keys state that a manifest is still the current one.
	Timestamp Role `yaml:"timestamp" json:"timestamp"`
	// Appliers may ask a controller to take a commit now.
	Appliers ApplierRole `yaml:"appliers,omitempty" json:"appliers,omitempty"`
	// Enrolment keys sign bindings, and nothing else.
	Enrolment Role `yaml:"enrolment,omitempty" json:"enrolment,omitempty"`
	// Routes says which prefixes outside its ranges a zone's nodes may claim.
	Routes []RouteClaim `yaml:"routes,omitempty" json:"routes,omitempty" apex:"items=0-1024"`
	// Issuers, when set, are the only ones that Network.spec.issuers may hold and that hosts get tokens of. Without them hosts
	// take the controller's word for where people sign in.
	Issuers []TrustedIssuer `yaml:"issuers,omitempty" json:"issuers,omitempty" apex:"items=0-32"`
	// Validity is how long signatures live.
	Validity Validity `yaml:"validity,omitempty" json:"validity,omitempty"`
}

// TrustKey is one public key: exactly one of SSH, OpenPGP and Ed25519 is set.
type TrustKey struct {
	// Name is what roles call the key.
	Name string `yaml:"name" json:"name" apex:"name"`
	// SSH is an authorized_keys line without options.
	SSH string `yaml:"ssh,omitempty" json:"ssh,omitempty"`
	// OpenPGP is an ASCII-armoured public key.
	OpenPGP string `yaml:"openpgp,omitempty" json:"openpgp,omitempty" apex:"multiline"`
	// Ed25519 is a raw key, 32 bytes of standard base64: controllers and witnesses.
	Ed25519 Key `yaml:"ed25519,omitempty" json:"ed25519,omitempty"`
}

// Role names the keys that hold it and how many distinct ones must sign (0 means 1).
type Role struct {
	// Keys are names from spec.keys.
	Keys []string `yaml:"keys" json:"keys" apex:"name,items=1-256,unique"`
	// Threshold is how many distinct keys must sign. Default 1.
	Threshold int `yaml:"threshold,omitempty" json:"threshold,omitempty" apex:"min=1,max=256"`
}

// ApplierRole is a Role that CI systems may hold by identity.
type ApplierRole struct {
	// Keys are names from spec.keys.
	Keys []string `yaml:"keys,omitempty" json:"keys,omitempty" apex:"name,items=0-256,unique"`
	// Identities may apply with an ID token instead of a key.
	Identities []ApplierIdentity `yaml:"identities,omitempty" json:"identities,omitempty" apex:"items=0-64"`
}

// ApplierIdentity is a CI job that may apply. It stands in the trust root whole, so that a change of Network.spec.issuers
// gives nobody this right.
type ApplierIdentity struct {
	// Name is what refusals call it.
	Name string `yaml:"name" json:"name" apex:"name"`
	// Issuer is the URL in the token's `iss`.
	Issuer string `yaml:"issuer" json:"issuer"`
	// Audience is what `aud` must be. Default apex.
	Audience string `yaml:"audience,omitempty" json:"audience,omitempty"`
	// Match compares claims as a member rule does; at least one.
	Match map[string]string `yaml:"match" json:"match"`
	// CommitClaim is the claim that must equal the commit applied, such as sha (GitHub) or ci_sha (GitLab: sha).
	CommitClaim string `yaml:"commitClaim" json:"commitClaim"`
}

// WitnessRole is a Role that CI systems may hold by identity.
type WitnessRole struct {
	// Keys are names from spec.keys.
	Keys []string `yaml:"keys,omitempty" json:"keys,omitempty" apex:"name,items=0-256,unique"`
	// Threshold is how many distinct witnesses must sign.
	Threshold int `yaml:"threshold,omitempty" json:"threshold,omitempty" apex:"min=1,max=256"`
	// Identities may co-sign with an ID token bound to the manifest instead of a key.
	Identities []WitnessIdentity `yaml:"identities,omitempty" json:"identities,omitempty" apex:"items=0-16"`
}

// WitnessIdentity is a CI job that may co-sign manifests. Agents verify its tokens with the keys listed here, offline.
type WitnessIdentity struct {
	// Name is what refusals call it.
	Name string `yaml:"name" json:"name" apex:"name"`
	// Issuer is the URL in the token's `iss`.
	Issuer string `yaml:"issuer" json:"issuer"`
	// Match compares claims as a member rule does; at least one.
	Match map[string]string `yaml:"match" json:"match"`
	// Keys are the issuer's signing keys, each a JSON Web Key (RFC 7517) on one line. `apex trust issuer-keys` fetches them.
	Keys []string `yaml:"keys" json:"keys" apex:"items=1-16,unique"`
}

// MaintainerRule lets keys change paths. Paths are slash-separated globs in which `**` crosses folders.
type MaintainerRule struct {
	// Name is what refusals call the rule.
	Name string `yaml:"name" json:"name" apex:"name"`
	// Keys are names from spec.keys.
	Keys []string `yaml:"keys" json:"keys" apex:"name,items=1-256,unique"`
	// Paths are globs such as zones/prod/**.
	Paths []string `yaml:"paths" json:"paths" apex:"glob,items=1-256,unique"`
	// Zones, when set, additionally limits which zones the documents in Paths may name.
	Zones []string `yaml:"zones,omitempty" json:"zones,omitempty" apex:"name,items=1-256,unique"`
}

// RouteClaim lets one zone's nodes carry routes inside Prefixes.
type RouteClaim struct {
	// Zone is the zone whose nodes may carry routes.
	Zone string `yaml:"zone" json:"zone" apex:"name"`
	// Prefixes are what the routes must lie in.
	Prefixes []netip.Prefix `yaml:"prefixes" json:"prefixes" apex:"items=1-4096,unique"`
}

// TrustedIssuer is an OpenID provider that the network may let people and workloads join by, and whom its tokens are for. All
// three must be those of an entry of Network.spec.issuers.
type TrustedIssuer struct {
	// URL is the issuer identifier, exactly as in Network.spec.issuers.
	URL string `yaml:"url" json:"url"`
	// Audience is what `aud` must contain. Default: clientID, or "apex" without one.
	Audience string `yaml:"audience,omitempty" json:"audience,omitempty"`
	// ClientID is the public client that people sign in with.
	ClientID string `yaml:"clientID,omitempty" json:"clientID,omitempty"`
}

// Validity is how long signatures live. Defaults: manifest 168h, timestamp 10m.
type Validity struct {
	// Manifest is the life of a manifest's signature. Default 168h.
	Manifest Duration `yaml:"manifest,omitempty" json:"manifest,omitempty" apex:"min=1s,max=8784h,seconds"`
	// Timestamp is the life of a timestamp. Default 10m.
	Timestamp Duration `yaml:"timestamp,omitempty" json:"timestamp,omitempty" apex:"min=1s,max=8784h,seconds"`
}
