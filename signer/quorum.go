package signer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/apex-network/apex/spec/peermap"
)

// RoleName names one of a trust root's roles.
type RoleName string

// The roles.
const (
	RoleRoot        RoleName = "root"
	RoleMaintainers RoleName = "maintainers"
	RoleForge       RoleName = "forge"
	RoleManifest    RoleName = "manifest"
	RoleWitnesses   RoleName = "witnesses"
	RoleTimestamp   RoleName = "timestamp"
	RoleAppliers    RoleName = "appliers"
	RoleEnrolment   RoleName = "enrolment"
)

// Key gives a listed key by its name.
func (r *Root) Key(name string) (PublicKey, bool) {
	k, ok := r.indexed().keys[name]
	return k, ok
}

// KeyByID gives the name and key with this ID; the ID of an OpenPGP signing subkey leads to the key it belongs to.
func (r *Root) KeyByID(id string) (name string, key PublicKey, ok bool) {
	index := r.indexed()
	name, ok = index.names[id]
	return name, index.keys[name], ok
}

// HasRole says whether the key with this ID holds a role; for RoleMaintainers, whether any rule names it. The ID of a
// witness identity (WitnessID) holds RoleWitnesses.
func (r *Root) HasRole(keyID string, role RoleName) bool {
	if role == RoleWitnesses && r.indexed().witnesses[keyID] != nil {
		return true
	}
	name, _, ok := r.KeyByID(keyID)
	return ok && slices.Contains(r.roleKeys(role), name)
}

func (r *Root) roleKeys(role RoleName) []string {
	switch role {
	case RoleRoot:
		return r.Root.Keys
	case RoleForge:
		return r.Forge.Keys
	case RoleManifest:
		return r.Manifest.Keys
	case RoleWitnesses:
		return r.Witnesses.Keys
	case RoleTimestamp:
		return r.Timestamp.Keys
	case RoleAppliers:
		return r.Appliers.Keys
	case RoleEnrolment:
		return r.Enrolment.Keys
	case RoleMaintainers:
		var out []string
		for _, m := range r.Maintainers {
			out = append(out, m.Keys...)
		}
		return out
	}
	return nil
}

// Quorum says how far the signatures of an envelope go.
type Quorum struct {
	// What names the document and role, for messages.
	What string
	// Need is how many distinct keys must sign.
	Need int
	// Signed and Missing are key names, sorted: whose signature is there and good, and who could still sign.
	Signed  []string
	Missing []string
	// Lacks says in words what is missing; empty when the quorum is met.
	Lacks string
}

// Met reports whether enough of the right keys have signed.
func (q Quorum) Met() bool { return q.Lacks == "" }

// Err is nil when the quorum is met, else ErrThreshold with who has signed and who could.
func (q Quorum) Err() error {
	if q.Met() {
		return nil
	}
	return fmt.Errorf("%s: %w: %s; signed by %s; could still sign: %s", q.What, ErrThreshold, q.Lacks, list(q.Signed), list(q.Missing))
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// CheckRoot judges an envelope of RootType by r's root role. A new version needs this of the version before and of
// itself. Errors: ErrType, ErrSignature; too few signatures are no error but a Quorum that is not met.
func (r *Root) CheckRoot(env *Envelope) (Quorum, error) {
	q, err := r.count(env, RootType, fmt.Sprintf("trust root, by the root keys of version %d", r.Version), r.Root.Keys)
	if err != nil {
		return Quorum{}, err
	}
	return q.need(r.Root.Threshold), nil
}

// CheckTimestamp judges an envelope of peermap.TimestampType, like CheckRoot.
func (r *Root) CheckTimestamp(env *Envelope) (Quorum, error) {
	q, err := r.count(env, peermap.TimestampType, "timestamp", r.Timestamp.Keys)
	if err != nil {
		return Quorum{}, err
	}
	return q.need(r.Timestamp.Threshold), nil
}

// CheckBinding verifies that an enrolment key signed an envelope of binding.Type; one is enough. It says nothing about the
// binding itself. Errors: ErrType, ErrSignature, ErrThreshold.
func (r *Root) CheckBinding(env *Envelope) error {
	q, err := r.count(env, bindingType, "binding", r.Enrolment.Keys)
	if err != nil {
		return err
	}
	return q.need(1).Err()
}

// bindingType is binding.Type; this package imports nothing that knows more of bindings.
const bindingType = "application/vnd.apex.binding.v1+json"

// CheckManifest judges an envelope of peermap.ManifestType: Manifest.Threshold distinct keys of manifest and witnesses,
// at least one of them a manifest key, and at least Witnesses.Threshold witnesses. Witness identities are witnesses whose
// signature is an ID token bound to this manifest; it counts as long as the issuer's key is listed, since it says when it
// was made. Errors like CheckRoot.
func (r *Root) CheckManifest(env *Envelope) (Quorum, error) {
	q, err := r.count(env, peermap.ManifestType, "manifest", slices.Concat(r.Manifest.Keys, r.Witnesses.Keys))
	if err != nil {
		return Quorum{}, err
	}
	witnesses := 0
	for _, name := range q.Signed {
		if slices.Contains(r.Witnesses.Keys, name) {
			witnesses++
		}
	}
	identities, err := r.countIdentities(env)
	if err != nil {
		return Quorum{}, err
	}
	witnesses += len(identities)
	for _, w := range r.WitnessIdentities {
		if !slices.Contains(identities, w.Name) {
			q.Missing = append(q.Missing, w.Name)
		}
	}
	q.Signed = append(q.Signed, identities...)
	slices.Sort(q.Signed)
	slices.Sort(q.Missing)
	q = q.need(r.Manifest.Threshold)
	switch {
	case len(q.Signed) == witnesses:
		q.Lacks = "no manifest key has signed"
	case witnesses < r.Witnesses.Threshold:
		q.Lacks = fmt.Sprintf("%d of %d required witnesses", witnesses, r.Witnesses.Threshold)
	}
	return q, nil
}

func (q Quorum) need(n int) Quorum {
	q.Need = max(n, 1)
	if len(q.Signed) < q.Need {
		q.Lacks = fmt.Sprintf("%d of %d required signatures", len(q.Signed), q.Need)
	}
	return q
}

// count verifies each signature by one of the named keys. Signatures of other keys are passed over, because an envelope
// may carry those of the next or previous root; one wrong signature of a named key condemns the envelope. Every key counts
// once: envelopes hold a key ID once, and no two names of a root share one.
func (r *Root) count(env *Envelope, payloadType, what string, names []string) (Quorum, error) {
	q := Quorum{What: what}
	if env.PayloadType != payloadType {
		return q, fmt.Errorf("%s: %w: %.80q, want %q", what, ErrType, env.PayloadType, payloadType)
	}
	if err := env.check(); err != nil {
		return q, fmt.Errorf("%s: %w", what, err)
	}
	index := r.indexed()
	pae := env.PAE()
	for _, sig := range env.Signatures {
		name, ok := index.names[sig.KeyID]
		if !ok || !slices.Contains(names, name) {
			continue
		}
		if err := index.keys[name].verifyPAE(pae, sig.Sig); err != nil {
			return q, fmt.Errorf("%s: signature of key %s: %w", what, name, err)
		}
		if !slices.Contains(q.Signed, name) {
			q.Signed = append(q.Signed, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(q.Signed, name) {
			q.Missing = append(q.Missing, name)
		}
	}
	slices.Sort(q.Signed)
	slices.Sort(q.Missing)
	return q, nil
}
