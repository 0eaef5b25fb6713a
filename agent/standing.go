package agent

import (
	"sync"
	"time"

	"github.com/apex-network/apex/agent/enrol"
	"github.com/apex-network/apex/agent/follow"
	"github.com/apex-network/apex/agent/status"
	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/spec/peermap"
)

// rootWarning is how long before its expiry a trust root is complained about.
const rootWarning = 30 * 24 * time.Hour

// standing is how a zone is doing: everything that its goroutines tell and its readers ask.
type standing struct {
	mu         sync.Mutex
	started    time.Time
	conditions *status.Conditions
	// applied is the generation the host was last confirmed in.
	applied      follow.Trusted
	appliedSince time.Time
	undone       *quarantine
	connected    bool
	connectedAt  time.Time
	alarmedAt    time.Time
	counters     status.Counters
	movable      map[reconciler.Key]movable
	peers        summary
}

func (s *standing) begin(now time.Time) {
	s.started = now
	s.conditions = status.NewConditions(now)
	s.connectedAt = now
	s.counters.DriftBySubsystem = map[string]uint64{}
}

func (s *standing) set(kind string, on bool, reason, message string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conditions.Set(kind, on, reason, message, now)
}

func (s *standing) is(kind string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conditions.Is(kind)
}

func (s *standing) reason(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conditions.Get(kind).Reason
}

// count changes counters under the lock.
func (s *standing) count(change func(*status.Counters)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.counters)
}

// alarm raises TrustAlarm and remembers when.
func (s *standing) alarm(reason, message string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alarmedAt = now
	return s.conditions.Set(status.TrustAlarm, true, reason, message, now)
}

// quarantine remembers what was undone; nil forgets it.
func (s *standing) quarantine(q *quarantine, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undone = q
	if q == nil {
		s.conditions.Clear(status.RolledBack, now)
		return
	}
	s.conditions.Set(status.RolledBack, true, "Undone", q.Reason, now)
}

// isUndone says whether a view is the quarantined one.
func (s *standing) isUndone(view peermap.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.undone != nil && s.undone.View == view
}

// confirm notes that the host is in t.
func (s *standing) confirm(t follow.Trusted, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied.View != t.View || s.appliedSince.IsZero() {
		s.appliedSince = now
	}
	s.applied = t
}

func (s *standing) current() follow.Trusted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied
}

// connect notes whether the watch stands; it says whether that is news.
func (s *standing) connect(on bool, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.connected == on {
		return false
	}
	s.connected, s.connectedAt = on, now
	return true
}

func (s *standing) isConnected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connected
}

// drifted counts what the engine put back.
func (s *standing) drifted(r reconciler.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counters.Drift++
	s.counters.DriftFixed += uint64(r.Total)
	for _, c := range r.Changes {
		s.counters.DriftBySubsystem[string(c.Subsystem)] += uint64(max(c.Count, 1))
	}
}

// judge sets the conditions that follow from ages and from other conditions. It says whether one changed its status.
func (s *standing) judge(verified follow.Trusted, enrolment enrol.Snapshot, alarmHold time.Duration, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.conditions.List()
	c := s.conditions
	fresh := verified.State.Freshness(now)
	if fresh.Stale {
		c.Set(status.Stale, true, "NotCurrent", fresh.Reason, now)
	} else {
		c.Clear(status.Stale, now)
	}
	switch {
	case fresh.Warning != "":
		c.Set(status.RootExpiring, true, "Expired", fresh.Warning, now)
	case fresh.RootExpiresIn > 0 && fresh.RootExpiresIn < rootWarning:
		end := now.Add(fresh.RootExpiresIn).UTC().Format(time.RFC3339)
		c.Set(status.RootExpiring, true, "ExpiresSoon", "the trust root expires at "+end, now)
	default:
		c.Clear(status.RootExpiring, now)
	}
	if m, ok := verified.State.Manifest(); ok && m.Suspended {
		c.Set(status.Suspended, true, "Suspended", "the zone's published generation is frozen in git", now)
	} else {
		c.Clear(status.Suspended, now)
	}
	if c.Is(status.TrustAlarm) && now.Sub(s.alarmedAt) >= alarmHold {
		c.Clear(status.TrustAlarm, now)
	}
	s.judgeEnrolment(enrolment, now)
	s.judgeReady(verified, now)
	for i, after := range c.List() {
		if after.Status != before[i].Status || after.Reason != before[i].Reason {
			return true
		}
	}
	return false
}

// judgeReady decides whether the host carries the newest verified generation, and if not, which condition says why.
func (s *standing) judgeReady(verified follow.Trusted, now time.Time) {
	c := s.conditions
	because := func(kinds ...string) bool {
		for _, kind := range kinds {
			if got := c.Get(kind); got.Status {
				c.Set(status.Ready, false, kind, got.Message, now)
				return true
			}
		}
		return false
	}
	switch {
	case !s.applied.Complete() || s.applied.View != verified.View && verified.Complete():
		if !because(status.KeyMismatch, status.RolledBack, status.ApplyFailed, status.TrustAlarm, status.Refused,
			status.AwaitingApproval, status.EnrolmentNeeded, status.EnrolmentFailing, status.NotMember, status.Unreachable, status.CacheDamaged) {
			c.Set(status.Ready, false, "Applying", "A verified generation is being awaited or applied.", now)
		}
	case because(status.EnrolmentExpired, status.NotMember, status.Conflict, status.ApplyFailed):
	default:
		c.Set(status.Ready, true, "Applied", "The host carries the newest verified generation.", now)
	}
}
