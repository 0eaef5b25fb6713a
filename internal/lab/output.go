//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
)

// tailBytes is how much of each log file Tail shows.
const tailBytes = 4 << 10

// Stdout gives everything the program has written to its standard output.
func (p *Process) Stdout() (string, error) {
	b, err := os.ReadFile(p.stdout)
	return string(b), err
}

// Stderr gives everything the program has written to its standard error.
func (p *Process) Stderr() (string, error) {
	b, err := os.ReadFile(p.stderr)
	return string(b), err
}

// Tail gives the last lines of both outputs, at most 4 KiB of each, for a message to a person.
func (p *Process) Tail() string {
	var b strings.Builder
	for _, log := range []struct{ label, path string }{{"stdout", p.stdout}, {"stderr", p.stderr}} {
		text, err := tail(log.path)
		if err != nil {
			text = err.Error()
		}
		if text = strings.TrimRight(text, "\n"); text != "" {
			fmt.Fprintf(&b, "%s of %s:\n%s\n", log.label, p, text)
		}
	}
	if b.Len() == 0 {
		return fmt.Sprintf("%s wrote nothing", p)
	}
	return strings.TrimRight(b.String(), "\n")
}

func tail(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	from := max(0, size-tailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if from > 0 {
		_, rest, _ := strings.Cut(string(b), "\n")
		return "…\n" + rest, err
	}
	return string(b), err
}

// Await is the package's Await that gives up, with ErrExited and the last output, as soon as the process ends.
func (p *Process) Await(ctx context.Context, what string, cond func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.done:
			cancel(ErrExited)
		case <-ctx.Done():
		}
	}()
	err := Await(ctx, what, cond)
	if err == nil {
		return nil
	}
	if errors.Is(context.Cause(ctx), ErrExited) {
		return p.errorf("%s: %w (%s)\n%s", what, ErrExited, p.cmd.ProcessState, p.Tail())
	}
	return p.errorf("%w\n%s", err, p.Tail())
}

// AwaitLog waits until the program has written text to either output, and returns the first line that holds it.
func (p *Process) AwaitLog(ctx context.Context, text string) (string, error) {
	var line string
	err := p.Await(ctx, fmt.Sprintf("wait for output %q", text), func(context.Context) error {
		for _, path := range []string{p.stdout, p.stderr} {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for l := range strings.Lines(string(b)) {
				if strings.Contains(l, text) {
					line = strings.TrimRight(l, "\n")
					return nil
				}
			}
		}
		return errors.New("not yet")
	})
	return line, err
}

// AwaitTCP waits until something accepts connections at address inside the process's host.
func (p *Process) AwaitTCP(ctx context.Context, address netip.AddrPort) error {
	return p.Await(ctx, fmt.Sprintf("wait for TCP %s", address), func(ctx context.Context) error {
		return p.host.tryDial(ctx, "tcp", address.String())
	})
}

// AwaitSocket waits until something accepts connections at a unix socket, by its path inside the process's host.
func (p *Process) AwaitSocket(ctx context.Context, path string) error {
	return p.Await(ctx, "wait for socket "+path, func(ctx context.Context) error {
		return p.host.tryDial(ctx, "unix", path)
	})
}

func (h *Host) tryDial(ctx context.Context, network, address string) error {
	return h.Do(ctx, func() error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
