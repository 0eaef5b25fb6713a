package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/policy"
)

func newValidate(s cli.Streams) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "validate [DIR]",
		Short: "Check every document and run the policy tests",
		Long: `Validate loads every YAML file below DIR (default: this folder), checks each document and the network as a whole,
and runs the PolicyTests. All problems of all files are reported in one run.

Exit codes: 0 valid (warnings allowed), 3 invalid, 5 a PolicyTest failed.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := diag.ParseFormat(format)
			if err != nil {
				return cli.WithCode(cli.Invalid, err)
			}
			return validate(s, folderArg(args, 0), f, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", string(diag.Human), "how to print problems: human, json, github, gitlab (a Code Quality report) or sarif")
	return c
}

func validate(s cli.Streams, dir string, format diag.Format, now time.Time) error {
	w, err := openWorkspace(dir, now)
	if err != nil {
		return err
	}
	code := cli.OK
	if w.found.HasErrors() {
		code = cli.Invalid
	} else if _, failed := w.failedTests(now); len(failed) > 0 {
		code = cli.TestsFailed
		w.found = append(w.found, policy.Diagnostics(failed)...)
		w.found.Sort()
	}
	if err := w.render(s, format); err != nil {
		return err
	}
	if format == diag.Human && code == cli.OK {
		fmt.Fprintf(s.Err, "%s is valid: %s\n", dir, w.summary())
	}
	return cli.Quiet(code)
}

// summary counts what a network consists of.
func (w *workspace) summary() string {
	r := w.repo
	return fmt.Sprintf("%s, %s, %s, %s", count(len(r.Zones), "zone"), count(len(r.Nodes), "node"),
		count(len(r.Policies), "policy"), count(len(r.Tests), "policy test"))
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if noun == "policy" {
		noun = "policie"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
