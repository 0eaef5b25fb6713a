package reconciler_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/apex-network/apex/reconciler"
	"github.com/apex-network/apex/reconciler/twin"
)

// insideEnv marks the copy of the test binary that runs inside the namespaces made for one test. modeEnv chooses the
// WireGuard implementation; the runner for real kernels sets it to "kernel".
const (
	insideEnv = "APEX_TEST_INSIDE"
	modeEnv   = "APEX_TEST_WIREGUARD"
)

func wireGuardMode() reconciler.WireGuardMode {
	if m := os.Getenv(modeEnv); m != "" {
		return reconciler.WireGuardMode(m)
	}
	return reconciler.WireGuardUserspace
}

// inNamespace runs the calling test or benchmark, which must be a top-level one, in a process with a network and a mount namespace of
// its own. It returns true inside; outside, it has run the copy and reported its outcome, and the test must return.
func inNamespace(t testing.TB) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		furnish(t)
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	which := []string{"-test.run=^" + t.Name() + "$"}
	if _, ok := t.(*testing.B); ok {
		which = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$", "-test.benchtime=1x"}
	}
	cmd := exec.CommandContext(t.Context(), exe, append(which, "-test.v", "-test.count=1", "-test.timeout="+insideLimit(t).String())...)
	cmd.Env = append(os.Environ(), insideEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Fatalf("this test makes network namespaces: run it as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1): %v", err)
	}
	if err != nil {
		t.Fatalf("inside the namespace: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "measured:") {
			fmt.Println("   ", strings.TrimSpace(line))
		}
	}
	return false
}

// insideLimit is how long the copy may take: until shortly before this test's own deadline, so that the copy is the one that
// says where it hangs.
func insideLimit(t testing.TB) time.Duration {
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok {
			return max(time.Until(deadline)-10*time.Second, time.Second)
		}
	}
	return 20 * time.Minute
}

// furnish gives the namespace a loopback interface and its own /run, where UAPI sockets live.
func furnish(t testing.TB) {
	t.Helper()
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
	if target, err := os.Readlink("/var/run"); err != nil || !strings.HasSuffix(target, "run") {
		must(t, os.MkdirAll("/var/run", 0o755))
		must(t, unix.Mount("tmpfs", "/var/run", "tmpfs", 0, ""))
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// space is a second network namespace of a test.
type space struct {
	ns netns.NsHandle
	h  *netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	type result struct {
		ns  netns.NsHandle
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		ns, err := netns.Get()
		made <- result{ns, err}
	}()
	r := <-made
	must(t, r.err)
	h, err := netlink.NewHandleAt(r.ns, unix.NETLINK_ROUTE)
	must(t, err)
	s := &space{r.ns, h}
	s.up(t, "lo")
	t.Cleanup(func() { h.Close(); _ = r.ns.Close() })
	return s
}

func (s *space) up(t *testing.T, name string, addrs ...string) {
	t.Helper()
	l, err := s.h.LinkByName(name)
	must(t, err)
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		addr.Flags = unix.IFA_F_NODAD
		must(t, s.h.AddrAdd(l, addr))
	}
	must(t, s.h.LinkSetUp(l))
}

func (s *space) route(t *testing.T, name, dst string) {
	t.Helper()
	l, err := s.h.LinkByName(name)
	must(t, err)
	_, n, err := net.ParseCIDR(dst)
	must(t, err)
	must(t, s.h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: n}))
}

// do runs f on a thread inside the namespace.
func (s *space) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(s.ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// echo serves TCP echo on an address inside the namespace until the test ends; nil space: here.
func (s *space) echo(t *testing.T, address string) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) { l, err = net.Listen("tcp", address); return err }
	if s == nil {
		must(t, listen())
	} else {
		must(t, s.do(listen))
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 64)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// dial connects from inside the namespace; nil space: from here.
func (s *space) dial(address string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	connect := func() (err error) { c, err = net.DialTimeout("tcp", address, timeout); return err }
	if s == nil {
		err := connect()
		return c, err
	}
	err := s.do(connect)
	return c, err
}

// talk sends one line through an echo connection and waits for it.
func talk(c net.Conn, timeout time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 64))
	return err
}

// hostEngine is an engine with the real backends of the namespace.
type hostEngine struct {
	*reconciler.Engine
	backends reconciler.Backends
	dir      string
}

func startHost(t testing.TB, owner, name, dir string) *hostEngine {
	t.Helper()
	b, err := reconciler.Host(reconciler.HostOptions{WireGuard: wireGuardMode()})
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	e, err := reconciler.New(reconciler.Options{
		Owner: owner, Interface: name, Backends: b, StateDir: dir, PrivateKey: options(twin.New(), dir).PrivateKey,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), RepairBurst: 1000,
	})
	must(t, err)
	if _, err := e.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &hostEngine{e, b, dir}
}

func (e *hostEngine) mustApply(t testing.TB, s reconciler.State) reconciler.Report {
	t.Helper()
	r, err := e.Apply(t.Context(), s, nil)
	if err != nil {
		t.Fatalf("apply %s: %v", s.ID, err)
	}
	return r
}

func (e *hostEngine) settled(t testing.TB) {
	t.Helper()
	r, err := e.Repair(t.Context())
	if err != nil || r.Drift {
		t.Fatalf("the host was not settled: %+v %v", r, err)
	}
}

// world of foreign things: a veth pair with an address and a route, which no test of ours may change.
func foreignThings(t *testing.T) func() string {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0", MTU: 1500}, PeerName: "lan1"}))
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(here.Close)
	s := &space{h: here}
	s.up(t, "lan0", "192.168.7.1/24", "fd00:7::1/64")
	s.up(t, "lan1")
	s.route(t, "lan0", "172.20.0.0/16")
	return func() string {
		var out []string
		links, err := here.LinkList()
		must(t, err)
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, "apex") {
				continue
			}
			addrs, err := here.AddrList(l, netlink.FAMILY_ALL)
			must(t, err)
			addrs = slices.DeleteFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
			out = append(out, fmt.Sprint(l.Attrs().Name, l.Attrs().MTU, l.Attrs().Alias, addrs))
		}
		routes, err := here.RouteList(nil, netlink.FAMILY_V4)
		must(t, err)
		for _, r := range routes {
			if r.Protocol != reconciler.RouteProtocol {
				out = append(out, r.String())
			}
		}
		return strings.Join(out, "\n")
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
