// Command isolated exercises lab.Isolate and lab.Privileges as a program of its own, named mode by named mode.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/apex-network/apex/internal/lab"
)

func main() {
	if os.Args[1] != "forgot-init" {
		lab.Init()
	}
	status, err := run(context.Background(), os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		status = 1
	}
	os.Exit(status)
}

func run(ctx context.Context, mode string, args []string) (int, error) {
	if mode == "privileges" || mode == "forgot-init" {
		found, err := lab.Privileges(ctx)
		fmt.Println("mode:", found)
		return 0, err
	}
	if !lab.Isolated() {
		return lab.Isolate(ctx)
	}
	switch mode {
	case "exit":
		return strconv.Atoi(args[0])
	case "hold":
		return 0, hold(ctx, args[0])
	case "ping":
		return 0, ping(ctx)
	}
	return 0, fmt.Errorf("no mode %q", mode)
}

// hold starts daemons that try to outlive everything, named by marker, and waits to be killed.
func hold(ctx context.Context, marker string) error {
	l, err := lab.New(ctx, lab.Options{})
	if err != nil {
		return err
	}
	h, err := l.Host("a")
	if err != nil {
		return err
	}
	p, err := h.Start(ctx, lab.Command{Argv: []string{"sh", "-c", "setsid sleep " + marker + " & trap '' TERM; echo up; sleep " + marker}})
	if err != nil {
		return err
	}
	if _, err := p.AwaitLog(ctx, "up"); err != nil {
		return err
	}
	fmt.Println(h.EnterCommand())
	<-p.Done()
	return nil
}

// ping sends packets through two NAT routers.
func ping(ctx context.Context) error {
	l, err := lab.New(ctx, lab.Options{})
	if err != nil {
		return err
	}
	outcome, err := pingThrough(ctx, l)
	if closeErr := l.Close(); err == nil {
		err = closeErr
	}
	fmt.Println("ping:", outcome.Verdict, "uid:", os.Getuid(), "pid 1:", os.Getppid() == 1)
	return err
}

func pingThrough(ctx context.Context, l *lab.Lab) (lab.Outcome, error) {
	inet, err := l.Switch("internet", netip.MustParsePrefix("203.0.113.0/24"))
	if err != nil {
		return lab.Outcome{}, err
	}
	lan, err := l.Switch("lan", netip.MustParsePrefix("192.168.1.0/24"))
	if err != nil {
		return lab.Outcome{}, err
	}
	if _, err := l.Router(ctx, "gw", lab.Symmetric, inet, lan); err != nil {
		return lab.Outcome{}, err
	}
	inside, err := l.Host("inside")
	if err != nil {
		return lab.Outcome{}, err
	}
	if _, err := inside.Join(ctx, lan); err != nil {
		return lab.Outcome{}, err
	}
	server, err := l.Host("server")
	if err != nil {
		return lab.Outcome{}, err
	}
	eth, err := server.Attach(ctx, inet)
	if err != nil {
		return lab.Outcome{}, err
	}
	return inside.Probe(ctx, eth.Addr4(), lab.Probe{Protocol: lab.ICMP, Timeout: time.Minute}), nil
}
