package policy

import (
	"fmt"

	"github.com/apex-network/apex/spec/diag"
)

// Diagnostics words the failed among results as errors at the assertions' places.
func Diagnostics(results []TestResult) diag.List {
	var l diag.List
	for _, r := range results {
		if r.Passed {
			continue
		}
		l = append(l, diag.Diagnostic{
			Code: diag.TestFailed, Severity: diag.Error, Position: r.Pos,
			Message: fmt.Sprintf("policy test %s/%s failed: %s", r.Zone, r.Test, r.Assertion),
			Hint:    r.Verdict.Reason,
		})
	}
	return l
}
