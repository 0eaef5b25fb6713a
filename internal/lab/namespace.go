//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// errGoexit is what onThread returns when its function left through runtime.Goexit (t.FailNow does).
var errGoexit = errors.New("function ended its goroutine instead of returning")

// onThread runs fn on an OS thread that is thrown away afterwards, so fn may change the thread's namespaces. It never
// runs on the main thread: /proc/self shows that one's namespaces as those of the whole process, and it cannot end.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		result := errGoexit
		defer func() { done <- result }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine occupies the main thread, the next one gets another.
			result = onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		// Not unlocked: the runtime ends the thread together with the goroutine.
		result = fn()
	}()
	return <-done
}

// namespace is a network namespace, for a host also a mount and a UTS namespace, with one resident OS thread in it.
//
// The resident thread starts the host's processes: Pdeathsig fires when the starting thread ends, not the process, so
// that thread has to live as long as they may.
type namespace struct {
	net, mnt *os.File // mnt is nil for the hub
	inode    uint64   // of the network namespace
	tid      int      // of the resident thread

	jobs  chan func()
	ended chan struct{} // closed when the resident thread is done

	mu       sync.Mutex
	closed   bool
	inflight sync.WaitGroup
}

// newNamespace makes a namespace with the unshare flags and runs setup on its resident thread.
func newNamespace(flags int, setup func() error) (*namespace, error) {
	ns := &namespace{jobs: make(chan func()), ended: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		defer close(ns.ended)
		_ = onThread(func() error {
			err := ns.unshare(flags)
			if err == nil {
				err = setup()
			}
			ready <- err
			if err != nil {
				return err
			}
			for job := range ns.jobs {
				job()
			}
			return nil
		})
	}()
	if err := <-ready; err != nil {
		<-ns.ended
		ns.closeFiles()
		return nil, err
	}
	return ns, nil
}

// unshare moves the calling thread into new namespaces and opens them.
func (ns *namespace) unshare(flags int) error {
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("create namespaces: %w (lab.Privileges says what is missing)", err)
	}
	ns.tid = unix.Gettid()
	var err error
	if ns.net, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.net.Fd()), &st); err != nil {
		return fmt.Errorf("stat network namespace: %w", err)
	}
	ns.inode = st.Ino
	if flags&unix.CLONE_NEWNS != 0 {
		ns.mnt, err = os.Open("/proc/thread-self/ns/mnt")
	}
	return err
}

// acquire keeps the namespace open until the returned function is called.
func (ns *namespace) acquire() (func(), error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.closed {
		return nil, ErrClosed
	}
	ns.inflight.Add(1)
	return ns.inflight.Done, nil
}

// run runs fn on the resident thread, one at a time. fn must be short: everything else on this host waits.
func (ns *namespace) run(fn func() error) error {
	release, err := ns.acquire()
	if err != nil {
		return err
	}
	defer release()
	done := make(chan error, 1)
	ns.jobs <- func() { done <- fn() }
	return <-done
}

// enter runs fn on a thread of its own inside the namespaces. Many may run at once.
func (ns *namespace) enter(fn func() error) error {
	release, err := ns.acquire()
	if err != nil {
		return err
	}
	defer release()
	return onThread(func() error {
		if ns.mnt != nil {
			// A thread that shares its root and working directory with others may not change mount namespace.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare file system attributes: %w", err)
			}
			if err := unix.Setns(int(ns.mnt.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("enter mount namespace: %w", err)
			}
		}
		if err := unix.Setns(int(ns.net.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// close ends the resident thread after the functions in flight and lets go of the namespaces. If ctx ends first,
// everything stays as it is, and the error says why.
func (ns *namespace) close(ctx context.Context) error {
	ns.mu.Lock()
	again := ns.closed
	ns.closed = true
	ns.mu.Unlock()
	if again {
		return nil
	}
	idle := make(chan struct{})
	go func() {
		ns.inflight.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		return fmt.Errorf("a function inside the namespace has not returned: %w", ctx.Err())
	}
	close(ns.jobs)
	<-ns.ended
	ns.closeFiles()
	return nil
}

func (ns *namespace) closeFiles() {
	for _, f := range []*os.File{ns.net, ns.mnt} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// privateRun gives the calling thread's mount namespace its own empty /run (and /var/run where that is a folder of its
// own), with wireguard/ in it. The folders in keep stay visible at their paths even if they lie below them.
func privateRun(keep ...string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	kept := make([]*os.File, len(keep))
	for i, dir := range keep {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer f.Close()
		kept[i] = f
	}
	if err := mountTmpfs("/run"); err != nil {
		return err
	}
	if err := coverVarRun(); err != nil {
		return err
	}
	if err := os.MkdirAll("/var/run/wireguard", 0o755); err != nil {
		return err
	}
	for i, dir := range keep {
		if err := keepVisible(kept[i], dir); err != nil {
			return fmt.Errorf("keep %s visible: %w", dir, err)
		}
	}
	return nil
}

// coverVarRun makes /var/run private too, if it is not, as usual, a link to /run.
func coverVarRun() error {
	run, err := os.Stat("/run")
	if err != nil {
		return err
	}
	varRun, err := os.Stat("/var/run")
	if err != nil {
		return fmt.Errorf("WireGuard keeps its sockets below /var/run, which should be a link to /run: %w", err)
	}
	if os.SameFile(run, varRun) {
		return nil
	}
	return mountTmpfs("/var/run")
}

// keepVisible mounts an open folder at its path again, if the path does not lead to it any more.
func keepVisible(folder *os.File, path string) error {
	want, err := folder.Stat()
	if err != nil {
		return err
	}
	if got, err := os.Stat(path); err == nil && os.SameFile(want, got) {
		return nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	source := filepath.Join("/proc/thread-self/fd", fmt.Sprint(folder.Fd()))
	return unix.Mount(source, path, "", unix.MS_BIND|unix.MS_REC, "")
}

func mountTmpfs(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount a private %s: %w", dir, err)
	}
	return nil
}
