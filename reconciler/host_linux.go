package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"

	"github.com/apex-network/apex/reconciler/wgdevice"
)

// Host gives the backends of this host: rtnetlink, wgctrl, nftables and /proc/sys, all in the network namespace of the
// calling process. It opens sockets and changes nothing. Several Engines may share it.
func Host(opt HostOptions) (Backends, error) {
	switch opt.WireGuard {
	case "", WireGuardAuto, WireGuardKernel, WireGuardUserspace:
	default:
		return Backends{}, fmt.Errorf("WireGuard mode %q: want auto, kernel or userspace", opt.WireGuard)
	}
	// Naming the family keeps the handle from opening XFRM, which some kernels lack.
	rt, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Backends{}, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err := rt.SetStrictCheck(true); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		rt.Close()
		return Backends{}, fmt.Errorf("rtnetlink strict checks: %w", err)
	}
	h := &linuxHost{rt: rt, mode: opt.WireGuard, log: opt.Logger, devices: make(map[string]*wgdevice.Device)}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	fw := &linuxFirewall{}
	return Backends{
		Links: h, WireGuard: h, Routes: linuxRoutes{h}, Firewall: fw, Sysctl: linuxSysctl{}, Events: linuxEvents{},
		Closers: []func() error{h.close, fw.close},
	}, nil
}

// linuxHost holds what links, WireGuard and routes share.
type linuxHost struct {
	rt   *netlink.Handle
	mode WireGuardMode
	log  *slog.Logger

	mu      sync.Mutex
	wg      *wgctrl.Client              // nil until the first device exists: see client
	devices map[string]*wgdevice.Device // embedded userspace devices by interface name
}

func (h *linuxHost) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var err error
	for name, d := range h.devices {
		err = errors.Join(err, d.Close())
		delete(h.devices, name)
	}
	if h.wg != nil {
		err = errors.Join(err, h.wg.Close())
		h.wg = nil
	}
	h.rt.Close()
	return err
}

// explain gives the errors of the kernel the meaning they have here.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: run as root or with CAP_NET_ADMIN: %w", ErrPermission, err)
	}
	return err
}

type linuxSysctl struct{}

const procSys = "/proc/sys"

func sysctlPath(name string) (string, error) {
	if !filepath.IsLocal(name) || !strings.HasPrefix(name, "net/") {
		return "", fmt.Errorf("kernel parameter %q is outside net/", name)
	}
	return filepath.Join(procSys, name), nil
}

func (linuxSysctl) Get(_ context.Context, name string) (string, error) {
	p, err := sysctlPath(name)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(p)
	if err != nil {
		return "", fmt.Errorf("read kernel parameter: %w", explain(err))
	}
	return strings.TrimSpace(string(b)), nil
}

func (linuxSysctl) Set(_ context.Context, name, value string) error {
	p, err := sysctlPath(name)
	if err != nil {
		return err
	}
	// Without O_CREATE: a missing parameter is an error, not a file.
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("write kernel parameter: %w: /proc/sys is read-only for this process; let the service write %s", ErrPermission, p)
	}
	if err != nil {
		return fmt.Errorf("write kernel parameter: %w", explain(err))
	}
	_, err = f.WriteString(value)
	return errors.Join(explain(err), f.Close())
}
