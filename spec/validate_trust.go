package spec

import (
	"cmp"
	"slices"
	"time"

	"github.com/apex-network/apex/spec/diag"
)

// trustKeys is what the trust root's keys are, by name.
type trustKeys map[string]*trustKey

type trustKey struct {
	form keyForm
	id   string // equal for two spellings of one key; empty if the key is not sound
	used bool
}

// checkTrust judges the trust root by itself and against the zones.
func (c *checker) checkTrust() {
	root := c.repo.TrustRoot
	if root == nil {
		if !c.repo.incomplete {
			c.list = append(c.list, diag.Diagnostic{Code: diag.NoTrustRoot, Severity: diag.Warning,
				Message: "the repository has no " + TrustRootPath, Hint: "`apex trust init` makes one"})
		}
		return
	}
	s := &root.Value.Spec
	if s.Expires != nil && !s.Expires.IsZero() && !c.now.Before(*s.Expires) {
		c.warnf(root, "spec.expires", diag.TrustExpired, "sign a new version with `apex trust rotate`", "the trust root expired at %s",
			s.Expires.Format(time.RFC3339))
	}
	keys := c.checkTrustKeys(root)
	c.checkRole(root, keys, "spec.root", &s.Root, true, sshKey)
	c.checkRole(root, keys, "spec.forge", &s.Forge, false, sshKey, openpgpKey)
	c.checkRole(root, keys, "spec.timestamp", &s.Timestamp, true, rawKey)
	c.checkRole(root, keys, "spec.appliers", &Role{Keys: s.Appliers.Keys}, false, sshKey)
	c.checkRole(root, keys, "spec.enrolment", &s.Enrolment, false, rawKey)
	c.checkEnrolmentAlone(root, keys)
	c.checkManifestRole(root, keys)
	c.checkApplierIdentities(root)
	c.checkWitnessIdentities(root, keys)
	c.checkMaintainers(root, keys)
	c.checkRouteClaims(root)
	c.checkTrustedIssuers(root)
	manifest := cmp.Or(time.Duration(s.Validity.Manifest), DefaultManifestValidity)
	timestamp := cmp.Or(time.Duration(s.Validity.Timestamp), DefaultTimestampValidity)
	if timestamp >= manifest {
		c.errorf(root, "spec.validity.timestamp", diag.TrustValidity, "let timestamps live for minutes and manifests for days",
			"a timestamp would live %s, and the manifest it speaks of %s", Duration(timestamp), Duration(manifest))
	}
	for i, k := range s.Keys {
		if t := keys[k.Name]; t != nil && !t.used {
			c.warnf(root, indexed("spec.keys", i), diag.TrustUnusedKey, "remove it, or give it a role", "no role names key %q", k.Name)
		}
	}
}

// checkTrustKeys reads the keys, and reports names and keys that stand twice.
func (c *checker) checkTrustKeys(root *Document[TrustRoot]) trustKeys {
	keys := trustKeys{}
	names := map[string]string{} // by identity
	for i, k := range root.Value.Spec.Keys {
		path := indexed("spec.keys", i)
		if k.Name == "" {
			continue
		}
		if keys[k.Name] != nil {
			c.errorf(root, path+".name", diag.DuplicateItem, "rename or remove one", "two keys are named %q", k.Name)
			continue
		}
		t := &trustKey{}
		keys[k.Name] = t
		set := 0
		for _, on := range []bool{k.SSH != "", k.OpenPGP != "", !k.Ed25519.IsZero()} {
			if on {
				set++
			}
		}
		if set != 1 {
			if written, known := root.places.children(path); set > 1 || !known || written < 2 {
				c.errorf(root, path, diag.TrustBadKey, "set exactly one of ssh, openpgp and ed25519", "key %q has %d of them", k.Name, set)
			}
			continue
		}
		form, id, f := identify(k)
		if t.form = form; f != nil {
			c.errorf(root, path+"."+string(form), f.code, f.hint, "key %q: %s", k.Name, f.message)
			continue
		}
		if t.id = id; names[id] != "" {
			c.errorf(root, path, diag.TrustSameKey, "keep one name; a key counts once, whatever it is called",
				"keys %q and %q are the same key", names[id], k.Name)
			continue
		}
		names[id] = k.Name
	}
	return keys
}

// checkRole judges a role whose threshold its own keys must meet.
func (c *checker) checkRole(root *Document[TrustRoot], keys trustKeys, path string, role *Role, required bool, forms ...keyForm) {
	distinct := c.checkRoleKeys(root, keys, path, role.Keys, forms...)
	if len(role.Keys) == 0 && (!required || len(root.places) > 0) {
		return // the loader has reported a missing or empty list
	}
	c.checkThreshold(root, path, role, len(distinct))
}

// checkThreshold holds a threshold against the number of distinct keys that may meet it.
func (c *checker) checkThreshold(root *Document[TrustRoot], path string, role *Role, distinct int) {
	if want := max(role.Threshold, 1); want > distinct {
		c.errorf(root, path+".threshold", diag.TrustThreshold, "lower the threshold, or add keys", "%d signatures are wanted of %d distinct keys", want, distinct)
	}
}

// checkRoleKeys reports names that are no keys of the right form, and gives the distinct keys behind the others.
func (c *checker) checkRoleKeys(root *Document[TrustRoot], keys trustKeys, path string, names []string, forms ...keyForm) map[string]bool {
	distinct := map[string]bool{}
	for i, name := range names {
		at := indexed(path+".keys", i)
		key := keys[name]
		switch {
		case name == "":
		case key == nil:
			c.errorf(root, at, diag.TrustUnknownKey, c.near(name, func() []string { return keyNames(root) }), "spec.keys has no key %q", name)
		default:
			if key.used = true; key.id == "" {
				distinct["?"+name] = true // it has been reported; do not report the threshold too
				continue
			}
			if distinct[key.id] = true; !slices.Contains(forms, key.form) {
				c.errorf(root, at, diag.TrustKeyType, "see `apex trust --help` for which role signs with which key",
					"key %q is of form %s, and this role signs with %s", name, key.form, joinForms(forms))
			}
		}
	}
	return distinct
}

func keyNames(root *Document[TrustRoot]) []string {
	var names []string
	for _, k := range root.Value.Spec.Keys {
		names = append(names, k.Name)
	}
	return names
}

func joinForms(forms []keyForm) string {
	text := string(forms[0])
	for _, f := range forms[1:] {
		text += " or " + string(f)
	}
	return text
}

// checkManifestRole judges manifest and witnesses together: the threshold counts distinct keys of both, of which at
// least one is a manifest key.
func (c *checker) checkManifestRole(root *Document[TrustRoot], keys trustKeys) {
	s := &root.Value.Spec
	all := c.checkRoleKeys(root, keys, "spec.manifest", s.Manifest.Keys, rawKey)
	for id := range c.checkRoleKeys(root, keys, "spec.witnesses", s.Witnesses.Keys, rawKey) {
		all[id] = true
	}
	for _, w := range s.Witnesses.Identities {
		all["identity "+w.Name] = true
	}
	if len(s.Manifest.Keys) > 0 || len(root.places) == 0 {
		c.checkThreshold(root, "spec.manifest", &s.Manifest, len(all))
	}
	if s.Witnesses.Threshold > 1 {
		c.errorf(root, "spec.witnesses.threshold", diag.TrustThreshold, "set manifest.threshold: it counts witnesses too",
			"witnesses have no threshold of their own")
	}
}

func (c *checker) checkMaintainers(root *Document[TrustRoot], keys trustKeys) {
	seen := map[string]bool{}
	for i, m := range root.Value.Spec.Maintainers {
		path := indexed("spec.maintainers", i)
		if m.Name != "" && seen[m.Name] {
			c.errorf(root, path+".name", diag.DuplicateItem, "rename one", "two rules are named %q", m.Name)
		}
		seen[m.Name] = true
		c.checkRoleKeys(root, keys, path, m.Keys, sshKey, openpgpKey)
		for j, zone := range m.Zones {
			c.checkTrustZone(root, indexed(path+".zones", j), zone)
		}
	}
}

func (c *checker) checkRouteClaims(root *Document[TrustRoot]) {
	for i, claim := range root.Value.Spec.Routes {
		c.checkTrustZone(root, indexed("spec.routes", i)+".zone", claim.Zone)
	}
}

// checkTrustZone warns of a zone that does not exist. It is no error: else removing a zone would need the root keys.
func (c *checker) checkTrustZone(root *Document[TrustRoot], path, zone string) {
	if zone != "" && c.zones[zone] == nil && !c.repo.incomplete {
		c.warnf(root, path, diag.TrustUnknownZone, c.near(zone, c.zoneNames), "there is no zone %q", zone)
	}
}
