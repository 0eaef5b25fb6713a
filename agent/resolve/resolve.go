// Package resolve turns the endpoints of peers (host:port, best first) into the one address to use now.
//
// Answering never blocks: Endpoint reads what is known and notes what is wanted; Run looks names up in the background and
// says when an answer changed. What a name resolved to stays in use when the resolver fails, and survives a restart
// through Save and Restore, so that a host without DNS still reaches its peers. A wrong answer can cost reachability,
// never authenticity: WireGuard keys decide who a peer is.
package resolve

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Times of the resolver.
const (
	// refresh is how often a name in use is looked up again; retry is the pause after a failure, doubled up to refresh.
	refresh = 5 * time.Minute
	retry   = 5 * time.Second
	// hurry is the least time between look-ups of a name whose peer does not answer.
	hurry   = 30 * time.Second
	timeout = 5 * time.Second
	// parallel bounds concurrent look-ups, maxAddrs the addresses used of one name.
	parallel = 4
	maxAddrs = 16
)

// Lookup resolves a host name; net.Resolver.LookupNetIP with network "ip" in production.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// System is the host's own resolver.
func System() Lookup {
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
}

// Resolver is safe for concurrent use.
type Resolver struct {
	lookup Lookup
	now    func() time.Time
	wake   chan struct{}

	mu    sync.Mutex
	names map[string]*name
	// turn counts, by peer, how often its endpoint did not answer: the index of the candidate to use.
	turn map[string]int
}

// name is one host name.
type name struct {
	addrs  []netip.Addr // last good answer, sorted
	err    error        // of the last look-up
	next   time.Time    // when to look up again
	last   time.Time    // when it was looked up
	pause  time.Duration
	wanted bool
}

// New makes a resolver.
func New(lookup Lookup, now func() time.Time) *Resolver {
	return &Resolver{lookup: lookup, now: now, wake: make(chan struct{}, 1), names: map[string]*name{}, turn: map[string]int{}}
}

// Round begins a new build of the state: names that the calls of Endpoint until the returned function do not ask for are
// forgotten by it, and the others are looked up if due.
func (r *Resolver) Round() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.names {
		n.wanted = false
	}
	return func() {
		r.mu.Lock()
		maps.DeleteFunc(r.names, func(_ string, n *name) bool { return !n.wanted })
		r.mu.Unlock()
		r.poke()
	}
}

// Endpoint gives the address to use for a peer now; invalid if none of its endpoints is known yet.
func (r *Resolver) Endpoint(peer string, endpoints []string) netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	candidates := r.candidates(endpoints)
	if len(candidates) == 0 {
		return netip.AddrPort{}
	}
	return candidates[r.turn[peer]%len(candidates)]
}

// candidates lists every known address of the endpoints, in order. Callers hold the lock.
func (r *Resolver) candidates(endpoints []string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, endpoint := range endpoints {
		if literal, err := netip.ParseAddrPort(endpoint); err == nil {
			out = append(out, netip.AddrPortFrom(literal.Addr().Unmap(), literal.Port()))
			continue
		}
		host, port, ok := split(endpoint)
		if !ok {
			continue
		}
		n := r.names[host]
		if n == nil {
			n = &name{}
			r.names[host] = n
		}
		n.wanted = true
		for _, addr := range n.addrs {
			out = append(out, netip.AddrPortFrom(addr, port))
		}
	}
	return out
}

func split(endpoint string) (host string, port uint16, ok bool) {
	host, text, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" {
		return "", 0, false
	}
	n, err := strconv.ParseUint(text, 10, 16)
	return host, uint16(n), err == nil
}

// Movable says whether another address may come out for these endpoints: they are several, or names.
func Movable(endpoints []string) bool {
	if len(endpoints) != 1 {
		return len(endpoints) > 1
	}
	_, err := netip.ParseAddrPort(endpoints[0])
	return err != nil
}

// Failed says that the peer does not answer where Endpoint said: its next candidate has its turn, and its names are
// looked up soon. It reports whether Endpoint now gives another address.
func (r *Resolver) Failed(peer string, endpoints []string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	for _, endpoint := range endpoints {
		host, _, _ := split(endpoint)
		if n := r.names[host]; n != nil && now.Sub(n.last) >= hurry {
			n.next = time.Time{}
		}
	}
	r.poke()
	candidates := r.candidates(endpoints)
	if len(candidates) < 2 {
		return false
	}
	before := candidates[r.turn[peer]%len(candidates)]
	r.turn[peer]++
	return candidates[r.turn[peer]%len(candidates)] != before
}

// Unresolved describes the wanted names without any known address, sorted.
func (r *Resolver) Unresolved() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for host, n := range r.names {
		if len(n.addrs) == 0 && n.err != nil {
			out = append(out, fmt.Sprintf("%s (%v)", host, n.err))
		}
	}
	slices.Sort(out)
	return out
}

// Save gives what is known, for Restore after a restart.
func (r *Resolver) Save() map[string][]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string][]netip.Addr{}
	for host, n := range r.names {
		if len(n.addrs) > 0 {
			out[host] = n.addrs
		}
	}
	return out
}

// Restore takes what Save gave, as answers to be renewed at once. Unusable addresses are dropped.
func (r *Resolver) Restore(saved map[string][]netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for host, addrs := range saved {
		if clean := usable(addrs); len(clean) > 0 {
			r.names[host] = &name{addrs: clean, wanted: true}
		}
	}
}

// Run looks names up until ctx ends, and calls changed after a pass that changed an answer or the set of failures.
func (r *Resolver) Run(ctx context.Context, changed func()) {
	for {
		due, wait := r.due()
		if len(due) > 0 {
			if r.pass(ctx, due) {
				changed()
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (r *Resolver) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// due lists the names to look up now, or how long to wait for the first.
func (r *Resolver) due() ([]string, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, wait := r.now(), refresh
	var out []string
	for host, n := range r.names {
		if left := n.next.Sub(now); left <= 0 {
			out = append(out, host)
		} else {
			wait = min(wait, left)
		}
	}
	slices.Sort(out)
	return out, wait
}

// pass looks the names up, a few at a time, and says whether anything changed.
func (r *Resolver) pass(ctx context.Context, hosts []string) (changed bool) {
	type answer struct {
		host  string
		addrs []netip.Addr
		err   error
	}
	answers := make(chan answer)
	slots := make(chan struct{}, parallel)
	go func() {
		for _, host := range hosts {
			slots <- struct{}{}
			go func() {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				addrs, err := r.lookup(ctx, host)
				answers <- answer{host, addrs, err}
				<-slots
			}()
		}
	}()
	for range hosts {
		a := <-answers
		if r.note(a.host, usable(a.addrs), a.err) {
			changed = true
		}
	}
	return changed && ctx.Err() == nil
}

// note files an answer. A failure keeps the last good addresses.
func (r *Resolver) note(host string, addrs []netip.Addr, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[host]
	if n == nil {
		return false
	}
	now := r.now()
	n.last = now
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("no usable address")
	}
	failedBefore := n.err != nil
	n.err = err
	if err != nil {
		n.pause = min(max(2*n.pause, retry), refresh)
		n.next = now.Add(n.pause)
		return !failedBefore
	}
	n.pause, n.next = 0, now.Add(refresh)
	if slices.Equal(n.addrs, addrs) {
		return failedBefore
	}
	n.addrs = addrs
	return true
}

// usable keeps unicast addresses, unmapped, sorted, once each: an order that does not change with every answer, so that
// a rotating name server moves no peer.
func usable(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		if addr.IsValid() && !addr.IsUnspecified() && !addr.IsMulticast() {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	return out[:min(len(out), maxAddrs)]
}
