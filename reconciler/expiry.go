package reconciler

import (
	"slices"
	"time"
)

// ranOut says whether something with this notAfter (Unix seconds, 0: never) counts no more.
func ranOut(notAfter int64, now time.Time) bool { return notAfter != 0 && now.Unix() >= notAfter }

// NextEnd is the earliest instant at which a peer or rule of s runs out, be it in the past; zero if none will.
func (s *State) NextEnd() time.Time {
	first := int64(0)
	note := func(notAfter int64) {
		if notAfter != 0 && (first == 0 || notAfter < first) {
			first = notAfter
		}
	}
	for i := range s.Peers {
		note(s.Peers[i].NotAfter)
	}
	for i := range s.Firewall.Rules {
		note(s.Firewall.Rules[i].NotAfter)
	}
	if first == 0 {
		return time.Time{}
	}
	return time.Unix(first, 0)
}

// inForce is s without the peers and rules that have run out; s itself if there are none. Address sets keep the addresses
// of peers that are gone: without a peer nothing can come from or go to them.
func (s *State) inForce(now time.Time) *State {
	peer := func(p Peer) bool { return ranOut(p.NotAfter, now) }
	rule := func(r Rule) bool { return ranOut(r.NotAfter, now) }
	if !slices.ContainsFunc(s.Peers, peer) && !slices.ContainsFunc(s.Firewall.Rules, rule) {
		return s
	}
	out := *s
	out.Peers = slices.DeleteFunc(slices.Clone(s.Peers), peer)
	out.Firewall.Rules = slices.DeleteFunc(slices.Clone(s.Firewall.Rules), rule)
	return &out
}
