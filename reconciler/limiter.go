package reconciler

import "time"

// limiter is a token bucket. Its zero time means a full bucket.
type limiter struct {
	every  time.Duration
	burst  int
	tokens float64
	last   time.Time
}

// allow takes a token if there is one.
func (l *limiter) allow(now time.Time) bool {
	if l.last.IsZero() {
		l.tokens = float64(l.burst)
	} else if d := now.Sub(l.last); d > 0 {
		l.tokens = min(float64(l.burst), l.tokens+float64(d)/float64(l.every))
	}
	l.last = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
