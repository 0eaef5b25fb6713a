package reconciler

import (
	"context"
	"net/netip"
	"time"
)

// Backends are the host's subsystems, one contract each. Host gives the real ones of this platform; package twin keeps
// them in memory.
//
// Common rules: objects that are added and exist already in that form, or are removed and are gone, are no error.
// A missing privilege wraps ErrPermission.
type Backends struct {
	Links     Links
	WireGuard WireGuard
	Routes    Routes
	Firewall  FirewallBackend
	Sysctl    Sysctl
	Events    Events
}

// Close frees sockets, and takes down an embedded userspace device with them.
func (b Backends) Close() error { return nil }

// Link is what the host reports of an interface.
type Link struct {
	Exists bool
	Index  int
	// Alias is the interface's ifalias, our ownership mark. Unmarked is set on an interface that our Create made but
	// that a crash kept from getting its alias.
	Alias    string
	Unmarked bool
	// WireGuard: it is a device WireGuard can configure.
	WireGuard bool
	Userspace bool
	Up        bool
	MTU       int
	Addresses []netip.Prefix // link-local addresses left out
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
	// Holders tells which of the addresses other interfaces carry, by interface name.
	Holders(ctx context.Context, name string, addrs []netip.Addr) (map[netip.Addr]string, error)
}

// Device is the observed WireGuard device, peers sorted by key.
type Device struct {
	PublicKey  Key // zero: no private key set
	ListenPort uint16
	FwMark     int
	Peers      []DevicePeer
}

// DevicePeer is an observed peer.
type DevicePeer struct {
	PublicKey     Key
	HasPSK        bool
	Endpoint      netip.AddrPort
	Keepalive     time.Duration
	LastHandshake time.Time
	RxBytes       int64
	TxBytes       int64
	AllowedIPs    []netip.Prefix // sorted
}

// DeviceChange changes device attributes; nil leaves one alone.
type DeviceChange struct {
	PrivateKey *PrivateKey
	ListenPort *uint16
	ClearMark  bool
}

// PeerChange changes one peer. With Remove only PublicKey counts.
type PeerChange struct {
	PublicKey Key
	Remove    bool
	// New tells a peer that is not there yet; otherwise it must exist, and one that vanished is not made anew.
	New bool
	// ClearPSK writes the zero preshared key.
	ClearPSK bool
	// Endpoint and Keepalive are written when set.
	Endpoint  netip.AddrPort
	Keepalive *time.Duration
	// Replace puts AllowedIPs in place of the peer's list; otherwise they are added to it.
	Replace    bool
	AllowedIPs []netip.Prefix
}

// WireGuard configures devices.
type WireGuard interface {
	// Device reads a device; one that is missing gives an error wrapping fs.ErrNotExist.
	Device(ctx context.Context, name string) (Device, error)
	ConfigureDevice(ctx context.Context, name string, c DeviceChange) error
	// ConfigurePeers applies peer changes in order. It is not atomic: after an error, read again.
	ConfigurePeers(ctx context.Context, name string, c []PeerChange) error
}

// HostRoute is a route of the main table.
type HostRoute struct {
	Prefix netip.Prefix
	Link   string // name of the outgoing interface, empty for special routes
	// Ours: carries our protocol number and metric.
	Ours bool
	// Kernel: made by the kernel for an address.
	Kernel bool
	Metric int
}

// Routes edits the main routing table.
type Routes interface {
	// Routes lists the main table. An interrupted dump is an error, never a partial list.
	Routes(ctx context.Context) ([]HostRoute, error)
	// Add makes our route; it never replaces one.
	Add(ctx context.Context, link string, p netip.Prefix) error
	// Remove deletes our route on link.
	Remove(ctx context.Context, link string, p netip.Prefix) error
	// Egress is the name of the interface through which the host reaches addr.
	Egress(ctx context.Context, addr netip.Addr) (string, error)
}

// Sysctl reads and writes kernel parameters by slash-separated name: "net/ipv4/conf/eth0/forwarding".
type Sysctl interface {
	Get(ctx context.Context, name string) (string, error) // wraps fs.ErrNotExist
	Set(ctx context.Context, name, value string) error
}

// Events tells of changes on the host.
type Events interface {
	// Subscribe calls notify for every change of links, addresses, routes or the firewall until ctx ends or the
	// subscription breaks, which it returns as an error: the caller subscribes again and does a full pass.
	// ready is called once events can no longer be missed.
	Subscribe(ctx context.Context, ready func(), notify func(Subsystem)) error
}
