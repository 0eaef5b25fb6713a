//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrExited says that a process ended while something was awaited of it.
var ErrExited = errors.New("process has ended")

// Command is a program to run on a host.
type Command struct {
	// Argv is the program and its arguments. A program without a slash is looked up in PATH, a relative one from the
	// folder this program runs in.
	Argv []string
	// Env is added to this program's environment, in which HOME is the host's folder.
	Env []string
	// Dir is where it runs. Default: the host's folder.
	Dir string
	// Name names the log files and messages. Default: the base name of the program.
	Name string
}

// Process is a program running on a host, in a process group of its own, in the host's namespaces.
//
//	Start ──▶ running ──▶ ended (exit, signal, Kill, Stop, Lab.Close)
//	   ▲                    │
//	   └────── Restart ─────┘   a new Process, with new log files
//
// When the program ends, what is left of its group is killed. It also dies with the lab and with this program.
type Process struct {
	host           *Host
	command        Command
	run            int // 1 for the first start of its name on the host
	cmd            *exec.Cmd
	stdout, stderr string // paths of the log files
	done           chan struct{}

	mu    sync.Mutex
	ended bool
}

// Start starts a program and returns at once; Await and its kin tell when it is ready. ctx bounds only the start.
func (h *Host) Start(ctx context.Context, c Command) (*Process, error) {
	fail := func(err error) (*Process, error) {
		return nil, fmt.Errorf("host %s: start %q: %w", h.name, strings.Join(c.Argv, " "), err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	release, err := h.ns.acquire()
	if err != nil {
		return fail(err)
	}
	defer release()
	if len(c.Argv) == 0 {
		return fail(errors.New("no program is named"))
	}
	program, err := exec.LookPath(c.Argv[0])
	if err != nil {
		return fail(err)
	}
	if program, err = filepath.Abs(program); err != nil {
		return fail(err)
	}
	if c.Name == "" {
		c.Name = filepath.Base(program)
	}
	if c.Dir == "" {
		c.Dir = h.dir
	}
	p := h.newProcess(c)
	p.cmd = &exec.Cmd{
		Path: program, Args: c.Argv, Dir: c.Dir, Env: h.environ(c.Env),
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	if err := p.start(); err != nil {
		return fail(err)
	}
	h.mu.Lock()
	h.processes = append(h.processes, p)
	h.mu.Unlock()
	h.lab.log.Debug("process started", "host", h.name, "process", p.String(), "argv", c.Argv)
	return p, nil
}

// newProcess counts the starts under each name, so that log files have names of their own.
func (h *Host) newProcess(c Command) *Process {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.runs[c.Name]++
	p := &Process{host: h, command: c, run: h.runs[c.Name], done: make(chan struct{})}
	base := filepath.Join(h.dir, fmt.Sprintf("%s.%d", c.Name, p.run))
	p.stdout, p.stderr = base+".out", base+".err"
	return p
}

// environ is this program's environment without what would lead back to the user's own files.
func (h *Host) environ(extra []string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == stageVariable || name == outerVariable || name == "HOME" || strings.HasPrefix(name, "XDG_")
	})
	return append(append(env, "HOME="+h.dir), extra...)
}

func (p *Process) start() error {
	// The program writes its logs itself: no pipe to fill up, and the files outlive this program's crash.
	const flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	stdout, err := os.OpenFile(p.stdout, flags, 0o600)
	if err != nil {
		return err
	}
	defer stdout.Close()
	stderr, err := os.OpenFile(p.stderr, flags, 0o600)
	if err != nil {
		return err
	}
	defer stderr.Close()
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if err := p.host.ns.run(p.cmd.Start); err != nil {
		return err
	}
	go p.reap()
	return nil
}

// reap waits for the program, kills the rest of its group while the unreaped leader still keeps the group's number from
// being reused, and collects the exit status.
func (p *Process) reap() {
	defer close(p.done)
	for {
		err := unix.Waitid(unix.P_PID, p.Pid(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	_ = unix.Kill(-p.Pid(), unix.SIGKILL) // ESRCH: it left nothing behind
	_ = p.cmd.Wait()                      // the status is in cmd.ProcessState
}

// String is the name and, from the second start on, the run: "apex-agent", "apex-agent#2".
func (p *Process) String() string {
	if p.run == 1 {
		return p.command.Name
	}
	return fmt.Sprintf("%s#%d", p.command.Name, p.run)
}

// Host is where the process runs.
func (p *Process) Host() *Host { return p.host }

// Pid is the process id, as this program sees it.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended and been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the exit status, or -1 while the process runs or if a signal ended it.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// Usage is the CPU time and peak resident memory of an ended process; nil while it runs.
func (p *Process) Usage() *syscall.Rusage {
	select {
	case <-p.done:
		usage, _ := p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
		return usage
	default:
		return nil
	}
}

// Signal sends a signal to the program, not to its group. After its end: ErrExited.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.signal(p.Pid(), sig)
}

// signal holds off the reaper, so that pid cannot belong to somebody else.
func (p *Process) signal(pid int, sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return p.errorf("signal %s: %w", sig, ErrExited)
	}
	if err := unix.Kill(pid, sig); err != nil {
		return p.errorf("signal %s: %w", sig, err)
	}
	return nil
}

// Kill is kill -9 of the whole process group; it returns when the program has been reaped. An ended process is no error.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.signal(-p.Pid(), syscall.SIGKILL); err != nil && !errors.Is(err, ErrExited) {
		return err
	}
	return p.await(ctx, "die")
}

// Stop sends SIGTERM and waits; if ctx ends first, the process is killed and the error says so.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, ErrExited) {
		return err
	}
	err := p.await(ctx, "stop on SIGTERM")
	if err == nil {
		return nil
	}
	return errors.Join(err, p.Kill(context.WithoutCancel(ctx)))
}

// Wait returns when the process has ended: nil for exit status 0, else an error that carries the last output.
func (p *Process) Wait(ctx context.Context) error {
	if err := p.await(ctx, "end"); err != nil {
		return err
	}
	if !p.cmd.ProcessState.Success() {
		return p.errorf("%s\n%s", p.cmd.ProcessState, p.Tail())
	}
	return nil
}

func (p *Process) await(ctx context.Context, what string) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return p.errorf("wait for it to %s: %w\n%s", what, ctx.Err(), p.Tail())
	}
}

// Restart starts the same command again, after the process has ended.
func (p *Process) Restart(ctx context.Context) (*Process, error) {
	select {
	case <-p.done:
	default:
		return nil, p.errorf("restart: it still runs; Kill or Stop it first")
	}
	return p.host.Start(ctx, p.command)
}

// Run runs a program on the host to its end and returns what it wrote to stdout. A status other than 0 is an error that
// carries its output. If ctx ends first, the program is killed.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	p, err := h.Start(ctx, Command{Argv: argv})
	if err != nil {
		return "", err
	}
	if err := p.Wait(ctx); err != nil {
		return "", errors.Join(err, p.Kill(context.WithoutCancel(ctx)))
	}
	out, err := os.ReadFile(p.stdout)
	if err != nil {
		return "", p.errorf("read its output: %w", err)
	}
	return string(out), nil
}

func (p *Process) errorf(format string, args ...any) error {
	return fmt.Errorf("host %s: %s: %w", p.host.name, p, fmt.Errorf(format, args...))
}
