//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// isolateGrace is how long the program inside has to end after ctx does.
const isolateGrace = 5 * time.Second

// Isolate runs this program once more, with the same arguments, standard streams, working directory and environment, in
// namespaces of its own (process, network, mount; as anyone but root also user, in which it is root), waits for it and
// returns its exit status. Whatever it starts dies with it, and it dies with this process, kill -9 included. In there
// Isolated is true, the network is an empty one with a loopback interface, /run is empty and private, and the temporary
// folder lies in it.
//
//	func main() {
//		lab.Init()
//		if !lab.Isolated() {
//			status, err := lab.Isolate(ctx)
//			…
//			os.Exit(status)
//		}
//		…
//	}
//
// Interrupts and terminations of this process are passed on; the end of ctx terminates the program inside. An error,
// which wraps ErrNoNamespaces, means that it was not started.
func Isolate(ctx context.Context) (status int, err error) {
	mode, err := Privileges(ctx)
	if err != nil && !errors.Is(err, ErrNoTunnel) {
		return 0, err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn()...)
	defer signal.Stop(signals)

	inner := reexec(stageInit, mode)
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Out of the terminal's foreground group: an interrupt typed there would reach it twice.
	inner.SysProcAttr.Setpgid = true
	// Start and Wait share a thread that lives as long as the program: Pdeathsig looks at the thread.
	err = onThread(func() error {
		if err := inner.Start(); err != nil {
			return fmt.Errorf("isolate: %w: %w", ErrNoNamespaces, err)
		}
		finished := make(chan struct{})
		defer close(finished)
		go passOn(ctx, inner.Process, signals, finished)
		var exit *exec.ExitError
		if err := inner.Wait(); err != nil && !errors.As(err, &exit) {
			return fmt.Errorf("isolate: %w", err)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if ws, ok := inner.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return inner.ProcessState.ExitCode(), nil
}

// passOn hands signals to the isolation until it is finished, and ends it when ctx ends.
func passOn(ctx context.Context, inner *os.Process, signals <-chan os.Signal, finished <-chan struct{}) {
	ended := ctx.Done()
	var grace <-chan time.Time
	for {
		select {
		case <-finished:
			return
		case sig := <-signals:
			_ = inner.Signal(sig) // if it has ended, Wait says so
		case <-ended:
			ended, grace = nil, time.After(isolateGrace)
			_ = inner.Signal(unix.SIGTERM)
		case <-grace:
			_ = inner.Kill()
		}
	}
}

// reexec prepares this program as a helper in new namespaces.
func reexec(stage string, mode Mode) *exec.Cmd {
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	if mode == Rootless {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: os.Args, SysProcAttr: attr,
		Env: append(os.Environ(), stageVariable+"="+stage, fmt.Sprintf("%s=%d %s", outerVariable, os.Getpid(), mode)),
	}
}

// outerVariable tells the program inside an isolation the process id, outside, of the one that started it, and its Mode.
const outerVariable = "APEX_LAB_OUTER"

// EnterCommand is a shell command with which a person gets a shell on the host while the lab runs, from a terminal
// outside. It needs nsenter, and root unless the lab is rootless.
func (h *Host) EnterCommand() string {
	enter := fmt.Sprintf("nsenter --preserve-credentials -t %d -n -m -u", h.ns.tid)
	if !Isolated() {
		return enter + " sh"
	}
	outer, mode, _ := strings.Cut(os.Getenv(outerVariable), " ")
	namespaces := "-p -m -n"
	if mode == Rootless.String() {
		namespaces += " -U"
	}
	// The outer process has one child, process 1 of the isolation; in there, the host's thread has the number known here.
	return fmt.Sprintf("nsenter --preserve-credentials -t $(cat /proc/%s/task/*/children) %s %s sh", outer, namespaces, enter)
}
