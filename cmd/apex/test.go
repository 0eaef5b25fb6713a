package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/apex-network/apex/internal/cli"
	"github.com/apex-network/apex/spec/diag"
	"github.com/apex-network/apex/spec/policy"
)

// testReport is what `apex test -o json` prints.
type testReport struct {
	Passed int          `json:"passed"`
	Failed int          `json:"failed"`
	Tests  []testResult `json:"tests"`
}

type testResult struct {
	Zone      string        `json:"zone"`
	Test      string        `json:"test"`
	Assertion string        `json:"assertion"`
	Passed    bool          `json:"passed"`
	Reason    string        `json:"reason"`
	At        diag.Position `json:"at"`
}

func newTest(s cli.Streams) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "test [DIR]",
		Short: "Run the policy tests",
		Long: `Test runs every assertion of every PolicyTest below DIR (default: this folder) and prints each with the rule that
decided it.

Exit codes: 0 all passed, 3 the network is invalid, 5 an assertion failed.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			now := time.Now()
			w, err := validWorkspace(s, folderArg(args, 0), now)
			if err != nil {
				return err
			}
			all, failed := w.failedTests(now)
			if err := printTests(s, format, all); err != nil {
				return err
			}
			if len(failed) > 0 {
				return cli.Quiet(cli.TestsFailed)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&format, "output", "o", "text", "how to print results: text, json or yaml")
	return c
}

func printTests(s cli.Streams, format string, all []policy.TestResult) error {
	report := testReport{Tests: []testResult{}}
	for _, r := range all {
		if r.Passed {
			report.Passed++
		} else {
			report.Failed++
		}
		report.Tests = append(report.Tests, testResult{Zone: r.Zone, Test: r.Test, Assertion: r.Assertion, Passed: r.Passed,
			Reason: r.Verdict.Reason, At: r.Pos})
	}
	if format != "text" {
		return cli.Print(s.Out, format, report)
	}
	for _, t := range report.Tests {
		mark := paint(s, green, "ok  ")
		if !t.Passed {
			mark = paint(s, red, "FAIL")
		}
		fmt.Fprintf(s.Out, "%s %s/%s: %s\n", mark, t.Zone, t.Test, t.Assertion)
		if !t.Passed {
			fmt.Fprintf(s.Out, "     %s: %s\n", t.At, t.Reason)
		}
	}
	fmt.Fprintf(s.Out, "%d passed, %d failed\n", report.Passed, report.Failed)
	return nil
}
