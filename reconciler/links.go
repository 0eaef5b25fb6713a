package reconciler

import (
	"context"
	"fmt"
	"net/netip"
)

// Link is what the host reports of an interface.
type Link struct {
	Exists bool
	Index  int
	// Alias is the interface's ifalias, our ownership mark. Unmarked is set on an interface that our Create made but
	// that a crash kept from getting its alias.
	Alias    string
	Unmarked bool
	// WireGuard: it is a device this process can configure as WireGuard. Userspace: it is our embedded one.
	WireGuard bool
	Userspace bool
	Up        bool
	MTU       int
	// Addresses are sorted; link-local ones are left out, because the kernel makes them.
	Addresses []netip.Prefix
}

// Links makes and shapes interfaces.
type Links interface {
	// Link reads one interface and its addresses; a missing one is not an error.
	Link(ctx context.Context, name string) (Link, error)
	// Create makes a WireGuard interface, down, marked with alias.
	Create(ctx context.Context, name, alias string, mtu int) error
	Delete(ctx context.Context, name string) error
	SetMTU(ctx context.Context, name string, mtu int) error
	SetAlias(ctx context.Context, name, alias string) error
	SetUp(ctx context.Context, name string) error
	AddAddress(ctx context.Context, name string, p netip.Prefix) error
	RemoveAddress(ctx context.Context, name string, p netip.Prefix) error
	// Holders tells which of addrs other interfaces than name carry, with the interface.
	Holders(ctx context.Context, name string, addrs []netip.Addr) (map[netip.Addr]string, error)
}

// aliasOf is the ownership mark for an owner.
func aliasOf(owner string) string { return "apex " + owner }

// checkOwner refuses an interface of our name that is not ours.
func checkOwner(name, alias string, l Link) error {
	switch {
	case !l.Exists || (l.Unmarked && l.WireGuard):
		return nil
	case l.Alias != alias:
		return fmt.Errorf("interface %s exists with alias %q, ours would be %q: %w; rename or delete it, or configure another interface name",
			name, l.Alias, alias, ErrForeign)
	case !l.WireGuard:
		return fmt.Errorf("interface %s carries our alias but is no WireGuard device of this process: %w; stop the other process that holds it, or delete it",
			name, ErrForeign)
	}
	return nil
}

// diffAddresses gives the addresses to add and to remove, and the conflicts: an address another interface carries is
// not added. holders may be nil when the host was not asked.
func diffAddresses(want, got []netip.Prefix, holders map[netip.Addr]string) (add, remove []netip.Prefix, conflicts []Conflict) {
	missing, extra := diffSorted(want, got, comparePrefix)
	for _, p := range missing {
		if link, taken := holders[p.Addr()]; taken {
			conflicts = append(conflicts, Conflict{SubsystemAddress, p.String(),
				fmt.Sprintf("interface %s already carries it; remove it there or give this node another address", link)})
			continue
		}
		add = append(add, p)
	}
	return add, extra, conflicts
}
