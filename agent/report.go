package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/apex-network/apex/agent/enrol"
	"github.com/apex-network/apex/agent/fetch"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/reconciler"
)

// reportLoop tells the controller how the zone is doing: soon after something changed, otherwise slowly, and never more
// often than ReportMin. Reports inform people; one that fails is made good by the next.
func (z *zone) reportLoop(ctx context.Context) {
	for {
		timer := time.NewTimer(jittered(z.opt.Times.ReportMax))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-z.changed:
			timer.Stop()
		case <-timer.C:
		}
		// A change often comes with others, and to many agents at once.
		if !sleep(ctx, jittered(z.opt.Times.ReportMin)) {
			return
		}
		drain(z.changed)
		if !z.standing.isConnected() {
			continue // connecting again pokes
		}
		identity := z.identity().Raw()
		switch err := z.client.Report(ctx, z.nodeStatus()); {
		case err == nil:
			z.proven(identity)
		case ctx.Err() == nil:
			z.log.Debug("the status report did not arrive", "error", err)
			if errors.Is(err, fetch.ErrDenied) {
				z.otherIdentity()
			}
		}
	}
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// nodeStatus is the report.
func (z *zone) nodeStatus() protocol.NodeStatus {
	now := z.now()
	verified := z.follower.Current()
	fresh := verified.State.Freshness(now)
	z.standing.mu.Lock()
	defer z.standing.mu.Unlock()
	s := &z.standing
	out := protocol.NodeStatus{
		Network: z.opt.Config.Network, Zone: z.name, Node: z.opt.Config.Node,
		Agent: z.opt.Version, Started: s.started.UTC(), Reported: now.UTC(),
		Applied: wireGeneration(s.applied), Seen: wireGeneration(verified),
		TimestampAge: int64(fresh.TimestampAge / time.Second), ManifestExpiresIn: int64(fresh.ManifestExpiresIn / time.Second),
		Peers: protocol.PeerSummary{
			Total: s.peers.total, Alive: s.peers.alive, ReceivedBytes: uint64(s.peers.rx), SentBytes: uint64(s.peers.tx),
		},
	}
	for _, c := range s.conditions.List() {
		out.Conditions = append(out.Conditions, wireCondition(c))
	}
	out.Conditions = append(out.Conditions, protocol.Condition{
		Type: protocol.ConditionConnected, Status: wireStatus(s.connected), Reason: "Watch", Since: s.connectedAt.UTC(),
	})
	return out
}

func wireGeneration(t follow.Trusted) protocol.Generation {
	if !t.Complete() {
		return protocol.Generation{}
	}
	m, _ := t.State.Manifest()
	return protocol.Generation{Commit: m.Commit, Epoch: m.Epoch, Serial: m.Serial, Manifest: t.State.ManifestDigest(), View: t.View}
}

func wireCondition(c status.Condition) protocol.Condition {
	return protocol.Condition{Type: c.Type, Status: wireStatus(c.Status), Reason: c.Reason, Message: c.Message, Since: c.Since.UTC()}
}

func wireStatus(on bool) string {
	if on {
		return protocol.StatusTrue
	}
	return protocol.StatusFalse
}

// status is the zone's part of the local status document.
func (z *zone) status(ctx context.Context, now time.Time) status.Zone {
	z.judge()
	verified := z.follower.Current()
	device, _ := z.engine.Peers(ctx) // none before the interface is there
	confirmed, _ := z.engine.Confirmed()
	heard := z.client.LastHeard()
	full, enrolment := z.follower.FullFetches(), z.member.Snapshot()
	z.standing.mu.Lock()
	defer z.standing.mu.Unlock()
	s := &z.standing
	out := status.Zone{
		Zone: z.name, Interface: z.iface,
		Verified:   generation(verified, verified.Since),
		Applied:    generation(s.applied, s.appliedSince),
		Signatures: signatures(verified, now),
		Controller: status.Controller{
			URL: z.client.Controller(), Connected: s.connected, Since: s.connectedAt.UTC(), LastMessageAgeSeconds: -1,
		},
		Conditions: s.conditions.List(),
		Peers:      peersOf(confirmed, device),
		Counters:   s.counters,
	}
	out.Enrolment = enrolmentOf(enrolment)
	if !heard.IsZero() {
		out.Controller.LastMessage = heard.UTC()
		out.Controller.LastMessageAgeSeconds = seconds(now.Sub(heard))
	}
	out.Counters.FullFetches = full
	out.Counters.DriftBySubsystem = map[string]uint64{}
	for subsystem, n := range s.counters.DriftBySubsystem {
		out.Counters.DriftBySubsystem[subsystem] = n
	}
	if s.undone != nil {
		out.Quarantined = []string{s.undone.View.String()}
	}
	return out
}

// enrolmentOf describes an enrolment; nil for a node whose keys stand in git.
func enrolmentOf(s enrol.Snapshot) *status.Enrolment {
	if !s.Involved {
		return nil
	}
	out := &status.Enrolment{
		Stage: string(s.Stage), NextAttempt: s.Next.UTC(), Waiting: s.WaitingID, Attempts: s.Attempts, Failures: s.Failures,
	}
	if b := s.Binding; b != nil {
		id := b.Identity
		out.Identity = id.Issuer + ": " + id.Subject
		if id.Username != "" {
			out.Identity = fmt.Sprintf("%s: %s (%s)", id.Issuer, id.Username, id.Subject)
		}
		out.Rule = fmt.Sprintf("%s (%s:%d)", b.Rule.Name, b.Rule.File, b.Rule.Line)
		out.Expires = time.Unix(b.Expires, 0).UTC()
	}
	return out
}

// signatures lists the documents that the trust in t rests on.
func signatures(t follow.Trusted, now time.Time) []status.Signature {
	out := []status.Signature{}
	add := func(name, version string, issued time.Time, expires int64) {
		s := status.Signature{Name: name, Version: version, Seen: issued.UTC(), AgeSeconds: seconds(now.Sub(issued))}
		if expires != 0 {
			end := time.Unix(expires, 0).UTC()
			s.Expires, s.Expired = &end, !now.Before(end)
		}
		out = append(out, s)
	}
	if root := t.State.Root(); root != nil {
		add("root", itoa(root.Version), t.Rooted, root.Expires)
	}
	if stamp, ok := t.State.Timestamp(); ok {
		add("timestamp", itoa(stamp.Epoch)+"."+itoa(stamp.Serial), time.Unix(stamp.Issued, 0), stamp.Expires)
	}
	if m, ok := t.State.Manifest(); ok {
		add("manifest", itoa(m.Epoch)+"."+itoa(m.Serial), t.Since, m.Expires)
	}
	return out
}

// peersOf joins the names of the confirmed state with what the device says.
func peersOf(confirmed reconciler.State, device []reconciler.PeerStatus) []status.Peer {
	byKey := make(map[reconciler.Key]*reconciler.PeerStatus, len(device))
	for i := range device {
		byKey[device[i].PublicKey] = &device[i]
	}
	out := make([]status.Peer, 0, len(confirmed.Peers))
	for i := range confirmed.Peers {
		p := &confirmed.Peers[i]
		peer := status.Peer{Name: p.Name, PublicKey: base64.StdEncoding.EncodeToString(p.PublicKey[:])}
		for _, allowed := range p.AllowedIPs {
			peer.Addresses = append(peer.Addresses, allowed.String())
		}
		if d := byKey[p.PublicKey]; d != nil {
			if d.Endpoint.IsValid() {
				peer.Endpoint = d.Endpoint.String()
			}
			if !d.LastHandshake.IsZero() {
				peer.LastHandshake = d.LastHandshake.UTC()
			}
			peer.ReceivedBytes, peer.SentBytes = d.RxBytes, d.TxBytes
		}
		out = append(out, peer)
	}
	slices.SortFunc(out, func(a, b status.Peer) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
