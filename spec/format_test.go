package spec_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/apex-network/apex/spec"
	"github.com/apex-network/apex/spec/diag"
)

const unformatted = `# yaml-language-server: $schema=schemas/apex.schema.json
# about the file

kind: Zone
spec:
      mtu: 1400 # smaller
      # the ranges
      ranges:
      - 10.0.0.0/16   # first
      # second
      - "fd00::/64"
metadata: {zone: "", name: a}   # unknown fields and order are no concern
apiVersion: apex/v1alpha1
# at the end
---
# about the policy
apiVersion: apex/v1alpha1
kind: Policy
metadata:
    zone: a
    name: p
spec:
    allow:
    - ports: [tcp/80]
      to: [{any: true}]
      # who
      from:
      - node: x
...
# after the end
`

// withBlanks is in canonical form, blank lines and all.
const withBlanks = `apiVersion: apex/v1alpha1
kind: Policy

metadata:
  name: p
  zone: a
  annotations:
    note: |
      first

      # no comment
    other: "x"

spec:
  allow:
    # the first rule
    - from: [{node: x}]
      to: [{any: true}]

    # about nothing

    # the second rule
    - from: [{node: y}]

      # after a blank line
      to: [{any: true}]

# the end
`

func TestFormatKeepsBlankLines(t *testing.T) {
	got, err := spec.Format([]byte(withBlanks))
	if err != nil || string(got) != withBlanks {
		t.Errorf("%v\n%s", err, got)
	}
	many := strings.ReplaceAll(withBlanks, "\n\n    #", "\n\n  \n\n    #")
	if got, err := spec.Format([]byte(many)); err != nil || string(got) != withBlanks {
		t.Errorf("%v\n%s", err, got)
	}
}

const formatted = `# yaml-language-server: $schema=schemas/apex.schema.json
# about the file
apiVersion: apex/v1alpha1
kind: Zone
metadata: {name: a, zone: ""} # unknown fields and order are no concern
spec:
  # the ranges
  ranges:
    - 10.0.0.0/16 # first
    # second
    - "fd00::/64"
  mtu: 1400 # smaller
# at the end
---
# about the policy
apiVersion: apex/v1alpha1
kind: Policy
metadata:
  name: p
  zone: a
spec:
  allow:
    # who
    - from:
        - node: x
      to: [{any: true}]
      ports: [tcp/80]
# after the end
`

func TestFormat(t *testing.T) {
	got, err := spec.Format([]byte(unformatted))
	if err != nil || string(got) != formatted {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestFormatRefuses(t *testing.T) {
	for _, text := range []string{"a: [", "a: 1\na: 2\n", "a: &x 1\n", "\ta: 1\n", "a: !!str x\n"} {
		out, err := spec.Format([]byte(text))
		var d diag.Diagnostic
		if out != nil || !errors.As(err, &d) {
			t.Errorf("%q: %q %v", text, out, err)
		}
	}
}

// checkFormat checks of any input that Format is idempotent and changes no value.
func checkFormat(t *testing.T, data []byte) {
	t.Helper()
	once, err := spec.Format(data)
	if err != nil {
		return
	}
	twice, err := spec.Format(once)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("not idempotent (%v):\n%q\n%q", err, once, twice)
	}
	a, x := spec.Load([]spec.File{{Path: "trust/root.yaml", Data: data}})
	b, y := spec.Load([]spec.File{{Path: "trust/root.yaml", Data: once}})
	if sound(x) && (!sound(y) || !reflect.DeepEqual(values(a), values(b))) {
		t.Fatalf("%v: values changed:\n%s\n%s", y, data, once)
	}
}

func TestFormatKeepsMeaning(t *testing.T) {
	for name, data := range corpusInputs(t) {
		t.Run(name, func(t *testing.T) { checkFormat(t, data) })
	}
	if out, err := spec.Format([]byte("\n# only\n\n# comments\n")); err != nil || strings.Count(string(out), "#") != 2 {
		t.Errorf("%q %v", out, err)
	}
}
