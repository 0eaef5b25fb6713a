// Package twin is a host in memory: it answers the contracts of package reconciler as the Linux ones do, with the traps
// that matter (allowed IPs move silently, a link that goes down loses its routes, what is not named stays), so that
// the engine and its callers can be tested without privileges.
package twin

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/apex-network/apex/reconciler"
)

// Host is a host in memory. Its methods take the part of an administrator; Backends gives the engine's side. All are
// safe for concurrent use.
type Host struct {
	mu         sync.Mutex
	nextIndex  int
	generation uint32
	links      map[string]*link
	routes     []reconciler.HostRoute
	tables     map[string]*table
	sysctls    map[string]string
	egress     func(netip.Addr) string
	fail       func(operation, object string) error
	ops        []string
	notify     map[int]subscriber
	nextSub    int
}

type subscriber struct {
	events chan<- reconciler.Event
	broken chan<- error
}

type link struct {
	index     int
	alias     string
	wireguard bool
	up        bool
	mtu       int
	addrs     []netip.Prefix
	device    device
}

type device struct {
	key   reconciler.PrivateKey
	port  uint16
	mark  int
	peers map[reconciler.Key]*reconciler.DevicePeer
	// claims is the peer that last claimed an allowed IP; it may have lost it since
	claims map[netip.Prefix]reconciler.Key
}

type table struct {
	foreign bool
	rules   reconciler.Ruleset
	sets    map[string][]reconciler.Range
	shape   string
}

// New makes an empty host with a loopback interface and an uplink eth0.
func New() *Host {
	h := &Host{links: make(map[string]*link), tables: make(map[string]*table), sysctls: make(map[string]string), notify: make(map[int]subscriber)}
	h.egress = func(netip.Addr) string { return "eth0" }
	h.AddLink("lo", netip.MustParsePrefix("127.0.0.1/8"))
	h.AddLink("eth0", netip.MustParsePrefix("192.0.2.10/24"))
	return h
}

// Backends is the engine's side of the host.
func (h *Host) Backends() reconciler.Backends {
	return reconciler.Backends{
		Links: links{h}, WireGuard: wireguard{h}, Routes: routes{h}, Firewall: firewall{h}, Sysctl: sysctl{h}, Events: events{h},
	}
}

// FailWith sets a function that is asked before every operation that writes; its error is the operation's. nil: none.
func (h *Host) FailWith(f func(operation, object string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = f
}

// Operations are the operations that wrote, in order, since the last call.
func (h *Host) Operations() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.ops
	h.ops = nil
	return out
}

// write runs an operation of the engine unless it is made to fail, and tells its event.
func (h *Host) write(operation, object string, ev reconciler.Event, f func() error) error {
	h.mu.Lock()
	if h.fail != nil {
		if err := h.fail(operation, object); err != nil {
			h.mu.Unlock()
			return err
		}
	}
	err := f()
	if err == nil {
		h.ops = append(h.ops, operation+" "+object)
		h.tell(ev)
	}
	h.mu.Unlock()
	return err
}

// tell hands an event to the subscribers; one that is full breaks, as a netlink socket does.
func (h *Host) tell(ev reconciler.Event) {
	for id, s := range h.notify {
		select {
		case s.events <- ev:
		default:
			h.breakOff(id, s)
		}
	}
}

func (h *Host) breakOff(id int, s subscriber) {
	delete(h.notify, id)
	s.broken <- fmt.Errorf("events were lost")
}

// BreakEvents ends every subscription with an error.
func (h *Host) BreakEvents() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, s := range h.notify {
		h.breakOff(id, s)
	}
}

// admin runs a change by somebody else.
func (h *Host) admin(ev reconciler.Event, f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.tell(ev)
}

// AddLink makes a foreign interface that is up.
func (h *Host) AddLink(name string, addrs ...netip.Prefix) {
	h.admin(linkEvent(name), func() {
		h.nextIndex++
		h.links[name] = &link{index: h.nextIndex, up: true, mtu: 1500, addrs: slices.Clone(addrs)}
	})
}

// AddAddress puts an address on an interface.
func (h *Host) AddAddress(name string, p netip.Prefix) {
	h.mu.Lock()
	l := h.links[name]
	h.mu.Unlock()
	if l != nil {
		h.admin(reconciler.Event{Subsystem: reconciler.SubsystemAddress, Index: l.index, Prefix: host(p.Addr())}, func() { l.addrs = append(l.addrs, p) })
	}
}

// RemoveAddress takes an address off an interface.
func (h *Host) RemoveAddress(name string, p netip.Prefix) {
	h.mu.Lock()
	l := h.links[name]
	h.mu.Unlock()
	if l != nil {
		h.admin(reconciler.Event{Subsystem: reconciler.SubsystemAddress, Index: l.index, Prefix: host(p.Addr())}, func() { l.addrs = without(l.addrs, p) })
	}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func without(list []netip.Prefix, p netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(list), func(x netip.Prefix) bool { return x == p })
}

func linkEvent(name string) reconciler.Event {
	return reconciler.Event{Subsystem: reconciler.SubsystemLink, Link: name}
}

// DeleteLink removes an interface with its routes.
func (h *Host) DeleteLink(name string) { h.admin(linkEvent(name), func() { h.deleteLink(name) }) }

func (h *Host) deleteLink(name string) {
	delete(h.links, name)
	h.routes = slices.DeleteFunc(h.routes, func(r reconciler.HostRoute) bool { return r.Link == name })
}

// FlapLink takes an interface down and up: its routes and IPv6 addresses are gone.
func (h *Host) FlapLink(name string, up bool) {
	h.admin(linkEvent(name), func() {
		if l := h.links[name]; l != nil {
			l.up = up
			l.addrs = slices.DeleteFunc(slices.Clone(l.addrs), func(p netip.Prefix) bool { return p.Addr().Is6() })
			h.routes = slices.DeleteFunc(h.routes, func(r reconciler.HostRoute) bool { return r.Link == name })
		}
	})
}

// SetMTU changes an interface's MTU.
func (h *Host) SetMTU(name string, mtu int) {
	h.admin(linkEvent(name), func() {
		if l := h.links[name]; l != nil {
			l.mtu = mtu
		}
	})
}

// AddRoute adds a route as it is.
func (h *Host) AddRoute(r reconciler.HostRoute) {
	h.admin(reconciler.Event{Subsystem: reconciler.SubsystemRoute, Prefix: r.Prefix}, func() { h.routes = append(h.routes, r) })
}

// DeleteRoute removes every route with that destination and interface.
func (h *Host) DeleteRoute(link string, p netip.Prefix) {
	h.admin(reconciler.Event{Subsystem: reconciler.SubsystemRoute, Prefix: p}, func() {
		h.routes = slices.DeleteFunc(h.routes, func(r reconciler.HostRoute) bool { return r.Prefix == p && r.Link == link })
	})
}

// AddForeignTable makes a table that is not ours.
func (h *Host) AddForeignTable(name string) {
	h.admin(filterEvent(), func() { h.generation++; h.tables[name] = &table{foreign: true, shape: "foreign"} })
}

// FlushTables is `nft flush ruleset`, our tables only.
func (h *Host) FlushTables() {
	h.admin(filterEvent(), func() {
		h.generation++
		for name, t := range h.tables {
			if !t.foreign {
				delete(h.tables, name)
			}
		}
	})
}

// EditSet removes the first element of the first set that has one.
func (h *Host) EditSet() {
	h.admin(filterEvent(), func() {
		h.generation++
		for _, t := range h.tables {
			for name, s := range t.sets {
				if len(s) > 0 {
					t.sets[name] = slices.Clone(s[1:])
					return
				}
			}
		}
	})
}

func filterEvent() reconciler.Event { return reconciler.Event{Subsystem: reconciler.SubsystemFirewall} }

// EditPeer changes a peer of a device, or removes it when edit is nil, as `wg set` does: without an event. A peer that
// is missing is made.
func (h *Host) EditPeer(name string, k reconciler.Key, edit func(*reconciler.DevicePeer)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[name]
	if l == nil {
		return
	}
	if edit == nil {
		delete(l.device.peers, k)
		return
	}
	p := l.device.peers[k]
	if p == nil {
		p = &reconciler.DevicePeer{PublicKey: k}
		l.device.peers[k] = p
	}
	edit(p)
}

// EditDevice changes a device's port and mark.
func (h *Host) EditDevice(name string, port uint16, mark int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.links[name]; l != nil {
		l.device.port, l.device.mark = port, mark
	}
}

// SetSysctl sets a kernel parameter, making it if need be.
func (h *Host) SetSysctl(name, value string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sysctls[name] = value
}

// Snapshot describes everything on the host but what carries alias, the given table, and routes with our mark: what
// must never change.
func (h *Host) Snapshot(alias, tableName string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for name, l := range h.links {
		if l.alias != alias {
			out = append(out, fmt.Sprintf("link %s %d %q %t %d %v", name, l.index, l.alias, l.up, l.mtu, l.addrs))
		}
	}
	for _, r := range h.routes {
		if !r.Ours && !r.Kernel {
			out = append(out, fmt.Sprintf("route %v", r))
		}
	}
	for name, t := range h.tables {
		if name != tableName || t.foreign {
			out = append(out, "table "+name+" "+t.shape)
		}
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// Empty reports whether nothing of ours is left.
func (h *Host) Empty(alias, tableName string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, l := range h.links {
		if l.alias == alias {
			return fmt.Errorf("interface %s is left", name)
		}
	}
	if t := h.tables[tableName]; t != nil && !t.foreign {
		return fmt.Errorf("table %s is left", tableName)
	}
	for _, r := range h.routes {
		if r.Ours {
			return fmt.Errorf("route %s is left", r.Prefix)
		}
	}
	return nil
}

func missing(name string) error { return fmt.Errorf("no interface %s: %w", name, fs.ErrNotExist) }

type events struct{ h *Host }

func (e events) Subscribe(ctx context.Context, ready func(), notify func(reconciler.Event)) error {
	ch, broken := make(chan reconciler.Event, 1024), make(chan error, 1)
	e.h.mu.Lock()
	e.h.nextSub++
	id := e.h.nextSub
	e.h.notify[id] = subscriber{ch, broken}
	e.h.mu.Unlock()
	ready()
	for {
		select {
		case <-ctx.Done():
			e.h.mu.Lock()
			delete(e.h.notify, id)
			e.h.mu.Unlock()
			return nil
		case err := <-broken:
			return err
		case ev := <-ch:
			notify(ev)
		}
	}
}

type sysctl struct{ h *Host }

func (s sysctl) Get(_ context.Context, name string) (string, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	v, ok := s.h.sysctls[name]
	if !ok {
		return "", fmt.Errorf("kernel parameter %s: %w", name, fs.ErrNotExist)
	}
	return v, nil
}

func (s sysctl) Set(_ context.Context, name, value string) error {
	return s.h.write("sysctl", name+"="+value, reconciler.Event{}, func() error {
		if _, ok := s.h.sysctls[name]; !ok {
			return fmt.Errorf("kernel parameter %s: %w", name, fs.ErrNotExist)
		}
		s.h.sysctls[name] = value
		return nil
	})
}

// Handshake gives a peer a handshake and an endpoint, as traffic from it would.
func (h *Host) Handshake(name string, k reconciler.Key, at time.Time, from netip.AddrPort) {
	h.EditPeer(name, k, func(p *reconciler.DevicePeer) { p.LastHandshake, p.Endpoint = at, from })
}
