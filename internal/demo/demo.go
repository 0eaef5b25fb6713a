//go:build linux

// Package demo tells the story of Apex on one machine: a network changes by pull request, survives an attack, lets a
// person in by identity and out again, and survives the loss of its controller. It promises that nothing it shows is made
// up: the programs, keys, signatures, WireGuard devices, firewalls and packets are real, only the machines are network
// namespaces, and the OpenID provider is a simulated one, as the output says. Every step asserts what it shows, and the
// first that does not hold ends the demo with an error.
package demo

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/apex-network/apex/internal/fleet"
	"github.com/apex-network/apex/internal/lab"
)

// Options configure Run.
type Options struct {
	Out io.Writer
	// Color lets Out carry escape sequences.
	Color bool
	// Binaries are the programs to run.
	Binaries fleet.Binaries
	// Keep leaves the network running after the story until ctx ends.
	Keep bool
}

// stepLimit bounds a step: far above what one takes, so that only a hang meets it.
const stepLimit = 3 * time.Minute

// story is one run of the demo.
type story struct {
	opt   Options
	lab   *lab.Lab
	fleet *fleet.Fleet
	admin *fleet.Admin
	guest *guest // from the chapter about identities
	rows  []row
	began time.Time
}

// row is a line of the closing table.
type row struct {
	what, result string
	took         time.Duration
}

// Run tells the story. It must run where labs can be made (lab.Isolate); everything it makes is gone when it returns.
func Run(ctx context.Context, opt Options) (err error) {
	l, err := lab.New(ctx, lab.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.Dump(opt.Out)
		}
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()
	s := &story{opt: opt, lab: l, began: time.Now()}
	for _, step := range []struct {
		title string
		tell  func(context.Context) (string, error)
	}{
		{"Make keys, a trust root, a signed repository, a controller and four hosts", s.build},
		{"Start the controller and the agents; every host enforces the first commit", s.start},
		{"Measure who reaches whom, with real packets through real WireGuard", s.measure},
		{"Open a pull request: let web reach the cache on db", s.propose},
		{"Merge it, signed, and wait for the first packet", s.merge},
		{"Push a commit without a signature", s.unsigned},
		{"Steal the controller's certificate and tamper with what it serves", s.tamper},
		{"Remove the node nas", s.remove},
		{"Join a notebook by a person's identity; no commit names the machine", s.join},
		{"Use the person's token on another machine", s.steal},
		{"Revoke the person by a commit", s.revoke},
		{"Kill the controller", s.killController},
		{"Kill an agent and start it again, with no controller to ask", s.restartAgent},
		{"Run `nft flush ruleset` and delete a route on a host", s.drift},
	} {
		if err := s.step(ctx, step.title, step.tell); err != nil {
			return err
		}
	}
	s.summary()
	if opt.Keep {
		return s.keep(ctx)
	}
	return nil
}

func (s *story) step(ctx context.Context, title string, tell func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	fmt.Fprintf(s.opt.Out, "\n%s %s\n", s.paint("36;1", fmt.Sprintf("%2d.", len(s.rows)+1)), s.paint("1", title))
	began := time.Now()
	result, err := tell(ctx)
	if err != nil {
		fmt.Fprintf(s.opt.Out, "    %s\n", s.paint("31;1", "FAILED"))
		return fmt.Errorf("step %d, %s: %w", len(s.rows)+1, title, err)
	}
	s.rows = append(s.rows, row{title, result, time.Since(began)})
	fmt.Fprintf(s.opt.Out, "    %s %s\n", s.paint("32;1", "✓"), result)
	return nil
}

// summary prints the table of all steps.
func (s *story) summary() {
	fmt.Fprintf(s.opt.Out, "\n%s\n", s.paint("1", "What was seen to hold"))
	for i, r := range s.rows {
		fmt.Fprintf(s.opt.Out, "  %2d  %-74s %6.2fs  %s\n", i+1, r.what, r.took.Seconds(), s.paint("32;1", "✓"))
	}
	after := "everything is taken down again"
	if s.opt.Keep {
		after = "the network keeps running"
	}
	fmt.Fprintf(s.opt.Out, "  %d of %d steps in %.1f s; %s.\n", len(s.rows), len(s.rows), time.Since(s.began).Seconds(), after)
}

// keep leaves the network running and says how to look around in it.
func (s *story) keep(ctx context.Context) error {
	if err := s.fleet.Controller.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(s.opt.Out, "\nPress Ctrl-C to end it. In another terminal, a shell on each machine (try `wg show`, `nft list ruleset`):\n\n")
	for _, h := range s.lab.Hosts() {
		fmt.Fprintf(s.opt.Out, "  %-11s %s\n", h.Name(), h.EnterCommand())
	}
	fmt.Fprintf(s.opt.Out, "\nIn any of these shells the clone is %s; commit with the key %s and push: the controller polls every second.\n", s.fleet.Repo.Dir, s.fleet.MaintainerFile)
	<-ctx.Done()
	return nil
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.opt.Out, "    "+format+"\n", args...)
}

// indent prints a block of text under a step.
func (s *story) indent(text string) {
	for _, line := range splitLines(text) {
		fmt.Fprintf(s.opt.Out, "      %s\n", line)
	}
}

func (s *story) paint(style, text string) string {
	if !s.opt.Color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// FindBinaries looks for apex-controller and apex-agent beside the running program, which is apex.
func FindBinaries() (fleet.Binaries, error) {
	self, err := os.Executable()
	if err != nil {
		return fleet.Binaries{}, err
	}
	dir := filepath.Dir(self)
	b := fleet.Binaries{Controller: filepath.Join(dir, "apex-controller"), Agent: filepath.Join(dir, "apex-agent"),
		Apex: self}
	for _, p := range []string{b.Controller, b.Agent} {
		if _, err := os.Stat(p); err != nil {
			return b, fmt.Errorf("%s is not there: the demo runs the real programs; build them with `make build`", p)
		}
	}
	return b, nil
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }
