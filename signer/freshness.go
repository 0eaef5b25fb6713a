package signer

import (
	"fmt"
	"time"
)

// Freshness says how old the trusted state is. Stale never changes anything on a host; it is there to be seen.
type Freshness struct {
	// TimestampAge is the time since the newest timestamp was issued; 0 if there is none. It may be slightly negative when
	// clocks differ.
	TimestampAge time.Duration
	// TimestampExpiresIn, ManifestExpiresIn and RootExpiresIn are negative once past; 0 if there is no such document, or, for
	// the root, no expiry.
	TimestampExpiresIn time.Duration
	ManifestExpiresIn  time.Duration
	RootExpiresIn      time.Duration
	// Stale: the state in force can no longer be proven current. Reason says why, in words; empty when not stale.
	Stale  bool
	Reason string
	// Warning is set when the trust root has expired: everything goes on, but it must be rotated.
	Warning string
}

// Freshness judges the state at now.
func (s State) Freshness(now time.Time) Freshness {
	var f Freshness
	if t := s.timestamp.doc; t != nil {
		f.TimestampAge = now.Sub(time.Unix(t.Issued, 0))
		f.TimestampExpiresIn = time.Unix(t.Expires, 0).Sub(now)
	}
	if m := s.manifest.doc; m != nil {
		f.ManifestExpiresIn = time.Unix(m.Expires, 0).Sub(now)
	}
	if s.root != nil && s.root.Expires != 0 {
		f.RootExpiresIn = time.Unix(s.root.Expires, 0).Sub(now)
		if f.RootExpiresIn <= 0 {
			f.Warning = fmt.Sprintf("trust root version %d expired at %s; rotate it", s.root.Version, instant(s.root.Expires))
		}
	}
	f.Reason = s.staleReason(now.Unix())
	f.Stale = f.Reason != ""
	return f
}

func (s State) staleReason(at int64) string {
	t, m := s.timestamp.doc, s.manifest.doc
	switch {
	case s.root == nil:
		return "no trust root has been verified yet"
	case m == nil:
		return "no manifest has been verified yet"
	case t == nil:
		return "no timestamp has been verified yet"
	case t.Epoch < s.root.Epoch:
		return fmt.Sprintf("trust root version %d began epoch %d; no timestamp of it has arrived", s.root.Version, s.root.Epoch)
	case !s.timestamp.current:
		return fmt.Sprintf("trust root version %d no longer counts the keys that signed the timestamp", s.root.Version)
	case t.Expires <= at:
		return fmt.Sprintf("the timestamp expired at %s and no newer one has arrived", instant(t.Expires))
	case t.Manifest != s.manifest.digest:
		return fmt.Sprintf("generation %d.%d is current, %d.%d is in force until its manifest arrives", t.Epoch, t.Serial, m.Epoch, m.Serial)
	case !s.manifest.current:
		return fmt.Sprintf("trust root version %d no longer counts enough of the keys that signed generation %d.%d", s.root.Version, m.Epoch, m.Serial)
	case m.Expires <= at:
		return fmt.Sprintf("the manifest of generation %d.%d expired at %s", m.Epoch, m.Serial, instant(m.Expires))
	}
	return ""
}
