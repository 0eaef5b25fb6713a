package enrol

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/apex-network/apex/internal/protocol"
)

// Metrics counts what the services of a controller do. Labels are bounded: networks and problem codes.
type Metrics struct {
	seconds  *prometheus.HistogramVec
	outcomes *prometheus.CounterVec
	bindings *prometheus.GaugeVec
	waiting  *prometheus.GaugeVec
	left     *prometheus.CounterVec
}

// NewMetrics registers the metrics of enrolment.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apex_controller_enrolment_duration_seconds", Help: "Time to answer an enrolment, with the verification of its token.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"network"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apex_controller_enrolments_total", Help: "Enrolments by outcome: bound, waiting, or the code of the problem.",
		}, []string{"network", "outcome"}),
		bindings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apex_controller_bindings", Help: "Bindings in the store, those included that have expired and are still kept.",
		}, []string{"network"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apex_controller_enrolments_waiting", Help: "Enrolments that wait for a maintainer.",
		}, []string{"network"}),
		left: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apex_controller_bindings_ended_total", Help: "Bindings removed from the store, by reason: left, disconnected or expired.",
		}, []string{"network", "reason"}),
	}
	r.MustRegister(m.seconds, m.outcomes, m.bindings, m.waiting, m.left)
	return m
}

func (m *Metrics) enrolled(network string, result protocol.EnrolResult, err error, took time.Duration) {
	outcome := "bound"
	var p *protocol.Problem
	switch {
	case errors.As(err, &p):
		outcome = p.Code
	case err != nil:
		outcome = protocol.CodeInternal
	case result.Binding == nil:
		outcome = "waiting"
	}
	m.outcomes.WithLabelValues(network, outcome).Inc()
	m.seconds.WithLabelValues(network).Observe(took.Seconds())
}
