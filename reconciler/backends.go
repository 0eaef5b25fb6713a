package reconciler

import (
	"context"
	"errors"
	"net/netip"
)

// Backends are the host's subsystems, one contract each. Host gives the real ones of this platform; package twin keeps
// them in memory.
//
// Common rules: adding what exists in that form and removing what is gone are no errors. A missing privilege wraps
// ErrPermission. Nothing but the named object is touched.
type Backends struct {
	Links     Links
	WireGuard WireGuard
	Routes    Routes
	Firewall  FirewallBackend
	Sysctl    Sysctl
	Events    Events
	// Closers release what the backends hold, in order; an embedded userspace device goes down with them.
	Closers []func() error
}

// Close frees sockets, and takes down an embedded userspace device with them.
func (b Backends) Close() error {
	var err error
	for _, c := range b.Closers {
		err = errors.Join(err, c())
	}
	return err
}

// Event says that something changed on the host.
type Event struct {
	Subsystem Subsystem
	// Link is the name of the interface, for events of links. Index is its number, for events of addresses and routes.
	Link  string
	Index int
	// Prefix is the address or route concerned, where there is one.
	Prefix netip.Prefix
}

// Events tells of changes on the host, our own included.
type Events interface {
	// Subscribe calls notify, from one goroutine, for every change of links, addresses, routes or the packet filter until
	// ctx ends (it then returns nil) or the subscription breaks, which it returns as an error: events were missed, so
	// the caller subscribes again and does a full pass. ready is called once events can no longer be missed.
	Subscribe(ctx context.Context, ready func(), notify func(Event)) error
}
