package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/apex-network/apex/controller/publish"
	"github.com/apex-network/apex/internal/protocol"
	"github.com/apex-network/apex/spec/peermap"
)

// postReport takes a node's status: kept in memory for people, and in the store for after a restart.
func (s *Server) postReport(w http.ResponseWriter, r *http.Request, data []byte) error {
	c, err := s.authenticateNode(r, data)
	if err != nil {
		return err
	}
	status, err := protocol.DecodeStatus(data, c.zone.net.Name, c.zone.name, c.node.Name)
	if err != nil {
		return err
	}
	now := s.opts.Now()
	if wait := c.member.report(status, now); wait > 0 {
		return protocol.NewProblem(http.StatusTooManyRequests, protocol.CodeTooMany, fmt.Sprintf("one report per %s", protocol.StatusInterval)).RetryIn(wait)
	}
	if err := keepStatus(r.Context(), c, status, now); err != nil {
		// Memory has it; the next report tries again.
		s.opts.Logger.Warn("status not stored", "network", c.zone.net.Name, "zone", c.zone.name, "node", c.node.Name, "error", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// report takes a status unless the last one is too young, and says how long to wait.
func (m *member) report(status protocol.NodeStatus, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if since := now.Sub(m.reported); !m.reported.IsZero() && since < protocol.StatusInterval && since >= 0 {
		return protocol.StatusInterval - since
	}
	m.reported, m.status = now, &status
	return 0
}

func keepStatus(ctx context.Context, c *caller, status protocol.NodeStatus, now time.Time) error {
	data, err := protocol.Encode(storedStatus{LastSeen: now.Unix(), Status: status})
	if err != nil {
		return err
	}
	return c.zone.net.Status.Put(ctx, c.zone.net.Name+"."+c.zone.name+"."+c.node.Name, data)
}

// Tidy deletes what is kept of nodes that no published generation of a network has: their bindings have ended, or git has
// dropped them. Whoever leads the network calls it now and then; a report that crosses with a publication goes the next time.
func (s *Server) Tidy(ctx context.Context, name string) error {
	n, ok := s.network(name)
	if !ok {
		return nil
	}
	keys, err := n.Status.Keys(ctx, name)
	if err != nil {
		return fmt.Errorf("status of nodes that are gone: %w", err)
	}
	var errs []error
	for _, key := range keys {
		if !n.publishes(key) {
			errs = append(errs, n.Status.Delete(ctx, key))
		}
	}
	return errors.Join(errs...)
}

// publishes reports whether the node that a status is kept for, under network.zone.node, is in the generation that counts now.
func (n *network) publishes(key string) bool {
	parts := strings.Split(key, ".")
	if len(parts) != 3 {
		return false
	}
	z, ok := n.Publisher.Zone(parts[1])
	if !ok {
		return false
	}
	snapshot, _ := z.Snapshot()
	if snapshot == nil {
		return false
	}
	_, _, ok = snapshot.Node(parts[2])
	return ok
}

// readBody reads a whole body within a cap and a time.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", protocol.ErrTooLarge, r.ContentLength, limit)
	}
	s.expectBody(w)
	data, err := protocol.ReadAll(r.Body, limit)
	if err != nil {
		if _, known := asProblem(err); known {
			return nil, err
		}
		return nil, badRequest("the body did not arrive")
	}
	return data, nil
}

// expectBody gives the client until BodyTimeout from now.
func (s *Server) expectBody(w http.ResponseWriter) {
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.BodyTimeout)); err != nil {
		s.opts.Logger.Debug("no read deadline", "error", err) // in-process test writers have none
	}
}

// Fleet describes a network for people.
func (s *Server) Fleet(name string) (protocol.FleetStatus, bool) {
	n, ok := s.network(name)
	if !ok {
		return protocol.FleetStatus{}, false
	}
	f := protocol.FleetStatus{Network: name, Controller: s.opts.Version, Now: s.opts.Now().UTC(), RootVersion: n.rootVersion(), Zones: []protocol.ZoneStatus{}}
	n.Control.Describe(&f)
	f.Store = s.opts.Notice()
	for _, z := range n.Publisher.Zones() {
		snap, state := z.Look()
		if snap == nil && state.Pending == nil && state.Problem == nil {
			continue // retired
		}
		f.Zones = append(f.Zones, n.zone(z.Name).describe(snap, state))
	}
	return f, true
}

func (z *zone) describe(snap *publish.Snapshot, state publish.State) protocol.ZoneStatus {
	out := protocol.ZoneStatus{Zone: z.name, Suspended: state.Suspended, Nodes: []protocol.FleetEntry{}}
	if state.Problem != nil {
		out.Problem = state.Problem.Error()
	}
	if p := state.Pending; p != nil {
		out.Pending = &protocol.PendingStatus{
			Commit: p.Manifest.Commit, Serial: p.Manifest.Serial, Manifest: p.Digest, Since: p.Since.UTC(),
			Have: len(p.Quorum.Signed), Threshold: p.Quorum.Need, Missing: p.Missing(),
		}
	}
	if snap == nil {
		return out
	}
	m := snap.Manifest
	out.Current = &protocol.Published{
		Commit: m.Commit, Epoch: m.Epoch, Serial: m.Serial, Manifest: snap.Digest, Views: m.Views, Enrolled: uint64(snap.EnrolledCount()), Published: snap.Published.UTC(),
		Expires: time.Unix(m.Expires, 0).UTC(), TimestampExpires: time.Unix(snap.Stamp.Expires, 0).UTC(),
		Envelope: snap.Envelope,
	}
	for i := range snap.Nodes {
		out.Nodes = append(out.Nodes, z.entry(&snap.Nodes[i], snap))
	}
	return out
}

func (z *zone) entry(node *publish.Node, snap *publish.Snapshot) protocol.FleetEntry {
	e := protocol.FleetEntry{Node: node.Name}
	m, ok := z.known(node.Name)
	if !ok {
		e.Behind = "never seen"
		return e
	}
	e.Connected = m.watches.Load() > 0 || z.net.elsewhere.connected(z.name, node.Name, time.Now())
	if at := m.lastSeen.Load(); at > 0 {
		e.LastSeen = time.Unix(at, 0).UTC()
	}
	m.mu.Lock()
	e.Status = m.status
	m.mu.Unlock()
	e.Behind = behind(e.Status, node.Digest, e.Connected, snap)
	return e
}

// behind says why a node does not enforce the current generation; "" if it does. A generation that says nothing new to
// the node is enforced as soon as it is published: the node holds the same view.
func behind(s *protocol.NodeStatus, view peermap.Digest, connected bool, snap *publish.Snapshot) string {
	switch {
	case s == nil:
		return "has not reported yet"
	case s.Applied.Manifest == snap.Digest || s.Applied.View == view:
		return ""
	}
	for _, c := range s.Conditions {
		if c.Status != protocol.StatusTrue {
			continue
		}
		switch c.Type {
		case protocol.ConditionRolledBack, protocol.ConditionTrustAlarm, protocol.ConditionRefused, protocol.ConditionKeyMismatch,
			protocol.ConditionApplyFailed, protocol.ConditionConflict, protocol.ConditionStale:
			return c.Type + ": " + c.Message
		}
	}
	where := "applying"
	if !connected {
		where = "not connected"
	}
	return fmt.Sprintf("%s: at serial %d of %d", where, s.Applied.Serial, snap.Manifest.Serial)
}
