// Package trustdir knows the trust/ folder of a network repository: what its files are called, how they must agree, and
// how the next version comes about.
//
//	trust/root.yaml            the current trust root as people review it (kind TrustRoot)
//	trust/roots/<N>.json       the signed envelope of version N; never changes once it is there
//	trust/seals/<commit>.json  signatures of further root keys on a seal (see controller/verify)
//
// The envelopes are what counts; root.yaml must say the same as the newest of them. The package is pure: files come in
// through a lookup function, bytes go out.
package trustdir

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/peermap"
)

// Folder is the folder that only the root threshold changes; RootPath is the document in it.
const (
	Folder   = signer.TrustFolder
	RootPath = spec.TrustRootPath

	envelopes = Folder + "/roots/"
	seals     = Folder + "/seals/"
)

// Errors that callers tell apart. ErrNoRoot: there is no trust/roots/1.json. ErrDiffers: root.yaml is missing or does not
// say what the newest envelope says. Everything else is an error of signer.
var (
	ErrNoRoot  = errors.New("no trust root in the repository")
	ErrDiffers = errors.New("trust/root.yaml differs from the newest signed trust root")
)

// EnvelopePath names the envelope of a version.
func EnvelopePath(version uint64) string {
	return envelopes + strconv.FormatUint(version, 10) + ".json"
}

// SealPath names the file with further signatures on the seal of a commit.
func SealPath(commit string) string { return seals + commit + ".json" }

// EnvelopeVersion is the inverse of EnvelopePath.
func EnvelopeVersion(path string) (version uint64, ok bool) {
	number, found := strings.CutPrefix(path, envelopes)
	number, json := strings.CutSuffix(number, ".json")
	version, err := strconv.ParseUint(number, 10, 32)
	return version, found && json && err == nil && EnvelopePath(version) == path
}

// Lookup gives the bytes of a repository file, by path.
type Lookup func(path string) ([]byte, bool)

// FromFiles looks up in a list of files.
func FromFiles(files []spec.File) Lookup {
	return func(path string) ([]byte, bool) {
		for _, f := range files {
			if f.Path == path {
				return f.Data, true
			}
		}
		return nil, false
	}
}

// Dir is a trust folder whose chain was verified from the pinned first root on.
type Dir struct {
	// Root is the newest version.
	Root *signer.Root
	// Chain holds the signed envelopes, version 1 first.
	Chain [][]byte
}

// Read verifies the folder: the chain from version 1, which must have the pinned digest, to the newest, each by the rules
// of signer.VerifyNextRoot, and that root.yaml says what the newest says. Errors: ErrNoRoot, ErrDiffers, those of signer.
func Read(lookup Lookup, network string, pin peermap.Digest) (*Dir, error) {
	return ReadAfter(nil, lookup, network, pin)
}

// ReadAfter is Read for one who has verified a chain of the same network and pin before (nil: none): where the folder
// begins with the same bytes, only what follows is verified.
func ReadAfter(known *Dir, lookup Lookup, network string, pin peermap.Digest) (*Dir, error) {
	d, err := first(known, lookup, network, pin)
	if err != nil {
		return nil, err
	}
	for {
		version := uint64(len(d.Chain))
		if d.Root.Version != version {
			return nil, fmt.Errorf("%s: %w: it holds version %d", EnvelopePath(version), signer.ErrRootSkip, d.Root.Version)
		}
		next, ok := lookup(EnvelopePath(version + 1))
		if !ok {
			return d, d.CheckDocument(lookup)
		}
		if d.Root, err = signer.VerifyNextRoot(d.Root, next); err != nil {
			return nil, fmt.Errorf("%s: %w", EnvelopePath(version+1), err)
		}
		d.Chain = append(d.Chain, next)
	}
}

// first gives what of the chain is already known, or its verified first version.
func first(known *Dir, lookup Lookup, network string, pin peermap.Digest) (*Dir, error) {
	if known != nil && known.isPrefix(lookup) {
		return &Dir{Root: known.Root, Chain: slices.Clone(known.Chain)}, nil
	}
	env, ok := lookup(EnvelopePath(1))
	if !ok {
		return nil, fmt.Errorf("%w: %s is missing; create one with `apex trust init`", ErrNoRoot, EnvelopePath(1))
	}
	root, err := signer.VerifyFirstRoot(env, pin, network)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EnvelopePath(1), err)
	}
	return &Dir{Root: root, Chain: [][]byte{env}}, nil
}

func (d *Dir) isPrefix(lookup Lookup) bool {
	for i, env := range d.Chain {
		if have, ok := lookup(EnvelopePath(uint64(i) + 1)); !ok || !bytes.Equal(have, env) {
			return false
		}
	}
	return true
}

// CheckDocument compares root.yaml with the newest version. Errors: ErrDiffers.
func (d *Dir) CheckDocument(lookup Lookup) error {
	document, ok := lookup(RootPath)
	if !ok {
		return fmt.Errorf("%w: the file is missing", ErrDiffers)
	}
	root, err := ParseDocument(document, d.Root.Network)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDiffers, err)
	}
	if root.Digest() != d.Root.Digest() {
		return fmt.Errorf("%w (version %d): change root.yaml only together with its next version, made by `apex trust rotate`",
			ErrDiffers, d.Root.Version)
	}
	return nil
}

// ParseDocument reads the bytes of root.yaml.
func ParseDocument(data []byte, network string) (*signer.Root, error) {
	repo, problems := spec.Assemble([]spec.Parsed{spec.Parse(spec.File{Path: RootPath, Data: data})})
	problems = slices.DeleteFunc(problems, func(d diag.Diagnostic) bool { return d.Code == diag.NoNetwork })
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if repo.TrustRoot == nil {
		return nil, fmt.Errorf("%s holds no TrustRoot document", RootPath)
	}
	return RootFromSpec(repo.TrustRoot.Value.Spec, network)
}

// RootFromSpec gives the canonical, checked form of a TrustRoot document: what the root keys sign. This is the one place
// where the two forms meet. Errors: signer.ErrInvalidRoot, signer.ErrFormat, signer.ErrWeakKey.
func RootFromSpec(ts spec.TrustRootSpec, network string) (*signer.Root, error) {
	if ts.Version < 0 || ts.Epoch < 0 {
		return nil, fmt.Errorf("%s: %w: version and epoch count from 0 up", RootPath, signer.ErrInvalidRoot)
	}
	root := &signer.Root{
		Network:   network,
		Version:   uint64(ts.Version),
		Epoch:     uint64(ts.Epoch),
		Root:      role(ts.Root),
		Forge:     role(ts.Forge),
		Manifest:  role(ts.Manifest),
		Witnesses: role(spec.Role{Keys: ts.Witnesses.Keys, Threshold: ts.Witnesses.Threshold}),
		Timestamp: role(ts.Timestamp),
		Appliers:  role(spec.Role{Keys: ts.Appliers.Keys}),
		Enrolment: role(ts.Enrolment),
		Validity: signer.Validity{
			Manifest:  int64(time.Duration(ts.Validity.Manifest) / time.Second),
			Timestamp: int64(time.Duration(ts.Validity.Timestamp) / time.Second),
		},
	}
	if ts.Expires != nil {
		root.Expires = ts.Expires.Unix()
	}
	for _, k := range ts.Keys {
		key, err := publicKey(k)
		if err != nil {
			return nil, fmt.Errorf("%s: key %q: %w", RootPath, k.Name, err)
		}
		root.Keys = append(root.Keys, signer.NewRootKey(k.Name, key))
	}
	for _, m := range ts.Maintainers {
		root.Maintainers = append(root.Maintainers, signer.MaintainerRule{Name: m.Name, Keys: m.Keys, Paths: m.Paths, Zones: m.Zones})
	}
	for _, c := range ts.Routes {
		root.Routes = append(root.Routes, signer.RouteClaim{Zone: c.Zone, Prefixes: c.Prefixes})
	}
	for _, a := range ts.Appliers.Identities {
		root.ApplierIdentities = append(root.ApplierIdentities, signer.ApplierIdentity{
			Name: a.Name, Issuer: a.Issuer, Audience: a.Audience, Match: match(a.Match), CommitClaim: a.CommitClaim,
		})
	}
	for _, w := range ts.Witnesses.Identities {
		root.WitnessIdentities = append(root.WitnessIdentities, signer.WitnessIdentity{
			Name: w.Name, Issuer: w.Issuer, Match: match(w.Match), Keys: w.Keys,
		})
	}
	for _, i := range ts.Issuers {
		root.Issuers = append(root.Issuers, signer.TrustedIssuer{
			URL: i.URL, Audience: spec.TokenAudience(i.Audience, i.ClientID), ClientID: i.ClientID,
		})
	}
	canonical, err := root.Canonical()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", RootPath, err)
	}
	return canonical, nil
}

// match lists the claims of a rule; Canonical sorts them.
func match(rules map[string]string) []signer.ClaimRule {
	out := make([]signer.ClaimRule, 0, len(rules))
	for claim, pattern := range rules {
		out = append(out, signer.ClaimRule{Claim: claim, Pattern: pattern})
	}
	return out
}

func role(r spec.Role) signer.Role { return signer.Role{Keys: r.Keys, Threshold: r.Threshold} }

func publicKey(k spec.TrustKey) (signer.PublicKey, error) {
	switch {
	case k.SSH != "":
		return signer.ParseSSHKey(k.SSH)
	case k.OpenPGP != "":
		return signer.ParseOpenPGPKey(k.OpenPGP)
	default:
		return signer.Ed25519Key(k.Ed25519)
	}
}

// Propose gives the unsigned envelope of the version after current (nil: of the first). The signatures of current's and
// of next's root keys are then collected on it, on any number of machines, before it is committed as
// EnvelopePath(next.Version) together with root.yaml. Errors: those of signer.CheckSuccession.
func Propose(current, next *signer.Root) (*signer.Envelope, error) {
	if current != nil {
		if err := signer.CheckSuccession(current, next); err != nil {
			return nil, err
		}
	} else if next.Version != 1 {
		return nil, fmt.Errorf("the first trust root has version 1, not %d: %w", next.Version, signer.ErrInvalidRoot)
	}
	payload, err := next.Encode()
	if err != nil {
		return nil, err
	}
	return signer.NewEnvelope(signer.RootType, payload), nil
}

// Sign adds a root key's signature to an envelope; a signature the key has made before is replaced. The key must hold the
// root role in current (nil: there is none) or in the envelope's own root.
func Sign(env *signer.Envelope, current *signer.Root, key ssh.Signer) (*signer.Envelope, error) {
	next, err := signer.ParseRoot(env.Payload)
	if err != nil {
		return nil, err
	}
	public, err := signer.SSHKey(key.PublicKey())
	if err != nil {
		return nil, err
	}
	if !next.HasRole(public.ID(), signer.RoleRoot) && (current == nil || !current.HasRole(public.ID(), signer.RoleRoot)) {
		return nil, fmt.Errorf("%s holds the root role neither in version %d nor before it: %w", public, next.Version, signer.ErrUnknownKey)
	}
	return env.AddSSH(key)
}

// Quorums says how far the signatures on an envelope go: by the root role of current, if there is one, and of its own.
func Quorums(env *signer.Envelope, current *signer.Root) ([]signer.Quorum, error) {
	next, err := signer.ParseRoot(env.Payload)
	if err != nil {
		return nil, err
	}
	var out []signer.Quorum
	for _, root := range []*signer.Root{current, next} {
		if root == nil {
			continue
		}
		q, err := root.CheckRoot(env)
		if err != nil {
			return nil, err
		}
		out = append(out, q)
	}
	return out, nil
}
