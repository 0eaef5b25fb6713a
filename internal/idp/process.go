package idp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// ErrExited says that a provider's program ended while it was being waited for.
var ErrExited = errors.New("the provider's program has ended")

// Process is a running program. *lab.Process is one.
type Process interface {
	// Done is closed when the program has ended.
	Done() <-chan struct{}
	// Stop ends the program, kindly while ctx lasts. An ended program is no error.
	Stop(ctx context.Context) error
	// Tail gives the last of its output, for a message to a person.
	Tail() string
}

// Starter starts a program. The name is for log files. For a host of a lab:
//
//	func(ctx context.Context, name string, argv ...string) (idp.Process, error) {
//		return host.Start(ctx, lab.Command{Name: name, Argv: argv})
//	}
type Starter func(ctx context.Context, name string, argv ...string) (Process, error)

// Local starts programs on this machine. Their output goes to <name>.log in folder.
func Local(folder string) Starter {
	return func(ctx context.Context, name string, argv ...string) (Process, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p := &localProcess{log: filepath.Join(folder, name+".log"), done: make(chan struct{})}
		out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		defer out.Close()
		p.cmd = exec.Command(argv[0], argv[1:]...)
		p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = out, out, folder
		p.cmd.SysProcAttr = dieWithParent()
		if err := p.start(); err != nil {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
		return p, nil
	}
}

// stopLimit bounds how long a provider may take to end, on a machine that does much else.
const stopLimit = time.Minute

func stop(p Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	return p.Stop(ctx)
}

type localProcess struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start keeps one thread for the program: Linux ties "die with the parent" to the thread that started it.
func (p *localProcess) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // the status stays in cmd.ProcessState
			close(p.done)
		}
	}()
	return <-started
}

func (p *localProcess) Done() <-chan struct{} { return p.done }

func (p *localProcess) Stop(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = p.cmd.Process.Kill()
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop by itself and was killed: %w", filepath.Base(p.cmd.Path), ctx.Err())
	}
}

func (p *localProcess) Tail() string {
	const most = 4 << 10
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// await polls cond until it gives nil, the program ends (ErrExited) or ctx does. cond's context ends with the program.
func await(ctx context.Context, p Process, what string, cond func(context.Context) error) error {
	alive, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-p.Done():
			cancel()
		case <-alive.Done():
		}
	}()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := cond(alive)
		select {
		case <-p.Done(): // even if something answered: it was another program then
			return fmt.Errorf("wait for %s: %w\n%s", what, ErrExited, p.Tail())
		default:
		}
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-p.Done():
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w\n%s", what, ctx.Err(), err, p.Tail())
		}
	}
}
