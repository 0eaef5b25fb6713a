package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/gitobject"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
	"github.com/apex-network/apex/spec/compile"
	"github.com/apex-network/apex/spec/identity"
	"github.com/apex-network/apex/spec/peermap"
)

// endedGrace is how long ago a rule may have ended that a generation still contains: the controller may be a little late.
const endedGrace = 15 * time.Minute

// judge arrives at the generation by itself. What it gives is to be remembered if the generation is signed.
func (w *witness) judge(ctx context.Context, p protocol.Pending) (*signed, error) {
	m, err := peermap.ParseManifest(p.Manifest)
	if err != nil {
		return nil, refusef("the manifest cannot be read: %w", err)
	}
	if m.Network != w.Network || m.Zone != p.Zone || peermap.DigestOf(p.Manifest) != p.Digest {
		return nil, refusef("the manifest is not the one that was announced")
	}
	if m.Compiler != compile.Version {
		return nil, refusef("the controller's compiler is version %s, the witness's %s: upgrade the older one", m.Compiler, compile.Version)
	}
	last := w.state.zone(p.Zone)
	result, ahead, err := w.verify(ctx, m, last)
	if err != nil {
		return nil, err
	}
	if err := w.checkNumbers(m, last, ahead.Root); err != nil {
		return nil, err
	}
	loaded, err := w.builder.Load(ctx, m.Commit, time.Unix(m.AsOf, 0))
	if err != nil {
		return nil, refuseFinal(err)
	}
	enrolled, list, err := w.bindings(ctx, m, last, loaded, result.Root)
	if err != nil {
		return nil, err
	}
	replaced, err := w.rotate(enrolled, last, m.AsOf)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Suspended:
		err = w.checkFrozen(ctx, m, last, ahead.Accepted.Commit)
	case last == nil || m.Commit == last.Frontier.Commit:
		err = w.checkMoves(ctx, m, last, ahead, enrolled)
	}
	if err != nil {
		return nil, err
	}
	zone, err := w.compile(m, last, result, loaded, enrolled)
	if err != nil {
		return nil, err
	}
	arrived := zone.Manifest(m.Epoch, m.Serial, m.Previous, time.Unix(m.Expires, 0))
	arrived.Suspended = m.Suspended
	own, err := arrived.Encode()
	if err != nil {
		return nil, refusef("%w", err)
	}
	if !bytes.Equal(own, p.Manifest) {
		return nil, refusef("commit %s compiles to another manifest here:\n%s\nthe controller's is\n%s", m.Commit, own, p.Manifest)
	}
	next := &signed{
		Frontier: result.Accepted, Epoch: m.Epoch, Serial: m.Serial, AsOf: m.AsOf, ViewsRoot: m.ViewsRoot,
		Manifest: p.Digest.String(), List: string(list), Replaced: replaced,
	}
	for _, v := range zone.Views {
		next.Nodes = append(next.Nodes, v.Node)
	}
	return next, nil
}

// verify judges the way from what was signed last to the commit, and demands that the branch contains the commit. ahead
// is the way on to the branch's head, as far as that is good: a suspended zone's generation may have to be signed again
// under a later root than its commit's.
func (w *witness) verify(ctx context.Context, m peermap.Manifest, last *signed) (result, ahead verify.Result, err error) {
	head, err := w.Source.Fetch(ctx)
	if err != nil {
		return result, ahead, fmt.Errorf("fetch: %w", err)
	}
	onLine, err := w.onLine(ctx, head, m.Commit)
	if err != nil {
		return result, ahead, err
	}
	if !onLine {
		return result, ahead, refusef("commit %s is not on the branch, whose head is %s", m.Commit, head)
	}
	if result, err = w.builder.Verify(ctx, last.frontierOf(), m.Commit); err != nil {
		return result, ahead, refuseFinal(err)
	}
	ahead, err = w.builder.Verify(ctx, result.Accepted, head)
	if err != nil && !errors.Is(err, verify.ErrRefused) {
		return result, ahead, err
	}
	if ahead.Root == nil {
		ahead = result
	}
	return result, ahead, nil
}

// checkFrozen demands of a generation that is called suspended that git says so at the branch's head, and that it is what
// was signed last.
func (w *witness) checkFrozen(ctx context.Context, m peermap.Manifest, last *signed, head string) error {
	if last != nil && !last.same(m) {
		return refusef("zone %s is called suspended, but with another content than was signed last", m.Zone)
	}
	loaded, err := w.builder.Load(ctx, head, w.Now())
	if err != nil {
		return refuseFinal(err)
	}
	for _, z := range loaded.Repo.Zones {
		if z.Value.Metadata.Name == m.Zone && z.Value.Spec.Suspend {
			return nil
		}
	}
	return refusef("zone %s is called suspended, which commit %s does not say", m.Zone, head)
}

// checkMoves keeps a controller from standing still: while it takes the zone no further than what was signed last, the
// branch's head must be one that cannot be published either, or that suspends the zone.
func (w *witness) checkMoves(
	ctx context.Context, m peermap.Manifest, last *signed, ahead verify.Result, enrolled []*binding.Signed,
) error {
	head := ahead.Accepted.Commit
	if head == m.Commit {
		return nil
	}
	asOf := w.Now().Truncate(time.Second)
	loaded, err := w.builder.Load(ctx, head, asOf)
	if err == nil {
		err = w.builder.Test(loaded, asOf)
	}
	var zones map[string]*compile.Zone
	var admitted *identity.Admitted
	if err == nil {
		admitted = w.builder.Admit(loaded, enrolled, asOf)
		zones, _, err = w.builder.Compile(loaded, admitted, ahead.Root, asOf)
	}
	if z, ok := zones[m.Zone]; err == nil && ok {
		if z.Suspended {
			return nil
		}
		err = w.checkShrink(loaded, z, last, admitted.Rejected, ahead.AllowShrink)
	}
	var no *refusal
	if err = refuseFinal(err); errors.As(err, &no) {
		return nil // nobody can publish the head
	}
	if err != nil {
		return err
	}
	return refusef("commit %s is asked for again, but the branch has moved on to %s, which is good: publish that", m.Commit, head)
}

// onLine walks back from head along first parents.
func (w *witness) onLine(ctx context.Context, head, commit string) (bool, error) {
	for id := head; id != ""; {
		if id == commit {
			return true, nil
		}
		c, err := gitobject.ReadCommit(ctx, w.Source, id)
		if err != nil {
			return false, err
		}
		id = c.FirstParent()
	}
	return false, nil
}

// checkNumbers demands that the generation comes after the last one signed and lives no longer than the root allows.
func (w *witness) checkNumbers(m peermap.Manifest, last *signed, root *signer.Root) error {
	now := w.Now()
	if m.Epoch != root.Epoch {
		return refusef("epoch %d, the trust root has %d", m.Epoch, root.Epoch)
	}
	if last != nil && (m.Epoch < last.Epoch || m.Epoch == last.Epoch && m.Serial <= last.Serial) {
		return refusef("generation %d.%d is not after %d.%d, which was signed", m.Epoch, m.Serial, last.Epoch, last.Serial)
	}
	if last != nil && m.AsOf < last.AsOf {
		return refusef("it was compiled as of an earlier instant than the last one signed")
	}
	if asOf := time.Unix(m.AsOf, 0); asOf.After(now.Add(signer.MaxClockSkew)) {
		return refusef("it was compiled as of %s, the clock here says %s", asOf.UTC(), now.UTC())
	}
	longest := now.Add(signer.MaxClockSkew).Unix() + root.Validity.Manifest
	if m.Expires > longest {
		return refusef("it lives longer than the trust root allows")
	}
	return nil
}

// compile compiles the manifest's commit as of its instant with the bindings of its list, and gives the zone.
func (w *witness) compile(
	m peermap.Manifest, last *signed, result verify.Result, loaded *build.Loaded, enrolled []*binding.Signed,
) (*compile.Zone, error) {
	asOf := time.Unix(m.AsOf, 0)
	// What the commit takes from those that were members is asked of the bindings that were signed last: those that it
	// takes are not in the list.
	var taken []identity.Rejected
	if last != nil && last.Frontier.Commit != m.Commit {
		taken = w.builder.Admit(loaded, w.known(last), asOf).Rejected
	}
	admitted := w.builder.Admit(loaded, enrolled, asOf)
	if len(admitted.Rejected) > 0 {
		r := admitted.Rejected[0]
		return nil, refuseBinding(r.Binding, "binding %s of node %s is no member at commit %s: %s: %s", r.Binding, r.Node, m.Commit, r.Reason, r.Detail)
	}
	if last == nil || !last.same(m) {
		for _, end := range []time.Time{loaded.NextExpiry(asOf), admitted.NextExpiry} {
			if !end.IsZero() && end.Before(w.Now().Add(-endedGrace)) {
				return nil, refusef("it contains a rule or binding that ended at %s", end.UTC().Format(time.RFC3339))
			}
		}
	}
	if last == nil || m.Commit != last.Frontier.Commit {
		if err := w.builder.Test(loaded, asOf); err != nil {
			return nil, refuseFinal(err)
		}
	}
	zones, _, err := w.builder.Compile(loaded, admitted, result.Root, asOf)
	if err != nil {
		return nil, refuseFinal(err)
	}
	zone, ok := zones[m.Zone]
	switch {
	case !ok:
		return nil, refusef("commit %s has no zone %s", m.Commit, m.Zone)
	case zone.Suspended:
		return nil, refusef("zone %s is suspended in commit %s: its published generation must stay", m.Zone, m.Commit)
	}
	return zone, refuseFinal(w.checkShrink(loaded, zone, last, taken, result.AllowShrink))
}

// checkShrink is the shrink guard, against what was signed last.
func (w *witness) checkShrink(
	l *build.Loaded, z *compile.Zone, last *signed, rejected []identity.Rejected, allowed []string,
) error {
	if last == nil {
		return nil
	}
	before, after := map[string]build.Members{z.Zone: last.members()}, map[string]*compile.Zone{z.Zone: z}
	return l.Guard(before, after, rejected, allowed)
}

var errUnexpected = errors.New("unexpected answer of the controller")
