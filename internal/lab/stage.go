//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVariable tells a re-executed program what it is:
//
//	Isolate ──▶ "init": process 1 of the new namespaces ──▶ "inside": the program itself, child of 1
//	Privileges ──▶ "probe": tries, in a user namespace, what a lab needs; prints the result; ends
const stageVariable = "APEX_LAB_STAGE"

const (
	stageInit   = "init"
	stageInside = "inside"
	stageProbe  = "probe"
)

// exitNotStarted is the exit status of an isolation that could not be set up.
const exitNotStarted = 125

// Init must be the first call of main, or of TestMain, in a program that uses Isolate or Privileges. In a process that
// those two started as a helper, it does the helper's work and does not return.
func Init() {
	switch os.Getenv(stageVariable) {
	case stageInit:
		os.Exit(runInit())
	case stageProbe:
		os.Exit(runProbe())
	}
}

// Isolated says whether the program runs inside Isolate.
func Isolated() bool {
	return os.Getenv(stageVariable) == stageInside && os.Getppid() == 1
}

// errNoInit says that a helper stage reached code behind Init.
var errNoInit = errors.New("this process was started as a helper of the lab, but its main does not call lab.Init first")

func checkInit() error {
	switch os.Getenv(stageVariable) {
	case stageInit, stageProbe:
		return errNoInit
	}
	return nil
}

// runInit is process 1: it prepares the namespaces, runs the program once more inside and reaps whatever is orphaned.
// When it ends, the kernel kills everything in the process namespace.
func runInit() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if os.Getpid() != 1 {
		log.Error("isolation helper is not process 1", "next", "unset "+stageVariable)
		return exitNotStarted
	}
	// Credentials set up by the user namespace may have cleared what Isolate asked for.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		log.Error("tie the isolation to its parent", "err", err)
		return exitNotStarted
	}
	temp, err := prepareInside()
	if err != nil {
		log.Error("prepare the isolation", "err", err)
		return exitNotStarted
	}
	children, signals := make(chan os.Signal, 1), make(chan os.Signal, 16)
	signal.Notify(children, unix.SIGCHLD)
	signal.Notify(signals, passedOn()...)
	// The link and not the path: the file may have been replaced, or lie below the old /run.
	inner := &exec.Cmd{Path: "/proc/self/exe", Args: os.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	inner.Env = append(os.Environ(), stageVariable+"="+stageInside, "TMPDIR="+temp)
	if err := inner.Start(); err != nil {
		log.Error("run the program inside the isolation", "err", err)
		return exitNotStarted
	}
	for {
		select {
		case <-children:
			if status, ended := reapChildren(inner.Process.Pid); ended {
				return status
			}
		case sig := <-signals:
			_ = unix.Kill(inner.Process.Pid, sig.(syscall.Signal)) // ESRCH: it has just ended
		}
	}
}

// passedOn lists the signals that reach the program inside when they are sent to the one outside.
func passedOn() []os.Signal {
	return []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH}
}

// reapChildren collects every child that has ended and says whether the inner program was among them, and its status.
func reapChildren(inner int) (status int, ended bool) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || pid == 0:
			return 0, false
		case pid == inner && ws.Exited():
			return ws.ExitStatus(), true
		case pid == inner && ws.Signaled():
			return 128 + int(ws.Signal()), true
		}
	}
}

// prepareInside makes the fresh namespaces a place to work: private mounts, /proc of the new process namespace, an empty
// /run that holds the temporary folder (so that it vanishes with the namespaces) and a loopback interface.
func prepareInside() (temp string, err error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if err := privateRun(wd); err != nil {
		return "", err
	}
	err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if errors.Is(err, unix.EPERM) {
		return "", fmt.Errorf("mount /proc: %w: parts of /proc are masked, as in most containers; "+
			"run outside the container, or with --privileged or --security-opt systempaths=unconfined", err)
	}
	if err != nil {
		return "", fmt.Errorf("mount /proc: %w", err)
	}
	// A new name: the working directory may have been kept at any path below /run.
	if temp, err = os.MkdirTemp("/run", "tmp-"); err != nil {
		return "", err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", err
	}
	nl, err := openNetlink()
	if err != nil {
		return "", err
	}
	defer nl.Close()
	return temp, setUp(nl, "lo")
}

// runProbe tries what a lab needs and reports to Privileges on stdout.
func runProbe() int {
	if err := json.NewEncoder(os.Stdout).Encode(tryEverything()); err != nil {
		return exitNotStarted
	}
	return 0
}
