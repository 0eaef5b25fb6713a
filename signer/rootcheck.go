package signer

import (
	"errors"
	"fmt"
	"slices"

	"github.com/apex-network/apex/spec/peermap"
)

// rootChecker collects every contradiction of a root, so that a person sees all of them at once.
type rootChecker struct {
	root  *Root
	keys  map[string]PublicKey
	names map[string]string
	// witnesses are the witness identities by ID.
	witnesses map[string]*pinnedIdentity
	errs      []error
}

// check validates a root in normal form and gives its index, without the bytes.
func (r *Root) check() (*rootIndex, error) {
	c := &rootChecker{root: r, keys: map[string]PublicKey{}, names: map[string]string{}, witnesses: map[string]*pinnedIdentity{}}
	c.header()
	c.listKeys()
	c.role("root", r.Root, 1, KindSSH, KindEd25519)
	c.role("timestamp", r.Timestamp, 1, KindEd25519)
	c.role("forge", r.Forge, 0, KindSSH, KindOpenPGP)
	c.role("appliers", r.Appliers, 0, KindSSH)
	c.role("enrolment", r.Enrolment, 0, KindEd25519)
	c.identities()
	c.generationRoles()
	c.enrolmentAlone()
	c.single("forge", r.Forge)
	c.single("appliers", r.Appliers)
	c.single("enrolment", r.Enrolment)
	c.thresholds()
	c.maintainers()
	c.routes()
	c.issuers()
	if err := errors.Join(c.errs...); err != nil {
		return nil, fmt.Errorf("%w: version %d of network %.63q: %w", ErrInvalidRoot, r.Version, r.Network, err)
	}
	return &rootIndex{owner: r, keys: c.keys, names: c.names, witnesses: c.witnesses}, nil
}

func (c *rootChecker) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *rootChecker) header() {
	r := c.root
	if r.Type != RootType {
		c.fail("type %.80q, want %q", r.Type, RootType)
	}
	if !isName(r.Network) {
		c.fail("network: %.80q is no name", r.Network)
	}
	if r.Version == 0 {
		c.fail("version: counts from 1")
	}
	if r.Expires < 0 {
		c.fail("expires: %d lies before 1970", r.Expires)
	}
	if r.Validity.Manifest <= 0 || r.Validity.Timestamp <= 0 || r.Validity.Manifest > maxValidity || r.Validity.Timestamp > maxValidity {
		c.fail("validity: manifest %d s and timestamp %d s must be between 1 s and 10 years", r.Validity.Manifest, r.Validity.Timestamp)
	}
}

const maxValidity = 10 * 365 * 24 * 3600

func (c *rootChecker) listKeys() {
	if len(c.root.Keys) > MaxRootKeys {
		c.fail("keys: %d, at most %d", len(c.root.Keys), MaxRootKeys)
		return
	}
	for _, k := range c.root.Keys {
		if !isName(k.Name) {
			c.fail("keys: %.80q is no name (letters, digits and . _ @ + -, at most %d)", k.Name, peermap.MaxName)
			continue
		}
		if _, ok := c.keys[k.Name]; ok {
			c.fail("keys: the name %s stands twice", k.Name)
			continue
		}
		key, err := ParsePublicKey(k.Kind, k.Public)
		if err != nil {
			c.fail("keys: %s: %w", k.Name, err)
			continue
		}
		c.keys[k.Name] = key
		for _, id := range key.ids {
			if other, ok := c.names[id]; ok && other != k.Name {
				c.fail("keys: %s and %s are one key (%s); list it once", other, k.Name, key.Fingerprint())
			}
			c.names[id] = k.Name
		}
	}
}

// role checks one role: known distinct keys of the right kinds, and a threshold that they can reach.
func (c *rootChecker) role(what string, role Role, least int, kinds ...Kind) {
	c.roleKeys(what, role.Keys, kinds...)
	if len(role.Keys) < least {
		c.fail("%s: needs at least %d key", what, least)
	}
	if role.Threshold < 0 || role.Threshold > len(role.Keys) || (len(role.Keys) > 0 && role.Threshold < 1) {
		c.fail("%s: threshold %d cannot be met by %d keys", what, role.Threshold, len(role.Keys))
	}
}

func (c *rootChecker) roleKeys(what string, names []string, kinds ...Kind) {
	for i, name := range names {
		if i > 0 && names[i-1] == name {
			c.fail("%s: key %.80q stands twice", what, name)
		}
		key, ok := c.keys[name]
		if !ok {
			if !slices.ContainsFunc(c.root.Keys, func(k RootKey) bool { return k.Name == name }) {
				c.fail("%s: key %.80q is not listed under keys", what, name)
			}
			continue // listed but broken: already reported
		}
		if !slices.Contains(kinds, key.Kind()) {
			c.fail("%s: key %s is of kind %s; this role takes %v", what, name, key.Kind(), kinds)
		}
	}
}

// generationRoles checks manifest and witnesses, whose keys count together.
func (c *rootChecker) generationRoles() {
	m, w := c.root.Manifest, c.root.Witnesses
	c.roleKeys("manifest", m.Keys, KindEd25519)
	c.roleKeys("witnesses", w.Keys, KindEd25519)
	if len(m.Keys) == 0 {
		c.fail("manifest: needs at least 1 key")
	}
	union := len(m.Keys)
	for _, name := range w.Keys {
		if slices.Contains(m.Keys, name) {
			c.fail("witnesses: %s is a manifest key too; a witness must be somebody else", name)
		} else {
			union++
		}
	}
	witnesses := len(w.Keys) + len(c.root.WitnessIdentities)
	union += len(c.root.WitnessIdentities)
	if m.Threshold < 1 || m.Threshold > union {
		c.fail("manifest: threshold %d cannot be met by %d manifest keys and %d witnesses", m.Threshold, len(m.Keys), witnesses)
	}
	if w.Threshold < 0 || w.Threshold > witnesses {
		c.fail("witnesses: threshold %d cannot be met by %d of them", w.Threshold, witnesses)
	}
}

// enrolmentAlone demands that enrolment keys hold no other role.
func (c *rootChecker) enrolmentAlone() {
	r := c.root
	roles := []struct {
		what string
		keys []string
	}{{"root", r.Root.Keys}, {"manifest", r.Manifest.Keys}, {"witnesses", r.Witnesses.Keys}, {"timestamp", r.Timestamp.Keys}}
	for _, name := range r.Enrolment.Keys {
		for _, role := range roles {
			if slices.Contains(role.keys, name) {
				c.fail("enrolment: %s holds the role %s too; an enrolment key signs bindings and nothing else", name, role.what)
			}
		}
	}
}

// single refuses a threshold that no code could honour: these roles sign alone.
func (c *rootChecker) single(what string, role Role) {
	if role.Threshold > 1 {
		c.fail("%s: threshold %d; a signature of this role always stands alone", what, role.Threshold)
	}
}

// thresholds keeps within what an envelope can carry.
func (c *rootChecker) thresholds() {
	r := c.root
	if highest := max(r.Root.Threshold, r.Manifest.Threshold, r.Witnesses.Threshold, r.Timestamp.Threshold); highest > MaxThreshold {
		c.fail("threshold %d: at most %d, so that the signatures of a rotation fit into one envelope", highest, MaxThreshold)
	}
}

func (c *rootChecker) maintainers() {
	if len(c.root.Maintainers) > MaxRootRules {
		c.fail("maintainers: %d rules, at most %d", len(c.root.Maintainers), MaxRootRules)
		return
	}
	for i, m := range c.root.Maintainers {
		what := fmt.Sprintf("maintainers %.80q", m.Name)
		if !isName(m.Name) {
			c.fail("%s: no name", what)
		}
		if i > 0 && c.root.Maintainers[i-1].Name == m.Name {
			c.fail("%s: the name stands twice", what)
		}
		c.roleKeys(what, m.Keys, KindSSH, KindOpenPGP)
		if len(m.Keys) == 0 || len(m.Paths) == 0 {
			c.fail("%s: needs at least one key and one path", what)
		}
		for j, p := range m.Paths {
			if err := checkPattern(p); err != nil {
				c.fail("%s: %w", what, err)
			}
			if j > 0 && m.Paths[j-1] == p {
				c.fail("%s: path %.80q stands twice", what, p)
			}
		}
		for j, z := range m.Zones {
			if !isName(z) || (j > 0 && m.Zones[j-1] == z) {
				c.fail("%s: zone %.80q is no name or stands twice", what, z)
			}
		}
	}
}

func (c *rootChecker) routes() {
	if len(c.root.Routes) > MaxRootRules {
		c.fail("routes: %d claims, at most %d", len(c.root.Routes), MaxRootRules)
		return
	}
	for _, claim := range c.root.Routes {
		if !isName(claim.Zone) || len(claim.Prefixes) == 0 || len(claim.Prefixes) > MaxRootRules {
			c.fail("routes of zone %.80q: needs a zone name and 1 to %d prefixes", claim.Zone, MaxRootRules)
			continue
		}
		for i, p := range claim.Prefixes {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				c.fail("routes of zone %s: %s is no prefix without host bits", claim.Zone, p)
			}
			if i > 0 && claim.Prefixes[i-1] == p {
				c.fail("routes of zone %s: %s stands twice", claim.Zone, p)
			}
		}
	}
}

// isName takes 1 to MaxName letters, digits and, after the first, . _ @ + -, so that names survive in messages, logs and file names.
func isName(s string) bool {
	if s == "" || len(s) > peermap.MaxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case (c == '.' || c == '_' || c == '@' || c == '+' || c == '-') && i > 0:
		default:
			return false
		}
	}
	return true
}
