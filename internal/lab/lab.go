//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrClosed says that the lab, or the host, has been closed.
var ErrClosed = errors.New("lab is closed")

// closeLimit bounds each step of Close. Only what hangs, or a namespace that something still holds, takes so long.
const closeLimit = time.Minute

// Options configures New. The zero value is usable.
type Options struct {
	// Logger hears what the lab builds and starts, at debug level. Default: discard.
	Logger *slog.Logger
	// Dir is the folder in which the lab makes its own. Default: os.TempDir().
	Dir string
}

// Lab is one test internet. Its methods may be called from many goroutines.
type Lab struct {
	log *slog.Logger
	dir string
	// visible are the folders that hosts see even if they lie below /run: where dir is, the temporary and the current.
	visible []string
	hub     *namespace
	nl      *netlink.Handle // in the hub

	mu       sync.Mutex
	hosts    map[string]*Host // nil while it is being built
	switches map[string]*Switch
	ports    int // bridge ports made so far; their number makes their name
	closing  bool
	building sync.WaitGroup

	leakLimit time.Duration // how long the kernel may take to let go of what Close has left
	closeOnce sync.Once
	closeErr  error
}

var nameShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// New makes an empty lab. The caller must Close it.
func New(ctx context.Context, o Options) (*Lab, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	visible, err := visibleFolders(cmp.Or(o.Dir, os.TempDir()))
	if err != nil {
		return nil, fmt.Errorf("lab folder: %w", err)
	}
	dir, err := os.MkdirTemp(visible[0], "apex-lab-")
	if err != nil {
		return nil, fmt.Errorf("lab folder: %w", err)
	}
	l := &Lab{log: o.Logger, dir: dir, visible: visible, hosts: map[string]*Host{}, switches: map[string]*Switch{}, leakLimit: closeLimit}
	l.hub, err = newNamespace(unix.CLONE_NEWNET, func() (err error) {
		l.nl, err = openNetlink()
		return err
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("lab hub: %w", err)
	}
	return l, nil
}

// visibleFolders gives the absolute paths of base, the temporary and the current folder.
func visibleFolders(base string) ([]string, error) {
	current, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	folders := []string{base, os.TempDir(), current}
	for i, f := range folders {
		if folders[i], err = filepath.Abs(f); err != nil {
			return nil, err
		}
	}
	return folders, nil
}

// openNetlink opens a handle in the calling thread's network namespace. The family is named because the default also
// opens XFRM, which many kernels lack.
func openNetlink() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := h.SetStrictCheck(true); err != nil {
		h.Close()
		return nil, fmt.Errorf("netlink strict check: %w", err)
	}
	return h, nil
}

// Dir is the lab's folder, removed by Close. Hosts see it at the same path.
func (l *Lab) Dir() string { return l.dir }

// Hosts lists the hosts by name.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*Host, 0, len(l.hosts))
	for _, h := range l.hosts {
		if h != nil {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b *Host) int { return strings.Compare(a.name, b.name) })
	return out
}

// Dump writes the last output of every process that was started, for a failed test or demo.
func (l *Lab) Dump(w io.Writer) {
	for _, h := range l.Hosts() {
		for _, p := range h.Processes() {
			fmt.Fprintf(w, "--- %s: %s\n%s\n", h.name, p, p.Tail())
		}
	}
}

// checkName says whether a new host or switch may have the name. The caller holds l.mu.
func (l *Lab) checkName(kind, name string, taken bool) error {
	switch {
	case !nameShape.MatchString(name):
		return fmt.Errorf("%s %q: want a DNS-1123 label", kind, name)
	case l.closing:
		return fmt.Errorf("%s %s: %w", kind, name, ErrClosed)
	case taken:
		return fmt.Errorf("%s %s: name is taken in this lab", kind, name)
	}
	return nil
}

// Close kills every process, removes every namespace, link and file of the lab, and verifies with the kernel that
// nothing is left. An error names what is; a socket made with Dial, Accept or inside Do that is still open is the usual
// cause. Close is idempotent and returns the same result each time.
func (l *Lab) Close() error {
	l.closeOnce.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.building.Wait()
	hosts := l.Hosts()
	inodes := map[uint64]string{l.hub.inode: "hub"}
	for _, h := range hosts {
		inodes[h.ns.inode] = h.name
	}
	// Each step has its own time: one that fails must not make the later ones fail too.
	bounded := func(limit time.Duration, fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		return fn(ctx)
	}
	step := func(fn func(context.Context) error) error { return bounded(closeLimit, fn) }
	// Processes first, while links are up: their connections then end with FIN or RST instead of lingering.
	processes := step(func(ctx context.Context) error {
		return eachHost(hosts, func(h *Host) error { return h.killAll(ctx) })
	})
	escapees := step(func(ctx context.Context) error { return killMembers(ctx, inodes) })
	namespaces := step(func(ctx context.Context) error {
		return eachHost(hosts, func(h *Host) error { return h.shutdown(ctx) })
	})
	// If something still runs inside, the hub stays: without its netlink handle, the next request of what runs would go
	// to the program's own namespace.
	if namespaces == nil {
		namespaces = errors.Join(bounded(l.leakLimit, l.awaitEmptyHub), step(l.closeHub), bounded(l.leakLimit, func(ctx context.Context) error {
			return Await(ctx, "close lab", func(context.Context) error { return findHolders(inodes) })
		}))
	}
	return errors.Join(processes, escapees, namespaces, os.RemoveAll(l.dir))
}

func (l *Lab) closeHub(ctx context.Context) error {
	l.nl.Close()
	return l.hub.close(ctx)
}

// awaitEmptyHub waits until the bridges have lost every port. A port's other end lives in a host's namespace and goes
// only when the kernel has destroyed that namespace: this is the proof that no host is left.
func (l *Lab) awaitEmptyHub(ctx context.Context) error {
	return Await(ctx, "close lab", func(context.Context) error {
		links, err := l.nl.LinkList()
		if err != nil {
			return fmt.Errorf("list links of the hub: %w", err)
		}
		var left []string
		for _, link := range links {
			if link.Type() == "veth" {
				left = append(left, link.Attrs().Alias)
			}
		}
		if len(left) == 0 {
			return nil
		}
		slices.Sort(left)
		return fmt.Errorf("namespaces still in use by an open socket: %q", left)
	})
}

func eachHost(hosts []*Host, fn func(*Host) error) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			if err := fn(h); err != nil {
				errs[i] = fmt.Errorf("host %s: %w", h.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
