package verify

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/trustdir"
	"github.com/apex-network/apex/signer"
)

// Code names a decision. Codes are stable: scripts and metrics may rely on them.
type Code string

// The codes of accepted commits.
const (
	CodeAccepted Code = "accepted"
	// CodeStart: the commit that brings in the pinned first trust root.
	CodeStart  Code = "start"
	CodeSealed Code = "sealed"
)

// The codes of refused commits.
const (
	// CodeNotJudged: an earlier commit is refused.
	CodeNotJudged Code = "not-judged"
	CodeNoRoot    Code = "no-trust-root"
	CodeForcePush Code = "force-push"
	CodeWrongWay  Code = "merge-wrong-way"
	CodeTooLong   Code = "too-many-commits"
	// Signatures.
	CodeUnsigned       Code = "unsigned"
	CodeBadArmour      Code = "bad-armour"
	CodeUnknownKey     Code = "unknown-key"
	CodeWeakKey        Code = "weak-key"
	CodeWrongNamespace Code = "wrong-namespace"
	CodeBadSignature   Code = "bad-signature"
	// CodeKeyRemoved: the signer of a side commit is unknown to the trust root of the line it is merged into.
	CodeKeyRemoved Code = "key-not-in-target"
	// Paths.
	CodePath        Code = "path-not-allowed"
	CodeZone        Code = "zone-not-allowed"
	CodeHostileTree Code = "hostile-tree"
	CodeMalformed   Code = "malformed-commit"
	// Trust folder.
	CodeTrustChange    Code = "trust-change"
	CodeTrustChain     Code = "trust-chain"
	CodeTrustSigner    Code = "trust-signer"
	CodeBeforeAdoption Code = "before-adoption"
	// Merges.
	CodeForgeSquash Code = "forge-squash"
	CodeEvilMerge   Code = "evil-merge"
	CodeSideCommit  Code = "side-commit-refused"
	CodeOctopus     Code = "octopus-merge"
	// Seals.
	CodeSeal Code = "seal-not-valid"
)

// ErrRefused is what every *Refusal is.
var ErrRefused = errors.New("commit refused")

// Refusal is the error of Range for a commit that is refused.
type Refusal struct {
	Verdict CommitVerdict
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("commit %s (%.80q) is refused [%s]: %s", short(r.Verdict.Commit), r.Verdict.Subject, r.Verdict.Code, r.Verdict.Reason)
}

// Is makes errors.Is(err, ErrRefused) true.
func (r *Refusal) Is(target error) bool { return target == ErrRefused }

// refusal is a decision against a commit on its way to a verdict.
type refusal struct {
	code   Code
	reason string
	signer string
	paths  []string
}

func (r *refusal) Error() string { return r.reason }

func (r *refusal) verdict(c *gitobject.Commit) CommitVerdict {
	return CommitVerdict{Commit: c.ID, Subject: c.Subject(), Signer: r.signer, Paths: r.paths, Code: r.code, Reason: r.reason}
}

func refusef(code Code, format string, args ...any) *refusal {
	return &refusal{code: code, reason: fmt.Sprintf(format, args...)}
}

// asRefusal turns errors that a commit's own content causes into refusals; what remains is a failure to read.
func asRefusal(err error) error {
	var r *refusal
	var hostile *gitobject.HostileError
	switch {
	case err == nil, errors.As(err, &r):
		return err
	case errors.As(err, &hostile):
		return refusef(CodeHostileTree, "%v", err)
	case gitobject.IsHostile(err):
		return refusef(CodeMalformed, "%v", err)
	}
	return err
}

// signatureRefusal explains why a signature does not count.
func signatureRefusal(err error) *refusal {
	text := err.Error()
	switch {
	case errors.Is(err, signer.ErrUnknownKey):
		return refusef(CodeUnknownKey, "%s. If the key belongs to a maintainer, add it to %s by `apex trust rotate` before it signs", text, trustdir.RootPath)
	case errors.Is(err, signer.ErrWeakKey):
		return refusef(CodeWeakKey, "%s. Sign with an Ed25519 key: ssh-keygen -t ed25519", text)
	case errors.Is(err, signer.ErrFormat), errors.Is(err, signer.ErrTooLarge):
		return refusef(CodeBadArmour, "%s. Sign the commit again: git commit --amend -S", text)
	case strings.Contains(text, "made for namespace"):
		return refusef(CodeWrongNamespace, "%s. A signature made for another purpose is no signature of a commit; sign with git commit --amend -S", text)
	}
	return refusef(CodeBadSignature, "%s. The commit was changed after it was signed, or the signature belongs to another commit; sign it again: git commit --amend -S", text)
}

func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// some lists the first few of many paths.
func some(paths []string) string {
	const show = 5
	quoted := make([]string, 0, show)
	for i, p := range paths {
		if i == show {
			return fmt.Sprintf("%s and %d more", strings.Join(quoted, ", "), len(paths)-show)
		}
		quoted = append(quoted, fmt.Sprintf("%q", p))
	}
	return strings.Join(quoted, ", ")
}

// union merges two string sets, sorted.
func union(a, b []string) []string {
	set := map[string]bool{}
	for _, s := range a {
		set[s] = true
	}
	for _, s := range b {
		set[s] = true
	}
	if len(set) == 0 {
		return nil
	}
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	sort.Strings(out)
	return out
}
