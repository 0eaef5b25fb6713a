// Package build takes one commit of a network repository from git objects to compiled zones. Controller and witness share
// it, so that they cannot differ in what they check.
//
//	Verify ─▶ Load ─▶ Test ─▶ Admit ─▶ Compile
//	  what git says          who has enrolled
//
// Up to Test a commit is judged by what git says alone. Bindings are then admitted or left out; they never keep a commit
// from being published (Join). It decides nothing about when: what to build, and whether to publish the outcome, is the caller's.
package build

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
	"github.com/apex-network/apex/spec/policy"
)

// Source is a copy of one branch. *gitsource.Source is the real one.
type Source interface {
	gitobject.Objects
	// Fetch brings the copy up to date and gives the branch's head, unverified.
	Fetch(ctx context.Context) (head string, err error)
	// Files lists the documents of a commit, Read reads one.
	Files(ctx context.Context, commit string) ([]gitsource.File, error)
	Read(ctx context.Context, f gitsource.File) (spec.File, error)
	Close() error
}

// Stage is where a commit was refused.
type Stage string

// The stages, in order. A failure at StageFetch or StageSign says nothing about the commit: it is tried again.
const (
	StageFetch    Stage = "fetch"
	StageVerify   Stage = "verify"
	StageLoad     Stage = "load"
	StageValidate Stage = "validate"
	StageTest     Stage = "test"
	StageCompile  Stage = "compile"
	StageShrink   Stage = "shrink"
	StageSign     Stage = "sign"
)

// Refusal says why a commit is not published.
type Refusal struct {
	Stage Stage
	Err   error
	// Final says that the commit will never do; otherwise it is worth trying again.
	Final bool
}

func (r *Refusal) Error() string { return string(r.Stage) + ": " + r.Err.Error() }

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.Err }

func final(stage Stage, err error) error     { return &Refusal{stage, err, true} }
func transient(stage Stage, err error) error { return &Refusal{stage, err, false} }

// Builder builds commits of one network, one at a time. It keeps what the last one needed: parsed files by blob, and the
// compiled zones to start the next from.
type Builder struct {
	src         Source
	trust       verify.Trust
	parsed      map[gitsource.File]entry
	incremental *compile.Incremental
	admitter    *identity.Admitter
	// faulty are the bindings that the commit faultyAt does not compile with.
	faulty   map[peermap.Digest]Faulty
	faultyAt string
	// most is maxInputBytes, less in tests.
	most int
}

// entry is one file of the last commit.
type entry struct {
	parsed spec.Parsed
	digest peermap.Digest
	size   int
}

// maxInputBytes bounds the documents of one commit together, so that a commit that git can hold cannot take all memory:
// 10 000 nodes are about 5 MB.
const maxInputBytes = 256 << 20

// New makes a Builder for a network whose first trust root has the digest pin.
func New(src Source, network string, pin peermap.Digest) *Builder {
	return &Builder{
		src: src, trust: verify.Trust{Network: network, Pin: pin}, parsed: map[gitsource.File]entry{},
		incremental: compile.NewIncremental(), admitter: identity.NewAdmitter(), faulty: map[peermap.Digest]Faulty{}, most: maxInputBytes,
	}
}

// Verify judges the commits from the frontier to head.
func (b *Builder) Verify(ctx context.Context, frontier verify.Frontier, head string) (result verify.Result, err error) {
	defer b.contain(StageVerify, &err)
	result, err = verify.Range(ctx, b.src, b.trust, frontier, head)
	switch {
	case errors.Is(err, verify.ErrRefused):
		return result, final(StageVerify, err)
	case err != nil:
		return result, transient(StageVerify, err)
	}
	return result, nil
}

// Loaded is a commit's documents, valid as a whole.
type Loaded struct {
	Commit string
	Repo   *spec.Repository
	blobs  []compile.Blob
	// Warnings did not refuse it.
	Warnings diag.List
}

// Load reads and validates a commit that was verified. Only files that changed since the last call are parsed.
func (b *Builder) Load(ctx context.Context, commit string, now time.Time) (l *Loaded, err error) {
	defer b.contain(StageLoad, &err)
	files, err := b.src.Files(ctx, commit)
	if err != nil {
		if gitobject.IsHostile(err) || errors.Is(err, gitobject.ErrTooLarge) {
			return nil, final(StageLoad, err)
		}
		return nil, transient(StageLoad, err)
	}
	l = &Loaded{Commit: commit}
	parsed := make([]spec.Parsed, 0, len(files))
	next := make(map[gitsource.File]entry, len(files))
	total := 0
	for _, f := range files {
		e, known := b.parsed[f]
		if !known {
			file, err := b.src.Read(ctx, f)
			if err != nil {
				return nil, transient(StageLoad, err)
			}
			e = entry{parsed: spec.Parse(file), digest: peermap.DigestOf(file.Data), size: len(file.Data)}
		}
		if total += e.size; total > b.most {
			return nil, final(StageLoad,
				fmt.Errorf("its documents are larger than %d bytes together: %w", b.most, gitobject.ErrTooLarge))
		}
		next[f] = e
		parsed = append(parsed, e.parsed)
		l.blobs = append(l.blobs, compile.Blob{Path: f.Path, Digest: e.digest})
	}
	b.parsed = next
	repo, problems := spec.Assemble(parsed)
	if problems.HasErrors() {
		return nil, final(StageLoad, problems.Err())
	}
	l.Warnings = repo.Validate(now)
	if l.Warnings.HasErrors() {
		return nil, final(StageValidate, l.Warnings.Err())
	}
	if name := repo.Network.Value.Metadata.Name; name != b.trust.Network {
		return nil, final(StageValidate, fmt.Errorf("the repository is of network %q, this is %q", name, b.trust.Network))
	}
	l.Repo = repo
	return l, nil
}

// Test runs the policy tests.
func (b *Builder) Test(l *Loaded, asOf time.Time) (err error) {
	defer b.contain(StageTest, &err)
	var failed []string
	for _, r := range policy.RunTests(l.Repo, asOf) {
		if !r.Passed {
			failed = append(failed, fmt.Sprintf("%s: %s: %s (%s)", r.Pos, r.Test, r.Assertion, r.Verdict.Reason))
		}
	}
	if len(failed) > 0 {
		return final(StageTest, fmt.Errorf("%d policy tests fail:\n%s", len(failed), strings.Join(failed, "\n")))
	}
	return nil
}

// contain turns a panic over one commit's content into the refusal of that commit: it must not end the other networks.
// What was kept of earlier commits is dropped, for it may be half changed.
func (b *Builder) contain(stage Stage, err *error) {
	if p := recover(); p != nil {
		b.parsed, b.incremental, b.admitter = map[gitsource.File]entry{}, compile.NewIncremental(), identity.NewAdmitter()
		*err = final(stage, fmt.Errorf("internal error over this commit, please report it: %v\n%s", p, debug.Stack()))
	}
}

// Compile compiles a loaded commit with the bindings that it admitted (nil: none) as of an instant, judged under root.
func (b *Builder) Compile(
	l *Loaded, admitted *identity.Admitted, root *signer.Root, asOf time.Time,
) (zones map[string]*compile.Zone, stats compile.Stats, err error) {
	defer b.contain(StageCompile, &err)
	in := compile.Input{
		Repo: l.Repo, Files: l.blobs,
		Facts: compile.Facts{Commit: l.Commit, AsOf: asOf, RootVersion: root.Version},
	}
	if admitted != nil {
		in.Repo, in.Bindings = admitted.Repo, admitted.Lists
	}
	zones, stats, err = b.incremental.Compile(in)
	if err != nil {
		return nil, stats, final(StageCompile, err)
	}
	return zones, stats, nil
}

// NextExpiry is the first instant after asOf at which a rule of the repository ends; zero if none does.
func (l *Loaded) NextExpiry(asOf time.Time) time.Time {
	var next time.Time
	for _, p := range l.Repo.Policies {
		for _, rule := range p.Value.Spec.Allow {
			if end := rule.NotAfter; end != nil && end.After(asOf) && (next.IsZero() || end.Before(next)) {
				next = *end
			}
		}
	}
	return next
}

// MaxShrinkPercent is the share of a zone's nodes that a change may take away unasked.
func (l *Loaded) MaxShrinkPercent() int {
	if p := l.Repo.Network.Value.Spec.MaxShrinkPercent; p > 0 {
		return p
	}
	return spec.DefaultMaxShrinkPercent
}
