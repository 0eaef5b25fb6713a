package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/jwk"
)

// checkEnrolmentAlone demands that enrolment keys hold no other role: they lie on the service that strangers speak to.
func (c *checker) checkEnrolmentAlone(root *Document[TrustRoot], keys trustKeys) {
	s := &root.Value.Spec
	if s.Enrolment.Threshold > 1 {
		c.errorf(root, "spec.enrolment.threshold", diag.TrustThreshold, "remove it", "one enrolment key signs a binding alone")
	}
	id := func(name string) string {
		if k := keys[name]; k != nil && k.id != "" {
			return k.id
		}
		return name
	}
	others := map[string]string{}
	for role, names := range map[string][]string{
		"manifest": s.Manifest.Keys, "timestamp": s.Timestamp.Keys, "witnesses": s.Witnesses.Keys,
	} {
		for _, name := range names {
			others[id(name)] = max(others[id(name)], role) // of several, always the same
		}
	}
	for i, name := range s.Enrolment.Keys {
		if role := others[id(name)]; role != "" {
			c.errorf(root, indexed("spec.enrolment.keys", i), diag.TrustKeyRoles, "make another key with `apex-controller keygen`",
				"key %q also holds the role %s; an enrolment key signs bindings and nothing else", name, role)
		}
	}
}

// checkApplierIdentities judges the CI jobs that may apply.
func (c *checker) checkApplierIdentities(root *Document[TrustRoot]) {
	seen := map[string]bool{}
	for i, a := range root.Value.Spec.Appliers.Identities {
		path := indexed("spec.appliers.identities", i)
		c.checkIdentity(root, path, a.Name, a.Issuer, a.Match, seen)
		if a.CommitClaim != "" {
			if err := claims.CheckName(a.CommitClaim); err != nil {
				c.errorf(root, path+".commitClaim", diag.TrustIdentity, "name the claim that holds the commit, such as sha", "%v", err)
			}
		}
	}
}

// checkTrustedIssuers judges the issuers that hosts may get tokens of.
func (c *checker) checkTrustedIssuers(root *Document[TrustRoot]) {
	seen := map[TrustedIssuer]bool{}
	for i, issuer := range root.Value.Spec.Issuers {
		path := indexed("spec.issuers", i)
		if err := claims.CheckIssuer(issuer.URL); issuer.URL != "" && err != nil {
			c.errorf(root, path+".url", diag.TrustIdentity, "write the issuer as its tokens carry it in iss", "%v", err)
		}
		for field, word := range map[string]string{".audience": issuer.Audience, ".clientID": issuer.ClientID} {
			if !isWord(word) && word != "" {
				c.errorf(root, path+field, diag.TrustIdentity, "", "%q has a space or a character that is not ASCII", clip(word))
			}
		}
		if issuer.Audience = TokenAudience(issuer.Audience, issuer.ClientID); seen[issuer] {
			c.errorf(root, path, diag.DuplicateItem, "remove one", "issuer %s stands twice with the same audience and client", clip(issuer.URL))
		}
		seen[issuer] = true
	}
}

// checkWitnessIdentities judges the CI jobs that may co-sign. No two may be one job, or it would count twice.
func (c *checker) checkWitnessIdentities(root *Document[TrustRoot], keys trustKeys) {
	seen := map[string]bool{}
	list := root.Value.Spec.Witnesses.Identities
	for i, w := range list {
		path := indexed("spec.witnesses.identities", i)
		c.checkIdentity(root, path, w.Name, w.Issuer, w.Match, seen)
		if w.Name != "" && keys[w.Name] != nil {
			c.errorf(root, path+".name", diag.DuplicateItem, "rename one", "a key is named %q too, and signatures are told apart by name", w.Name)
		}
		for _, other := range list[:i] {
			if other.Issuer == w.Issuer && other.Name != w.Name && !apart(other.Match, w.Match) {
				c.errorf(root, path+".match", diag.TrustIdentity, "let both ask for one claim, without *, with different values",
					"one job could be %q and %q, and would count twice", other.Name, w.Name)
			}
		}
		lines := map[string]bool{}
		for j, text := range w.Keys {
			key, err := jwk.Parse([]byte(text))
			switch {
			case err != nil:
				c.errorf(root, indexed(path+".keys", j), diag.TrustBadKey, "paste a line of `apex trust issuer-keys URL`", "%v", err)
			case lines[key.Line()]:
				c.errorf(root, indexed(path+".keys", j), diag.DuplicateItem, "remove one", "the key %q stands twice", key.ID)
			}
			lines[key.Line()] = true
		}
	}
}

// checkIdentity judges what appliers and witnesses have in common.
func (c *checker) checkIdentity(root *Document[TrustRoot], path, name, issuer string, match map[string]string, seen map[string]bool) {
	if name != "" && seen[name] {
		c.errorf(root, path+".name", diag.DuplicateItem, "rename one", "two identities are named %q", name)
	}
	seen[name] = true
	if issuer != "" {
		if err := claims.CheckIssuer(issuer); err != nil {
			c.errorf(root, path+".issuer", diag.TrustIdentity, "write it as the token's `iss` has it", "%v", err)
		}
	}
	narrow := false
	for claim, pattern := range match {
		narrow = narrow || claims.Narrows(claim, pattern)
	}
	if !narrow {
		c.errorf(root, path, diag.TrustIdentity, "add match, with an id that nobody else can get, such as repository_id",
			"identity %q matches nobody in particular", name)
	}
	for _, claim := range slices.Sorted(maps.Keys(match)) {
		err := claims.CheckName(claim)
		if err == nil {
			err = claims.CheckPattern(match[claim])
		}
		if err != nil {
			c.errorf(root, path+".match", diag.TrustIdentity, "write the value out, or * for one whole segment", "claim %s: %v", fmt.Sprintf("%.80q", claim), err)
		}
	}
}

// apart says whether some claim must have one value for a and another for b.
func apart(a, b map[string]string) bool {
	for claim, value := range a {
		if other, ok := b[claim]; ok && other != value && !strings.Contains(value+other, "*") {
			return true
		}
	}
	return false
}
