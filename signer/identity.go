package signer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/claims"
	"github.com/apex-network/apex/spec/jwk"
	"github.com/apex-network/apex/spec/peermap"
)

// DefaultApplierAudience is what a token's `aud` must be where an applier identity names nothing else.
const DefaultApplierAudience = "apex"

// ErrIdentity says that a good token is not of an identity that may do this; the text names the claim and the rule.
var ErrIdentity = errors.New("identity may not do this")

// ClaimRule compares one claim with a pattern (package claims).
type ClaimRule struct {
	Claim   string `json:"claim"`
	Pattern string `json:"pattern"`
}

// ApplierIdentity is a CI job that may apply.
type ApplierIdentity struct {
	Name string `json:"name"`
	// Issuer is the URL in the token's `iss`, Audience what its `aud` must be.
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
	// Match must hold as a whole; sorted by claim, never empty.
	Match []ClaimRule `json:"match"`
	// CommitClaim is the claim that must equal the commit applied.
	CommitClaim string `json:"commitClaim"`
}

// WitnessIdentity is a CI job that may co-sign manifests. Two of one issuer differ in the value of some claim, so that no
// job is two witnesses.
type WitnessIdentity struct {
	Name   string      `json:"name"`
	Issuer string      `json:"issuer"`
	Match  []ClaimRule `json:"match"`
	// Keys are the issuer's keys (jwk.Key.Line), sorted: agents know no others and ask nobody.
	Keys []string `json:"keys"`
}

// TrustedIssuer is an OpenID provider by which hosts may join, and whom its tokens are for.
type TrustedIssuer struct {
	// URL is the issuer as tokens carry it in `iss`, Audience what their `aud` must contain, ClientID the public client that people
	// sign in with, empty if none.
	URL      string `json:"url"`
	Audience string `json:"audience"`
	ClientID string `json:"clientID"`
}

// CheckIssuer says whether a host may get a token of this issuer for this audience by this client, and hand it to a controller. A
// root that lists no issuers lets it: then where people sign in is the controller's word. Errors: ErrIdentity.
func (r *Root) CheckIssuer(t TrustedIssuer) error {
	if len(r.Issuers) == 0 || slices.Contains(r.Issuers, t) {
		return nil
	}
	what := "url"
	for _, i := range r.Issuers {
		if i.URL == t.URL {
			what = "audience"
			if i.Audience == t.Audience {
				what = "clientID"
				break
			}
		}
	}
	return fmt.Errorf("%w: trust root version %d lists no issuer %.160q with audience %.80q and clientID %.80q: its %s differs", ErrIdentity,
		r.Version, t.URL, t.Audience, t.ClientID, what)
}

// pinnedIdentity is a witness identity whose keys are parsed.
type pinnedIdentity struct {
	WitnessIdentity
	keys []jwk.Key
}

// WitnessID is the key ID under which the token of a witness identity stands in an envelope.
func WitnessID(name string) string { return materialID("oidc witness", []byte(name)) }

// WitnessByID gives the name of the witness identity with this ID.
func (r *Root) WitnessByID(id string) (name string, ok bool) {
	w, ok := r.indexed().witnesses[id]
	if !ok {
		return "", false
	}
	return w.Name, true
}

// SignerName gives the name of the key, or of the witness identity, that signs under this ID.
func (r *Root) SignerName(id string) (name string, ok bool) {
	if name, ok = r.WitnessByID(id); ok {
		return name, true
	}
	name, _, ok = r.KeyByID(id)
	return name, ok
}

// ApplierIssuer is an issuer whose tokens may apply, and the audience they are made for.
type ApplierIssuer struct{ URL, Audience string }

// ApplierIssuers lists what to verify a token of an applier against, each pair once, in order.
func (r *Root) ApplierIssuers() []ApplierIssuer {
	var out []ApplierIssuer
	for _, a := range r.ApplierIdentities {
		next := ApplierIssuer{a.Issuer, a.Audience}
		if next.Audience == "" {
			next.Audience = DefaultApplierAudience
		}
		if !slices.Contains(out, next) {
			out = append(out, next)
		}
	}
	return out
}

// MatchApplier gives the name of the applier identity that a verified token is of, and that may apply commit. all are the
// token's claims, decoded with UseNumber. Errors: ErrIdentity, with what was wanted of each identity of the issuer.
func (r *Root) MatchApplier(all map[string]any, issuer ApplierIssuer, commit string) (string, error) {
	c := r
	if r.index == nil || r.index.owner != r {
		var err error
		if c, err = r.Canonical(); err != nil {
			return "", err
		}
	}
	failed := fmt.Errorf("%w: trust root version %d has no applier of issuer %s with audience %s", ErrIdentity, r.Version, issuer.URL, issuer.Audience)
	var reasons []error
	for _, a := range c.ApplierIdentities {
		if a.Issuer != issuer.URL || a.Audience != issuer.Audience {
			continue
		}
		if reason := a.refuse(all, commit); reason != nil {
			reasons = append(reasons, fmt.Errorf("%w: applier %s: %w", ErrIdentity, a.Name, reason))
			continue
		}
		return a.Name, nil
	}
	if len(reasons) > 0 {
		failed = errors.Join(reasons...)
	}
	return "", failed
}

func (a ApplierIdentity) refuse(all map[string]any, commit string) error {
	if err := matchAll(all, a.Match); err != nil {
		return err
	}
	values, ok := claims.Lookup(all, a.CommitClaim)
	switch {
	case !ok || len(values) != 1:
		return fmt.Errorf("the token has no single claim %s, which must be the commit", a.CommitClaim)
	case values[0] != commit:
		return fmt.Errorf("claim %s is %.80q, the commit to apply is %s", a.CommitClaim, values[0], commit)
	}
	return nil
}

// matchAll names the first rule that the claims do not meet. Values of claims are no secrets to who sent the token; long
// ones are cut.
func matchAll(all map[string]any, rules []ClaimRule) error {
	for _, rule := range rules {
		values, ok := claims.Lookup(all, rule.Claim)
		if claims.IsEmail(rule.Claim) && !claims.EmailVerified(all) {
			return fmt.Errorf("the issuer does not say that claim %s is verified (email_verified)", rule.Claim)
		}
		if !ok {
			return fmt.Errorf("the token has no claim %s; the rule wants %s", rule.Claim, rule.Pattern)
		}
		if !slices.ContainsFunc(values, func(v string) bool { return claims.Match(rule.Pattern, v) }) {
			return fmt.Errorf("claim %s is %.160q; the rule wants %s", rule.Claim, strings.Join(values, ", "), rule.Pattern)
		}
	}
	return nil
}

// sortIdentities brings the identities into normal form: defaults filled in, keys in their one spelling, lists sorted.
func (r *Root) sortIdentities() {
	byClaim := func(a, b ClaimRule) int { return strings.Compare(a.Claim, b.Claim) }
	for i := range r.ApplierIdentities {
		a := &r.ApplierIdentities[i]
		if a.Audience == "" {
			a.Audience = DefaultApplierAudience
		}
		slices.SortFunc(a.Match, byClaim)
	}
	slices.SortFunc(r.ApplierIdentities, func(a, b ApplierIdentity) int { return strings.Compare(a.Name, b.Name) })
	for i := range r.WitnessIdentities {
		w := &r.WitnessIdentities[i]
		for j, text := range w.Keys {
			if key, err := jwk.Parse([]byte(text)); err == nil {
				w.Keys[j] = key.Line()
			}
		}
		slices.Sort(w.Keys)
		slices.SortFunc(w.Match, byClaim)
	}
	slices.SortFunc(r.WitnessIdentities, func(a, b WitnessIdentity) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Issuers, func(a, b TrustedIssuer) int {
		return cmp.Or(strings.Compare(a.URL, b.URL), strings.Compare(a.Audience, b.Audience), strings.Compare(a.ClientID, b.ClientID))
	})
}

// identities checks the identities and indexes the witnesses among them.
func (c *rootChecker) identities() {
	r := c.root
	if len(r.ApplierIdentities) > MaxIdentities || len(r.WitnessIdentities) > MaxIdentities {
		c.fail("identities: at most %d appliers and %d witnesses", MaxIdentities, MaxIdentities)
		return
	}
	for i, a := range r.ApplierIdentities {
		what := fmt.Sprintf("applier identity %.80q", a.Name)
		c.identity(what, a.Name, a.Issuer, a.Match)
		if i > 0 && r.ApplierIdentities[i-1].Name == a.Name {
			c.fail("%s: the name stands twice", what)
		}
		if a.Audience == "" || len(a.Audience) > claims.MaxPattern {
			c.fail("%s: audience: want 1 to %d bytes", what, claims.MaxPattern)
		}
		if err := claims.CheckName(a.CommitClaim); err != nil {
			c.fail("%s: commitClaim: %w", what, err)
		}
	}
	for i, w := range r.WitnessIdentities {
		what := fmt.Sprintf("witness identity %.80q", w.Name)
		c.identity(what, w.Name, w.Issuer, w.Match)
		if i > 0 && r.WitnessIdentities[i-1].Name == w.Name {
			c.fail("%s: the name stands twice", what)
		}
		if _, taken := c.keys[w.Name]; taken {
			c.fail("%s: a key has that name", what)
		}
		for _, other := range r.WitnessIdentities[:i] {
			if other.Issuer == w.Issuer && !apart(other.Match, w.Match) {
				c.fail("%s: one job could be this and witness identity %s; let them ask for different values of one claim", what, other.Name)
			}
		}
		c.issuerKeys(what, w)
	}
}

func (c *rootChecker) identity(what, name, issuer string, match []ClaimRule) {
	if !isName(name) {
		c.fail("%s: no name", what)
	}
	if err := claims.CheckIssuer(issuer); err != nil {
		c.fail("%s: %w", what, err)
	}
	if len(match) == 0 || len(match) > MaxIdentities {
		c.fail("%s: match: needs 1 to %d claims", what, MaxIdentities)
		return
	}
	if !slices.ContainsFunc(match, func(r ClaimRule) bool { return claims.Narrows(r.Claim, r.Pattern) }) {
		c.fail("%s: match: only stars, iss or aud: every job of the issuer would do", what)
	}
	for i, rule := range match {
		if err := errors.Join(claims.CheckName(rule.Claim), claims.CheckPattern(rule.Pattern)); err != nil {
			c.fail("%s: match: %w", what, err)
		}
		if i > 0 && match[i-1].Claim == rule.Claim {
			c.fail("%s: match: claim %.80q stands twice", what, rule.Claim)
		}
	}
}

func (c *rootChecker) issuers() {
	if len(c.root.Issuers) > MaxIdentities {
		c.fail("issuers: %d, at most %d", len(c.root.Issuers), MaxIdentities)
		return
	}
	for i, t := range c.root.Issuers {
		what := fmt.Sprintf("issuer %.80q", t.URL)
		if err := claims.CheckIssuer(t.URL); err != nil {
			c.fail("%s: %w", what, err)
		}
		if t.Audience == "" || len(t.Audience) > claims.MaxPattern || len(t.ClientID) > claims.MaxPattern {
			c.fail("%s: want an audience, and it and the client of at most %d bytes", what, claims.MaxPattern)
		}
		if i > 0 && c.root.Issuers[i-1] == t {
			c.fail("%s: it stands twice with the same audience and client", what)
		}
	}
}

func (c *rootChecker) issuerKeys(what string, w WitnessIdentity) {
	if len(w.Keys) == 0 || len(w.Keys) > MaxIssuerKeys {
		c.fail("%s: needs 1 to %d keys of the issuer; `apex trust issuer-keys URL` fetches them", what, MaxIssuerKeys)
		return
	}
	pinned := &pinnedIdentity{WitnessIdentity: w}
	for i, text := range w.Keys {
		key, err := jwk.Parse([]byte(text))
		if err == nil {
			_, err = keyMaterial(key.Public())
		}
		if err != nil {
			c.fail("%s: key %d: %w", what, i+1, err)
			continue
		}
		if i > 0 && w.Keys[i-1] == text {
			c.fail("%s: key %.80q stands twice", what, key.ID)
		}
		pinned.keys = append(pinned.keys, key)
	}
	c.witnesses[WitnessID(w.Name)] = pinned
}

// apart says whether some claim must have one value for a and another for b.
func apart(a, b []ClaimRule) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Claim == y.Claim && x.Pattern != y.Pattern && !strings.Contains(x.Pattern+y.Pattern, "*") {
				return true
			}
		}
	}
	return false
}

// namesClient reports whether the rule says for which client its tokens are made.
func (w WitnessIdentity) namesClient() bool {
	return slices.ContainsFunc(w.Match, func(r ClaimRule) bool {
		claim := strings.TrimPrefix(r.Claim, "/")
		return (claim == "aud" || claim == "azp") && !claims.Open(r.Pattern)
	})
}

// carries reports whether a token was made for bound. Whom a token is for is the issuer's word, so an audience counts by
// itself. A nonce is chosen by whichever client signs somebody in: it counts only under a rule that names the client (aud
// or azp), or any website with the issuer's sign-in could get its visitor's signature.
func (w WitnessIdentity) carries(all map[string]any, bound string) bool {
	audience, _ := claims.Lookup(all, "aud")
	if slices.Contains(audience, bound) {
		return true
	}
	nonce, _ := all["nonce"].(string)
	return nonce == bound && w.namesClient()
}

// WitnessBinding is what an ID token must carry in `aud` (or `nonce`, where the rule names the client) to sign the manifest
// with this payload digest.
func WitnessBinding(manifest peermap.Digest) string { return "apex-witness:" + manifest.String() }

// WitnessAccess is what an ID token must carry there to show its holder to the network's controller as a
// witness: to read what waits, and to refuse. It signs nothing.
func WitnessAccess(network string) string { return "apex-witness-access:" + network }
