// Package cli holds what the three commands share at their edge: exit codes, where data and talk go, and how an error
// becomes both. Data goes to stdout, talk to stderr; nothing here knows what the data means.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
	"gopkg.in/yaml.v3"
)

// Code is a process exit status. The table is part of the command line's contract.
type Code int

// The exit codes.
const (
	OK          Code = 0 // it worked
	Failed      Code = 1 // any other error; `apex can`: denied
	Changes     Code = 2 // `apex plan --detailed-exitcode`: there are changes
	Invalid     Code = 3 // the input is invalid: YAML, flags, configuration
	Trust       Code = 4 // a signature, proof or trust rule failed
	TestsFailed Code = 5 // a PolicyTest failed
	TimedOut    Code = 6 // the rollout did not converge in time
	RolledBack  Code = 7 // applied, then rolled back by at least one host
)

// Exit carries the code with which the process ends. A nil Err ends it silently: the output has said it all.
type Exit struct {
	Code Code
	Err  error
}

func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Exit) Unwrap() error { return e.Err }

// WithCode gives err a code; nil stays nil.
func WithCode(code Code, err error) error {
	if err == nil {
		return nil
	}
	return &Exit{Code: code, Err: err}
}

// Quiet ends the process with code and no message.
func Quiet(code Code) error {
	if code == OK {
		return nil
	}
	return &Exit{Code: code}
}

// CodeOf finds the exit code an error asks for: 0 for nil, 1 for an error that asks for none.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	var e *Exit
	if errors.As(err, &e) {
		return e.Code
	}
	return Failed
}

// Streams are a command's standard streams and what is known of them.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Color says that Err and Out may carry escape sequences; Terminal that a person watches Err; Interactive that one
	// can answer a prompt on In.
	Color, Terminal, Interactive bool
}

// StandardStreams describes the process's own streams. NO_COLOR (no-color.org) and TERM=dumb turn colour off.
func StandardStreams() Streams {
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	plain := os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	return Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Color:       tty && term.IsTerminal(int(os.Stdout.Fd())) && !plain,
		Terminal:    tty,
		Interactive: tty && term.IsTerminal(int(os.Stdin.Fd())),
	}
}

// Run gives f a context that ends on SIGINT or SIGTERM, prints the error it returns as `name: error` and gives the
// exit code.
func Run(name string, s Streams, f func(context.Context) error) Code {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := f(ctx)
	var e *Exit
	if err != nil && !(errors.As(err, &e) && e.Err == nil) {
		fmt.Fprintf(s.Err, "%s: %v\n", name, err)
	}
	return CodeOf(err)
}

// Print writes v as `json` or `yaml`; both follow v's json tags.
func Print(w io.Writer, format string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	if format == "json" {
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	if format != "yaml" {
		return WithCode(Invalid, fmt.Errorf("output format %q: want json or yaml", format))
	}
	var tree yaml.Node // JSON is YAML: keeping the node keeps the order of the fields
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	block(&tree)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&tree); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	return enc.Close()
}

// block turns the flow style of JSON into YAML's block style and drops needless quotes.
func block(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.SetString(n.Value)
	}
	for _, c := range n.Content {
		block(c)
	}
}
