package controller

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/apex-network/apex/controller/build"
	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/signer"
	"github.com/apex-network/apex/spec/binding"
)

// join compiles a commit with the bindings as they are now, and gives their version. pressing says that witnesses shall sign
// it without a look at new evidence.
func (n *network) join(l *build.Loaded, root *signer.Root, asOf time.Time, pressing bool) (*build.Outcome, uint64, error) {
	var list []*binding.Signed
	var version uint64
	if n.bindings != nil {
		list, version = n.bindings.Snapshot()
		if a := n.published.Load(); a == nil || a.root.Digest() != root.Digest() {
			list = signedUnder(root, list) // the list is of those that the published trust root accepts
		}
		if n.needsWitness(root) {
			list = n.unwitnessed.pick(list, n.serving(), time.Now(), pressing)
		} else {
			n.unwitnessed = unwitnessed{}
		}
	}
	out, err := n.builder.Join(l, list, root, asOf)
	if err != nil {
		return nil, 0, err
	}
	for _, f := range out.Faulty {
		n.log.Error("an enrolled node is left out, for the zone does not compile with it; please report this",
			"zone", f.Zone, "node", f.Node, "binding", f.Binding.String(), "error", f.Err)
	}
	return out, version, nil
}

// signedUnder keeps the bindings whose signature a trust root accepts.
func signedUnder(root *signer.Root, list []*binding.Signed) []*binding.Signed {
	return slices.DeleteFunc(slices.Clone(list), func(s *binding.Signed) bool {
		env, err := signer.ParseEnvelope(s.Envelope, binding.MaxEnvelopeBytes)
		return err != nil || root.CheckBinding(env) != nil
	})
}

// caughtUp notes that the bindings of a version are published. If they have changed since, or another trust root lets
// others count, the next turn is theirs.
func (n *network) caughtUp(began time.Time) {
	n.batch.done(began, time.Now())
	if n.bindings != nil {
		if n.unwitnessed.later {
			n.seen = 0
		}
		if _, version := n.bindings.Snapshot(); version != n.seen {
			n.batch.change()
		}
	}
}

// nextTurn is how long until there is something to do without a look at the branch: a rule or binding ends, or bindings
// that have changed are due. It also gives a channel that closes when witnesses may no longer be in the way.
func (n *network) nextTurn() (time.Duration, <-chan struct{}) {
	if n.current == nil {
		return never, nil // the first sync does it all
	}
	wait := never
	if !n.expiry.IsZero() {
		left := n.expiry.Sub(n.now()) + time.Millisecond
		if left <= 0 {
			left = overdue
		}
		wait = left
	}
	pending, settled := n.publisher.Pending()
	asked := unanswered(pending)
	if asked {
		wait = max(wait, time.Until(n.batch.floor()))
	}
	if due, ok := n.batch.due(asked); ok {
		wait = min(wait, time.Until(due))
	}
	if slices.ContainsFunc(pending, func(p publish.Pending) bool { return doubted(&p) && open(&p) }) {
		wait = min(wait, max(time.Until(n.batch.floor()), overdue)) // hearWitnesses looks again then
	}
	if again := n.unwitnessed.next(); !again.IsZero() {
		wait = min(wait, max(time.Until(again), overdue))
	}
	return max(0, wait), settled
}

// unanswered says whether a generation waits for witnesses none of whom has refused it.
func unanswered(pending []publish.Pending) bool {
	return slices.ContainsFunc(pending, func(p publish.Pending) bool { return len(p.Refusals) == 0 })
}

// takeTurn does what is due now.
func (n *network) takeTurn(ctx context.Context) {
	if n.current == nil {
		return
	}
	now := time.Now()
	pending, _ := n.publisher.Pending()
	asked := unanswered(pending)
	if again := n.unwitnessed.next(); !again.IsZero() && !now.Before(again) && !n.batch.waiting {
		n.seen = 0
		n.batch.change()
	}
	due, waiting := n.batch.due(asked)
	ended := n.expired() && !(asked && now.Before(n.batch.floor()))
	if ended || waiting && !now.Before(due) {
		_ = n.timed(ctx, n.recompile) // logged, shown as the zones' problem, and tried again
	}
}

// recompile publishes the accepted commit with the bindings and rules that hold now. It asks neither git nor the policy
// tests nor the shrink guard: a commit that is accepted stays so.
func (n *network) recompile(ctx context.Context) error {
	began := time.Now()
	if !n.expired() && n.bindings != nil {
		if _, version := n.bindings.Snapshot(); version == n.seen {
			n.batch.waiting = false
			return nil
		}
	}
	out, version, err := n.join(n.current.loaded, n.current.root, n.now().Truncate(time.Second), n.expired())
	if err == nil {
		err = n.publish(ctx, n.current, out, version)
	}
	if err != nil {
		n.batch.failed(time.Now())
		if n.stuck != err.Error() {
			n.stuck = err.Error()
			n.log.Error("bindings and rules that changed are not published yet", "commit", n.current.frontier.Commit, "error", err)
		}
		return err
	}
	n.stuck = ""
	n.caughtUp(began)
	return nil
}

// maxRejected is how many bindings that are no members the status lists.
const maxRejected = 200

// rejections lists the bindings that were left out, and why, for people.
func rejections(out *build.Outcome, left []protocol.RejectedBinding) []protocol.RejectedBinding {
	var list []protocol.RejectedBinding
	for _, f := range out.Faulty {
		list = append(list, protocol.RejectedBinding{
			Zone: f.Zone, Node: f.Node, Binding: f.Binding, Reason: "Faulty",
			Detail: "the zone does not compile with it: " + f.Err.Error(),
		})
	}
	list = append(list, left...)
	for _, r := range out.Admitted.Rejected {
		list = append(list, protocol.RejectedBinding{
			Zone: r.Zone, Node: r.Node, Binding: r.Binding, Reason: string(r.Reason), Detail: r.Detail,
		})
	}
	slices.SortStableFunc(list, func(a, b protocol.RejectedBinding) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Node, b.Node))
	})
	return list
}
