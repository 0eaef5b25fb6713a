package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/controller/client"
	"github.com/apex-network/apex/controller/gitsource"
	"github.com/apex-network/apex/controller/verify"
	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/internal/protocol"
)

// rolloutPoll is how often apply asks how far a rollout is.
const rolloutPoll = 500 * time.Millisecond

func newApply(s cli.Streams) *cobra.Command {
	var f remoteFlags
	var id idTokenFlags
	var pin string
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "apply [DIR]",
		Short: "Ask the controller to take the clone's HEAD now",
		Long: `Apply judges HEAD of the clone in DIR (default: this folder) as the controller would, then asks the controller to fetch
and take exactly that commit instead of waiting for its next poll. It sends no content: push first. --wait follows the
rollout until every connected node enforces the commit.

You prove who you are with an SSH key that the trust root names as applier. A CI job shows the ID token of its CI system
instead, which the trust root admits by its claims: then no key is stored anywhere (docs/ci.md).

Exit codes: 0 taken (with --wait: enforced), 3 the controller refused the commit, 4 a signature or key is not accepted,
6 not everywhere in time, 7 a host rolled it back.`,
		Example: "  git push && apex apply --controller https://apex.example.com --key ~/.ssh/id_ed25519 --wait\n" +
			"  apex apply --controller https://apex.example.com --github --wait\n" +
			"  apex apply --controller https://apex.example.com --id-token-env APEX_ID_TOKEN --wait",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			return apply(ctx, s, folderArg(args, 0), pin, f, id, wait)
		},
	}
	f.register(c)
	id.register(c)
	c.Flags().StringVar(&pin, "pin", "", "digest of the first trust root, hex (default: the one in the clone)")
	c.Flags().BoolVar(&wait, "wait", false, "follow the rollout until every connected node enforces the commit")
	c.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to wait for the controller and the rollout")
	return c
}

func apply(ctx context.Context, s cli.Streams, dir, pin string, f remoteFlags, id idTokenFlags, wait bool) error {
	network, commit, err := verifiedHead(ctx, dir, pin)
	if err != nil {
		return err
	}
	r, done, err := openApplier(s, f, id, network)
	if err != nil {
		return err
	}
	defer done()
	result, err := r.Apply(ctx, commit)
	if err != nil {
		return timedOut(ctx, coded(err))
	}
	fmt.Fprintf(s.Err, "controller took %.12s\n", commit)
	for _, z := range result.Zones {
		published := "nothing published yet"
		if z.Current != nil {
			published = fmt.Sprintf("generation %d.%d", z.Current.Epoch, z.Current.Serial)
		}
		fmt.Fprintf(s.Err, "  zone %s: %s%s\n", z.Zone, published, zoneNote(z))
	}
	if !wait {
		return nil
	}
	return follow(ctx, s, r, commit)
}

// openApplier gives a client with the key or the ID token that was named.
func openApplier(s cli.Streams, f remoteFlags, id idTokenFlags, network string) (*client.Client, func(), error) {
	source, err := id.source(s)
	if err != nil {
		return nil, nil, err
	}
	if source == nil {
		return f.open(s, network)
	}
	r, err := f.openWithToken(network, source)
	return r, func() {}, err
}

// verifiedHead judges HEAD of a clone and gives it with the network's name.
func verifiedHead(ctx context.Context, dir, pin string) (network, commit string, err error) {
	local, err := gitsource.OpenLocal(dir)
	if err != nil {
		return "", "", cli.WithCode(cli.Invalid, err)
	}
	defer local.Close()
	if commit, err = local.Head(ctx); err != nil {
		return "", "", cli.WithCode(cli.Invalid, err)
	}
	trust, err := localTrust(ctx, local, commit, pin)
	if err != nil {
		return "", "", err
	}
	if _, err := verify.Range(ctx, local, trust, verify.Frontier{}, commit); err != nil {
		return "", "", cli.WithCode(cli.Trust, fmt.Errorf("HEAD would not be accepted: %w", err))
	}
	return trust.Network, commit, nil
}

// zoneNote says why a zone does not follow the commit.
func zoneNote(z protocol.ZoneStatus) string {
	switch {
	case z.Suspended:
		return " (suspended: it keeps this one)"
	case z.Problem != "":
		return " (" + z.Problem + ")"
	case z.Pending != nil:
		return " (the next waits for " + z.Pending.Missing + ")"
	}
	return ""
}

// rollout counts how far a commit has come.
type rollout struct {
	nodes, done, rolledBack, offline int
	waiting                          string // why the controller itself is not there yet
	refused                          error  // why it never will be
}

func (r rollout) complete() bool { return r.waiting == "" && r.done+r.offline == r.nodes }

// progressOf reads a fleet's status for one commit. A zone that a change does not touch keeps an older commit's
// manifest only until the controller has published; after that every zone names the new one.
func progressOf(f protocol.FleetStatus, commit string) rollout {
	var r rollout
	if no := f.Refused; no != nil && no.Commit == commit {
		r.waiting = fmt.Sprintf("refused (%s): %s", no.Stage, no.Reason)
		// What was accepted stays, whatever became of judging it anew.
		if no.Final && f.Accepted != commit {
			r.refused = fmt.Errorf("the controller refused %.12s (%s): %s", commit, no.Stage, no.Reason)
		}
	}
	for _, z := range f.Zones {
		if z.Current == nil || z.Pending != nil {
			r.waiting = "zone " + z.Zone + " waits" + zoneNote(z)
			continue
		}
		for _, n := range z.Nodes {
			r.add(n, z.Current)
		}
	}
	return r
}

func (r *rollout) add(n protocol.FleetEntry, current *protocol.Published) {
	r.nodes++
	switch {
	case !n.Connected:
		r.offline++
	case n.Behind == "":
		r.done++
	case n.Status == nil:
	case isTrue(n.Status.Conditions, protocol.ConditionRolledBack) && n.Status.Seen.Manifest == current.Manifest:
		r.rolledBack++
	}
}

func isTrue(conditions []protocol.Condition, kind string) bool {
	for _, c := range conditions {
		if c.Type == kind {
			return c.Status == protocol.StatusTrue
		}
	}
	return false
}

// follow asks for the fleet's status until the commit is enforced everywhere, rolled back somewhere or refused, or time is up. A
// controller that cannot be asked for a while, because it is restarted or another replica takes over, ends nothing: it has
// taken the commit.
func follow(ctx context.Context, s cli.Streams, r *client.Client, commit string) error {
	tick := time.NewTicker(rolloutPoll)
	defer tick.Stop()
	line := progressLine{s: s}
	defer line.end()
	p := rollout{waiting: "the controller has not told the status yet"}
	for {
		fleet, err := r.Fleet(ctx)
		switch {
		case err == nil:
			p = progressOf(fleet, commit)
		case ctx.Err() != nil: // p is how far it was
		case passes(err):
			p = rollout{waiting: err.Error()}
		default:
			return coded(err)
		}
		line.show(p)
		switch {
		case p.refused != nil:
			return cli.WithCode(cli.Invalid, p.refused)
		case p.rolledBack > 0:
			return cli.WithCode(cli.RolledBack, fmt.Errorf("%s rolled %.12s back; apex status --controller says which and why", count(p.rolledBack, "host"), commit))
		case p.complete():
			return nil
		}
		select {
		case <-ctx.Done():
			return cli.WithCode(cli.TimedOut, fmt.Errorf("not everywhere in time: %s", p))
		case <-tick.C:
		}
	}
}

// passes says whether an error may be gone the next time: nobody answered, or who did cannot now.
func passes(err error) bool {
	var p *protocol.Problem
	if errors.As(err, &p) {
		return p.Status >= http.StatusInternalServerError || p.Status == http.StatusTooManyRequests
	}
	return errors.Is(err, client.ErrUnreachable)
}

func (r rollout) String() string {
	if r.waiting != "" {
		return r.waiting
	}
	text := fmt.Sprintf("%d of %d nodes enforce it", r.done, r.nodes)
	if r.offline > 0 {
		text += fmt.Sprintf(", %d offline", r.offline)
	}
	return text
}

// progressLine shows a rollout: one line rewritten on a terminal, a line per change elsewhere.
type progressLine struct {
	s    cli.Streams
	last string
}

func (l *progressLine) show(r rollout) {
	text := r.String()
	if text == l.last {
		return
	}
	l.last = text
	if l.s.Terminal {
		fmt.Fprintf(l.s.Err, "\r\x1b[K%s", text)
		return
	}
	fmt.Fprintln(l.s.Err, text)
}

func (l *progressLine) end() {
	if l.s.Terminal && l.last != "" {
		fmt.Fprintln(l.s.Err)
	}
}

// timedOut gives an error exit code 6 if it came because ctx ran out.
func timedOut(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return cli.WithCode(cli.TimedOut, err)
	}
	return err
}
