package wgdevice

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"sync"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// ErrNoTUN says that this host has no TUN driver, so that no userspace device can be made.
var ErrNoTUN = errors.New("no TUN driver: load the tun module, or give the service access to /dev/net/tun")

// Device is a running userspace device.
type Device struct {
	name string
	dev  *device.Device
	uapi net.Listener
	wg   sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

// Open makes the interface name, down and without keys or peers, and opens its UAPI socket. A stale socket of a process
// that is gone is replaced; an interface or a live socket of that name is an error. It must be called from a thread in the
// network namespace the device is to live in.
func Open(name string, mtu int, log *slog.Logger) (*Device, error) {
	t, err := tun.CreateTUN(name, mtu)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("make interface %s: %w", name, ErrNoTUN)
	}
	if err != nil {
		return nil, fmt.Errorf("make TUN interface %s: %w", name, err)
	}
	dev := device.NewDevice(t, conn.NewDefaultBind(), logger(name, log))
	listener, err := listenUAPI(name)
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("UAPI socket of %s: %w", name, err)
	}
	d := &Device{name: name, dev: dev, uapi: listener}
	d.wg.Go(d.serve)
	return d, nil
}

// listenUAPI makes the socket at which `wg` and wgctrl reach the device. ipc.UAPIListen would take an inotify instance besides,
// to notice when somebody removes the socket. A user has 128 of them on most hosts, and where other programs have taken
// these the device would not come up at all.
func listenUAPI(name string) (net.Listener, error) {
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the listener has its own
	listener, err := net.FileListener(file)
	if unixListener, ok := listener.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(true)
	}
	return listener, err
}

// serve answers UAPI connections until the listener closes.
func (d *Device) serve() {
	for {
		c, err := d.uapi.Accept()
		if err != nil {
			return
		}
		go d.dev.IpcHandle(c)
	}
}

// Up opens the UDP socket. The device does so by itself when its interface goes up, but then an error, such as a port
// that is taken, is only logged; calling Up afterwards returns it.
func (d *Device) Up() error {
	if err := d.dev.Up(); err != nil {
		return fmt.Errorf("bring up %s: %w", d.name, err)
	}
	return nil
}

// Wait is closed when the device has stopped, for example because its interface was deleted.
func (d *Device) Wait() <-chan struct{} { return d.dev.Wait() }

// Close removes the socket and the interface.
func (d *Device) Close() error {
	d.closeOnce.Do(func() {
		d.closeErr = d.uapi.Close()
		d.dev.Close()
		d.wg.Wait()
	})
	return d.closeErr
}

func logger(name string, log *slog.Logger) *device.Logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("interface", name)
	return &device.Logger{
		Verbosef: func(string, ...any) {},
		Errorf:   func(format string, a ...any) { log.Warn("wireguard: " + fmt.Sprintf(format, a...)) },
	}
}
