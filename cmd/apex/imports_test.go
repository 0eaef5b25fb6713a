package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps the tool that people and witnesses run free of what only the controller needs: a message server in it
// is one more thing whose holes would concern a witness.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	const apex = "github.com/apex-network/apex/"
	controller := map[string]bool{ // what reads and judges as the controller does
		"gitsource": true, "verify": true, "build": true, "client": true, "store": true, "tokens": true, "enrol": true, "witness": true,
	}
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, "github.com/nats-io/") {
			t.Errorf("the tool imports %s", name)
		}
		if room, ok := strings.CutPrefix(name, apex+"controller"); ok && !controller[strings.TrimPrefix(room, "/")] {
			t.Errorf("the tool imports the controller: %s", name)
		}
	}
}
