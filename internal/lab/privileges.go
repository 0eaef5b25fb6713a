//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Mode is how the program can get namespaces.
type Mode int

const (
	// Root makes them directly.
	Root Mode = iota + 1
	// Rootless makes them inside a user namespace of its own.
	Rootless
)

func (m Mode) String() string {
	switch m {
	case Root:
		return "root"
	case Rootless:
		return "rootless"
	}
	return fmt.Sprintf("mode(%d)", int(m))
}

// What Privileges finds missing.
var (
	// ErrNoNamespaces: no lab can be made.
	ErrNoNamespaces = errors.New("the lab needs network namespaces")
	// ErrNoTunnel: a lab can be made, but WireGuard cannot run in it.
	ErrNoTunnel = errors.New("WireGuard needs the kernel module or a TUN device")
)

const tunDevice = "/dev/net/tun"

// findings is what the probe reports; empty text means that it works.
type findings struct {
	Namespaces string // namespaces, mounts, veth, bridge, nftables
	Tunnel     string // a WireGuard or TUN interface
}

// Privileges says how labs can be made here, by trying everything they need in namespaces that are gone afterwards. The
// error wraps ErrNoNamespaces or ErrNoTunnel (then Mode is set) and says what is missing and what to do. The program's
// main must call Init.
func Privileges(ctx context.Context) (Mode, error) {
	if err := checkInit(); err != nil {
		return 0, err
	}
	mode := Root
	found, err := probe(ctx, mode)
	if errors.Is(err, unix.EPERM) {
		mode = Rootless
		found, err = probe(ctx, mode)
	}
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err != nil:
		return 0, fmt.Errorf("%w: as user %d: %w%s", ErrNoNamespaces, os.Getuid(), err, advice(err))
	case found.Namespaces != "":
		return 0, fmt.Errorf("%w: %s, as user %d: %s%s", ErrNoNamespaces, mode, os.Getuid(), found.Namespaces, advice(nil))
	case found.Tunnel != "":
		return mode, fmt.Errorf("%w: %s, as user %d: %s%s", ErrNoTunnel, mode, os.Getuid(), found.Tunnel, describeFile(tunDevice))
	}
	return mode, nil
}

// probe runs the probe stage of this program. An error means that its namespaces could not even be created.
func probe(ctx context.Context, mode Mode) (findings, error) {
	var stdout, stderr bytes.Buffer
	helper := reexec(stageProbe, mode)
	helper.Stdout, helper.Stderr = &stdout, &stderr
	if err := onThread(func() error {
		if err := helper.Start(); err != nil {
			return fmt.Errorf("create namespaces (%s): %w", mode, err)
		}
		stop := context.AfterFunc(ctx, func() { _ = helper.Process.Kill() })
		defer stop()
		return helper.Wait()
	}); err != nil {
		return findings{}, fmt.Errorf("%w %s", err, stderr.String())
	}
	var found findings
	if err := json.Unmarshal(stdout.Bytes(), &found); err != nil {
		return findings{}, fmt.Errorf("%w: the probe answered %.100q", errNoInit, stdout.String())
	}
	return found, nil
}

// advice names the settings that commonly forbid user namespaces, as far as they do so on this machine.
func advice(err error) string {
	var out []string
	add := func(path, forbids, text string) {
		if b, readErr := os.ReadFile(path); readErr == nil && strings.TrimSpace(string(b)) == forbids {
			out = append(out, text)
		}
	}
	add("/proc/sys/user/max_user_namespaces", "0", "user namespaces are disabled: sysctl -w user.max_user_namespaces=15000")
	add("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1 allows them")
	add("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
		"AppArmor restricts user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	if len(out) == 0 && errors.Is(err, unix.EPERM) {
		out = append(out, "a container's or service's sandbox forbids them: run it privileged, or with CAP_SYS_ADMIN and no seccomp filter")
	}
	out = append(out, "or run as root")
	return "; " + strings.Join(out, "; ")
}

// tryEverything runs in the probe process, which is alone in its namespaces.
func tryEverything() findings {
	var f findings
	if err := tryNamespaces(); err != nil {
		f.Namespaces = err.Error()
		return f
	}
	if err := tryTunnel(); err != nil {
		f.Tunnel = err.Error()
	}
	return f
}

func tryNamespaces() error {
	if _, err := prepareInside(); err != nil {
		return err
	}
	if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "sw0"
	if err := nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("create a bridge: %w", err)
	}
	attrs.Name = "port0"
	if err := nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0"}); err != nil {
		return fmt.Errorf("create a veth pair: %w", err)
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	b := &natBuilder{conn: conn, outside: "eth0"}
	b.table = conn.AddTable(&nftables.Table{Name: "lab", Family: nftables.TableFamilyINet})
	post := b.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.rule(post, newFlow(), []expr.Any{&expr.Masq{}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables NAT with connection tracking: %w", err)
	}
	return nil
}

// tryTunnel makes a WireGuard link or, where the kernel has none, a TUN interface.
func tryTunnel() error {
	nl, err := openNetlink()
	if err != nil {
		return err
	}
	defer nl.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wg0"
	if err := nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs}); err == nil {
		return nil
	}
	return tryTUN(tunDevice)
}

func tryTUN(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("the kernel has no WireGuard, and %s does not exist; "+
			"as root: modprobe wireguard, or modprobe tun && mknod -m 0666 %s c 10 200", path, path)
	}
	if err != nil {
		return fmt.Errorf("the kernel has no WireGuard, and opening %s failed: %w; "+
			"as root: modprobe wireguard, or chmod 0666 %s, or run this as root", path, err, path)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("tun0")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("the kernel has no WireGuard, and creating a TUN interface failed: %w; as root: modprobe wireguard", err)
	}
	return nil
}

// describeFile tells mode and owner as seen from outside the user namespace, where owners have their real numbers.
func describeFile(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf(" (%s has mode %04o and belongs to user %d)", path, st.Mode().Perm(), sys.Uid)
}
