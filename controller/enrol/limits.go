package enrol

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/apex-network/apex/internal/protocol"
)

// Limits are requests per minute; each may come in one burst. 0 takes the default, below 0 there is no limit.
//
// Nobody may use up what is somebody else's. The limit per address is charged before any work. The one per subject is charged
// once the token is verified and fits the keys: what stands in a token that nobody verified is anybody's to name, and one that
// commits to keys is anybody's to show with others. The one per issuer is charged to those whom a rule admits: of a public
// issuer everybody has tokens, and a few strangers could lock all others out. To verify costs little more than the proofs did,
// and what is asked of the issuer has a limit of its own (package tokens).
//
// A renewal or rotation by the key of a binding in force is charged to its node (perNode) and to nothing else: neither a rush
// of newcomers nor a flood from behind the same address translator or load balancer ends a membership.
type Limits struct {
	PerIssuer, PerSubject, PerAddress int
	// Waiting is the most requests of a zone that wait for a maintainer, WaitingPerSubject those of one identity.
	Waiting, WaitingPerSubject int
}

// perNode is how many renewals and rotations a node may ask for in a minute. It needs one in hours.
const perNode = 60

// Defaults.
const (
	DefaultPerIssuer         = 6000
	DefaultPerSubject        = 300
	DefaultPerAddress        = 600
	DefaultWaiting           = 500
	DefaultWaitingPerSubject = 10
)

func (l Limits) filled() Limits {
	for _, f := range []struct {
		v     *int
		value int
	}{
		{&l.PerIssuer, DefaultPerIssuer}, {&l.PerSubject, DefaultPerSubject}, {&l.PerAddress, DefaultPerAddress},
		{&l.Waiting, DefaultWaiting}, {&l.WaitingPerSubject, DefaultWaitingPerSubject},
	} {
		switch {
		case *f.v == 0:
			*f.v = f.value
		case *f.v < 0:
			*f.v = math.MaxInt32
		}
	}
	return l
}

// limiter holds the limits of one network.
type limiter struct {
	limits                             Limits
	addresses, nodes, issuers, subject *rates
}

func newLimiter(l Limits) *limiter {
	l = l.filled()
	return &limiter{limits: l, addresses: newRates(l.PerAddress), nodes: newRates(perNode),
		issuers: newRates(l.PerIssuer), subject: newRates(l.PerSubject)}
}

// sender charges the node whose key has proven the request, otherwise the address that it came from.
func (l *limiter) sender(from netip.Addr, node nodeKey, proven bool, now time.Time) error {
	if proven {
		return tooMany("by this node", l.nodes.charge(node.String(), now))
	}
	return l.address(from, now)
}

// address charges the sender. An IPv6 host has a /64 to choose from, so all of it counts as one.
func (l *limiter) address(a netip.Addr, now time.Time) error {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return tooMany("from this address", l.addresses.charge(a.String(), now))
}

func (l *limiter) issuer(name string, now time.Time) error {
	return tooMany("with tokens of issuer "+name, l.issuers.charge(name, now))
}

func (l *limiter) identity(url, subject string, now time.Time) error {
	return tooMany("by this identity", l.subject.charge(url+"\x00"+subject, now))
}

func tooMany(whose string, wait time.Duration) error {
	if wait == 0 {
		return nil
	}
	return protocol.NewProblem(http.StatusTooManyRequests, protocol.CodeTooMany,
		fmt.Sprintf("too many enrolments %s: try again later", whose)).RetryIn(wait)
}

// maxRates bounds the keys that one generation of rates remembers.
const maxRates = 1 << 15

// rates are token buckets by key. It remembers at most two generations of maxRates keys: when the young one is full it
// becomes the old one, whose keys come back when they are used. Who is forgotten starts with a full bucket.
type rates struct {
	perMinute float64

	mu         sync.Mutex
	young, old map[string]level
}

// level is how many requests are left at an instant.
type level struct {
	left float64
	at   time.Time
}

func newRates(perMinute int) *rates {
	return &rates{perMinute: float64(perMinute), young: map[string]level{}}
}

// charge takes one request, or says how long to wait for the next.
func (r *rates) charge(key string, now time.Time) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.young[key]
	if !ok {
		if l, ok = r.old[key]; !ok {
			l = level{r.perMinute, now}
		}
		if len(r.young) >= maxRates {
			r.young, r.old = map[string]level{}, r.young
		}
	}
	if passed := now.Sub(l.at); passed > 0 {
		l = level{min(r.perMinute, l.left+passed.Minutes()*r.perMinute), now}
	}
	if l.left < 1 {
		wait = time.Duration((1 - l.left) / r.perMinute * float64(time.Minute))
		wait = max(wait, time.Millisecond)
	} else {
		l.left--
	}
	r.young[key] = l
	return wait
}
