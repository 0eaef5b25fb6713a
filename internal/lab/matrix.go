//go:build linux

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

// matrixParallel bounds the probes in flight: each holds an OS thread.
const matrixParallel = 64

// Source is a row of a matrix: where probes start.
type Source struct {
	Name string // default: the host's
	Host *Host
}

// Target is a column of a matrix: where probes go, and how.
type Target struct {
	Name  string
	Addr  netip.Addr
	Probe Probe
	Host  *Host // the host that holds Addr, if there is one: its own row shows nothing here
}

// Matrix is reachability, measured with real packets.
type Matrix struct {
	Sources []Source
	Targets []Target
	Cells   [][]Outcome // [source][target]; the zero Outcome where source and target are one host
	Took    time.Duration
}

// Measure probes every target from every source at once; each probe's Timeout bounds it. It returns ctx's error if that
// ends first.
func Measure(ctx context.Context, sources []Source, targets []Target) (*Matrix, error) {
	started := time.Now()
	m := &Matrix{Sources: sources, Targets: slices.Clone(targets), Cells: make([][]Outcome, len(sources))}
	var group errgroup.Group
	group.SetLimit(matrixParallel)
	for i, s := range sources {
		m.Cells[i] = make([]Outcome, len(targets))
		for j, t := range targets {
			if s.Host == t.Host {
				continue
			}
			group.Go(func() error {
				m.Cells[i][j] = s.Host.Probe(ctx, t.Addr, t.Probe)
				return nil
			})
		}
	}
	_ = group.Wait() // the probes' errors are the outcomes
	m.Took = time.Since(started)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("measure reachability: %w", err)
	}
	return m, nil
}

// Converge measures until reachability is what want says, and returns that measurement. Each one gives the probes twice the
// time of the one before, up to a minute: a machine may be too busy for the first. When ctx ends first, the error lists the
// differences of the last one, which is returned too.
func Converge(ctx context.Context, sources []Source, targets []Target, want func(Source, Target) bool) (*Matrix, error) {
	var last *Matrix
	targets = slices.Clone(targets)
	err := Await(ctx, "wait for the expected reachability", func(ctx context.Context) error {
		m, err := Measure(ctx, sources, targets)
		for i := range targets {
			timeout := &targets[i].Probe.Timeout
			*timeout = min(2*cmp.Or(*timeout, probeTimeout), time.Minute)
		}
		if err != nil {
			return err
		}
		last = m
		if wrong := m.Mismatches(want); len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "\n"))
		}
		return nil
	})
	return last, err
}

// Mismatches compares what was reached with what should be, and gives one line per difference.
func (m *Matrix) Mismatches(want func(Source, Target) bool) []string {
	var out []string
	for i, s := range m.Sources {
		for j, t := range m.Targets {
			cell := m.Cells[i][j]
			if cell.Verdict == 0 {
				continue
			}
			if expected := want(s, t); expected != (cell.Verdict == Reached) {
				out = append(out, fmt.Sprintf("%s → %s %s %s: want reached=%t, got %s",
					s.label(), t.label(), t.Addr, t.Probe, expected, cell.describe()))
			}
		}
	}
	return out
}

func (o Outcome) describe() string {
	if o.Err != nil {
		return fmt.Sprintf("%s (%v)", o.Verdict, o.Err)
	}
	return o.Verdict.String()
}

func (s Source) label() string {
	if s.Name == "" {
		return s.Host.Name()
	}
	return s.Name
}

func (t Target) label() string {
	switch {
	case t.Name != "":
		return t.Name
	case t.Host != nil:
		return t.Host.Name()
	}
	return t.Addr.String()
}

// String prints the matrix as a table: latencies where packets came back, the verdict where not.
//
//	from \ to   web tcp/80   db icmp
//	web         –            620µs
//	laptop      1.21ms       timed out
func (m *Matrix) String() string {
	rows := [][]string{{`from \ to`}}
	for _, t := range m.Targets {
		rows[0] = append(rows[0], t.label()+" "+t.Probe.String())
	}
	for i, s := range m.Sources {
		row := []string{s.label()}
		for _, cell := range m.Cells[i] {
			text := "–"
			if cell.Verdict != 0 {
				text = cell.String()
			}
			row = append(row, text)
		}
		rows = append(rows, row)
	}
	return alignColumns(rows)
}

func alignColumns(rows [][]string) string {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+3))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}
