package serve

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the server does. Labels are bounded: resources and problem codes, never names of nodes.
type Metrics struct {
	requests   *prometheus.HistogramVec
	refused    *prometheus.CounterVec
	watches    prometheus.Gauge
	updates    prometheus.Counter
	watchBytes prometheus.Counter
	dropped    prometheus.Counter
}

// NewMetrics registers the server's metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apex_controller_http_request_duration_seconds", Help: "Time to answer a request, by resource and status class; a watch counts when it ends.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"resource", "status"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apex_controller_http_problems_total", Help: "Requests answered with a problem, by its code.",
		}, []string{"code"}),
		watches: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "apex_controller_watches", Help: "Open watches of agents.",
		}),
		updates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apex_controller_watch_updates_total", Help: "Generations sent on watches.",
		}),
		watchBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apex_controller_watch_sent_bytes_total", Help: "Bytes of events sent on watches, before TLS.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apex_controller_watches_dropped_total", Help: "Watches ended because the client did not read or was gone.",
		}),
	}
	r.MustRegister(m.requests, m.refused, m.watches, m.updates, m.watchBytes, m.dropped)
	return m
}

// measured observes how long each request takes.
func (s *Server) measured(resource string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(rec, r)
		s.opts.Metrics.requests.WithLabelValues(resource, strconv.Itoa(rec.status/100)+"xx").Observe(time.Since(start).Seconds())
	})
}

// recorder remembers the status. Unwrap lets http.ResponseController reach the connection.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
