package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// metric is one family of the text exposition format, version 0.0.4. It is written here rather than by a client library,
// which would cost a small board more memory than the agent's own state.
type metric struct {
	name, kind, help string
	samples          []string
}

// add adds a sample; labels are names and values in turn. Values are names from git and words of ours, so Go's quoting
// is the format's.
func (m *metric) add(value float64, labels ...string) {
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+"="+strconv.Quote(labels[i+1]))
	}
	sample := m.name
	if len(pairs) > 0 {
		sample += "{" + strings.Join(pairs, ",") + "}"
	}
	m.samples = append(m.samples, sample+" "+strconv.FormatFloat(value, 'g', -1, 64))
}

// writeMetrics writes every metric of the agent.
func (a *Agent) writeMetrics(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, m := range a.metrics(ctx) {
		fmt.Fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, sample := range m.samples {
			fmt.Fprintln(out, sample)
		}
	}
	return out.Flush()
}

// metrics gathers them. Labels are bounded by the configuration (zones), the table of conditions and the rules in git;
// peers are counted, not listed.
func (a *Agent) metrics(ctx context.Context) []*metric {
	gauge := func(name, help string) *metric { return &metric{name: name, kind: "gauge", help: help} }
	counter := func(name, help string) *metric { return &metric{name: name, kind: "counter", help: help} }
	var (
		info       = gauge("apex_agent_info", "Version of the agent; the value is 1.")
		condition  = gauge("apex_agent_condition", "1 if the condition is true.")
		serial     = gauge("apex_agent_generation_serial", "Serial of the generation by standing: verified or applied.")
		epoch      = gauge("apex_agent_generation_epoch", "Epoch of the generation by standing: verified or applied.")
		age        = gauge("apex_agent_signature_age_seconds", "Age of a signed document.")
		expiry     = gauge("apex_agent_signature_expiry_timestamp_seconds", "When a signed document expires.")
		connected  = gauge("apex_agent_controller_connected", "1 while the watch stands.")
		silence    = gauge("apex_agent_controller_last_message_age_seconds", "Time since the controller's last byte.")
		peers      = gauge("apex_agent_peers", "Peers by state: all, or alive (handshake in the last three minutes).")
		received   = counter("apex_agent_peer_receive_bytes_total", "Bytes received from the current peers.")
		sent       = counter("apex_agent_peer_transmit_bytes_total", "Bytes sent to the current peers.")
		applied    = counter("apex_agent_applied_total", "Changes applied to the host.")
		rolledBack = counter("apex_agent_rolled_back_total", "Changes undone.")
		unchanged  = counter("apex_agent_unchanged_total", "Generations that changed nothing for this node.")
		refused    = counter("apex_agent_refused_total", "Artefacts that failed verification.")
		full       = counter("apex_agent_full_fetches_total", "Artefacts fetched because no update frame brought them.")
		drift      = counter("apex_agent_drift_total", "Times that somebody else's change was found.")
		repaired   = counter("apex_agent_drift_repaired_total", "Objects put back, by subsystem.")
		packets    = counter("apex_agent_rule_packets_total", "Packets counted by a firewall rule since its table was last replaced.")
		binding    = gauge("apex_agent_binding_expiry_timestamp_seconds", "When the binding of an enrolled node runs out.")
		attempts   = counter("apex_agent_enrolment_attempts_total", "Attempts to get or renew a binding.")
		failures   = counter("apex_agent_enrolment_failures_total", "Attempts to get or renew a binding that failed.")
		bytes      = counter("apex_agent_rule_bytes_total", "Bytes counted by a firewall rule since its table was last replaced.")
	)
	now := a.opt.Now()
	info.add(1, "version", a.opt.Version, "network", a.opt.Config.Network, "node", a.opt.Config.Node)
	for _, z := range a.zones {
		s := z.status(ctx, now)
		zone := []string{"zone", s.Zone}
		with := func(labels ...string) []string { return append(slices.Clone(zone), labels...) }
		if e := s.Enrolment; e != nil {
			if !e.Expires.IsZero() {
				binding.add(float64(e.Expires.Unix()), zone...)
			}
			attempts.add(float64(e.Attempts), zone...)
			failures.add(float64(e.Failures), zone...)
		}
		for _, c := range s.Conditions {
			condition.add(bit(c.Status), with("condition", c.Type)...)
		}
		for i, g := range []*status.Generation{s.Verified, s.Applied} {
			if g != nil {
				standing := []string{"verified", "applied"}[i]
				serial.add(float64(g.Serial), with("standing", standing)...)
				epoch.add(float64(g.Epoch), with("standing", standing)...)
			}
		}
		for _, signature := range s.Signatures {
			age.add(float64(signature.AgeSeconds), with("document", signature.Name)...)
			if signature.Expires != nil {
				expiry.add(float64(signature.Expires.Unix()), with("document", signature.Name)...)
			}
		}
		connected.add(bit(s.Controller.Connected), zone...)
		if s.Controller.LastMessageAgeSeconds >= 0 {
			silence.add(float64(s.Controller.LastMessageAgeSeconds), zone...)
		}
		sum := summarise(s.Peers, now)
		peers.add(float64(sum.total), with("state", "all")...)
		peers.add(float64(sum.alive), with("state", "alive")...)
		received.add(float64(sum.rx), zone...)
		sent.add(float64(sum.tx), zone...)
		applied.add(float64(s.Counters.Applied), zone...)
		rolledBack.add(float64(s.Counters.RolledBack), zone...)
		unchanged.add(float64(s.Counters.Unchanged), zone...)
		refused.add(float64(s.Counters.Refused), zone...)
		full.add(float64(s.Counters.FullFetches), zone...)
		drift.add(float64(s.Counters.Drift), zone...)
		for _, subsystem := range slices.Sorted(maps.Keys(s.Counters.DriftBySubsystem)) {
			repaired.add(float64(s.Counters.DriftBySubsystem[subsystem]), with("subsystem", subsystem)...)
		}
		rules, err := z.engine.Counters(ctx)
		if err != nil {
			continue // there is no table yet
		}
		sums := map[string]reconciler.RuleCounter{} // one rule in git may stand in several hooks
		for _, rule := range rules {
			sum := sums[rule.ID]
			sums[rule.ID] = reconciler.RuleCounter{Packets: sum.Packets + rule.Packets, Bytes: sum.Bytes + rule.Bytes}
		}
		for _, id := range slices.Sorted(maps.Keys(sums)) {
			packets.add(float64(sums[id].Packets), with("rule", id)...)
			bytes.add(float64(sums[id].Bytes), with("rule", id)...)
		}
	}
	return []*metric{info, condition, serial, epoch, age, expiry, connected, silence, peers, received, sent, applied, rolledBack,
		unchanged, refused, full, drift, repaired, binding, attempts, failures, packets, bytes}
}

func summarise(peers []status.Peer, now time.Time) summary {
	sum := summary{total: len(peers)}
	for _, p := range peers {
		sum.rx, sum.tx = sum.rx+p.ReceivedBytes, sum.tx+p.SentBytes
		if !p.LastHandshake.IsZero() && now.Sub(p.LastHandshake) < aliveFor {
			sum.alive++
		}
	}
	return sum
}

func bit(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
