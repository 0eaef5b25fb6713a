package controller

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the loops. Labels are bounded: networks and zones come from configuration and signed git.
type metrics struct {
	syncSeconds   *prometheus.HistogramVec
	fetchFailures *prometheus.CounterVec
	signFailures  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		syncSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apex_controller_sync_duration_seconds", Help: "Time from the fetch of a new commit to its publication or refusal.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"network"}),
		fetchFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apex_controller_fetch_failures_total", Help: "Fetches of the repository that failed.",
		}, []string{"network"}),
		signFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apex_controller_sign_failures_total", Help: "Attempts to sign or store a generation or timestamp that failed.",
		}, []string{"network"}),
	}
	r.MustRegister(m.syncSeconds, m.fetchFailures, m.signFailures)
	return m
}

// collector reads the state of all networks at each scrape.
type collector struct {
	controller *Controller

	leading, refused, fetched, serial, manifestEnd, stampEnd, nodes, enrolled, rejected, pending, suspended, problem *prometheus.Desc
}

func newCollector(c *Controller) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("apex_controller_"+name, help, labels, nil)
	}
	return &collector{
		controller:  c,
		leading:     desc("leading", "1 if this replica leads the network; a controller without replicas always does.", "network"),
		refused:     desc("commit_refused", "1 while the branch head is refused, by the stage that refused it.", "network", "stage"),
		fetched:     desc("last_fetch_timestamp_seconds", "When the repository was last reached.", "network"),
		serial:      desc("generation_serial", "Serial of the published generation.", "network", "zone"),
		manifestEnd: desc("manifest_expiry_timestamp_seconds", "When the published manifest expires.", "network", "zone"),
		stampEnd:    desc("timestamp_expiry_timestamp_seconds", "When the newest timestamp expires.", "network", "zone"),
		nodes:       desc("generation_nodes", "Nodes of the published generation.", "network", "zone"),
		enrolled:    desc("generation_enrolled_nodes", "Enrolled nodes of the published generation.", "network", "zone"),
		rejected:    desc("bindings_rejected", "Bindings in force whose node is no member, by reason.", "network", "reason"),
		pending:     desc("generation_pending", "1 while a generation waits for witnesses.", "network", "zone"),
		suspended:   desc("zone_suspended", "1 while the zone is suspended.", "network", "zone"),
		problem:     desc("zone_problem", "1 while the zone's newest content cannot be signed or stored.", "network", "zone"),
	}
}

// Describe implements prometheus.Collector.
func (m *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		m.leading, m.refused, m.fetched, m.serial, m.manifestEnd, m.stampEnd, m.nodes, m.enrolled, m.rejected, m.pending, m.suspended, m.problem,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, n := range m.controller.running() {
		n.mu.RLock()
		refused, fetched, left := n.refused, n.fetched, n.left
		n.mu.RUnlock()
		gauge(m.leading, one(n.leads()), n.cfg.Name)
		if refused != nil {
			gauge(m.refused, 1, n.cfg.Name, refused.Stage)
		}
		if !fetched.IsZero() {
			gauge(m.fetched, seconds(fetched), n.cfg.Name)
		}
		reasons := map[string]int{}
		for _, r := range left {
			reasons[r.Reason]++
		}
		for reason, count := range reasons {
			gauge(m.rejected, float64(count), n.cfg.Name, reason)
		}
		for _, z := range n.publisher.Zones() {
			s, state := z.Look()
			gauge(m.pending, one(state.Pending != nil), n.cfg.Name, z.Name)
			gauge(m.suspended, one(state.Suspended), n.cfg.Name, z.Name)
			gauge(m.problem, one(state.Problem != nil), n.cfg.Name, z.Name)
			if s != nil {
				gauge(m.serial, float64(s.Manifest.Serial), n.cfg.Name, z.Name)
				gauge(m.manifestEnd, float64(s.Manifest.Expires), n.cfg.Name, z.Name)
				gauge(m.stampEnd, float64(s.Stamp.Expires), n.cfg.Name, z.Name)
				gauge(m.nodes, float64(len(s.Nodes)), n.cfg.Name, z.Name)
				gauge(m.enrolled, float64(s.EnrolledCount()), n.cfg.Name, z.Name)
			}
		}
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
