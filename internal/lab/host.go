//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a machine of the lab: a network, a mount and a UTS namespace. Its /run is its own and empty, its other files
// are those of the machine the lab runs on; keep a host's state under Dir. Methods may be called from many goroutines.
type Host struct {
	lab  *Lab
	name string
	dir  string
	ns   *namespace
	nl   *netlink.Handle

	mu         sync.Mutex
	interfaces []*Interface
	processes  []*Process
	runs       map[string]int // starts of each process name
	sockets    []io.Closer
	transports []*http.Transport
}

// Interface is what Attach made: a host's connection to a switch.
type Interface struct {
	Host     *Host
	Switch   *Switch
	Name     string         // eth0, eth1, … in the order of Attach
	Prefixes []netip.Prefix // the host's addresses with the segment's prefix length

	port     netlink.Link // the end in the hub
	gateways []netip.Addr // of Join; guarded by Host.mu
}

// Host makes a machine with nothing but a loopback interface.
func (l *Lab) Host(name string) (*Host, error) {
	if err := l.reserveHost(name); err != nil {
		return nil, err
	}
	defer l.building.Done()
	h := &Host{lab: l, name: name, dir: filepath.Join(l.dir, name), runs: map[string]int{}}
	err := h.build()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		delete(l.hosts, name)
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	l.hosts[name] = h
	l.log.Debug("host is up", "host", name)
	return h, nil
}

// reserveHost takes a name for a host that is being built, which Close waits for.
func (l *Lab) reserveHost(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.hosts[name]
	if err := l.checkName("host", name, taken); err != nil {
		return err
	}
	l.hosts[name] = nil
	l.building.Add(1)
	return nil
}

func (h *Host) build() error {
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		return err
	}
	var err error
	h.ns, err = newNamespace(unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS, func() error {
		if err := unix.Sethostname([]byte(h.name)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		if err := privateRun(h.lab.visible...); err != nil {
			return err
		}
		if err := quietDefaults(); err != nil {
			return err
		}
		var err error
		if h.nl, err = openNetlink(); err != nil {
			return err
		}
		return setUp(h.nl, "lo")
	})
	return err
}

// quietDefaults sets what makes a namespace answer at once and predictably: no waiting for duplicate addresses, no
// router advertisements, ping sockets for root, and connections of dead processes that do not linger for minutes.
func quietDefaults() error {
	return errors.Join(
		sysctl("net/ipv6/conf/all/accept_dad", "0"),
		sysctl("net/ipv6/conf/default/accept_dad", "0"),
		sysctl("net/ipv6/conf/default/accept_ra", "0"),
		sysctl("net/ipv4/ping_group_range", "0 0"),
		sysctl("net/ipv4/tcp_orphan_retries", "1"),
	)
}

// sysctl writes a kernel setting of the calling thread's network namespace.
func sysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s=%s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// Name is the name given to Lab.Host; also the machine's host name.
func (h *Host) Name() string { return h.name }

func (h *Host) String() string { return h.name }

// Dir is a folder for the host's files: an absolute path, the same inside and outside, removed by Lab.Close.
func (h *Host) Dir() string { return h.dir }

// Path gives a path at which this program reaches a file that path names inside the host: its private /run, say.
// Unix sockets can be dialled through it too.
func (h *Host) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/self/task/%d/root", h.ns.tid), path)
}

// Do runs fn on a thread inside the host's network and mount namespaces and returns its error. Sockets and files that fn
// opens belong to the host and stay usable outside. Goroutines that fn starts are not inside. fn must heed ctx itself;
// Do only looks at it before it starts.
func (h *Host) Do(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	if err := h.ns.enter(fn); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

// Attach plugs the host into a switch and gives the interface addresses, by default a free one of each of the switch's
// prefixes. It returns when packets can flow.
func (h *Host) Attach(ctx context.Context, sw *Switch, addrs ...netip.Prefix) (*Interface, error) {
	fail := func(err error) (*Interface, error) {
		return nil, fmt.Errorf("host %s: attach to switch %s: %w", h.name, sw.name, err)
	}
	if sw.lab != h.lab {
		return fail(errors.New("the switch is of another lab"))
	}
	claimed, err := sw.claim(h.name, addrs)
	if err != nil {
		return fail(err)
	}
	release, err := h.ns.acquire()
	if err != nil {
		sw.release(claimed)
		return fail(err)
	}
	defer release()
	h.mu.Lock()
	iface := &Interface{Host: h, Switch: sw, Name: fmt.Sprintf("eth%d", len(h.interfaces)), Prefixes: claimed}
	h.interfaces = append(h.interfaces, iface)
	h.mu.Unlock()
	port, err := sw.port(h, iface.Name)
	if err != nil {
		return fail(err)
	}
	h.mu.Lock()
	iface.port = port
	h.mu.Unlock()
	if err := h.SetLink(ctx, iface.Name, true); err != nil {
		return fail(err)
	}
	return iface, nil
}

// Join is Attach followed by a default route through the switch's gateways.
func (h *Host) Join(ctx context.Context, sw *Switch, addrs ...netip.Prefix) (*Interface, error) {
	iface, err := h.Attach(ctx, sw, addrs...)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	for _, gw := range sw.Gateways() {
		iface.gateways = append(iface.gateways, gw.Addr())
	}
	h.mu.Unlock()
	return iface, h.configure(ctx, iface)
}

// Interfaces lists the host's connections in the order of Attach.
func (h *Host) Interfaces() []*Interface {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.interfaces)
}

// Addr4 is the interface's first IPv4 address, or the zero Addr.
func (i *Interface) Addr4() netip.Addr { return i.first(netip.Addr.Is4) }

// Addr6 is the interface's first IPv6 address, or the zero Addr.
func (i *Interface) Addr6() netip.Addr { return i.first(netip.Addr.Is6) }

func (i *Interface) first(is func(netip.Addr) bool) netip.Addr {
	for _, p := range i.Prefixes {
		if is(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Processes lists what was started on the host, oldest first.
func (h *Host) Processes() []*Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.processes)
}

// killAll ends every process the host started and waits for them.
func (h *Host) killAll(ctx context.Context) error {
	var errs []error
	for _, p := range h.Processes() {
		errs = append(errs, p.Kill(ctx))
	}
	return errors.Join(errs...)
}

// shutdown closes what keeps the host's namespaces alive.
func (h *Host) shutdown(ctx context.Context) error {
	h.closeSockets()
	// Packets that wait for a neighbour hold their socket, and it the namespace, for seconds. Down, they are dropped.
	for _, iface := range h.Interfaces() {
		if link, err := h.nl.LinkByName(iface.Name); err == nil {
			_ = h.nl.LinkSetDown(link) // only to be quicker; Close checks the result
		}
	}
	if err := h.ns.close(ctx); err != nil {
		return err
	}
	h.closeSockets() // those that were being dialled meanwhile
	h.nl.Close()
	return nil
}

func (h *Host) closeSockets() {
	h.mu.Lock()
	sockets, transports := h.sockets, h.transports
	h.sockets, h.transports = nil, nil
	h.mu.Unlock()
	for _, t := range transports {
		t.CloseIdleConnections()
	}
	for _, s := range sockets {
		_ = s.Close() // most are closed already
	}
}
