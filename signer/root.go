package signer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/spec/peermap"
)

// Payload types of the documents this package defines.
const (
	RootType  = "application/vnd.apex.root.v1+json"
	StateType = "application/vnd.apex.state.v1+json"
)

// Validity that a trust root has when it names none.
const (
	DefaultManifestValidity  = 168 * time.Hour
	DefaultTimestampValidity = 10 * time.Minute
)

// Root is the trust root of a network: whose signatures count for what. It is the canonical JSON form of the TrustRoot
// document, and these bytes are what the root keys sign. A Root that Parse… or Verify… gave is not to be changed; Clone
// gives one that may be.
type Root struct {
	Type    string `json:"_type"` // RootType; Encode fills it in
	Network string `json:"network"`
	// Version counts up by one; the first is 1 or more.
	Version uint64 `json:"version"`
	// Epoch orders generations before their serial does; it never decreases from one version to the next.
	Epoch uint64 `json:"epoch"`
	// Expires is in Unix seconds; from then on Freshness warns. 0: no end.
	Expires int64 `json:"expires"`
	// Keys are sorted by name.
	Keys []RootKey `json:"keys"`
	// Root signs the next version. SSH or Ed25519 keys.
	Root Role `json:"root"`
	// Maintainers may change paths of the repository. SSH or OpenPGP keys. Sorted by name.
	Maintainers []MaintainerRule `json:"maintainers"`
	// Forge signs merges as an envelope only. SSH or OpenPGP keys.
	Forge Role `json:"forge"`
	// Manifest and Witnesses sign generations: Manifest.Threshold distinct keys of both roles together, at least one of
	// them from Manifest, and at least Witnesses.Threshold (0: none required) from Witnesses. Ed25519 keys.
	Manifest  Role `json:"manifest"`
	Witnesses Role `json:"witnesses"`
	// Timestamp signs that a manifest is current. Ed25519 keys.
	Timestamp Role `json:"timestamp"`
	// Appliers may ask the controller to take a commit now. SSH keys.
	Appliers Role `json:"appliers"`
	// Routes are sorted by zone, then prefix list.
	Routes   []RouteClaim `json:"routes"`
	Validity Validity     `json:"validity"`
	// The following are left out of the bytes of a root that has none of them, so that roots from before they existed keep
	// their digests.

	// Enrolment signs bindings, alone, and its keys hold no other role: they are the keys of a service that strangers speak
	// to, and whoever steals them can invent members but neither manifests nor maintainers. Ed25519 keys.
	Enrolment Role `json:"enrolment,omitzero"`
	// ApplierIdentities may apply with an ID token. Sorted by name.
	ApplierIdentities []ApplierIdentity `json:"applierIdentities,omitempty"`
	// WitnessIdentities count as witnesses and co-sign with ID tokens. Sorted by name.
	WitnessIdentities []WitnessIdentity `json:"witnessIdentities,omitempty"`
	// Issuers are the only ones that hosts get tokens of to join by, unless there are none. Sorted as a whole.
	Issuers []TrustedIssuer `json:"issuers,omitempty"`

	index *rootIndex
}

// RootKey is one public key by name; Public is PublicKey.Text.
type RootKey struct {
	Name   string `json:"name"`
	Kind   Kind   `json:"kind"`
	Public string `json:"public"`
}

// Role names the keys that hold it, sorted, and how many distinct ones must sign.
type Role struct {
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
}

// IsZero reports whether nobody holds the role.
func (r Role) IsZero() bool { return len(r.Keys) == 0 && r.Threshold == 0 }

// MaintainerRule lets Keys change Paths: slash-separated globs in which `**` crosses folders. Zones, when not empty,
// limits which zones the documents there may name.
type MaintainerRule struct {
	Name  string   `json:"name"`
	Keys  []string `json:"keys"`
	Paths []string `json:"paths"`
	Zones []string `json:"zones"`
}

// RouteClaim lets nodes of Zone carry routes inside Prefixes, although they lie outside the zone's ranges.
type RouteClaim struct {
	Zone     string         `json:"zone"`
	Prefixes []netip.Prefix `json:"prefixes"`
}

// Validity is how long signatures may live, in seconds.
type Validity struct {
	Manifest  int64 `json:"manifest"`
	Timestamp int64 `json:"timestamp"`
}

// rootIndex holds what is computed once per Root. It is believed only by the Root it was made for, so that a struct copy
// with changes is computed anew.
type rootIndex struct {
	owner   *Root
	payload []byte
	digest  peermap.Digest
	keys    map[string]PublicKey // by name
	names   map[string]string    // by ID, subkeys included
	// witnesses are the witness identities by ID.
	witnesses map[string]*pinnedIdentity
}

// NewRootKey gives the entry for a key under a name.
func NewRootKey(name string, key PublicKey) RootKey {
	return RootKey{Name: name, Kind: key.Kind(), Public: key.Text()}
}

// Clone gives a deep copy that may be changed, for instance into the next version.
func (r *Root) Clone() *Root {
	c := *r
	c.index = nil
	c.Keys = cloneList(r.Keys)
	for _, role := range []*Role{&c.Root, &c.Forge, &c.Manifest, &c.Witnesses, &c.Timestamp, &c.Appliers, &c.Enrolment} {
		role.Keys = cloneList(role.Keys)
	}
	c.Maintainers = cloneList(r.Maintainers)
	for i := range c.Maintainers {
		m := &c.Maintainers[i]
		m.Keys, m.Paths, m.Zones = cloneList(m.Keys), cloneList(m.Paths), cloneList(m.Zones)
	}
	c.Routes = cloneList(r.Routes)
	for i := range c.Routes {
		c.Routes[i].Prefixes = cloneList(c.Routes[i].Prefixes)
	}
	c.ApplierIdentities = cloneList(r.ApplierIdentities)
	for i := range c.ApplierIdentities {
		c.ApplierIdentities[i].Match = cloneList(c.ApplierIdentities[i].Match)
	}
	c.WitnessIdentities = cloneList(r.WitnessIdentities)
	for i := range c.WitnessIdentities {
		w := &c.WitnessIdentities[i]
		w.Match, w.Keys = cloneList(w.Match), cloneList(w.Keys)
	}
	c.Issuers = cloneList(r.Issuers)
	return &c
}

// cloneList never gives nil, so that JSON holds [] and no null.
func cloneList[T any](in []T) []T { return append(make([]T, 0, len(in)), in...) }

// Canonical gives the checked, normal form of r: the type, thresholds and validity filled in, key texts canonical, every
// list sorted. Two documents that mean the same give the same bytes. Errors: ErrInvalidRoot, with every contradiction.
func (r *Root) Canonical() (*Root, error) {
	c := r.Clone()
	c.Type = RootType
	for i, k := range c.Keys {
		if key, err := ParsePublicKey(k.Kind, k.Public); err == nil {
			c.Keys[i].Public = key.Text()
		}
	}
	slices.SortFunc(c.Keys, func(a, b RootKey) int { return strings.Compare(a.Name, b.Name) })
	for _, role := range []*Role{&c.Root, &c.Forge, &c.Manifest, &c.Timestamp, &c.Appliers, &c.Enrolment} {
		if role.Threshold == 0 && len(role.Keys) > 0 {
			role.Threshold = 1
		}
	}
	for _, role := range []*Role{&c.Root, &c.Forge, &c.Manifest, &c.Witnesses, &c.Timestamp, &c.Appliers, &c.Enrolment} {
		slices.Sort(role.Keys)
	}
	for _, m := range c.Maintainers {
		slices.Sort(m.Keys)
		slices.Sort(m.Paths)
		slices.Sort(m.Zones)
	}
	slices.SortFunc(c.Maintainers, func(a, b MaintainerRule) int { return strings.Compare(a.Name, b.Name) })
	for _, claim := range c.Routes {
		slices.SortFunc(claim.Prefixes, peermap.ComparePrefixes)
	}
	slices.SortFunc(c.Routes, func(a, b RouteClaim) int {
		if d := strings.Compare(a.Zone, b.Zone); d != 0 {
			return d
		}
		return slices.CompareFunc(a.Prefixes, b.Prefixes, peermap.ComparePrefixes)
	})
	c.sortIdentities()
	if c.Validity.Manifest == 0 {
		c.Validity.Manifest = int64(DefaultManifestValidity / time.Second)
	}
	if c.Validity.Timestamp == 0 {
		c.Validity.Timestamp = int64(DefaultTimestampValidity / time.Second)
	}
	if err := c.seal(); err != nil {
		return nil, err
	}
	return c, nil
}

// seal checks r, which is in normal form, and attaches its index.
func (r *Root) seal() error {
	index, err := r.check()
	if err != nil {
		return err
	}
	payload, err := encodeCanonical(r)
	if err != nil {
		return fmt.Errorf("trust root version %d: %w", r.Version, err)
	}
	if len(payload) > peermap.MaxRootBytes*3/4-MaxSignatureBytes {
		return fmt.Errorf("trust root version %d: %w: %d bytes leave no room for signatures in %d",
			r.Version, ErrTooLarge, len(payload), peermap.MaxRootBytes)
	}
	index.payload, index.digest = payload, peermap.DigestOf(payload)
	r.index = index
	return nil
}

// indexed gives the index of r. For a Root that was put together by hand it is computed on each call, from the canonical
// form; one that does not validate knows no keys.
func (r *Root) indexed() *rootIndex {
	if r.index != nil && r.index.owner == r {
		return r.index
	}
	c, err := r.Canonical()
	if err != nil {
		return &rootIndex{owner: r}
	}
	return c.index
}

// Encode gives the payload that the root keys sign: the JSON of Canonical. Errors: ErrInvalidRoot, ErrTooLarge.
func (r *Root) Encode() ([]byte, error) {
	if r.index != nil && r.index.owner == r {
		return slices.Clone(r.index.payload), nil
	}
	c, err := r.Canonical()
	if err != nil {
		return nil, err
	}
	return c.index.payload, nil
}

// Digest is the digest of the payload bytes, by which a root is pinned. It is zero for a Root that does not validate.
func (r *Root) Digest() peermap.Digest { return r.indexed().digest }

// ParseRoot reads a payload in canonical form and checks that it does not contradict itself. It verifies no signature:
// VerifyFirstRoot and VerifyNextRoot do. Errors: ErrTooLarge, ErrFormat, ErrInvalidRoot.
func ParseRoot(payload []byte) (*Root, error) {
	var r Root
	if err := decodeCanonical("trust root", payload, peermap.MaxRootBytes, &r); err != nil {
		return nil, err
	}
	c, err := r.Canonical()
	if err != nil {
		return nil, err
	}
	if n := firstDifference(c.index.payload, payload); len(c.index.payload) != len(payload) || n != len(payload) {
		return nil, fmt.Errorf("trust root: %w: a list is unsorted or null, or a default is missing (first difference at byte %d)",
			ErrFormat, n)
	}
	return c, nil
}
